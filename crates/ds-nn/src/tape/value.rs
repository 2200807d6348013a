//! Values, and the sums of their gradients.

use crate::ops::sum::Sum;
use candle_core::{Result, Tensor, TensorId};
use ds_core::backend::op;

/// What a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It is a parameter.
    Parameter(TensorId),
    /// It is the result of that one of the known ops.
    Op(usize),
}

/// A tensor on the tape; `slot` is where its gradient will be summed, if it takes one.
#[derive(Debug, Clone)]
pub struct Value {
    pub(super) tensor: Tensor,
    pub(super) slot: Option<usize>,
    /// What it is, if it comes from parameters alone and the tape keeps account of that.
    pub(super) source: Option<Source>,
}

/// One op for many lists of inputs, with all of its outputs.
pub(super) trait RecordedForeach {
    /// Where the gradients of all inputs are summed.
    fn slots(&self) -> Vec<Option<usize>>;

    /// Takes the gradients of the outputs, and adds those of the inputs.
    fn backward(&self, sums: &mut GradientSums) -> Result<()>;
}

/// Gradients in the order in which they came: the sum of all but the last one, and that.
pub(super) struct GradientSums(Vec<[Option<Tensor>; 2]>);

impl GradientSums {
    pub(super) fn new(slots: usize) -> Self {
        Self(vec![[None, None]; slots])
    }

    pub(super) fn add(&mut self, slot: Option<usize>, gradient: Option<Tensor>) -> Result<()> {
        let (Some(slot), Some(gradient)) = (slot, gradient) else { return Ok(()) };
        self.sum(slot)?;
        let [first, second] = &mut self.0[slot];
        *(if first.is_none() { first } else { second }) = Some(gradient);
        Ok(())
    }

    /// The sum of all.
    pub(super) fn sum(&mut self, slot: usize) -> Result<Option<&Tensor>> {
        let [first, second] = &mut self.0[slot];
        if let (Some(sum), Some(last)) = (first.as_ref(), second.take()) {
            *first = Some(op::forward(&Sum, [sum, &last])?);
        }
        Ok(first.as_ref())
    }

    /// Takes the sum of all, or two gradients whose sum it is.
    pub(super) fn take(&mut self, slot: usize, two: bool) -> Result<Option<(Tensor, Option<Tensor>)>> {
        if !two {
            self.sum(slot)?;
        }
        let [first, second] = &mut self.0[slot];
        Ok(first.take().map(|first| (first, second.take())))
    }
}
