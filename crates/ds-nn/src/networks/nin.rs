//! Network in network (Lin et al. 2014) for CIFAR.

use super::{ActivationKind, layers_copied};
use crate::layers::{Convolution, Mode, WeightInit};
use crate::ops::Window;
use crate::ops::blocks::enter;
use crate::ops::dropout::Dropout;
use crate::ops::pool::{AveragePool, MaxPool};
use candle_core::{DType, Device, Result};
use ds_core::Parameter;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use rand_chacha::ChaCha8Rng;

/// Three blocks of a spatial and two 1×1 convolutions, an activation after each: 192-160-96, max-pool, dropout; 192-192-192,
/// average pool, dropout; 192-192-classes, average over the plane. (N, 3, 32, 32) → (N, classes).
#[derive(Debug, Clone)]
pub struct NetworkInNetwork {
    layers: Vec<(Convolution, Activation)>,
    dropout: f64,
}

impl NetworkInNetwork {
    /// # Errors
    /// Those of the activation's constructor.
    pub fn new(
        rng: &mut ChaCha8Rng,
        classes: usize,
        dropout: f64,
        activation: ActivationKind,
    ) -> ds_core::Result<Self> {
        let widths = [(192, 5), (160, 1), (96, 1), (192, 5), (192, 1), (192, 1), (192, 3), (192, 1), (classes, 1)];
        let (mut layers, mut inputs) = (Vec::new(), 3);
        for (outputs, kernel) in widths {
            let window = Window { kernel, stride: 1, padding: kernel / 2 };
            let conv = Convolution::new(rng, inputs, outputs, window, true, WeightInit::Normal(0.05))?;
            layers.push((conv, activation.build(outputs, true)?));
            inputs = outputs;
        }
        Ok(Self { layers, dropout })
    }

    /// Images (N, 3, 32, 32) → logits (N, classes).
    ///
    /// # Errors
    /// If x has another shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let mut x = enter(graph, x)?;
        for (depth, (conv, activation)) in self.layers.iter().enumerate() {
            x = conv.forward_in(graph, &x)?;
            x = activation.forward_in(graph, &x)?;
            let pool = Window { kernel: 3, stride: 2, padding: 1 };
            match depth {
                2 => x = graph.apply1(MaxPool(pool), &x)?,
                5 => x = graph.apply1(AveragePool(pool), &x)?,
                _ => continue,
            }
            if let Mode::Training { dropout } = mode
                && self.dropout > 0.0
            {
                x = graph.apply1(Dropout::of_layer(self.dropout, dropout, depth as u64), &x)?;
            }
        }
        super::resnet::average_over_plane(graph, &x)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (depth, (conv, activation)) in self.layers.iter().enumerate() {
            all.extend(conv.parameters(&format!("layer{depth}.conv")));
            all.extend(activation.parameters(&format!("layer{depth}.activation")));
        }
        all
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(Self { layers: layers_copied(&self.layers, Convolution::copied, dtype, device)?, dropout: self.dropout })
    }

    /// The network in evaluation mode, as Lipschitz bounds see it.
    pub fn architecture(&self) -> Architecture {
        let mut operators = Vec::new();
        for (depth, (conv, activation)) in self.layers.iter().enumerate() {
            operators.extend([conv.operator(), Operator::Activation(activation.clone())]);
            let pool = PoolWindow { kernel: 3, stride: 2, padding: 1 };
            match depth {
                2 => operators.push(Operator::MaxPool(pool)),
                5 => operators.push(Operator::AveragePool(pool)),
                _ => {}
            }
        }
        operators.push(Operator::AveragePool(PoolWindow { kernel: 8, stride: 8, padding: 0 }));
        Architecture { input: Signal { channels: 3, plane: (32, 32) }, operators }
    }

    /// The activation layers.
    pub fn activations(&self) -> Vec<&Activation> {
        self.layers.iter().map(|(_, activation)| activation).collect()
    }
}
