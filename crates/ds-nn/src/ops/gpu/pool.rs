//! Pools.

use crate::ops::window::{Planes, Window};
use candle_core::{DType, Result, Shape};
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu, int, kernel_of};

/// Which pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`MaxPool`](crate::ops::pool::MaxPool).
    Max,
    /// [`AveragePool`](crate::ops::pool::AveragePool).
    Mean,
}

/// `Pool` of the kernels, and how many pixels are read and written.
fn described(kind: Kind, window: Window, x: &Shape) -> Result<(Planes, [u64; 5], usize, usize)> {
    let p = window.planes(x, "pool")?;
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
    Ok((p, words, read, written))
}

/// The pool of x (N, C, H, W), and its shape.
///
/// # Errors
/// If the window does not fit, or those of the device.
pub fn pool<G: Gpu>(
    gpu: &G,
    kind: Kind,
    window: Window,
    shape: &Shape,
    dtype: DType,
    x: Address,
) -> Result<(G::Buffer, Shape)> {
    let (p, words, _, written) = described(kind, window, shape)?;
    let y = gpu.alloc(dtype, written)?;
    let arguments = [x.into(), gpu.address(&y)?.into(), Argument::Struct(&words)];
    // SAFETY: the kernel's arguments; it stays below the number of pixels.
    unsafe { gpu.launch(&kernel_of("pool_forward", dtype)?, Blocks::for_each(written), &arguments)? };
    Ok((y, Shape::from((p.images, p.channels, p.out_height, p.out_width))))
}

/// Its ∂x; x and y are of no use to a mean.
///
/// # Errors
/// If the window does not fit, or those of the device.
pub fn pool_gradient<G: Gpu>(
    gpu: &G,
    kind: Kind,
    window: Window,
    shape: &Shape,
    dtype: DType,
    (x, y): (Address, Address),
    dy: Address,
) -> Result<G::Buffer> {
    let (_, words, read, _) = described(kind, window, shape)?;
    let dx = gpu.alloc(dtype, read)?;
    let arguments = [x.into(), y.into(), dy.into(), gpu.address(&dx)?.into(), Argument::Struct(&words)];
    // SAFETY: the kernel's arguments; it stays below the number of pixels.
    unsafe { gpu.launch(&kernel_of("pool_backward", dtype)?, Blocks::for_each(read), &arguments)? };
    Ok(dx)
}
