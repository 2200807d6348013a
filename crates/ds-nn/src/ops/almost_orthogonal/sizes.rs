//! The sizes of a kernel and of its phases.

use candle_core::{Result, Shape, bail};

/// The name of the op.
pub(super) const NAME: &str = "almost-orthogonal";

/// Sizes of a kernel (O, I, k, k) and of its phases (O, channels, side, side).
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) channels: usize,
    pub(super) side: usize,
}

impl Sizes {
    pub(super) fn new(shape: &Shape, stride: usize) -> Result<Self> {
        let &[outputs, inputs, ky, kx] = shape.dims() else {
            bail!("{NAME}: a kernel must be (O, I, k, k), got {shape:?}")
        };
        if ky != kx || stride == 0 {
            bail!("{NAME}: kernel {shape:?} and stride {stride}: expected (O, I, k, k) and at least 1");
        }
        let (channels, side) = (inputs * stride * stride, kx.div_ceil(stride));
        Ok(Self { outputs, inputs, kernel: kx, stride, channels, side })
    }

    /// Elements of a phase.
    pub(super) fn taps(&self) -> usize {
        self.side * self.side
    }

    /// Columns of the matrix.
    pub(super) fn columns(&self) -> usize {
        self.channels * self.taps()
    }

    /// The p for which two phases overlap.
    pub(super) fn shifts(&self) -> usize {
        (2 * self.side - 1).pow(2)
    }

    /// Elements of the kernel of one output.
    pub(super) fn in_row(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }
}
