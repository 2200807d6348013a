//! One activation on one number: the 1D fits of Bohra-Campos2020.

use super::ActivationKind;
use crate::layers::Mode;
use candle_core::{Device, Result};
use ds_core::Parameter;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::bv2::{Factor, bound_l1};

/// x (N, 1) → σ(x).
#[derive(Debug, Clone)]
pub struct ScalarNet {
    activation: Activation,
}

impl ScalarNet {
    /// # Errors
    /// Those of the activation's constructor.
    pub fn new(activation: ActivationKind) -> ds_core::Result<Self> {
        Ok(Self { activation: activation.build(1, false)? })
    }

    /// x (N, 1) → (N, 1).
    ///
    /// # Errors
    /// If x is not (N, 1).
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, _mode: Mode) -> Result<G::Value> {
        self.activation.forward_in(graph, x)
    }

    /// A copy of the network on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self { activation: self.activation.to_device(device)? })
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.activation.parameters("activation")
    }

    /// The activation.
    pub fn activations(&self) -> Vec<&Activation> {
        vec![&self.activation]
    }

    /// BV² of the function.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn lipschitz_bound_l1(&self) -> Result<f64> {
        bound_l1([Factor::Activation { activation: &self.activation, units: 1 }])
    }
}
