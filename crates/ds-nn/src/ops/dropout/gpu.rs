//! Dropout on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Argument, Gpu, all_aligned, int, kernel_of, pointwise_blocks};

/// Dropout of n elements with this probability, or of their gradients. The keys are where the key of the step is (u64), if it is on the
/// device, and the key of the mask.
pub(super) fn dropout<G: Gpu>(
    gpu: &G,
    probability: f64,
    (step, key): (Option<Address>, u64),
    dtype: DType,
    x: Address,
    n: usize,
) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let threshold = (probability * (1u64 << 32) as f64) as u64;
    let scale = (1.0 / (1.0 - probability)) as f32;
    let (key, threshold) = (Argument::Long(key), Argument::Long(threshold));
    let arguments = [
        x.into(),
        to.into(),
        step.unwrap_or(Address::NONE).into(),
        key,
        threshold,
        scale.into(),
        int(n)?,
        all_aligned(&[x, to]),
    ];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("dropout", dtype)?, pointwise_blocks(n, dtype), &arguments)? };
    Ok(y)
}
