//! Rectifiers on a GPU.

use crate::backend::gpu::{Address, Gpu, OfChannels, pointwise};
use crate::backend::planes::Planes;
use candle_core::{DType, Result};

/// y of [`Rectifier`](super::Rectifier) for n inputs.
pub(super) fn rectifier<G: Gpu>(gpu: &G, slope: f64, dtype: DType, x: Address, n: usize) -> Result<G::Buffer> {
    // SAFETY: the kernel's arguments.
    unsafe { pointwise(gpu, "rectifier_forward", dtype, n, &[x], &[(slope as f32).into()]) }
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
    // SAFETY: the kernel's arguments.
    unsafe { pointwise(gpu, "rectifier_backward", dtype, n, &[x, dy], &[(slope as f32).into()]) }
}

fn of_channels(planes: Planes, dtype: DType, x: Address, slopes: Address) -> OfChannels<'static> {
    let elements = planes.elements();
    OfChannels { kernel: "channel_rectifier", planes, elements, dtype, x, parameters: slopes }
}

/// y of [`ChannelRectifier`](super::ChannelRectifier).
pub(super) fn channel_rectifier<G: Gpu>(
    gpu: &G,
    planes: Planes,
    dtype: DType,
    x: Address,
    slopes: Address,
) -> Result<G::Buffer> {
    // SAFETY: the kernel's arguments.
    unsafe { of_channels(planes, dtype, x, slopes).forward(gpu, &[]) }
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
    // SAFETY: the kernel's arguments.
    unsafe { of_channels(planes, dtype, x, slopes).backward(gpu, dy) }
}
