//! What is applied, and its way back.

use super::foreach::{Ahead, Host, ParameterOps};
use super::value::{GradientSums, RecordedForeach, Source, Value};
use candle_core::{DType, Result, Tensor, TensorId, Var, bail};
use ds_core::backend::op::{DynOp, MAX_INPUTS, Op};
use ds_core::graph::{Gradients, Graph};
use ds_core::variable;

/// An op on the tape, with its inputs.
trait Recorded {
    /// Where the gradients of the inputs are summed.
    fn slots(&self) -> [Option<usize>; MAX_INPUTS];

    /// Whether the gradient of this output may come as two that are to be added.
    fn takes_two_gradients(&self, _y: &Tensor) -> bool {
        false
    }

    /// The gradients of the inputs, from the op's output and its gradient, which is the sum of two if there is one more.
    fn backward(&self, y: &Tensor, dy: &Tensor, more: Option<&Tensor>) -> Result<[Option<Tensor>; MAX_INPUTS]>;
}

struct Applied<O, const N: usize> {
    op: O,
    inputs: [Value; N],
}

impl<O: Op, const N: usize> Recorded for Applied<O, N> {
    fn slots(&self) -> [Option<usize>; MAX_INPUTS] {
        std::array::from_fn(|k| self.inputs.get(k).and_then(|input| input.slot))
    }

    fn takes_two_gradients(&self, y: &Tensor) -> bool {
        O::TAKES_TWO_GRADIENTS && y.device().is_cuda()
    }

    fn backward(&self, y: &Tensor, dy: &Tensor, more: Option<&Tensor>) -> Result<[Option<Tensor>; MAX_INPUTS]> {
        self.op.as_dyn().backward(&self.inputs.each_ref().map(|input| &input.tensor), y, (dy, more))
    }
}

/// The same elements in another shape, or rounded to another type.
struct Converted(Value);

impl Recorded for Converted {
    fn slots(&self) -> [Option<usize>; MAX_INPUTS] {
        [self.0.slot, None, None]
    }

    fn backward(&self, _y: &Tensor, dy: &Tensor, _: Option<&Tensor>) -> Result<[Option<Tensor>; MAX_INPUTS]> {
        let input = &self.0.tensor;
        Ok([Some(dy.to_dtype(input.dtype())?.reshape(input.shape())?), None, None])
    }
}

/// A value whose gradient is seen by a hook on its way.
struct Hooked<F> {
    value: Value,
    hook: F,
}

impl<F: Fn(&Tensor) -> Result<()>> Recorded for Hooked<F> {
    fn slots(&self) -> [Option<usize>; MAX_INPUTS] {
        [self.value.slot, None, None]
    }

    fn backward(&self, _y: &Tensor, dy: &Tensor, _: Option<&Tensor>) -> Result<[Option<Tensor>; MAX_INPUTS]> {
        (self.hook)(dy)?;
        Ok([Some(dy.clone()), None, None])
    }
}

enum Node {
    One { op: Box<dyn Recorded>, output: Tensor, slot: usize },
    Foreach(Box<dyn RecordedForeach>),
}

impl Node {
    /// The slots of the inputs.
    fn slots(&self) -> Vec<Option<usize>> {
        match self {
            Self::One { op, .. } => op.slots().to_vec(),
            Self::Foreach(op) => op.slots(),
        }
    }
}

/// Records ops in the order of their application.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    parameters: Vec<(Var, usize)>,
    slots: usize,
    recording: bool,
    /// What is computed ahead, if anything is.
    ahead: Option<Ahead>,
}

impl Tape {
    /// A tape for a training step.
    pub fn recording() -> Self {
        Self { recording: true, ..Self::default() }
    }

    /// A tape for a training step that computes at once, together for all layers, what the tapes before it have computed from
    /// parameters alone, and adds to `ops` what is new. For a GPU, where that spares launches.
    ///
    /// # Errors
    /// If an op fails.
    pub fn recording_with(ops: &ParameterOps) -> Result<Self> {
        let mut tape = Self { ahead: Some(Ahead::default()), ..Self::recording() };
        let mut ahead = Ahead::new(ops);
        for op in ahead.compute(&mut tape)? {
            tape.nodes.push(Node::Foreach(op));
        }
        tape.ahead = Some(ahead);
        Ok(tape)
    }

    /// A tape that keeps nothing: for evaluation.
    pub fn inference() -> Self {
        Self::default()
    }

