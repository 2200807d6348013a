//! The dense layer.

use super::init::{WeightInit, draw, draw_bias};
use crate::ops::dense::Dense;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use ds_core::activation::{NewTensor, from_builder};
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::Operator;
use ds_core::{Group, L2, Parameter};
use rand_chacha::ChaCha8Rng;

/// x·Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    /// W (outputs, inputs).
    pub weight: Tensor,
    /// b (outputs).
    pub bias: Option<Tensor>,
}

impl Linear {
    /// A layer with drawn weights.
    pub fn new(rng: &mut ChaCha8Rng, inputs: usize, outputs: usize, bias: bool, init: WeightInit) -> Result<Self> {
        let weight = draw(rng, &[outputs, inputs], inputs, outputs, init)?;
        let bias = bias.then(|| draw_bias(rng, outputs, inputs, init)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// The layer's output in a graph.
    ///
    /// # Errors
    /// If x is not (N, inputs).
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> Result<G::Value> {
        let op = Dense { input_gradient: graph.is_tracked(x) };
        let weight = weight_for(graph, &self.weight, x)?;
        match &self.bias {
            None => graph.apply(op, [x, &weight]),
            Some(bias) => {
                let bias = graph.parameter(bias);
                graph.apply(op, [x, &weight, &bias])
            }
        }
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
        Ok(Self { weight: new("weight", &self.weight)?, bias })
    }

    /// The layer as Lipschitz bounds see it.
    pub fn operators(&self) -> Vec<Operator> {
        with_bias(Operator::Dense(self.weight.detach()), self.bias.as_ref())
    }

    /// Weight and bias.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        weight_and_bias(prefix, &self.weight, self.bias.as_ref())
    }
}

/// A linear layer and, optionally, its bias, as Lipschitz bounds see them.
pub(super) fn with_bias(linear: Operator, bias: Option<&Tensor>) -> Vec<Operator> {
    std::iter::once(linear).chain(bias.map(|bias| Operator::Bias(bias.detach()))).collect()
}

/// The parameters of a layer with a weight and, optionally, a bias.
pub(super) fn weight_and_bias(prefix: &str, weight: &Tensor, bias: Option<&Tensor>) -> Vec<Parameter> {
    let of = |name: &str, tensor| Parameter::of(format!("{prefix}.{name}"), tensor, Group::Weights, L2::WeightDecay);
    of("weight", weight).into_iter().chain(bias.and_then(|bias| of("bias", bias))).collect()
}

/// A weight in the type of what it is multiplied with; its gradient keeps its own.
pub(super) fn weight_for<G: Graph>(graph: &mut G, weight: &Tensor, x: &G::Value) -> Result<G::Value> {
    let weight = graph.parameter(weight);
    in_type_of(graph, &weight, x)
}

/// A computed weight in the type of what it is multiplied with.
pub(super) fn in_type_of<G: Graph>(graph: &mut G, weight: &G::Value, x: &G::Value) -> Result<G::Value> {
    let dtype = graph.tensor(x).dtype();
    graph.to_dtype(weight, dtype)
}
