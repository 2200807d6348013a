//! Classifies the points of an area of the plane with a small network of learnable spline activations.

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
    cli::main(Experiment::Area2d, env!("CARGO_PKG_DESCRIPTION"))
}
