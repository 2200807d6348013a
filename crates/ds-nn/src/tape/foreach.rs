//! Small ops of parameters alone, such as the coefficients of splines from their parameters: computed for all layers together.
//!
//! A layer computes them when its turn comes, with a launch for each. A tape that knows from the one before which of them will come
//! computes them where it begins, and their gradients where it ends, with a launch for each kind of op.

use super::value::{GradientSums, RecordedForeach, Source, Value};
use candle_core::{Result, Tensor, bail};
use ds_core::backend::op::{self, DynOp};
use ds_core::backend::sync::lock;
use std::sync::{Arc, Mutex};

/// What gives its values and slots to ops that are computed ahead: a tape.
pub(super) trait Host {
    /// A parameter.
    fn value_of(&mut self, parameter: &Tensor) -> Value;

    /// A place for the gradient of a result.
    fn new_slot(&mut self) -> usize;
}

/// The ops of parameters alone that tapes have applied, in the order of their first application.
#[derive(Clone, Default)]
pub struct ParameterOps(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// In an order in which they can be computed.
    groups: Vec<Group>,
    /// The ops that each op's inputs come from at most, one after the other, counted with itself.
    depths: Vec<usize>,
}

/// Ops of one type, of which none depends on another.
struct Group {
    depth: usize,
    ops: Vec<KnownOp>,
}

struct KnownOp {
    op: Arc<dyn DynOp>,
    inputs: Vec<KnownInput>,
    index: usize,
}

/// What an input of a known op is.
enum KnownInput {
    Parameter(Tensor),
    /// The result of that known op.
    Result(usize),
}

impl KnownOp {
    fn comes_from(&self, sources: &[Source]) -> bool {
        let all = self.inputs.iter().map(|input| match input {
            KnownInput::Parameter(parameter) => Source::Parameter(parameter.id()),
            KnownInput::Result(index) => Source::Op(*index),
        });
        all.eq(sources.iter().copied())
    }
}

/// The results of known ops on a tape.
#[derive(Default)]
struct Results(Vec<Option<Value>>);

impl Results {
    fn get(&self, index: usize) -> Option<&Value> {
        self.0.get(index)?.as_ref()
    }

    fn set(&mut self, index: usize, value: Value) {
        self.0.resize(self.0.len().max(index + 1), None);
        self.0[index] = Some(value);
    }
}

/// What a tape has of the known ops.
#[derive(Default)]
pub(super) struct Ahead {
    ops: ParameterOps,
    results: Results,
}

impl Group {
    /// Computes all of them into `results`.
    fn compute(&self, host: &mut dyn Host, results: &mut Results) -> Result<AppliedForeach> {
        let mut inputs = Vec::with_capacity(self.ops.len());
        for known in &self.ops {
            let value = |input: &KnownInput| match input {
                KnownInput::Parameter(parameter) => Some(host.value_of(parameter)),
                KnownInput::Result(index) => results.get(*index).cloned(),
            };
            match known.inputs.iter().map(value).collect::<Option<Vec<_>>>() {
                Some(all) => inputs.push(all),
                None => bail!("{}: an input is missing", known.op.name()),
            }
        }
        let all: Vec<_> = inputs.iter().map(|inputs| tensors(inputs)).collect();
        let items: Vec<_> = self.ops.iter().zip(&all).map(|(known, inputs)| (&*known.op, inputs.as_slice())).collect();
        let outputs = op::forward_foreach(&items)?;
        drop(all);
        let mut applied = Vec::with_capacity(outputs.len());
        for ((known, inputs), output) in self.ops.iter().zip(inputs).zip(outputs) {
            let slot = inputs.iter().any(|input| input.slot.is_some()).then(|| host.new_slot());
            results.set(known.index, Value { tensor: output.clone(), slot, source: Some(Source::Op(known.index)) });
            applied.push(AppliedOp { op: known.op.clone(), inputs, output, slot });
        }
        Ok(AppliedForeach(applied))
    }
}

impl Ahead {
    pub(super) fn new(ops: &ParameterOps) -> Self {
        Self { ops: ops.clone(), results: Results::default() }
    }

