//! How a program ends.

use crate::console;
use crate::interrupt;
use anyhow::{Context, Result};
use std::process::ExitCode;

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
