//! Classifies the points of an area of the plane with a small network of learnable spline activations.

use ds_lab::cli;
use ds_lab::config::Experiment;
use std::process::ExitCode;

/// Keeps freed pages for the next step instead of returning them to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(
        Experiment::Area2d,
        "Classifies the points of an area of the plane with a small network of learnable spline activations.",
    )
}
