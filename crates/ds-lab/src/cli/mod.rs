//! The command line that all experiment binaries share.

mod args;
mod exit;
#[cfg(feature = "nccl")]
mod gpus;
mod seeds;
mod threads;
mod train;

pub use args::{DataArgs, DataChoice, RunArgs, default_directory};
pub use exit::exit_code;
pub use threads::{in_thread_pool, set_threads};
pub use train::{check_instructions, main, train};
