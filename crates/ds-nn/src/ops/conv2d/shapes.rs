//! What is said of a convolution to the kernels and libraries of a GPU.

use candle_core::DType;
use ds_core::backend::gpu::Address;

/// The arithmetic of convolutions on a GPU, as `torch.backends.cudnn` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Whether factors may be rounded to TF32 on tensor cores (`allow_tf32`).
    pub tf32: bool,
    /// Whether only algorithms are taken that give the same bits again (`deterministic`). All other kernels always do.
    pub deterministic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { tf32: true, deterministic: false }
    }
}

/// A convolution of x (N, I, H, W) with W (O, I, k, k) to (N, O, H', W'), all of one type; sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shapes {
    /// f32 or bf16.
    pub(super) dtype: DType,
    /// N, I, H, W.
    pub(super) input: [usize; 4],
    /// N, O, H', W'.
    pub(super) output: [usize; 4],
    /// k, stride, padding.
    pub(super) window: [usize; 3],
    pub(super) options: Options,
}

/// Which of the three tensors is computed from the two others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    Input,
    Weight,
}

/// The three tensors: the one that is computed will be written.
#[derive(Clone, Copy)]
pub(super) struct Tensors {
    pub(super) x: Address,
    pub(super) w: Address,
    pub(super) y: Address,
}
