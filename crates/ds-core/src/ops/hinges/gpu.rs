//! Hinges on a GPU.

use crate::backend::gpu::{
    Address, Argument, Gpu, LaunchDims, by_channel, int, kernel_of_mapping, reduce_partials, rows_of,
};
use crate::backend::planes::Planes;
use candle_core::{DType, Result};

/// y of [`Hinges`](super::Hinges) with S hinges a channel.
pub(super) fn hinges<G: Gpu>(
    gpu: &G,
    planes: Planes,
    s: usize,
    dtype: DType,
    x: Address,
    (a, b): (Address, Address),
) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, planes.elements())?;
    if planes.elements() == 0 {
        return Ok(y);
    }
    let to = gpu.address(&y)?;
    let launch = by_channel(gpu.limits()?, planes, dtype, x.is_aligned() && to.is_aligned(), 8 * s)?;
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), a.into(), b.into(), to.into(), int(s)?];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more.
    unsafe { gpu.launch(&kernel_of_mapping("hinges", &launch, dtype)?, launch.into(), &arguments)? };
    Ok(y)
}

/// Its (∂x, ∂a, ∂b).
pub(super) fn hinges_gradient<G: Gpu>(
    gpu: &G,
    planes: Planes,
    s: usize,
    dtype: DType,
    x: Address,
    (a, b): (Address, Address),
    dy: Address,
) -> Result<(G::Buffer, G::Buffer, G::Buffer)> {
    let dx = gpu.alloc(dtype, planes.elements())?;
    let to = gpu.address(&dx)?;
    let aligned = [x, dy, to].iter().all(|a| a.is_aligned());
    let launch = by_channel(gpu.limits()?, planes, dtype, aligned, 8 * (LaunchDims::THREADS + s))?;
    let count = planes.channels * s;
    // No elements have sums of 0, over no pieces.
    let pieces = if planes.elements() == 0 { 0 } else { launch.pieces };
    let partial = gpu.alloc(DType::F64, pieces * count * 2)?;
    let mut arguments: Vec<Argument<'_>> =
        vec![x.into(), a.into(), b.into(), dy.into(), to.into(), gpu.address(&partial)?.into(), int(s)?];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has two sums of each piece and hinge.
    unsafe {
        if pieces > 0 {
            gpu.launch(&kernel_of_mapping("hinges_gradient", &launch, dtype)?, launch.into(), &arguments)?;
        }
        let sum = |which| reduce_partials(gpu, &partial, which, (pieces, count, 2));
        Ok((dx, sum(0)?, sum(1)?))
    }
}
