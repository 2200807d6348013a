//! The command line that all experiment binaries share.

#[cfg(feature = "nccl")]
mod gpus;

use crate::config::{self, Config, Experiment};
use crate::console;
use crate::data::Source;
use crate::device;
use crate::experiment::{Existing, RunOptions, run};
use crate::files;
use crate::interrupt;
use anyhow::{Context, Result, bail};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use ds_nn::ops::gpu::Options;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataChoice {
    /// --data-dir, else DS_DATA_DIR, else ./data, else the Hugging Face hub.
    Auto,
    /// The few thousand CIFAR-10 images that come with the source.
    Sample,
}

/// What to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The GPU if there is one, else the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Data and device options, the same everywhere.
#[derive(Debug, Clone, clap::Args)]
pub struct DataArgs {
    /// Which data to use.
    #[arg(long, value_enum, default_value = "auto")]
    pub data: DataChoice,
    /// Directory of the data sets (files in it, or in a folder named after the data set).
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What to compute on.
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// On a GPU: take convolution algorithms that give the same bits again, also where others are faster.
    #[arg(long)]
    pub deterministic: bool,
    /// On a GPU: convolve in f32; without this convolutions may round their factors to TF32, as PyTorch's do.
    #[arg(long)]
    pub no_tf32: bool,
    /// On a GPU: launch every kernel of a training step by itself, instead of all of them as one CUDA graph.
    #[arg(long)]
    pub no_cuda_graphs: bool,
}

impl DataArgs {
    /// The source that these options name; chooses the device, too.
    ///
    /// # Errors
    /// If they contradict each other, or the device is not to be had.
    pub fn source(&self) -> Result<Source> {
        self.source_for(0)
    }

    /// The options of the device, for the command line of another process.
    pub fn device_arguments(&self) -> Vec<String> {
        let device = self.device.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let flags = [
            (self.deterministic, "--deterministic"),
            (self.no_tf32, "--no-tf32"),
            (self.no_cuda_graphs, "--no-cuda-graphs"),
        ];
        let flags = flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned());
        ["--device".to_owned(), device].into_iter().chain(flags).collect()
    }

    /// The same for a process that takes another GPU than the first.
    fn source_for(&self, gpu: usize) -> Result<Source> {
        ds_nn::ops::gpu::set_options(Options { tf32: !self.no_tf32, deterministic: self.deterministic });
        device::use_graphs(!self.no_cuda_graphs);
        device::choose(self.device, gpu)?;
        match (self.data, &self.data_dir) {
            (DataChoice::Sample, Some(dir)) => {
                bail!("--data sample and --data-dir {} name two sources; give one of them", dir.display())
            }
            (DataChoice::Sample, None) => Ok(Source::Sample),
            (DataChoice::Auto, dir) => Ok(Source::Auto { dir: dir.clone() }),
        }
    }
}

/// Arguments of a single run.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The run's config (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Overrides a config key, e.g. --set train.epochs=2; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
    /// Train on this many GPUs of this machine, a process each (needs a build with the feature `nccl`): each takes a share of every
    /// batch, and their gradients are summed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    gpus: Option<u16>,
    /// Directory that the run writes to [default: results/EXPERIMENT/NAME-seedSEED].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume the run in the output directory from its checkpoint, which must be there.
    #[arg(long, conflicts_with_all = ["overwrite", "resume_or_start"])]
    resume: bool,
    /// Resume the run in the output directory if it has a checkpoint, else start it: for jobs that are requeued.
    #[arg(long, conflicts_with = "overwrite")]
    resume_or_start: bool,
    /// Overwrite the files of a run in the output directory.
    #[arg(long)]
    overwrite: bool,
    /// End when standard input is closed: for programs that start this one.
    #[arg(long, hide = true)]
    end_with_parent: bool,
    /// Print the resolved config and stop.
    #[arg(long)]
    print_config: bool,
    /// Show nothing but errors.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// The main function of an experiment's binary.
