//! What a run or a sweep will take on this machine, from the times of a few of its steps and evaluations.

mod measure;
mod rates;
mod schedule;

use self::measure::measure;
use self::rates::Rates;
use self::schedule::{Sizes, makespan, representatives};
use crate::config::Config;
use crate::data::Source;
use crate::device::{Context, cores};
use crate::run::Setup;
use crate::run::memory;
use crate::sweep::{PlannedRun, Sweep};
use anyhow::Result;

/// Seconds from the first step to the summary of a run that has the machine for itself. The setup's network stays as it is.
pub fn estimate(config: &Config, setup: &Setup) -> Result<f64> {
    let rates = measure(config, setup, 1, config.train.threads)?;
    Ok(schedule::seconds(config, &Sizes::of(config, setup), &rates))
}

/// Seconds for a whole sweep with so many runs at once; 0: as many as a sweep makes that is not told. Runs that are alike but for
/// their schedule, seed and data split are measured once, beside as many copies as there will be jobs.
///
/// # Errors
/// If data is missing.
pub fn estimate_sweep(sweep: &Sweep, source: &Source, jobs: usize, context: &Context) -> Result<f64> {
    let (listed, selected) = (sweep.runs()?, sweep.runs_of_any_choice()?);
    let all: Vec<&Config> = listed.iter().chain(&selected).map(|run| &run.config).collect();
    let cores = cores();
    let usual = if context.device.is_cuda() { 1 } else { cores };
    let wanted = if jobs == 0 { usual } else { jobs }.clamp(1, listed.len().max(1));
    let jobs = memory::jobs(all.iter().copied(), wanted, context);
    let kinds = representatives(&all);
    let measured_kind = |(_, config): &(usize, &Config)| -> Result<(Rates, Sizes)> {
        let setup = Setup::new(config, source, context)?;
        let threads = if config.train.threads == 0 { (cores / jobs).max(1) } else { config.train.threads };
        Ok((measure(config, &setup, jobs, threads)?, Sizes::of(config, &setup)))
    };
    let measured = kinds.measured.iter().map(measured_kind).collect::<Result<Vec<_>>>()?;
    let seconds = |run: &PlannedRun| {
        let (rates, sizes) = measured.get(kinds.nearest(&run.config)?)?;
        Some(schedule::seconds(&run.config, &sizes.split_as(&run.config), rates))
    };
    // The selected runs wait for all others.
    let stages = [&listed, &selected].map(|runs| makespan(runs.iter().filter_map(seconds), jobs));
    Ok(stages.iter().sum())
}
