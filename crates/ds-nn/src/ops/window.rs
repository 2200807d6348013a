//! Square windows that slide over the planes of (N, C, H, W), or of blocks (N/16, C, H, W, 16).

use super::blocks::LANES;
use candle_core::{Result, Shape, bail};

/// Kernel size, stride and padding, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side of the window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Rows and columns added on each side.
    pub padding: usize,
}

/// Input and output sizes of a window over one batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planes {
    pub images: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Images side by side at each pixel: 1, or those of a block.
    pub lanes: usize,
}

impl Window {
    /// The output side for an input side.
    ///
    /// # Errors
    /// If the window is larger than the padded input, or kernel or stride is 0.
    pub fn output(&self, input: usize, op: &str) -> Result<usize> {
        let padded = input + 2 * self.padding;
        if self.kernel == 0 || self.stride == 0 || padded < self.kernel {
            bail!("{op}: {self:?} does not fit an input side of {input}");
        }
        Ok((padded - self.kernel) / self.stride + 1)
    }

    /// The planes of a pool, whose padding is at most half its kernel, as in PyTorch.
    pub(crate) fn planes_of_pool(&self, shape: &Shape, op: &str) -> Result<Planes> {
        if 2 * self.padding > self.kernel {
            bail!("{op}: padding {} is more than half the kernel {}", self.padding, self.kernel);
        }
        self.planes(shape, op)
    }

    pub(crate) fn planes(&self, shape: &Shape, op: &str) -> Result<Planes> {
        let (images, channels, height, width, lanes) = match *shape.dims() {
            [images, channels, height, width] => (images, channels, height, width, 1),
            [blocks, channels, height, width, LANES] => (blocks, channels, height, width, LANES),
            _ => bail!("{op}: input must be (N, C, H, W) or blocks (N/16, C, H, W, 16), got {shape:?}"),
        };
        let (out_height, out_width) = (self.output(height, op)?, self.output(width, op)?);
        Ok(Planes { images, channels, height, width, out_height, out_width, lanes })
    }

    /// The input rows (or columns) of output `o` that lie inside the input.
    pub(crate) fn inside(&self, o: usize, input: usize) -> std::ops::Range<usize> {
        let start = o * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel).saturating_sub(self.padding).min(input)
    }
}