    fn record<R: Recorded + 'static>(&mut self, output: Tensor, tracked: bool, op: impl FnOnce() -> R) -> Value {
        if !tracked {
            return Value { tensor: output, slot: None, source: None };
        }
        let slot = self.new_slot();
        self.nodes.push(Node::One { op: Box::new(op()), output: output.clone(), slot });
        Value { tensor: output, slot: Some(slot), source: None }
    }

    /// The result of an op of parameters alone, if it was computed ahead.
    fn computed_ahead(&self, op: &dyn DynOp, inputs: &[&Value]) -> Option<Value> {
        self.ahead.as_ref()?.result(op, inputs)
    }

    fn apply_alone<O: Op, const N: usize>(&mut self, op: O, inputs: [&Value; N]) -> Result<Value> {
        let output = op.as_dyn().forward(&inputs.map(|input| &input.tensor))?;
        let tracked = inputs.iter().any(|input| input.slot.is_some());
        Ok(self.record(output, tracked, || Applied { op, inputs: inputs.map(Value::clone) }))
    }

    /// The value, whose gradient the backward pass gives to `hook`: `Tensor.register_hook` of PyTorch. Without a gradient the hook is
    /// not called.
    pub fn register_hook(&mut self, value: &Value, hook: impl Fn(&Tensor) -> Result<()> + 'static) -> Value {
        self.record(value.tensor.clone(), value.slot.is_some(), || Hooked { value: value.clone(), hook })
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
        let mut sums = GradientSums::new(self.slots);
        sums.add(loss.slot, Some(loss.tensor.ones_like()?))?;
        for node in self.nodes.into_iter().rev() {
            match &node {
                Node::One { op, output, slot } => {
                    if let Some((dy, more)) = sums.take(*slot, op.takes_two_gradients(output))? {
                        for (slot, gradient) in op.slots().into_iter().zip(op.backward(output, &dy, more.as_ref())?) {
                            sums.add(slot, gradient)?;
                        }
                    }
                }
                Node::Foreach(op) => op.backward(&mut sums)?,
            }
            let Some(complete) = &mut complete else { continue };
            for slot in node.slots().into_iter().flatten() {
                let Some((parameter, left)) = &mut uses[slot] else { continue };
                *left -= 1;
                if *left == 0
                    && let Some(gradient) = sums.sum(slot)?
                {
                    complete(parameter, gradient)?;
                }
            }
        }
        let mut gradients = Vec::with_capacity(self.parameters.len());
        for (parameter, slot) in self.parameters {
            if let Some((gradient, _)) = sums.take(slot, false)? {
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
        for slot in self.nodes.iter().flat_map(Node::slots).flatten() {
            if let Some((_, count)) = &mut uses[slot] {
                *count += 1;
            }
        }
        uses
    }
}

/// What is done with a parameter's gradient when it is complete.
type Complete<'a> = &'a mut dyn FnMut(&Var, &Tensor) -> Result<()>;

impl Host for Tape {
    fn value_of(&mut self, parameter: &Tensor) -> Value {
        self.parameter(parameter)
    }

    fn new_slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }
}

impl Graph for Tape {
    type Value = Value;

    fn constant(&mut self, tensor: &Tensor) -> Value {
        Value { tensor: tensor.clone(), slot: None, source: None }
    }

    fn parameter(&mut self, parameter: &Tensor) -> Value {
        let tensor = parameter.clone();
        // A tensor of a file is no variable.
        let Some(variable) = variable("", parameter).ok().filter(|_| self.recording) else {
            return Value { tensor, slot: None, source: None };
        };
        let source = self.ahead.as_ref().map(|_| Source::Parameter(tensor.id()));
        let known = self.parameters.iter().find(|(p, _)| p.as_tensor().id() == tensor.id()).map(|&(_, slot)| slot);
        let slot = known.unwrap_or_else(|| {
            let slot = self.new_slot();
            self.parameters.push((variable, slot));
            slot
        });
        Value { tensor, slot: Some(slot), source }
    }

    fn has_parameter_gradients(&self) -> bool {
        self.recording
    }

    fn tensor<'a>(&self, value: &'a Value) -> &'a Tensor {
        &value.tensor
    }

    fn is_tracked(&self, value: &Value) -> bool {
        value.slot.is_some()
    }

    fn apply<O: Op, const N: usize>(&mut self, op: O, inputs: [&Value; N]) -> Result<Value> {
        // Not for each op that is applied on the CPU, where a whole step takes some microseconds.
        if !O::FOREACH || self.ahead.is_none() {
            return self.apply_alone(op, inputs);
        }
        if let Some(value) = self.computed_ahead(op.as_dyn(), &inputs) {
            return Ok(value);
        }
        let mut value = self.apply_alone(op.clone(), inputs)?;
        if let Some(ahead) = &mut self.ahead {
            ahead.add(op.as_dyn(), &inputs, &mut value);
        }
        Ok(value)
    }

    fn reshape(&mut self, value: &Value, shape: &[usize]) -> Result<Value> {
        let output = value.tensor.reshape(shape)?;
        Ok(self.record(output, value.slot.is_some(), || Converted(value.clone())))
    }

    fn to_dtype(&mut self, value: &Value, dtype: DType) -> Result<Value> {
        if value.tensor.dtype() == dtype {
            return Ok(value.clone());
        }
        let output = value.tensor.to_dtype(dtype)?;
        Ok(self.record(output, value.slot.is_some(), || Converted(value.clone())))
    }
}

/// The gradients that a tape found.
#[derive(Debug, Default)]
pub struct TapeGradients(Vec<(TensorId, Tensor)>);

impl Gradients for TapeGradients {
    fn gradient(&self, parameter: &Tensor) -> Option<&Tensor> {
        let id = parameter.id();
        self.0.iter().find(|(of, _)| *of == id).map(|(_, gradient)| gradient)
    }

    fn set_gradient(&mut self, parameter: &Tensor, gradient: Tensor) {
        let id = parameter.id();
        match self.0.iter_mut().find(|(of, _)| *of == id) {
            Some((_, slot)) => *slot = gradient,
            None => self.0.push((id, gradient)),
        }
    }
}
