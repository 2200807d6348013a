//! The linear term b1·x + b0 that `ExplicitLinear` and `ReluSpline` carry beside their knots.

use crate::graph::Graph;
use crate::parameter::{Group, L2, Parameter, copied};
use candle_core::{Device, Result, Var};

/// b1 (C) and b0 (C); b0 may be fixed, where a layer before the activation has a bias of its own.
#[derive(Debug, Clone)]
pub struct LinearTerm {
    /// b1, one a channel.
    pub weight: Var,
    /// b0, one a channel.
    pub bias: Var,
    /// Whether b0 stays what it is.
    pub fixed_bias: bool,
}

impl LinearTerm {
    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        let (weight, bias) = (copied(&self.weight, device)?, copied(&self.bias, device)?);
        Ok(Self { weight, bias, fixed_bias: self.fixed_bias })
    }

    pub(crate) fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let mut all = vec![Parameter::new(format!("{prefix}.b1"), &self.weight, Group::Splines, L2::WeightDecay)];
        if !self.fixed_bias {
            all.push(Parameter::new(format!("{prefix}.b0"), &self.bias, Group::Splines, L2::WeightDecay));
        }
        all
    }

    /// (b1, b0) in a graph.
    pub(crate) fn values<G: Graph>(&self, graph: &mut G) -> (G::Value, G::Value) {
        let bias = if self.fixed_bias { graph.constant(&self.bias) } else { graph.parameter(&self.bias) };
        (graph.parameter(&self.weight), bias)
    }
}
