//! `--gpus N`: the process that the user starts, and those that it starts.

use super::args::{DataArgs, RunArgs};
use super::exit::exit_code;
use super::threads::{in_thread_pool, set_threads};
use crate::config::Config;
use crate::device::{self, DeviceChoice};
use crate::launch::{Seat, end_at_once, supervise};
use crate::run::{RunOptions, run_replica};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use ds_nn::parallel::nccl::{Nccl, UniqueId};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Trains on so many GPUs, or takes a part in that.
pub(super) fn train(gpus: usize, config: &Config, args: &RunArgs) -> Result<()> {
    match Seat::of_this_process()? {
        None => launch(gpus, args),
        Some(seat) => work(seat, config, args),
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
    let commands = (0..gpus).map(|rank| Seat { rank, size: gpus }.command()).collect::<Result<_>>()?;
    let id = UniqueId::new().with_context(|| format!("--gpus {gpus}"))?;
    supervise(commands, &id.to_string())
}

fn work(seat: Seat, config: &Config, args: &RunArgs) -> Result<()> {
    let result = catch_unwind(AssertUnwindSafe(|| replica(seat, config, args)));
    match result.unwrap_or_else(|_| Err(anyhow!("rank {} of {} panicked", seat.rank, seat.size))) {
        Ok(()) => Ok(()),
        Err(error) => {
            exit_code(Err(error));
            end_at_once()
        }
    }
}

fn replica(seat: Seat, config: &Config, args: &RunArgs) -> Result<()> {
    let id: UniqueId = seat.line_from_launcher()?.parse()?;
    // Not another device where this GPU cannot be had.
    let context = DataArgs { device: DeviceChoice::Cuda, ..args.data.clone() }.context(seat.rank)?;
    let source = args.data.source()?;
    let Device::Cuda(device) = &context.device else { bail!("rank {} is on no GPU", seat.rank) };
    set_threads(config.train.threads)?;
    let options = RunOptions { quiet: args.quiet || seat.rank > 0, ..args.options(config) };
    let communicator = Box::new(Nccl::new(device, id, seat.rank, seat.size)?);
    in_thread_pool(|| run_replica(config, &source, &options, communicator, &context))?;
    Ok(())
}
