//! `--seeds`: runs that differ in their seeds only.

use super::args::{RESULTS, RunArgs};
use crate::config::Config;
use crate::file_names::SWEEP;
use crate::outln;
use crate::sweep::{Sweep, SweepOptions, run_sweep};
use anyhow::{Result, bail};
use std::path::Path;

/// Trains with each of the seeds, in the directory of a sweep over them.
pub(super) fn train(seeds: &str, config: &Config, args: &RunArgs) -> Result<()> {
    let is_seed = |text: &&String| text.split_once('=').is_some_and(|(key, _)| key.trim() == "seed");
    if let Some(text) = args.set.iter().find(is_seed) {
        bail!("--seeds {seeds} and --set {text} contradict each other; leave one of them out");
    }
    let sweep = Sweep::of_seeds(config, seeds)?;
    if args.print_config {
        crate::out!("{}", sweep.definition());
        return Ok(());
    }
    let usual = || Path::new(RESULTS).join(config.experiment.to_string()).join(&config.name);
    let directory = args.out.clone().unwrap_or_else(usual);
    if args.resume && !directory.join(SWEEP).exists() {
        bail!(
            "--resume: {} has no runs of --seeds to go on with; leave out --resume to start them",
            directory.display()
        );
    }
    let options =
        SweepOptions { directory, jobs: args.jobs, overwrite: args.overwrite, quiet: args.quiet, shard: None };
    let outcome = run_sweep(&sweep, &args.data.source()?, &options, &args.data.context(0)?)?;
    if !args.quiet {
        outln!("{}\n  {}", outcome.describe(&sweep.name), outcome.describe_seeds());
    }
    outcome.check(options.again())
}
