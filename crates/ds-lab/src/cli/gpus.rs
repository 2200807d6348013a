//! `--gpus N`: the process that the user starts, and those that it starts.

use super::args::{DataArgs, RunArgs};
use super::exit::exit_code;
use super::threads::{in_thread_pool, set_threads};
use crate::config::Config;
use crate::device::{self, DeviceChoice};
use crate::launch::{WorkerRank, exit_immediately, supervise};
use crate::run::{RunOptions, run_replica};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use ds_nn::parallel::nccl::{Nccl, UniqueId};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Trains on so many GPUs, or takes a part in that.
pub(super) fn train(gpus: usize, config: &Config, args: &RunArgs) -> Result<()> {
    match WorkerRank::of_this_process()? {
        None => launch(gpus, args),
        Some(worker) => work(worker, config, args),
    }
}

fn launch(gpus: usize, args: &RunArgs) -> Result<()> {
    if args.data.device == DeviceChoice::Cpu {
        bail!("--gpus {gpus} and --device cpu contradict each other; leave one of them out");
    }
    let there = device::gpus().map_err(|reason| {
        anyhow!(
            "--gpus {gpus}: there is no usable NVIDIA GPU: {reason}; check with `nvidia-smi` that there are a card and a driver"
        )
    })?;
    if gpus > there {
        bail!("--gpus {gpus}: there are {there} (`nvidia-smi -L` lists them, and CUDA_VISIBLE_DEVICES may hide some)");
    }
    let commands = (0..gpus).map(|rank| WorkerRank { rank, size: gpus }.command()).collect::<Result<_>>()?;
    let id = UniqueId::new().with_context(|| format!("--gpus {gpus}"))?;
    supervise(commands, &id.to_string())
}

fn work(worker: WorkerRank, config: &Config, args: &RunArgs) -> Result<()> {
    let result = catch_unwind(AssertUnwindSafe(|| replica(worker, config, args)));
    match result.unwrap_or_else(|_| Err(anyhow!("rank {} of {} panicked", worker.rank, worker.size))) {
        Ok(()) => Ok(()),
        Err(error) => {
            exit_code(Err(error));
            exit_immediately()
        }
    }
}

fn replica(worker: WorkerRank, config: &Config, args: &RunArgs) -> Result<()> {
    let id: UniqueId = worker.line_from_launcher()?.parse()?;
    // Not another device where this GPU cannot be had.
    let context = DataArgs { device: DeviceChoice::Cuda, ..args.data.clone() }.context(worker.rank)?;
    let source = args.data.source()?;
    let Device::Cuda(device) = &context.device else { bail!("rank {} is on no GPU", worker.rank) };
    set_threads(config.train.threads)?;
    let options = RunOptions { quiet: args.quiet || worker.rank > 0, ..args.options(config) };
    let communicator = Box::new(Nccl::new(device, id, worker.rank, worker.size)?);
    in_thread_pool(|| run_replica(config, &source, &options, communicator, &context))?;
    Ok(())
}
