//! Multiplication on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Gpu, pointwise};

/// factor·x for n numbers.
pub(super) fn scale<G: Gpu>(gpu: &G, factor: f64, dtype: DType, x: Address, n: usize) -> Result<G::Buffer> {
    // SAFETY: the kernel's arguments.
    unsafe { pointwise(gpu, "scale", dtype, n, &[x], &[(factor as f32).into()]) }
}
