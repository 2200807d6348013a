//! The command line that all experiment binaries share.

mod args;
mod exit;
#[cfg(feature = "nccl")]
mod gpus;
mod home;
mod seeds;
mod threads;
mod train;

pub use args::{DataArgs, DataChoice, RunArgs, run_directory};
pub use exit::exit_code;
pub use home::expand_paths;
pub use threads::{in_thread_pool, set_threads};
pub use train::{check_instructions, main, train};
