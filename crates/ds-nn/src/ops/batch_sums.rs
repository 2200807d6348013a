//! What a convolution on a GPU leaves for the batch norm after it.

use ds_core::backend::sync::lock;
use std::any::Any;
use std::sync::{Arc, Mutex};

/// Σy and Σy² of each channel of an output, so that a batch norm need not read it for its statistics. Empty where the op before it
/// finds none.
#[derive(Debug, Clone, Default)]
pub struct BatchSums(Arc<Mutex<Option<Left>>>);

/// Partial sums (pieces, C, 2) in f64, and the number of pieces.
pub type Partial<B> = (B, usize);

/// An output, and its sums if they are wanted.
pub type WithSums<B> = (B, Option<Partial<B>>);

#[derive(Debug)]
struct Left {
    pieces: usize,
    partial: Box<dyn Any + Send + Sync>,
}

impl BatchSums {
    /// Leaves partial sums: (pieces, C, 2) in f64.
    pub(super) fn put(&self, partial: impl Any + Send + Sync, pieces: usize) {
        *lock(&self.0) = Some(Left { pieces, partial: Box::new(partial) });
    }

    /// Takes what was left, and the number of pieces.
    pub(super) fn take<B: Any>(&self) -> Option<Partial<B>> {
        let Left { pieces, partial } = lock(&self.0).take()?;
        Some((*partial.downcast().ok()?, pieces))
    }
}
