//! The main function of an experiment's binary: one run.

use super::args::RunArgs;
use super::exit::exit_code;
#[cfg(feature = "nccl")]
use super::gpus;
use super::home::expand_paths;
use super::seeds;
use super::threads::{in_thread_pool, set_threads};
use crate::config::{self, Config, Experiment};
use crate::console;
use crate::interrupt;
use crate::run::run;
use anyhow::{Context, Result, bail};
use clap::{CommandFactory, FromArgMatches, Parser};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// The main function of an experiment's binary.
pub fn main(experiment: Experiment, about: &'static str) -> ExitCode {
    let command = expand_paths(Args::command().about(about).after_long_help(config::reference_doc()));
    let args = match Args::from_arg_matches(&command.get_matches()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    exit_code(train(Some(experiment), &args.run))
}

/// Refuses a `DS_INSTRUCTIONS` that kernels would not understand.
///
/// # Errors
/// If it is set to anything unknown.
pub fn check_instructions() -> Result<()> {
    ds_core::backend::simd::requested().map(|_| ()).map_err(anyhow::Error::msg)
}

/// Trains as the arguments say; the config must be of the experiment, if one is given.
///
/// # Errors
/// If the config or the arguments are wrong, data is missing, or the run fails.
pub fn train(experiment: Option<Experiment>, args: &RunArgs) -> Result<()> {
    check_instructions()?;
    let config = Config::load(&args.config, &args.set)?;
    if experiment.is_some_and(|experiment| config.experiment != experiment) {
        bail!(
            "{} is a config of the experiment `{}`; run it with `cargo run --release -p {} -- --config {}`",
            args.config.display(),
            config.experiment,
            config.experiment,
            args.config.display()
        );
    }
    if args.print_config && args.seeds.is_none() {
        crate::out!("{}", config.to_toml());
        return Ok(());
    }
    interrupt::install().context("cannot handle signals")?;
    console::set_quiet(args.quiet);
    if args.end_with_parent {
        interrupt::end_with_parent();
    }
    if let Some(text) = &args.seeds {
        return seeds::train(text, &config, args);
    }
    if let Some(gpus) = args.gpus {
        #[cfg(feature = "nccl")]
        return gpus::train(usize::from(gpus), &config, args);
        #[cfg(not(feature = "nccl"))]
        bail!(
            "--gpus {gpus}: this build cannot sum over GPUs; build with `--features nccl` (docs/cuda.md), or leave --gpus out"
        );
    }
    let (source, context) = (args.data.source()?, args.data.context(0)?);
    set_threads(config.train.threads)?;
    in_thread_pool(|| run(&config, &source, &args.options(&config), &context))?;
    Ok(())
}
