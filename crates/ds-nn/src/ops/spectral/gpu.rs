//! Spectral normalisation on a GPU, without reading anything back.

use crate::ops::device_matrix::{DeviceMatrix, as_matrix, plain, transpose};
use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Argument, Gpu, GpuInput, LaunchDims, int};

/// The name of the op.
pub(super) const NAME: &str = "spectral-normalization";
/// Squarings of the Gram matrix. The bound of σ is too large by a factor of at most n^(1/2¹³) for n singular values, 1.0007 for 400.
const SQUARINGS: usize = 12;
/// Blocks that a sum over the weight is made of.
const PIECES: usize = LaunchDims::THREADS;

/// A block with a double for each thread.
fn reducing(blocks: usize) -> LaunchDims {
    LaunchDims { grid: (blocks, 1), threads: LaunchDims::THREADS, shared: 8 * LaunchDims::THREADS }
}

/// ln σ² from above (1, f64), and the last power of the Gram matrix of the shorter side.
fn powers<G: Gpu>(
    gpu: &G,
    (rows, columns): (usize, usize),
    weight: &GpuInput<'_, G>,
) -> Result<(G::Buffer, DeviceMatrix<G>)> {
    let n = rows.min(columns);
    let (a, b) = if columns <= rows { (transpose(weight), plain(weight)) } else { (plain(weight), transpose(weight)) };
    let mut power = DeviceMatrix::new(gpu.matmul((n, n, rows.max(columns)), a, b)?, n, n);
    let sums = gpu.alloc(DType::F64, n)?;
    let mut log_bound: Option<G::Buffer> = None;
    for squared in 0..=SQUARINGS {
        let (normalised, sum) = (DeviceMatrix::alloc(gpu, n, n)?, gpu.alloc(DType::F64, 1)?);
        let before = log_bound.as_ref().map_or(Ok(Address::NONE), |log_bound| gpu.address(log_bound))?;
        let (from, sums) = (power.address(gpu)?, gpu.address(&sums)?);
        int(n * n)?;
        let arguments = [from, sums, normalised.address(gpu)?, before, gpu.address(&sum)?].map(Argument::from);
        let arguments = [&arguments[..], &[int(n)?, int(squared)?]].concat();
        // SAFETY: the kernels' arguments; a block for each row, and a thread for each of n² numbers.
        unsafe {
            gpu.launch("row_squares", reducing(n), &[from.into(), sums.into(), int(n)?])?;
            let blocks = LaunchDims { shared: reducing(1).shared, ..LaunchDims::for_each(n * n) };
            gpu.launch("gram_normalised", blocks, &arguments)?;
        }
        log_bound = Some(sum);
        power = if squared == SQUARINGS {
            normalised
        } else {
            let factor = normalised.input(gpu, NAME)?;
            DeviceMatrix::new(gpu.matmul((n, n, n), plain(&factor), plain(&factor))?, n, n)
        };
    }
    match log_bound {
        Some(log_bound) => Ok((log_bound, power)),
        None => candle_core::bail!("{NAME}: no powers"),
    }
}

/// W/σ.
pub(super) fn normalised<G: Gpu>(
    gpu: &G,
    (rows, columns): (usize, usize),
    weight: &GpuInput<'_, G>,
) -> Result<G::Buffer> {
    let (layout, n) = (as_matrix(weight, rows, columns), rows * columns);
    let (log_bound, _) = powers(gpu, (rows, columns), &GpuInput { layout: &layout, ..*weight })?;
    let out = gpu.alloc(DType::F32, n)?;
    let arguments = [weight.address, gpu.address(&log_bound)?, gpu.address(&out)?].map(Argument::from);
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe {
        gpu.launch("spectral_forward", LaunchDims::for_each(n), &[&arguments[..], &[int(n)?]].concat())?;
    }
    Ok(out)
}

/// The gradient of W from that of W/σ.
pub(super) fn gradient<G: Gpu>(
    gpu: &G,
    (rows, columns): (usize, usize),
    weight: &GpuInput<'_, G>,
    dy: &GpuInput<'_, G>,
) -> Result<G::Buffer> {
    let (layout, n) = (as_matrix(weight, rows, columns), rows * columns);
    let weight = GpuInput { layout: &layout, ..*weight };
    let (log_bound, power) = powers(gpu, (rows, columns), &weight)?;
    let short = rows.min(columns);
    // The singular vector of the shorter side, and its image, which is that of the other.
    let top = DeviceMatrix::alloc(gpu, short, 1)?;
    let arguments = [power.address(gpu)?.into(), top.address(gpu)?.into(), int(short)?];
    // SAFETY: the kernel's arguments; one block, which stays below n.
    unsafe { gpu.launch("top_vector", reducing(1), &arguments)? };
    let long = rows.max(columns);
    let factor = if columns <= rows { plain(&weight) } else { transpose(&weight) };
    let image = gpu.matmul((long, 1, short), factor, plain(&top.input(gpu, NAME)?))?;
    let other = gpu.alloc(DType::F32, long)?;
    let arguments = [gpu.address(&image)?.into(), gpu.address(&other)?.into(), int(long)?];
    // SAFETY: as before.
    unsafe { gpu.launch("unit_vector", reducing(1), &arguments)? };
    let (top, other) = (top.address(gpu)?, gpu.address(&other)?);
    let (left, right) = if columns <= rows { (other, top) } else { (top, other) };
    let (partial, out) = (gpu.alloc(DType::F64, PIECES)?, gpu.alloc(DType::F32, n)?);
    let arguments = [weight.address.into(), dy.address.into(), gpu.address(&partial)?.into(), int(n)?];
    let addresses = [dy.address, gpu.address(&log_bound)?, gpu.address(&partial)?, left, right, gpu.address(&out)?];
    let all = [&addresses.map(Argument::from)[..], &[int(rows)?, int(columns)?, int(PIECES)?]].concat();
    // SAFETY: the kernels' arguments; they stay below n.
    unsafe {
        gpu.launch("inner_product", reducing(PIECES), &arguments)?;
        gpu.launch("spectral_backward", LaunchDims { shared: reducing(1).shared, ..LaunchDims::for_each(n) }, &all)?;
    }
    Ok(out)
}
