//! The linear term b1·x + b0 that `ExplicitLinear` and `ReluSpline` carry beside their knots.

use crate::graph::Graph;
use crate::parameter::{Group, L2, Parameter};
use candle_core::Tensor;

/// b1 (C) and b0 (C); b0 may be fixed, where a layer before the activation has a bias of its own.
#[derive(Debug, Clone)]
pub struct LinearTerm {
    /// b1, one a channel.
    pub weight: Tensor,
    /// b0, one a channel.
    pub bias: Tensor,
    /// Whether b0 is not trained; pruning may set it.
    pub fixed_bias: bool,
}

impl LinearTerm {
    pub(crate) fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let of =
            |name: &str, tensor| Parameter::of(format!("{prefix}.{name}"), tensor, Group::Splines, L2::WeightDecay);
        let bias = if self.fixed_bias { None } else { of("b0", &self.bias) };
        of("b1", &self.weight).into_iter().chain(bias).collect()
    }

    /// (b1, b0) in a graph.
    pub(crate) fn values<G: Graph>(&self, graph: &mut G) -> (G::Value, G::Value) {
        let bias = if self.fixed_bias { graph.constant(&self.bias.detach()) } else { graph.parameter(&self.bias) };
        (graph.parameter(&self.weight), bias)
    }
}
