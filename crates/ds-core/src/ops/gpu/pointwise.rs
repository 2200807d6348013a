//! Rectifiers and hinges.

use super::{Address, Argument, Blocks, Gpu, all_aligned, by_channel, in_vector, int, kernel_of, merged, rows_of};
use crate::ops::linear_spline::geometry::Launch;
use crate::ops::planes::Planes;
use candle_core::{DType, Result};

/// The launch of a pointwise kernel of `n` elements of a type.
pub fn blocks(n: usize, dtype: DType) -> Blocks {
    Blocks::for_each(n.div_ceil(in_vector(dtype)))
}

/// y of [`Rectifier`](crate::ops::rectifier::Rectifier) for n inputs.
///
/// # Errors
/// Those of the device.
pub fn rectifier<G: Gpu>(gpu: &G, slope: f64, dtype: DType, x: Address, n: usize) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, n)?;
    let to = gpu.address(&y)?;
    let arguments = [x.into(), to.into(), (slope as f32).into(), int(n)?, all_aligned(&[x, to])];
    // SAFETY: the kernel's arguments; it stays below n.
    unsafe { gpu.launch(&kernel_of("rectifier_forward", dtype)?, blocks(n, dtype), &arguments)? };
    Ok(y)
}

/// Its ∂x.
///
/// # Errors
/// Those of the device.
pub fn rectifier_gradient<G: Gpu>(
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
    unsafe { gpu.launch(&kernel_of("rectifier_backward", dtype)?, blocks(n, dtype), &arguments)? };
    Ok(dx)
}

fn named(kernel: &str, launch: &Launch, dtype: DType) -> Result<String> {
    kernel_of(&format!("{kernel}_{}", launch.mapping.name()), dtype)
}

/// y of [`ChannelRectifier`](crate::ops::rectifier::ChannelRectifier).
///
/// # Errors
/// Those of the device.
pub fn channel_rectifier<G: Gpu>(
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
    unsafe { gpu.launch(&named("channel_rectifier", &launch, dtype)?, launch.into(), &arguments)? };
    Ok(y)
}

/// Its (∂x, ∂slopes).
///
/// # Errors
/// Those of the device.
pub fn channel_rectifier_gradient<G: Gpu>(
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
    let launch = by_channel(gpu.limits()?, planes, dtype, aligned, 8 * Blocks::THREADS)?;
    let partial = gpu.alloc(DType::F64, launch.pieces * planes.channels)?;
    let mut arguments: Vec<Argument<'_>> =
        vec![x.into(), slopes.into(), dy.into(), to.into(), gpu.address(&partial)?.into()];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has a sum of each piece and channel.
    let slopes = unsafe {
        gpu.launch(&named("channel_rectifier_gradient", &launch, dtype)?, launch.into(), &arguments)?;
        merged(gpu, &partial, 0, (launch.pieces, planes.channels, 1))?
    };
    Ok((dx, slopes))
}

/// y of [`Hinges`](crate::ops::hinges::Hinges) with S hinges a channel.
///
/// # Errors
/// Those of the device.
pub fn hinges<G: Gpu>(
    gpu: &G,
    planes: Planes,
    s: usize,
    dtype: DType,
    x: Address,
    (a, b): (Address, Address),
) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, planes.elements())?;
    let to = gpu.address(&y)?;
    let launch = by_channel(gpu.limits()?, planes, dtype, x.is_aligned() && to.is_aligned(), 8 * s)?;
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), a.into(), b.into(), to.into(), int(s)?];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more.
    unsafe { gpu.launch(&named("hinges", &launch, dtype)?, launch.into(), &arguments)? };
    Ok(y)
}

/// Its (∂x, ∂a, ∂b).
///
/// # Errors
/// Those of the device.
pub fn hinges_gradient<G: Gpu>(
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
    let launch = by_channel(gpu.limits()?, planes, dtype, aligned, 8 * (Blocks::THREADS + s))?;
    let count = planes.channels * s;
    let partial = gpu.alloc(DType::F64, launch.pieces * count * 2)?;
    let mut arguments: Vec<Argument<'_>> =
        vec![x.into(), a.into(), b.into(), dy.into(), to.into(), gpu.address(&partial)?.into(), int(s)?];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has two sums of each piece and hinge.
    unsafe {
        gpu.launch(&named("hinges_gradient", &launch, dtype)?, launch.into(), &arguments)?;
        let sum = |which| merged(gpu, &partial, which, (launch.pieces, count, 2));
        Ok((dx, sum(0)?, sum(1)?))
    }
}