    /// Computes the known ops, and gives what is to be recorded of them.
    pub(super) fn compute(&mut self, host: &mut dyn Host) -> Result<Vec<Box<dyn RecordedForeach>>> {
        let known = lock(&self.ops.0);
        let mut recorded: Vec<Box<dyn RecordedForeach>> = Vec::with_capacity(known.groups.len());
        for group in &known.groups {
            recorded.push(Box::new(group.compute(host, &mut self.results)?));
        }
        Ok(recorded)
    }

    /// The result of an op, if it was computed.
    pub(super) fn result(&self, op: &dyn DynOp, inputs: &[&Value]) -> Option<Value> {
        let index = lock(&self.ops.0).find(op, &sources(inputs)?)?;
        self.results.get(index).cloned()
    }

    /// Makes an op of parameters alone known, with the result that it has on this tape.
    pub(super) fn add(&mut self, op: &dyn DynOp, inputs: &[&Value], value: &mut Value) {
        let Some(sources) = sources(inputs) else { return };
        let mut known = lock(&self.ops.0);
        let index = known.find(op, &sources).unwrap_or_else(|| known.add(op, &sources, inputs));
        value.source = Some(Source::Op(index));
        self.results.set(index, value.clone());
    }
}

/// What the inputs come from, if all of them come from parameters alone.
fn sources(inputs: &[&Value]) -> Option<Vec<Source>> {
    inputs.iter().map(|input| input.source).collect()
}

/// The tensors of an op's inputs.
fn tensors(inputs: &[Value]) -> Vec<&Tensor> {
    inputs.iter().map(|input| &input.tensor).collect()
}

impl Known {
    fn find(&self, op: &dyn DynOp, sources: &[Source]) -> Option<usize> {
        let same = |known: &&KnownOp| known.op.is_same_as(op) && known.comes_from(sources);
        self.groups.iter().flat_map(|group| &group.ops).find(same).map(|known| known.index)
    }

    fn add(&mut self, op: &dyn DynOp, sources: &[Source], inputs: &[&Value]) -> usize {
        let of = |source: &Source| if let Source::Op(index) = source { self.depths[*index] } else { 0 };
        let (index, depth) = (self.depths.len(), 1 + sources.iter().map(of).max().unwrap_or(0));
        self.depths.push(depth);
        let input = |(source, value): (&Source, &&Value)| match source {
            Source::Parameter(_) => KnownInput::Parameter(value.tensor.clone()),
            Source::Op(index) => KnownInput::Result(*index),
        };
        let inputs = sources.iter().zip(inputs).map(input).collect();
        let is_of_type = |known: &KnownOp| known.op.op_type() == op.op_type();
        let fits = |group: &Group| group.depth == depth && group.ops.iter().all(is_of_type);
        let at = self.groups.iter().position(fits).unwrap_or_else(|| {
            let at = self.groups.iter().take_while(|group| group.depth <= depth).count();
            self.groups.insert(at, Group { depth, ops: Vec::new() });
            at
        });
        self.groups[at].ops.push(KnownOp { op: op.to_arc(), inputs, index });
        index
    }
}

/// Ops of one type that were computed together.
struct AppliedForeach(Vec<AppliedOp>);

struct AppliedOp {
    op: Arc<dyn DynOp>,
    inputs: Vec<Value>,
    output: Tensor,
    slot: Option<usize>,
}

impl RecordedForeach for AppliedForeach {
    fn slots(&self) -> Vec<Option<usize>> {
        self.0.iter().flat_map(|of| of.inputs.iter().map(|input| input.slot)).collect()
    }

    fn backward(&self, sums: &mut GradientSums) -> Result<()> {
        let mut with_gradient = Vec::with_capacity(self.0.len());
        for of in &self.0 {
            let Some(slot) = of.slot else { continue };
            if let Some((gradient, _)) = sums.take(slot, false)? {
                with_gradient.push((of, tensors(&of.inputs), gradient));
            }
        }
        let passes: Vec<op::Pass<'_>> =
            with_gradient.iter().map(|(of, inputs, dy)| (&*of.op, inputs.as_slice(), &of.output, dy)).collect();
        for ((of, ..), found) in with_gradient.iter().zip(op::backward_foreach(&passes)?) {
            for (input, gradient) in of.inputs.iter().zip(found) {
                sums.add(input.slot, gradient)?;
            }
        }
        Ok(())
    }
}
