//! Histograms of the inputs of all spline layers of a network, for pruning and for pictures.

use crate::network::Network;
use crate::tape::{Tape, Value};
use candle_core::{DType, Result, Tensor, bail};
use ds_core::Grid;
use ds_core::backend::op::Op;
use ds_core::graph::Graph;
use ds_core::sparsify::Histogram;
use std::cell::RefCell;
use std::rc::Rc;

/// The histograms of the spline layers of a network, in the order of its activations.
#[derive(Debug, Clone)]
pub struct InputHistograms {
    /// Of inputs, each counted as one.
    pub counts: Vec<Histogram>,
    /// Of inputs, each with the squared gradient of the loss with respect to the function's value there.
    pub squared_gradients: Vec<Histogram>,
}

impl InputHistograms {
    /// Empty ones.
    ///
    /// # Errors
    /// If a grid cannot be divided.
    pub fn new(network: &Network) -> ds_core::Result<Self> {
        let mut counts = Vec::new();
        for activation in network.activations() {
            counts.extend(Histogram::of(activation)?);
        }
        Ok(Self { squared_gradients: counts.clone(), counts })
    }

    /// Adds a batch: `loss` applies the network in the graph it is given and returns the loss, one number, as a sum over samples. With
    /// `gradients` the squared gradients are counted, too, for a backward pass more.
    ///
    /// # Errors
    /// If the network is another, or those of `loss`.
    pub fn add(&mut self, gradients: bool, loss: impl FnOnce(&mut HookedTape) -> Result<Value>) -> Result<()> {
        let tape = if gradients { Tape::recording() } else { Tape::inference() };
        let histograms =
            Rc::new(RefCell::new(std::mem::replace(self, Self { counts: vec![], squared_gradients: vec![] })));
        let mut hooked = HookedTape { tape, histograms: Rc::clone(&histograms), layer: 0 };
        let result = loss(&mut hooked).and_then(|loss| {
            let found = hooked.layer;
            let expected = histograms.borrow().counts.len();
            if found != expected {
                bail!("histograms of {expected} spline layers, the network has {found}");
            }
            if gradients {
                hooked.tape.backward(&loss)?;
            }
            Ok(())
        });
        *self = histograms.replace(Self { counts: vec![], squared_gradients: vec![] });
        result
    }
}

/// A tape that counts the inputs of splines.
pub struct HookedTape {
    tape: Tape,
    histograms: Rc<RefCell<InputHistograms>>,
    /// The next spline layer.
    layer: usize,
}

impl Graph for HookedTape {
    type Value = Value;

    fn constant(&mut self, tensor: &Tensor) -> Value {
        self.tape.constant(tensor)
    }

    fn parameter(&mut self, parameter: &Tensor) -> Value {
        self.tape.parameter(parameter)
    }

    fn has_parameter_gradients(&self) -> bool {
        self.tape.has_parameter_gradients()
    }

    fn tensor<'a>(&self, value: &'a Value) -> &'a Tensor {
        self.tape.tensor(value)
    }

    fn is_tracked(&self, value: &Value) -> bool {
        self.tape.is_tracked(value)
    }

    fn apply<O: Op, const N: usize>(&mut self, op: O, inputs: [&Value; N]) -> Result<Value> {
        self.tape.apply(op, inputs)
    }

    fn reshape(&mut self, value: &Value, shape: &[usize]) -> Result<Value> {
        self.tape.reshape(value, shape)
    }

    fn to_dtype(&mut self, value: &Value, dtype: DType) -> Result<Value> {
        self.tape.to_dtype(value, dtype)
    }

    fn has_forward_hook(&self) -> bool {
        true
    }

    fn forward_hook(&mut self, _grid: Grid, x: &Value, y: Value) -> Result<Value> {
        let layer = self.layer;
        self.layer += 1;
        let x = self.tape.tensor(x).clone();
        match self.histograms.borrow_mut().counts.get_mut(layer) {
            Some(histogram) => histogram.add(&x, None)?,
            None => bail!("there is no histogram for spline layer {layer}"),
        }
        let histograms = Rc::clone(&self.histograms);
        Ok(self.tape.register_hook(&y, move |dy| {
            let squares = dy.sqr()?;
            Ok(histograms.borrow_mut().squared_gradients[layer].add(&x, Some(&squares))?)
        }))
    }
}
