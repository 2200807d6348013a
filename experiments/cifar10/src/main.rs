//! Trains ResNet32 or NiN on CIFAR-10 or CIFAR-100 with learnable spline activations.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use ds_lab::cli;
use ds_lab::config::Experiment;
use ds_nn::memory::Recycling;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// What a step frees, the next step gets back.
#[global_allocator]
static ALLOCATOR: Recycling<MiMalloc> = Recycling::new(MiMalloc);

fn main() -> ExitCode {
    cli::main(Experiment::Cifar10, env!("CARGO_PKG_DESCRIPTION"))
}