pub fn main(experiment: Experiment, about: &'static str) -> ExitCode {
    let command = Args::command().about(about).after_long_help(config::reference_doc());
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
    ds_core::ops::simd::requested().map(|_| ()).map_err(anyhow::Error::msg)
}

/// Prints an error with its causes.
pub fn exit_code(result: Result<()>) -> ExitCode {
    let result = result.and_then(|()| match console::output_error() {
        Some(error) => Err(error).context("cannot write to standard output"),
        None => Ok(()),
    });
    match (result, interrupt::received()) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), None) => {
            crate::note!("error: {error:#}");
            ExitCode::FAILURE
        }
        (Err(error), Some(signal)) => {
            crate::note!("{error:#}");
            ExitCode::from(u8::try_from(interrupt::exit_status(signal)).unwrap_or(1))
        }
    }
}

/// Trains as the arguments say; the config must be of the experiment, if one is given.
///
/// # Errors
/// If the config or the arguments are wrong, data is missing, or the run fails.
pub fn train(experiment: Option<Experiment>, args: &RunArgs) -> Result<()> {
    check_instructions()?;
    let config = Config::load(&files::expand_home(&args.config), &args.set)?;
    if experiment.is_some_and(|experiment| config.experiment != experiment) {
        bail!(
            "{} is a config of the experiment `{}`; run it with `cargo run --release -p {} -- --config {}`",
            args.config.display(),
            config.experiment,
            config.experiment,
            args.config.display()
        );
    }
    if args.print_config {
        crate::out!("{}", config.to_toml());
        return Ok(());
    }
    interrupt::install().context("cannot handle signals")?;
    console::set_quiet(args.quiet);
    if args.end_with_parent {
        interrupt::end_with_parent();
    }
    if let Some(gpus) = args.gpus {
        #[cfg(feature = "nccl")]
        return gpus::train(usize::from(gpus), &config, args);
        #[cfg(not(feature = "nccl"))]
        bail!(
            "--gpus {gpus}: this build cannot sum over GPUs; build with `--features nccl` (docs/cuda.md), or leave --gpus out"
        );
    }
    let source = args.data.source()?;
    set_threads(config.train.threads)?;
    in_thread_pool(|| run(&config, &source, &args.options(&config)))?;
    Ok(())
}

impl RunArgs {
    fn options(&self, config: &Config) -> RunOptions {
        let existing = match (self.resume, self.resume_or_start, self.overwrite) {
            (true, ..) => Existing::Resume,
            (_, true, _) => Existing::ResumeOrStart,
            (.., true) => Existing::Overwrite,
            _ => Existing::Refuse,
        };
        let directory = self.out.as_deref().map_or_else(|| default_directory(config), files::expand_home);
        RunOptions { directory, existing, quiet: self.quiet }
    }
}

/// results/EXPERIMENT/NAME-seedSEED.
pub fn default_directory(config: &Config) -> PathBuf {
    ["results".to_owned(), config.experiment.to_string(), format!("{}-seed{}", config.name, config.seed)]
        .iter()
        .collect()
}

/// Limits the threads of all kernels; 0 leaves one per core.
///
/// # Errors
/// If the thread pool cannot be made.
pub fn set_threads(threads: usize) -> Result<()> {
    if threads > 0 {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("train.threads")?;
    }
    Ok(())
}

/// Runs `f` on one of the threads of the kernels. From there an op shares its work out by itself; from any other thread it
/// must wake one of them to do so and be woken when all is done, which takes longer than many an op.
pub fn in_thread_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_options_of_the_device_reach_another_process() {
        for given in
            ["--device cpu", "--device cuda --deterministic --no-tf32 --no-cuda-graphs", "--device auto --no-tf32"]
        {
            let line = format!("x --config c.toml {given}");
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(args.run.data.device_arguments().join(" "), given);
        }
    }
}
