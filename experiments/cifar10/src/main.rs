//! Trains ResNet32 or NiN on CIFAR-10 or CIFAR-100 with learnable spline activations.

use ds_lab::cli;
use ds_lab::config::Experiment;
use std::process::ExitCode;

/// Keeps freed pages for the next step instead of returning them to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(Experiment::Cifar10, "Trains ResNet32 or NiN on CIFAR-10 or CIFAR-100 with learnable spline activations.")
}
