//! Sums on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Gpu, all_aligned, int, kernel_of, pointwise_blocks};

/// a + b.
pub(super) fn add<G: Gpu>(gpu: &G, dtype: DType, a: Address, b: Address, n: usize) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let arguments = [a.into(), b.into(), to.into(), int(n)?, all_aligned(&[a, b, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("add", dtype)?, pointwise_blocks(n, dtype), &arguments)? };
    Ok(y)
}
