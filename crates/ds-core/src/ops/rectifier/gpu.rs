//! Rectifiers on a GPU.

use crate::backend::gpu::{
    Address, Argument, Gpu, LaunchDims, all_aligned, by_channel, int, kernel_of, kernel_of_mapping,
};
use crate::backend::gpu::{pointwise_blocks, reduce_partials, rows_of};
use crate::backend::planes::Planes;
use candle_core::{DType, Result};

/// y of [`Rectifier`](super::Rectifier) for n inputs.
pub(super) fn rectifier<G: Gpu>(gpu: &G, slope: f64, dtype: DType, x: Address, n: usize) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let arguments = [x.into(), to.into(), (slope as f32).into(), int(n)?, all_aligned(&[x, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("rectifier_forward", dtype)?, pointwise_blocks(n, dtype), &arguments)? };
    Ok(y)
}

/// Its ∂x.
pub(super) fn rectifier_gradient<G: Gpu>(
    gpu: &G,
    slope: f64,
    dtype: DType,
    x: Address,
    dy: Address,
    n: usize,
) -> Result<G::Buffer> {
    let dx = gpu.alloc(dtype, n)?;
    let to = gpu.address(&dx)?;
    let arguments = [x.into(), dy.into(), to.into(), (slope as f32).into(), int(n)?, all_aligned(&[x, dy, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("rectifier_backward", dtype)?, pointwise_blocks(n, dtype), &arguments)? };
    Ok(dx)
}

/// y of [`ChannelRectifier`](super::ChannelRectifier).
pub(super) fn channel_rectifier<G: Gpu>(
    gpu: &G,
    planes: Planes,
    dtype: DType,
    x: Address,
    slopes: Address,
) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, planes.elements())?;
    let to = gpu.address(&y)?;
    let launch = by_channel(gpu.limits()?, planes, dtype, x.is_aligned() && to.is_aligned(), 0)?;
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), slopes.into(), to.into()];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more.
    unsafe { gpu.launch(&kernel_of_mapping("channel_rectifier", &launch, dtype)?, launch.into(), &arguments)? };
    Ok(y)
}

/// Its (∂x, ∂slopes).
pub(super) fn channel_rectifier_gradient<G: Gpu>(
    gpu: &G,
    planes: Planes,
    dtype: DType,
    x: Address,
    slopes: Address,
    dy: Address,
) -> Result<(G::Buffer, G::Buffer)> {
    let dx = gpu.alloc(dtype, planes.elements())?;
    let to = gpu.address(&dx)?;
    let aligned = [x, dy, to].iter().all(|a| a.is_aligned());
    let launch = by_channel(gpu.limits()?, planes, dtype, aligned, 8 * LaunchDims::THREADS)?;
    let partial = gpu.alloc(DType::F64, launch.pieces * planes.channels)?;
    let mut arguments: Vec<Argument<'_>> =
        vec![x.into(), slopes.into(), dy.into(), to.into(), gpu.address(&partial)?.into()];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has a sum of each piece and channel.
    let slopes = unsafe {
        gpu.launch(&kernel_of_mapping("channel_rectifier_gradient", &launch, dtype)?, launch.into(), &arguments)?;
        reduce_partials(gpu, &partial, 0, (launch.pieces, planes.channels, 1))?
    };
    Ok((dx, slopes))
}
