//! The parts of a packed tensor.

use candle_core::Tensor;

/// A part of a packed tensor.
#[derive(Debug, Clone)]
pub struct Piece {
    /// `len` numbers in f32; none are zeros.
    pub from: Option<Tensor>,
    /// Where the part begins.
    pub start: usize,
    /// Its length.
    pub len: usize,
}
