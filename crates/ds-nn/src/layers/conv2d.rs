//! The 2D convolution.

use super::init::{WeightInit, draw, draw_bias};
use super::linear::{in_type_of, weight_and_bias, with_bias};
use crate::ops::Window;
use crate::ops::batch_sums::BatchSums;
use crate::ops::conv2d;
use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use ds_core::Parameter;
use ds_core::activation::{NewTensor, from_builder};
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::Operator;
use rand_chacha::ChaCha8Rng;

/// A 2D convolution.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// W (outputs, inputs, k, k).
    pub weight: Tensor,
    /// b (outputs).
    pub bias: Option<Tensor>,
    /// The sliding window.
    pub window: Window,
    /// The arithmetic on a GPU.
    pub options: conv2d::Options,
}

impl Conv2d {
    /// A layer with drawn weights.
    pub fn new(
        rng: &mut ChaCha8Rng,
        inputs: usize,
        outputs: usize,
        window: Window,
        bias: bool,
        init: WeightInit,
    ) -> Result<Self> {
        let area = window.kernel * window.kernel;
        let shape = [outputs, inputs, window.kernel, window.kernel];
        let weight = draw(rng, &shape, inputs * area, outputs * area, init)?;
        let bias = bias.then(|| draw_bias(rng, outputs, inputs * area, init)).transpose()?;
        Ok(Self { weight, bias, window, options: conv2d::Options::default() })
    }

    /// The layer's output in a graph.
    ///
    /// # Errors
    /// If x is not (N, inputs, H, W).
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> Result<G::Value> {
        self.forward_with_sums(graph, x, None)
    }

    /// The same, which leaves sums of its output where it finds them.
    pub(super) fn forward_with_sums<G: Graph>(
        &self,
        graph: &mut G,
        x: &G::Value,
        sums: Option<BatchSums>,
    ) -> Result<G::Value> {
        let weight = graph.parameter(&self.weight);
        let bias = self.bias.as_ref().map(|bias| graph.parameter(bias));
        convolve(graph, (self.window, self.options), x, (&weight, bias.as_ref()), sums)
    }

    /// The layer with the tensors of a builder, by their names there; [`from_builder`] says which.
    ///
    /// # Errors
    /// If a tensor is missing in a file or has another shape.
    pub fn with_builder(&self, vb: VarBuilder<'_>) -> Result<Self> {
        self.map_tensors(&mut from_builder(&vb, |_| true))
    }

    /// The layer with what `new` gives in place of each of its tensors.
    pub(super) fn map_tensors(&self, new: &mut NewTensor<'_>) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| new("bias", bias)).transpose()?;
        Ok(Self { weight: new("weight", &self.weight)?, bias, ..self.clone() })
    }

    /// The layer as Lipschitz bounds see it.
    pub fn operators(&self) -> Vec<Operator> {
        let Window { stride, padding, .. } = self.window;
        with_bias(Operator::Convolution { weight: self.weight.detach(), stride, padding }, self.bias.as_ref())
    }

    /// Weight and bias.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        weight_and_bias(prefix, &self.weight, self.bias.as_ref())
    }
}

/// The convolution of x with W (outputs, inputs, k, k) in its own type and, optionally, a bias.
pub(super) fn convolve<G: Graph>(
    graph: &mut G,
    (window, options): (Window, conv2d::Options),
    x: &G::Value,
    (weight, bias): (&G::Value, Option<&G::Value>),
    sums: Option<BatchSums>,
) -> Result<G::Value> {
    let (input_gradient, weight_gradient) = (graph.is_tracked(x), graph.is_tracked(weight));
    let mut op = conv2d::Conv2d { window, input_gradient, weight_gradient, options, packed: None, sums };
    let w = graph.tensor(weight);
    let is_packed = w.dtype() == DType::F32 && op.takes_packed(graph.tensor(x), w.dim(0)?)?;
    let weight = if is_packed {
        let packing = conv2d::PackedWeights { dtype: graph.tensor(x).dtype(), for_gradient: input_gradient };
        let packed = graph.apply(packing, [weight])?;
        op.packed = Some(graph.tensor(&packed).detach());
        weight.clone()
    } else {
        in_type_of(graph, weight, x)?
    };
    match bias {
        None => graph.apply(op, [x, &weight]),
        Some(bias) => graph.apply(op, [x, &weight, bias]),
    }
}
