//! The options that all commands share.

use crate::config::Config;
use crate::data::Source;
use crate::device::{Context as DeviceContext, DeviceChoice};
use crate::run::{Existing, RunOptions};
use anyhow::{Result, bail};
use clap::ValueEnum;
use ds_nn::ops::conv2d;
use std::path::{Path, PathBuf};

/// Where the data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataChoice {
    /// --data-dir, else DS_DATA_DIR, else ./data, else the Hugging Face hub.
    Auto,
    /// The few thousand CIFAR-10 images that come with the source.
    Sample,
}

/// Data and device options, the same everywhere.
#[derive(Debug, Clone, clap::Args)]
pub struct DataArgs {
    /// Source of the data.
    #[arg(long, value_enum, default_value = "auto")]
    pub data: DataChoice,
    /// Directory of the data sets (files in it, or in a folder named after the data set).
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Device to compute on.
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// On a GPU: use only deterministic cuDNN algorithms, even if slower.
    #[arg(long)]
    pub deterministic: bool,
    /// On a GPU: convolve in f32. The default allows TF32, as in PyTorch.
    #[arg(long)]
    pub no_tf32: bool,
    /// On a GPU: launch every kernel of a training step on its own, instead of replaying the step as a CUDA graph.
    #[arg(long)]
    pub no_cuda_graphs: bool,
}

impl DataArgs {
    /// Where these options say that the data is.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn source(&self) -> Result<Source> {
        match (self.data, &self.data_dir) {
            (DataChoice::Sample, Some(dir)) => {
                bail!("--data sample and --data-dir {} name two sources; give one of them", dir.display())
            }
            (DataChoice::Sample, None) => Ok(Source::Sample),
            (DataChoice::Auto, dir) => Ok(Source::Auto { dir: dir.clone() }),
        }
    }

    /// The device that these options choose; of several GPUs the one with this number.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn context(&self, gpu: usize) -> Result<DeviceContext> {
        let mut context = DeviceContext::new(self.device, gpu)?;
        context.cuda_graphs = !self.no_cuda_graphs;
        context.convolutions = conv2d::Options { tf32: !self.no_tf32, deterministic: self.deterministic };
        Ok(context)
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
}

/// Arguments of a single run.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The run's config (TOML).
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Overrides a config key, e.g. --set train.epochs=2; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    #[command(flatten)]
    pub(super) data: DataArgs,
    /// Train on N GPUs of this machine, one process each (needs a build with the feature `nccl`): each takes a share of every batch,
    /// and gradients are summed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) gpus: Option<u16>,
    /// Train with each of these seeds: 0..9 (0 to 8) or 0,3,5. The output directory [default: results/EXPERIMENT/NAME] gets a
    /// directory of each run and a summary of all; the same command goes on where it was cut off.
    #[arg(long, value_name = "SEEDS", conflicts_with = "gpus")]
    pub(super) seeds: Option<String>,
    /// Runs of --seeds at once; 0: one a core, or one on a GPU.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "seeds")]
    pub(super) jobs: usize,
    /// Directory that the run writes to [default: results/EXPERIMENT/NAME-seedSEED].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Resume the run in the output directory from its checkpoint, which must be there.
    #[arg(long, conflicts_with_all = ["overwrite", "resume_or_start"])]
    pub(super) resume: bool,
    /// Resume the run in the output directory if it has a checkpoint, else start it: for jobs that are requeued.
    #[arg(long, conflicts_with = "overwrite")]
    pub(super) resume_or_start: bool,
    /// Overwrite the files of a run in the output directory.
    #[arg(long)]
    pub(super) overwrite: bool,
    /// End when standard input is closed: for programs that start this one.
    #[arg(long, hide = true)]
    pub(super) end_with_parent: bool,
    /// Print the resolved config and stop.
    #[arg(long)]
    pub(super) print_config: bool,
    /// Show nothing but errors.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

impl RunArgs {
    pub(super) fn options(&self, config: &Config) -> RunOptions {
        let existing = match (self.resume, self.resume_or_start, self.overwrite) {
            (true, ..) => Existing::Resume,
            (_, true, _) => Existing::ResumeOrStart,
            (.., true) => Existing::Overwrite,
            _ => Existing::Refuse,
        };
        let directory = self.out.clone().unwrap_or_else(|| run_directory(Path::new(RESULTS), config));
        RunOptions { directory, existing, quiet: self.quiet }
    }
}

/// The folder of results that is written to if no other is named.
pub(super) const RESULTS: &str = "results";

/// EXPERIMENT/NAME-seedSEED in a folder of results.
pub fn run_directory(results: &Path, config: &Config) -> PathBuf {
    results.join(config.experiment.to_string()).join(config.run_title())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn the_options_of_the_device_reach_another_process() {
        for given in
            ["--device cpu", "--device cuda --deterministic --no-tf32 --no-cuda-graphs", "--device auto --no-tf32"]
        {
            let line = format!("x --config c.toml {given}");
            let args = Line::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(args.run.data.device_arguments().join(" "), given);
        }
    }
}
