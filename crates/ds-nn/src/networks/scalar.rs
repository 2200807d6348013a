//! One activation on one number: the 1D fits of Bohra-Campos2020.

use super::ActivationKind;
use crate::layers::Mode;
use candle_core::{DType, Device, Result};
use ds_core::Parameter;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Architecture, Operator, Signal};

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
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, _mode: Mode<'_>) -> Result<G::Value> {
        self.activation.forward_in(graph, x)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.activation.parameters("activation")
    }

    /// The activation.
    pub fn activations(&self) -> Vec<&Activation> {
        vec![&self.activation]
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(Self { activation: self.activation.copied(dtype, device)? })
    }

    /// The network as Lipschitz bounds see it.
    pub fn architecture(&self) -> Architecture {
        Architecture { input: Signal::vector(1), operators: vec![Operator::Activation(self.activation.clone())] }
    }
}
