//! What an experiment with deep spline networks needs around the network: configs ([`config`]), data sets ([`data`]), training runs
//! with their checkpoints ([`run`]), sweeps ([`sweep`]), and metrics, comparison, figures and report ([`results`]).
//!
//! `docs/architecture.md` shows the way from a command line to a row of metrics. A run from code:
//!
//! ```
//! use ds_lab::config::Config;
//! use ds_lab::data::Source;
//! use ds_lab::device::Context;
//! use ds_lab::run::{Existing, RunOptions, run};
//!
//! let config = Config::from_toml("experiment = \"area2d\"\ntrain.epochs = 2\ndata.train_points = 100\ndata.test_grid = 10")?;
//! let directory = std::env::temp_dir().join(format!("ds-lab-example-{}", std::process::id()));
//! let options = RunOptions { directory: directory.clone(), existing: Existing::Overwrite, quiet: true };
//! let row = run(&config, &Source::Auto { dir: None }, &options, &Context::cpu())?;
//! assert!(row.test_accuracy.is_some() && directory.join("metrics.csv").exists());
//! # std::fs::remove_dir_all(directory)?;
//! # Ok::<(), anyhow::Error>(())
//! ```

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod cli;
pub mod config;
#[doc(hidden)]
pub mod console;
pub mod data;
pub mod device;
#[doc(hidden)]
pub mod file_names;
pub mod files;
#[doc(hidden)]
pub mod interrupt;
#[doc(hidden)]
pub mod launch;
#[doc(hidden)]
pub mod lock;
pub mod onnx;
mod pickle;
#[doc(hidden)]
pub mod progress;
pub mod results;
pub mod run;
pub mod sweep;
pub mod torch;

/// The README's example is tested with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
