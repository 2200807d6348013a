//! Biases on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{
    Address, Argument, Gpu, LaunchDims, all_aligned, by_channel, int, kernel_of, kernel_of_mapping,
};
use ds_core::backend::gpu::{pointwise_blocks, reduce_partials, rows_of};
use ds_core::backend::planes::Planes;

/// y (N, C, …) += bias (C), in place.
///
/// # Safety
/// y must be nobody else's.
pub(in crate::ops) unsafe fn add_bias<G: Gpu>(
    gpu: &G,
    planes: Planes,
    dtype: DType,
    y: Address,
    bias: Address,
) -> Result<()> {
    let n = planes.elements();
    let arguments = [y.into(), bias.into(), int(planes.channels)?, int(planes.inner)?, int(n)?, all_aligned(&[y])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("add_bias", dtype)?, pointwise_blocks(n, dtype), &arguments) }
}

/// Σ over all but the channels.
pub(in crate::ops) fn channel_sums<G: Gpu>(gpu: &G, planes: Planes, dtype: DType, x: Address) -> Result<G::Buffer> {
    let launch = by_channel(gpu.limits()?, planes, dtype, x.is_aligned(), 8 * LaunchDims::THREADS)?;
    // No elements have sums of 0, over no pieces.
    let pieces = if planes.elements() == 0 { 0 } else { launch.pieces };
    let partial = gpu.alloc(DType::F64, pieces * planes.channels)?;
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), gpu.address(&partial)?.into()];
    arguments.extend(rows_of(planes, &launch)?);
    let kernel = kernel_of_mapping("channel_sums", &launch, dtype)?;
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has a sum of each piece and channel.
    unsafe {
        if pieces > 0 {
            gpu.launch(&kernel, launch.into(), &arguments)?;
        }
        reduce_partials(gpu, &partial, 0, (pieces, planes.channels, 1))
    }
}
