//! Sums, biases and dropout.

use candle_core::{DType, Result};
use ds_core::ops::gpu::pointwise::blocks;
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu, all_aligned, by_channel, int, kernel_of, merged, rows_of};
use ds_core::ops::planes::Planes;

/// a + b.
///
/// # Errors
/// Those of the device.
pub fn add<G: Gpu>(gpu: &G, dtype: DType, a: Address, b: Address, n: usize) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let arguments = [a.into(), b.into(), to.into(), int(n)?, all_aligned(&[a, b, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("add", dtype)?, blocks(n, dtype), &arguments)? };
    Ok(y)
}

/// y (N, C, …) += bias (C), in place.
///
/// # Safety
/// y must be nobody else's.
///
/// # Errors
/// Those of the device.
pub unsafe fn add_bias<G: Gpu>(gpu: &G, planes: Planes, dtype: DType, y: Address, bias: Address) -> Result<()> {
    let n = planes.elements();
    let arguments = [y.into(), bias.into(), int(planes.channels)?, int(planes.inner)?, int(n)?, all_aligned(&[y])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("add_bias", dtype)?, blocks(n, dtype), &arguments) }
}

/// Σ over all but the channels.
///
/// # Errors
/// Those of the device.
pub fn channel_totals<G: Gpu>(gpu: &G, planes: Planes, dtype: DType, x: Address) -> Result<G::Buffer> {
    let launch = by_channel(gpu.limits()?, planes, dtype, x.is_aligned(), 8 * Blocks::THREADS)?;
    let partial = gpu.alloc(DType::F64, launch.pieces * planes.channels)?;
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), gpu.address(&partial)?.into()];
    arguments.extend(rows_of(planes, &launch)?);
    let kernel = kernel_of(&format!("channel_sums_{}", launch.mapping.name()), dtype)?;
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has a sum of each piece and channel.
    unsafe {
        gpu.launch(&kernel, launch.into(), &arguments)?;
        merged(gpu, &partial, 0, (launch.pieces, planes.channels, 1))
    }
}

/// Who is dropped by [`Dropout`](crate::ops::dropout::Dropout).
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// p.
    pub probability: f64,
    /// Where the key of the step is (u64), if there is one.
    pub step: Address,
    /// The key, or the number that it is hashed with.
    pub key: u64,
}

/// [`Dropout`](crate::ops::dropout::Dropout) of n elements, or of their gradients.
///
/// # Errors
/// Those of the device.
pub fn dropout<G: Gpu>(gpu: &G, draw: Draw, dtype: DType, x: Address, n: usize) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let threshold = (draw.probability * (1u64 << 32) as f64) as u64;
    let scale = (1.0 / (1.0 - draw.probability)) as f32;
    let (key, threshold) = (Argument::Long(draw.key), Argument::Long(threshold));
    let arguments =
        [x.into(), to.into(), draw.step.into(), key, threshold, scale.into(), int(n)?, all_aligned(&[x, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("dropout", dtype)?, blocks(n, dtype), &arguments)? };
    Ok(y)
}
