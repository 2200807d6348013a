//! Coefficients from other parameters, on a GPU.

use crate::Grid;
use crate::backend::gpu::{Address, Argument, Gpu, LaunchDims, int, launch_foreach};
use candle_core::{DType, Result};

fn sizes(channels: usize, grid: Grid) -> Result<[Argument<'static>; 3]> {
    int(channels * grid.size())?;
    Ok([int(channels)?, int(grid.size())?, grid.step().into()])
}

/// The grid and the channels of a layer, and addresses of its arrays.
pub(super) type Layer<const N: usize> = (Grid, usize, [Address; N]);

/// Layers of a launch, and numbers or channels of a block.
const TERMS: usize = 76;
const GRADIENTS: usize = 90;
const NUMBERS: usize = LaunchDims::THREADS;
const CHANNELS: usize = LaunchDims::THREADS / 32;

fn shape(channels: usize, grid: Grid) -> Result<u64> {
    int(channels * grid.size())?;
    Ok(channels as u64 | (grid.size() as u64) << 32)
}

/// [`AddLinearTerm`](super::AddLinearTerm) of c, b1 and b0 for each layer.
pub(super) fn add_linear_terms<G: Gpu>(gpu: &G, layers: &[Layer<3>]) -> Result<Vec<G::Buffer>> {
    let out = layers.iter().map(|(grid, channels, _)| gpu.alloc(DType::F32, channels * grid.size()));
    let out = out.collect::<Result<Vec<_>>>()?;
    let row = |(&(grid, channels, [c, b1, b0]), out): (&Layer<3>, &G::Buffer)| {
        let to = gpu.address(out)?;
        let words = [c.0, b1.0, b0.0, to.0, shape(channels, grid)?, grid.step().to_bits()];
        Ok((channels * grid.size(), words))
    };
    let rows = layers.iter().zip(&out).map(row).collect::<Result<Vec<_>>>()?;
    // SAFETY: the kernel's arguments; every block stays in its layer.
    unsafe { launch_foreach(gpu, "add_linear_term", (TERMS, NUMBERS), &rows, &[], 0)? };
    Ok(out)
}

/// [`SumOfRelus`](super::SumOfRelus).
pub(super) fn sum_of_relus<G: Gpu>(
    gpu: &G,
    grid: Grid,
    channels: usize,
    [knots, b1, b0]: [Address; 3],
) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, channels * grid.size())?;
    let mut arguments: Vec<Argument<'_>> = vec![knots.into(), b1.into(), b0.into(), gpu.address(&out)?.into()];
    arguments.extend(sizes(channels, grid)?);
    // SAFETY: the kernel's arguments; it stays below the number of channels.
    unsafe { gpu.launch("sum_of_relus", LaunchDims::for_each(channels), &arguments)? };
    Ok(out)
}

/// (∂b1, ∂b0) from ∂c for each layer, of both ops.
pub(super) fn linear_term_gradients<G: Gpu>(gpu: &G, layers: &[Layer<1>]) -> Result<Vec<(G::Buffer, G::Buffer)>> {
    let of = |channels: usize| gpu.alloc(DType::F32, channels);
    let out = layers.iter().map(|&(_, channels, _)| Ok((of(channels)?, of(channels)?))).collect::<Result<Vec<_>>>()?;
    let row = |(&(grid, channels, [dc]), (db1, db0)): (&Layer<1>, &(G::Buffer, G::Buffer))| {
        let (db1, db0) = (gpu.address(db1)?, gpu.address(db0)?);
        Ok((channels, [dc.0, db1.0, db0.0, shape(channels, grid)?, grid.step().to_bits()]))
    };
    let rows = layers.iter().zip(&out).map(row).collect::<Result<Vec<_>>>()?;
    let shared = 16 * LaunchDims::THREADS;
    // SAFETY: the kernel's arguments; every block stays in its layer.
    unsafe { launch_foreach(gpu, "linear_term_gradient", (GRADIENTS, CHANNELS), &rows, &[], shared)? };
    Ok(out)
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
