//! Fully connected networks (2, h, 1) and (2, h, h, 1) that classify points of the plane.

use super::{ActivationKind, layers_copied};
use crate::layers::{Linear, Mode, WeightInit};
use candle_core::{DType, Device, Result};
use ds_core::Parameter;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Architecture, Operator, Signal};
use rand_chacha::ChaCha8Rng;

/// Dense layers with an activation per hidden unit, and one logit.
///
/// With splines the first layer has no bias: their grid is where the points are, and b0 or the coefficients shift them.
#[derive(Debug, Clone)]
pub struct AreaNet {
    hidden: Vec<(Linear, Activation)>,
    last: Linear,
}

impl AreaNet {
    /// # Errors
    /// Those of the activation's constructor.
    pub fn new(rng: &mut ChaCha8Rng, hidden: &[usize], activation: ActivationKind) -> ds_core::Result<Self> {
        let mut inputs = 2;
        let mut layers = Vec::new();
        for (depth, &units) in hidden.iter().enumerate() {
            let bias = depth > 0 || !activation.is_spline();
            let linear = Linear::new(rng, inputs, units, bias, WeightInit::Uniform)?;
            layers.push((linear, activation.build(units, false)?));
            inputs = units;
        }
        Ok(Self { hidden: layers, last: Linear::new(rng, inputs, 1, true, WeightInit::Uniform)? })
    }

    /// A network of given layers, such as those of a checkpoint.
    pub fn from_layers(hidden: Vec<(Linear, Activation)>, last: Linear) -> Self {
        Self { hidden, last }
    }

    /// Points (N, 2) → logits (N, 1).
    ///
    /// # Errors
    /// If x is not (N, 2).
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, _mode: Mode<'_>) -> Result<G::Value> {
        let mut x = x.clone();
        for (linear, activation) in &self.hidden {
            x = linear.forward_in(graph, &x)?;
            x = activation.forward_in(graph, &x)?;
        }
        self.last.forward_in(graph, &x)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (depth, (linear, activation)) in self.hidden.iter().enumerate() {
            all.extend(linear.parameters(&format!("hidden{depth}.linear")));
            all.extend(activation.parameters(&format!("hidden{depth}.activation")));
        }
        all.extend(self.last.parameters("last"));
        all
    }

    /// The activation layers.
    pub fn activations(&self) -> Vec<&Activation> {
        self.hidden.iter().map(|(_, activation)| activation).collect()
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(Self {
            hidden: layers_copied(&self.hidden, Linear::copied, dtype, device)?,
            last: self.last.copied(dtype, device)?,
        })
    }

    /// The network as Lipschitz bounds see it.
    pub fn architecture(&self) -> Architecture {
        let mut operators = Vec::new();
        for (linear, activation) in &self.hidden {
            operators.extend([linear.operator(), Operator::Activation(activation.clone())]);
        }
        operators.push(self.last.operator());
        Architecture { input: Signal::vector(2), operators }
    }
}
