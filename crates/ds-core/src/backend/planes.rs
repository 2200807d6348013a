//! How an activation sees its input: (N, C) or (N, C, …) as N·C planes of equal length.

use candle_core::{Result, Shape, bail};

/// A shape (N, C, …) as `outer` = N, `channels` = C, `inner` = the product of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planes {
    /// N, the images or rows.
    pub outer: usize,
    /// C, the channels or units.
    pub channels: usize,
    /// The elements of one plane.
    pub inner: usize,
}

impl Planes {
    /// # Errors
    /// If the shape has no channel dimension, or not `channels` of them.
    pub fn new(shape: &Shape, channels: usize, op: &'static str) -> Result<Self> {
        let dims = shape.dims();
        if dims.len() < 2 || dims[1] != channels {
            bail!("{op}: input of shape {dims:?} does not fit {channels} channels, expected (N, {channels}, …)");
        }
        Ok(Self { outer: dims[0], channels, inner: dims[2..].iter().product() })
    }

    /// All elements.
    pub fn elements(&self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// Where the plane of row `n` and channel `c` begins.
    pub fn offset(&self, n: usize, c: usize) -> usize {
        (n * self.channels + c) * self.inner
    }

    /// How many rows one piece of a per-channel reduction takes: about 64k elements, whatever the number of threads.
    pub fn rows_per_piece(&self) -> usize {
        (64 * 1024 / self.inner.max(1)).clamp(1, self.outer.max(1))
    }
}
