//! Small ops of parameters alone, such as the coefficients of splines from their parameters: computed for all layers together.
//!
//! A layer computes them when its turn comes, with a launch for each. A tape that knows from the one before which of them will come
//! computes them where it begins, and their gradients where it ends, with a launch for each kind of op.

use super::value::{GradientSums, RecordedForeach, Source, Value};
use candle_core::{Result, Tensor, bail};
use ds_core::backend::op::{self, Op};
use ds_core::backend::sync::lock;
use std::any::Any;
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
    groups: Vec<Box<dyn Group>>,
    /// The ops that each op's inputs come from at most, one after the other, counted with itself.
    depths: Vec<usize>,
}

/// Ops of one type and number of inputs, of which none depends on another.
trait Group: Send {
    fn depth(&self) -> usize;

    /// Computes all of them into `results`.
    fn compute(&self, host: &mut dyn Host, results: &mut Results) -> Result<Box<dyn RecordedForeach>>;

    fn as_any(&mut self) -> &mut dyn Any;
}

struct GroupOf<O, const N: usize> {
    depth: usize,
    ops: Vec<KnownOp<O, N>>,
}

struct KnownOp<O, const N: usize> {
    op: O,
    sources: [Source; N],
    /// The parameters among the inputs.
    parameters: [Option<Tensor>; N],
    index: usize,
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

impl<O: Op, const N: usize> Group for GroupOf<O, N> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn compute(&self, host: &mut dyn Host, results: &mut Results) -> Result<Box<dyn RecordedForeach>> {
        let mut inputs = Vec::with_capacity(self.ops.len());
        for KnownOp { sources, parameters, .. } in &self.ops {
            let value = |(source, parameter): (&Source, &Option<Tensor>)| match (source, parameter) {
                (Source::Op(index), _) => results.get(*index).cloned(),
                (Source::Parameter(_), parameter) => Some(host.value_of(parameter.as_ref()?)),
            };
            let all: Option<Vec<_>> = sources.iter().zip(parameters).map(value).collect();
            match all.and_then(|all| <[Value; N]>::try_from(all).ok()) {
                Some(all) => inputs.push(all),
                None => bail!("{}: an input is missing", O::NAME),
            }
        }
        let tensors = inputs.iter().map(|inputs| inputs.each_ref().map(|input| &input.tensor));
        let items: Vec<_> = self.ops.iter().map(|known| &known.op).zip(tensors).collect();
        let outputs = op::forward_foreach(&items)?;
        let mut applied = Vec::with_capacity(outputs.len());
        for ((known, inputs), output) in self.ops.iter().zip(inputs).zip(outputs) {
            let slot = inputs.iter().any(|input| input.slot.is_some()).then(|| host.new_slot());
            results.set(known.index, Value { tensor: output.clone(), slot, source: Some(Source::Op(known.index)) });
            applied.push((known.op.clone(), inputs, output, slot));
        }
        Ok(Box::new(AppliedForeach(applied)))
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Ahead {
    pub(super) fn new(ops: &ParameterOps) -> Self {
        Self { ops: ops.clone(), results: Results::default() }
    }

    /// Computes the known ops, and gives what is to be recorded of them.
    pub(super) fn compute(&mut self, host: &mut dyn Host) -> Result<Vec<Box<dyn RecordedForeach>>> {
        lock(&self.ops.0).groups.iter().map(|group| group.compute(host, &mut self.results)).collect()
    }

    /// What the inputs come from, if all of them come from parameters alone.
    pub(super) fn sources<const N: usize>(inputs: [&Value; N]) -> Option<[Source; N]> {
        let sources = inputs.iter().map(|input| input.source).collect::<Option<Vec<_>>>()?;
        sources.try_into().ok()
    }

    /// The result of an op, if it was computed.
    pub(super) fn result<O: Op, const N: usize>(&self, op: &O, sources: &[Source; N]) -> Option<Value> {
        let index = lock(&self.ops.0).find(op, sources)?;
        self.results.get(index).cloned()
    }

    /// Makes an op known, with the result that it has on this tape.
    pub(super) fn add<O: Op, const N: usize>(
        &mut self,
        op: O,
        sources: [Source; N],
        inputs: [&Value; N],
        value: &mut Value,
    ) {
        let mut known = lock(&self.ops.0);
        let index = known.find(&op, &sources).unwrap_or_else(|| known.add(op, sources, inputs));
        value.source = Some(Source::Op(index));
        self.results.set(index, value.clone());
    }
}

impl Known {
    fn find<O: Op, const N: usize>(&mut self, op: &O, sources: &[Source; N]) -> Option<usize> {
        let groups = self.groups.iter_mut().filter_map(|group| group.as_any().downcast_mut::<GroupOf<O, N>>());
        let same = |known: &&KnownOp<O, N>| known.sources == *sources && known.op.is_same(op);
        groups.flat_map(|group| &group.ops).find(same).map(|known| known.index)
    }

    fn add<O: Op, const N: usize>(&mut self, op: O, sources: [Source; N], inputs: [&Value; N]) -> usize {
        let of = |source: &Source| if let Source::Op(index) = source { self.depths[*index] } else { 0 };
        let (index, depth) = (self.depths.len(), 1 + sources.iter().map(of).max().unwrap_or(0));
        self.depths.push(depth);
        let parameters =
            std::array::from_fn(|k| matches!(sources[k], Source::Parameter(_)).then(|| inputs[k].tensor.clone()));
        let of_type = |group: &mut Box<dyn Group>| group.depth() == depth && group.as_any().is::<GroupOf<O, N>>();
        let at = self.groups.iter_mut().position(of_type).unwrap_or_else(|| {
            let at = self.groups.iter().take_while(|group| group.depth() <= depth).count();
            self.groups.insert(at, Box::new(GroupOf::<O, N> { depth, ops: Vec::new() }));
            at
        });
        if let Some(group) = self.groups[at].as_any().downcast_mut::<GroupOf<O, N>>() {
            group.ops.push(KnownOp { op, sources, parameters, index });
        }
        index
    }
}

/// Ops with their inputs and outputs, and the slots of those.
struct AppliedForeach<O, const N: usize>(Vec<(O, [Value; N], Tensor, Option<usize>)>);

impl<O: Op, const N: usize> RecordedForeach for AppliedForeach<O, N> {
    fn slots(&self) -> Vec<Option<usize>> {
        self.0.iter().flat_map(|(_, inputs, ..)| inputs.each_ref().map(|input| input.slot)).collect()
    }

    fn backward(&self, sums: &mut GradientSums) -> Result<()> {
        let mut take = |slot: &Option<usize>| match slot {
            Some(slot) => Ok(sums.take(*slot, false)?.map(|(gradient, _)| gradient)),
            None => Ok(None),
        };
        let gradients = self.0.iter().map(|(.., slot)| take(slot)).collect::<Result<Vec<_>>>()?;
        let with_gradient = || self.0.iter().zip(&gradients).filter_map(|(of, dy)| Some((of, dy.as_ref()?)));
        let mut passes: Vec<op::Pass<'_, O, N>> = Vec::with_capacity(self.0.len());
        for ((op, inputs, y, _), dy) in with_gradient() {
            passes.push((op, inputs.each_ref().map(|input| &input.tensor), y, dy));
        }
        for (((_, inputs, ..), _), found) in with_gradient().zip(op::backward_foreach(&passes)?) {
            for (input, gradient) in inputs.iter().zip(found) {
                sums.add(input.slot, gradient)?;
            }
        }
        Ok(())
    }
}
