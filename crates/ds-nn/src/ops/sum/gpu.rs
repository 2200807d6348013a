//! Sums on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Gpu, pointwise};

/// a + b.
pub(super) fn add<G: Gpu>(gpu: &G, dtype: DType, a: Address, b: Address, n: usize) -> Result<G::Buffer> {
    // SAFETY: the kernel's arguments.
    unsafe { pointwise(gpu, "add", dtype, n, &[a, b], &[]) }
}
