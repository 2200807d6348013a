//! Fits a function of one variable with a single learnable spline activation.

use ds_lab::cli;
use ds_lab::config::Experiment;
use std::process::ExitCode;

/// Keeps freed pages for the next step instead of returning them to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(Experiment::Fit1d, "Fits a function of one variable with a single learnable spline activation.")
}
