//! The threads that kernels run on.

use anyhow::{Context, Result};

/// Limits the threads of all kernels; 0 leaves one per core.
///
/// # Errors
/// If the thread pool cannot be made.
pub fn set_threads(threads: usize) -> Result<()> {
    if threads > 0 {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("train.threads")?;
    }
    Ok(())
}

/// Runs `f` on one of the threads of the kernels. From there an op shares its work out by itself; from any other thread it
/// must wake one of them to do so and be woken when all is done, which takes longer than many an op.
pub fn in_thread_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
