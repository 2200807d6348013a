//! Coefficients from other parameters, on a GPU.

use crate::Grid;
use crate::backend::gpu::{Address, Argument, Gpu, LaunchDims, int};
use candle_core::{DType, Result};

fn sizes(channels: usize, grid: Grid) -> Result<[Argument<'static>; 3]> {
    Ok([int(channels)?, int(grid.size())?, grid.step().into()])
}

/// [`AddLinearTerm`](super::AddLinearTerm).
pub(super) fn add_linear_term<G: Gpu>(
    gpu: &G,
    grid: Grid,
    channels: usize,
    parameters: [Address; 3],
) -> Result<G::Buffer> {
    from_parameters(gpu, "add_linear_term", LaunchDims::for_each(channels * grid.size()), grid, channels, parameters)
}

/// [`SumOfRelus`](super::SumOfRelus).
pub(super) fn sum_of_relus<G: Gpu>(
    gpu: &G,
    grid: Grid,
    channels: usize,
    parameters: [Address; 3],
) -> Result<G::Buffer> {
    from_parameters(gpu, "sum_of_relus", LaunchDims::for_each(channels), grid, channels, parameters)
}

fn from_parameters<G: Gpu>(
    gpu: &G,
    kernel: &str,
    blocks: LaunchDims,
    grid: Grid,
    channels: usize,
    [knots, b1, b0]: [Address; 3],
) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, channels * grid.size())?;
    let mut arguments: Vec<Argument<'_>> = vec![knots.into(), b1.into(), b0.into(), gpu.address(&out)?.into()];
    arguments.extend(sizes(channels, grid)?);
    // SAFETY: the kernel's arguments; it stays below the number of channels, or of coefficients.
    unsafe { gpu.launch(kernel, blocks, &arguments)? };
    Ok(out)
}

/// (∂b1, ∂b0) from ∂c, for both.
pub(super) fn linear_term_gradient<G: Gpu>(
    gpu: &G,
    grid: Grid,
    channels: usize,
    dc: Address,
) -> Result<(G::Buffer, G::Buffer)> {
    let (db1, db0) = (gpu.alloc(DType::F32, channels)?, gpu.alloc(DType::F32, channels)?);
    let mut arguments: Vec<Argument<'_>> = vec![dc.into(), gpu.address(&db1)?.into(), gpu.address(&db0)?.into()];
    arguments.extend(sizes(channels, grid)?);
    let blocks = LaunchDims { shared: 16 * LaunchDims::THREADS, ..LaunchDims::for_each(32 * channels) };
    // SAFETY: the kernel's arguments; it stays below the number of channels.
    unsafe { gpu.launch("linear_term_gradient", blocks, &arguments)? };
    Ok((db1, db0))
}

/// ∂a of [`sum_of_relus`] from ∂c.
pub(super) fn sum_of_relus_gradient<G: Gpu>(gpu: &G, grid: Grid, channels: usize, dc: Address) -> Result<G::Buffer> {
    let da = gpu.alloc(DType::F32, channels * (grid.size() - 2))?;
    let mut arguments: Vec<Argument<'_>> = vec![dc.into(), gpu.address(&da)?.into()];
    arguments.extend(sizes(channels, grid)?);
    // SAFETY: the kernel's arguments; it stays below the number of channels.
    unsafe { gpu.launch("sum_of_relus_gradient", LaunchDims::for_each(channels), &arguments)? };
    Ok(da)
}
