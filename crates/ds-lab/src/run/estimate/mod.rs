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
use crate::sweep::{PlannedRun, Sweep, at_once};
use anyhow::Result;

/// Seconds from the first step to the summary of a run that has the machine for itself. The setup's network stays as it is.
pub fn estimate(config: &Config, setup: &Setup) -> Result<f64> {
    let rates = measure(config, setup, 1, config.train.threads)?;
    Ok(schedule::seconds(config, &Sizes::of(config, setup), &rates))
}

/// Seconds for a whole sweep with as many runs at once as it makes where `--jobs` is not given. Runs that are alike but for their
/// schedule, seed and data split are measured once, beside as many copies as there will be jobs.
///
/// # Errors
/// If data is missing.
pub fn estimate_sweep(sweep: &Sweep, source: &Source, context: &Context) -> Result<f64> {
    // The selected runs wait for all others.
    let stages = [sweep.runs()?, sweep.runs_of_any_choice()?].map(|runs| {
        let jobs = at_once(&runs, 0, context);
        (runs, jobs)
    });
    let all: Vec<&Config> = stages.iter().flat_map(|(runs, _)| runs).map(|run| &run.config).collect();
    let kinds = representatives(&all);
    let measured_kind = |(_, config): &(usize, &Config)| -> Result<(Rates, Sizes)> {
        let setup = Setup::new(config, source, context)?;
        let is_of = |(runs, _): &&(Vec<PlannedRun>, usize)| runs.iter().any(|run| run.config == **config);
        let jobs = stages.iter().find(is_of).map_or(1, |(_, jobs)| *jobs);
        let threads = if config.train.threads == 0 { (cores() / jobs).max(1) } else { config.train.threads };
        Ok((measure(config, &setup, jobs, threads)?, Sizes::of(config, &setup)))
    };
    let measured = kinds.measured.iter().map(measured_kind).collect::<Result<Vec<_>>>()?;
    let seconds = |run: &PlannedRun| {
        let (rates, sizes) = measured.get(kinds.nearest(&run.config)?)?;
        Some(schedule::seconds(&run.config, &sizes.split_as(&run.config), rates))
    };
    Ok(stages.iter().map(|(runs, jobs)| makespan(runs.iter().filter_map(seconds), *jobs)).sum())
}
