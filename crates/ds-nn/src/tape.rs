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

impl Op {
    /// Where the gradients of its arguments are summed.
    fn slots(&self) -> [Option<usize>; 3] {
        match self {
            Self::One(_, a) | Self::Reshape(a) => [a.slot, None, None],
            Self::Two(_, a, b) => [a.slot, b.slot, None],
            Self::Three(_, a, b, c) => [a.slot, b.slot, c.slot],
        }
    }
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
        self.unwind(loss, None)
    }

    /// The same, and gives every gradient to `complete` as soon as nothing will be added to it, so that something can be done
    /// with it beside the rest of the pass. Equal tapes do so in the same order.
    ///
    /// # Errors
    /// As for [`backward`](Self::backward), and those of `complete`.
    pub fn backward_with(
        self,
        loss: &Value,
        mut complete: impl FnMut(&Var, &Tensor) -> Result<()>,
    ) -> Result<TapeGradients> {
        self.unwind(loss, Some(&mut complete))
    }

    fn unwind(self, loss: &Value, mut complete: Option<Complete<'_>>) -> Result<TapeGradients> {
        if loss.tensor.elem_count() != 1 {
            bail!("the loss must be one number, got shape {:?}", loss.tensor.shape());
        }
        let mut uses = if complete.is_some() { self.uses_of_parameters() } else { Vec::new() };
        let mut sums = GradientSums(vec![None; self.slots]);
        sums.add(loss, Some(loss.tensor.ones_like()?))?;
        for Node { op, output, slot } in self.nodes.into_iter().rev() {
            let slots = op.slots();
            if let Some(gradient) = sums.0[slot].take() {
                sums.add_of(op, &output, &gradient)?;
            }
            let Some(complete) = &mut complete else { continue };
            for slot in slots.into_iter().flatten() {
                let Some((parameter, left)) = &mut uses[slot] else { continue };
                *left -= 1;
                if let (0, Some(gradient)) = (*left, &sums.0[slot]) {
                    complete(parameter, gradient)?;
                }
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

    /// The parameter of each slot that has one, and how many arguments of ops it is.
    fn uses_of_parameters(&self) -> Vec<Option<(Var, usize)>> {
        let mut uses = vec![None; self.slots];
        for (parameter, slot) in &self.parameters {
            uses[*slot] = Some((parameter.clone(), 0));
        }
        for slot in self.nodes.iter().flat_map(|node| node.op.slots()).flatten() {
            if let Some((_, count)) = &mut uses[slot] {
                *count += 1;
            }
        }
        uses
    }
}

/// What is done with a parameter's gradient when it is complete.
type Complete<'a> = &'a mut dyn FnMut(&Var, &Tensor) -> Result<()>;

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

    /// Those of the arguments of an op, whose output has this gradient.
    fn add_of(&mut self, op: Op, output: &Tensor, gradient: &Tensor) -> Result<()> {
        match op {
            Op::One(op, a) => self.add(&a, op.bwd(&a.tensor, output, gradient)?),
            Op::Two(op, a, b) => {
                let (ga, gb) = op.bwd(&a.tensor, &b.tensor, output, gradient)?;
                self.add(&a, ga)?;
                self.add(&b, gb)
            }
            Op::Three(op, a, b, c) => {
                let (ga, gb, gc) = op.bwd(&a.tensor, &b.tensor, &c.tensor, output, gradient)?;
                self.add(&a, ga)?;
                self.add(&b, gb)?;
                self.add(&c, gc)
            }
            Op::Reshape(a) => self.add(&a, Some(gradient.reshape(a.tensor.shape())?)),
        }
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
