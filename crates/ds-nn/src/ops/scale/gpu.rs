//! Multiplication on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Gpu, all_aligned, int, kernel_of, pointwise_blocks};

/// factor·x for n numbers.
pub(super) fn scale<G: Gpu>(gpu: &G, factor: f64, dtype: DType, x: Address, n: usize) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let arguments = [x.into(), to.into(), (factor as f32).into(), int(n)?, all_aligned(&[x, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("scale", dtype)?, pointwise_blocks(n, dtype), &arguments)? };
    Ok(y)
}
