//! The losses.

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cross-entropy of logits (N, C) through a softmax; targets are N classes below C (u8).
    CrossEntropy,
    /// Binary cross-entropy of logits (N, 1) or (N) through a sigmoid; targets are N numbers in [0, 1] (f32).
    BinaryCrossEntropy,
    /// Mean squared error of predictions (N, 1) or (N); targets are N numbers (f32).
    MeanSquaredError,
}
