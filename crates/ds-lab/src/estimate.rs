//! What a run will take on this machine, from a few of its steps.

use crate::config::{Config, Search};
use crate::data::Source;
use crate::experiment::{Setup, network_on_device};
use crate::penalty::SplinePenalty;
use crate::sweep::{PlannedRun, Sweep};
use crate::train::{Optimizers, evaluate, step};
use anyhow::Result;
use ds_core::sparsify::papers_thresholds;
use std::time::Instant;

/// Seconds from the first step to the summary. The network's weights are changed by the steps that are timed.
///
/// # Errors
/// On Candle's errors.
pub fn estimate(config: &Config, setup: &Setup) -> Result<f64> {
    let (train, size) = (&setup.train, config.train.batch_size.min(setup.train.len()));
    let indices: Vec<usize> = (0..size).collect();
    let mut optimizers = Optimizers::new(config, &setup.network)?;
    let penalty = SplinePenalty::new(config, &setup.network)?;
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let batch = train.batch(&indices)?;
        step(&setup.network, &batch, penalty.as_ref(), &mut optimizers, 0, 0)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let of_step = seconds[1];
    let few = setup.test.subset(&(0..setup.test.len().min(500)).collect::<Vec<_>>());
    let start = Instant::now();
    evaluate(&setup.network, &few)?;
    let of_sample = start.elapsed().as_secs_f64() / few.len().max(1) as f64;

    let steps = (train.len().div_ceil(config.train.batch_size) * config.train.epochs) as f64;
    let held_out: usize = setup.held_out().iter().map(|(_, samples)| samples.len()).sum();
    let evaluations = config.train.epochs.div_ceil(config.train.eval_every) as f64;
    let mut evaluated = evaluations * held_out as f64 + (train.len() + setup.test.len()) as f64;
    if config.sparsify.enabled && !setup.network.splines().is_empty() {
        let thresholds = papers_thresholds().len() as f64;
        let tried = match (config.sparsify.threshold, config.sparsify.search) {
            (Some(_), _) => 0.0,
            (None, Search::Every) => thresholds,
            (None, Search::Bisect) => thresholds.log2().ceil(),
        };
        evaluated += (tried + 1.0) * train.len() as f64 + setup.test.len() as f64;
    }
    Ok(steps * of_step + evaluated * of_sample)
}

/// Seconds for a whole sweep, one run a core, from some of its runs.
///
/// # Errors
/// On Candle's errors, or if data is missing.
pub fn estimate_sweep(sweep: &Sweep, source: &Source) -> Result<f64> {
    let runs = sweep.runs()?;
    let tried: Vec<&PlannedRun> = runs.iter().step_by((runs.len() / 8).max(1)).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut seconds = 0.0;
    let mut last: Option<(Config, Setup)> = None;
    for run in &tried {
        // Data is read once; another run of the sweep may be of another data set or network.
        let is_same = |config: &Config| config.data == run.config.data && config.network == run.config.network;
        let setup = match last.take().filter(|(config, _)| is_same(config)) {
            Some((_, setup)) => Setup { network: network_on_device(&run.config, setup.classes())?, ..setup },
            None => Setup::new(&run.config, source)?,
        };
        seconds += pool.install(|| estimate(&run.config, &setup))?;
        last = Some((run.config.clone(), setup));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(seconds / tried.len() as f64 * sweep.count()? as f64 / cores.min(runs.len()) as f64)
}
