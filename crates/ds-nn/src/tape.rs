//! A tape for custom ops: what Candle's backward pass does, without its zeros, its additions into them and its searches.
//!
//! The ops are the same Candle custom ops, and their `bwd` is called in the same way. A gradient that arrives first is kept
//! as it is, and everything that is not needed any more is dropped while the tape unwinds.

use crate::ops::sum::Sum;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor, TensorId, Var, bail};
use ds_core::graph::{Gradients, Graph};

/// A tensor on the tape; `slot` is where its gradient will be summed, if it takes one.
#[derive(Debug, Clone)]
pub struct Value {
    tensor: Tensor,
    slot: Option<usize>,
}

enum Op {
    One(Box<dyn CustomOp1>, Value),
    Two(Box<dyn CustomOp2>, Value, Value),
    Three(Box<dyn CustomOp3>, Value, Value, Value),
    Reshape(Value),
}

struct Node {
    op: Op,
    output: Tensor,
    slot: usize,
}

/// Records ops in the order of their application.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    parameters: Vec<(Var, usize)>,
    slots: usize,
    recording: bool,
}

impl Tape {
    /// A tape for a training step.
    pub fn recording() -> Self {
        Self { recording: true, ..Self::default() }
    }

    /// A tape that keeps nothing: for evaluation.
    pub fn inference() -> Self {
        Self::default()
    }

    fn new_slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    fn record(&mut self, output: Tensor, tracked: bool, op: impl FnOnce() -> Op) -> Value {
        if !tracked {
            return Value { tensor: output, slot: None };
        }
        let slot = self.new_slot();
        self.nodes.push(Node { op: op(), output: output.clone(), slot });
        Value { tensor: output, slot: Some(slot) }
    }

    /// The gradients of all parameters that the scalar `loss` depends on.
    ///
    /// # Errors
    /// If `loss` is not one number, or an op fails.
    pub fn backward(self, loss: &Value) -> Result<TapeGradients> {
        if loss.tensor.elem_count() != 1 {
            bail!("the loss must be one number, got shape {:?}", loss.tensor.shape());
        }
        let mut sums = GradientSums(vec![None; self.slots]);
        sums.add(loss, Some(loss.tensor.ones_like()?))?;
        for Node { op, output, slot } in self.nodes.into_iter().rev() {
            let Some(gradient) = sums.0[slot].take() else { continue };
            match op {
                Op::One(op, a) => sums.add(&a, op.bwd(&a.tensor, &output, &gradient)?)?,
                Op::Two(op, a, b) => {
                    let (ga, gb) = op.bwd(&a.tensor, &b.tensor, &output, &gradient)?;
                    sums.add(&a, ga)?;
                    sums.add(&b, gb)?;
                }
                Op::Three(op, a, b, c) => {
                    let (ga, gb, gc) = op.bwd(&a.tensor, &b.tensor, &c.tensor, &output, &gradient)?;
                    sums.add(&a, ga)?;
                    sums.add(&b, gb)?;
                    sums.add(&c, gc)?;
                }
                Op::Reshape(a) => sums.add(&a, Some(gradient.reshape(a.tensor.shape())?))?,
            }
        }
        let mut gradients = Vec::with_capacity(self.parameters.len());
        for (parameter, slot) in self.parameters {
            if let Some(gradient) = sums.0[slot].take() {
                gradients.push((parameter.as_tensor().id(), gradient));
            }
        }
        Ok(TapeGradients(gradients))
    }
}

struct GradientSums(Vec<Option<Tensor>>);

impl GradientSums {
    fn add(&mut self, to: &Value, gradient: Option<Tensor>) -> Result<()> {
        let (Some(slot), Some(gradient)) = (to.slot, gradient) else { return Ok(()) };
        self.0[slot] = Some(match self.0[slot].take() {
            None => gradient,
            Some(sum) => sum.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &Sum)?,
        });
        Ok(())
    }
}

impl Graph for Tape {
    type Value = Value;

    fn constant(&mut self, tensor: &Tensor) -> Value {
        Value { tensor: tensor.clone(), slot: None }
    }

    fn parameter(&mut self, parameter: &Var) -> Value {
        let tensor = parameter.as_tensor().clone();
        if !self.recording {
            return Value { tensor, slot: None };
        }
        let known = self.parameters.iter().find(|(p, _)| p.as_tensor().id() == tensor.id()).map(|&(_, slot)| slot);
        let slot = known.unwrap_or_else(|| {
            let slot = self.new_slot();
            self.parameters.push((parameter.clone(), slot));
            slot
        });
        Value { tensor, slot: Some(slot) }
    }

    fn tensor<'a>(&self, value: &'a Value) -> &'a Tensor {
        &value.tensor
    }

    fn is_tracked(&self, value: &Value) -> bool {
        value.slot.is_some()
    }

    fn apply1<O>(&mut self, op: O, a: &Value) -> Result<Value>
    where
        O: CustomOp1 + Send + Sync + 'static,
    {
        let output = a.tensor.apply_op1_no_bwd(&op)?;
        let tracked = a.slot.is_some();
        Ok(self.record(output, tracked, || Op::One(Box::new(op), a.clone())))
    }

    fn apply2<O>(&mut self, op: O, a: &Value, b: &Value) -> Result<Value>
    where
        O: CustomOp2 + Send + Sync + 'static,
    {
        let output = a.tensor.apply_op2_no_bwd(&b.tensor, &op)?;
        let tracked = a.slot.is_some() || b.slot.is_some();
        Ok(self.record(output, tracked, || Op::Two(Box::new(op), a.clone(), b.clone())))
    }

    fn apply3<O>(&mut self, op: O, a: &Value, b: &Value, c: &Value) -> Result<Value>
    where
        O: CustomOp3 + Send + Sync + 'static,
    {
        let output = a.tensor.apply_op3_no_bwd(&b.tensor, &c.tensor, &op)?;
        let tracked = a.slot.is_some() || b.slot.is_some() || c.slot.is_some();
        Ok(self.record(output, tracked, || Op::Three(Box::new(op), a.clone(), b.clone(), c.clone())))
    }

    fn reshape(&mut self, value: &Value, shape: &[usize]) -> Result<Value> {
        let output = value.tensor.reshape(shape)?;
        Ok(self.record(output, value.slot.is_some(), || Op::Reshape(value.clone())))
    }
}

/// The gradients that a tape found.
#[derive(Debug, Default)]
pub struct TapeGradients(Vec<(TensorId, Tensor)>);

impl Gradients for TapeGradients {
    fn gradient(&self, parameter: &Var) -> Option<&Tensor> {
        let id = parameter.as_tensor().id();
        self.0.iter().find(|(of, _)| *of == id).map(|(_, gradient)| gradient)
    }

    fn set_gradient(&mut self, parameter: &Var, gradient: Tensor) {
        let id = parameter.as_tensor().id();
        match self.0.iter_mut().find(|(of, _)| *of == id) {
            Some((_, slot)) => *slot = gradient,
            None => self.0.push((id, gradient)),
        }
    }
}
