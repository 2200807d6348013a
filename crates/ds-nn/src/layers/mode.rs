//! Training and evaluation.

use crate::ops::dropout::Key;

/// Whether a layer trains or evaluates.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// Batch statistics, and dropout drawn from this key.
    Training {
        /// The key of the step.
        dropout: Key<'a>,
    },
    /// Running statistics, no dropout.
    Evaluation,
}

impl Mode<'static> {
    /// Training, with this key of the step.
    pub fn training(dropout: u64) -> Self {
        Self::Training { dropout: Key::Number(dropout) }
    }
}
