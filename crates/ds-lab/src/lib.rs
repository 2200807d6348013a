//! What an experiment with deep spline networks needs around the network: configuration, data sets, the training loop,
//! checkpoints, metrics, and pictures of the results.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod batches;
pub mod bounds;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod config;
pub mod console;
pub mod data;
pub mod device;
pub mod estimate;
pub mod experiment;
pub mod file_names;
pub mod files;
pub mod interrupt;
pub mod launch;
pub mod lock;
pub mod memory;
pub mod metrics;
pub mod penalty;
pub mod plot;
pub mod progress;
pub mod report;
pub mod results;
pub mod samples;
pub mod samples_on_device;
pub mod sparsify;
pub mod statistics;
pub mod sweep;
pub mod table;
pub mod train;
pub mod verified;
