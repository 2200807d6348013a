//! Pools on a GPU.

use crate::ops::window::{Planes, Window};
use candle_core::{Result, Shape};
use ds_core::backend::gpu::GpuInput;
use ds_core::backend::gpu::{Address, Argument, Gpu, LaunchDims, int, kernel_of};

/// Which pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// [`MaxPool`](super::MaxPool).
    Max,
    /// [`AveragePool`](super::AveragePool).
    Mean,
}

/// `Pool` of the kernels, and how many pixels are read and written.
fn described(kind: Kind, window: Window, x: &Shape) -> Result<([u64; 5], usize, usize)> {
    let p: Planes = window.planes_of_pool(x, "pool")?;
    let planes = p.images * p.channels * p.lanes;
    let (read, written) = (planes * p.height * p.width, planes * p.out_height * p.out_width);
    int(read.max(written))?;
    let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
    let words = [
        pair(planes, p.height),
        pair(p.width, p.out_height),
        pair(p.out_width, window.kernel),
        pair(window.stride, window.padding),
        u64::from(kind == Kind::Mean),
    ];
    Ok((words, read, written))
}

/// The pool of x (N, C, H, W).
pub(super) fn pool<G: Gpu>(gpu: &G, kind: Kind, window: Window, x: &GpuInput<'_, G>) -> Result<G::Buffer> {
    let (words, _, written) = described(kind, window, x.shape())?;
    let y = gpu.alloc(x.dtype, written)?;
    let arguments = [x.address.into(), gpu.address(&y)?.into(), Argument::Struct(&words)];
    // SAFETY: the kernel's arguments; it stays below the number of pixels.
    unsafe { gpu.launch(&kernel_of("pool_forward", x.dtype)?, LaunchDims::for_each(written), &arguments)? };
    Ok(y)
}

/// Its ∂x for x of this shape; x and y are of no use to a mean.
pub(super) fn pool_gradient<G: Gpu>(
    gpu: &G,
    kind: Kind,
    window: Window,
    shape: &Shape,
    (x, y): (Address, Address),
    dy: &GpuInput<'_, G>,
) -> Result<G::Buffer> {
    let (words, read, _) = described(kind, window, shape)?;
    let dx = gpu.alloc(dy.dtype, read)?;
    let arguments = [x.into(), y.into(), dy.address.into(), gpu.address(&dx)?.into(), Argument::Struct(&words)];
    // SAFETY: the kernel's arguments; it stays below the number of pixels.
    unsafe { gpu.launch(&kernel_of("pool_backward", dy.dtype)?, LaunchDims::for_each(read), &arguments)? };
    Ok(dx)
}
