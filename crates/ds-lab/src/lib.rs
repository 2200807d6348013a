//! What an experiment with deep spline networks needs around the network: configuration, data sets, the training loop,
//! checkpoints, metrics, and pictures of the results.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod cli;
pub mod config;
pub mod console;
pub mod data;
pub mod device;
pub mod file_names;
pub mod files;
pub mod interrupt;
pub mod launch;
pub mod lock;
pub mod progress;
pub mod results;
pub mod run;
pub mod sweep;
