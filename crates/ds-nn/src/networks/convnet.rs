//! The small convolutional network for MNIST.

use super::{ActivationKind, layers_copied};
use crate::layers::{Convolution, Linear, Mode, WeightInit};
use crate::ops::Window;
use crate::ops::blocks::{enter, leave};
use crate::ops::pool::MaxPool;
use candle_core::{DType, Device, Result};
use ds_core::Parameter;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use rand_chacha::ChaCha8Rng;

/// 5×5 convolution to 2 channels, activation, 2×2 max-pool, twice, then a linear layer: (N, 1, 28, 28) → (N, classes).
#[derive(Debug, Clone)]
pub struct ConvNet {
    blocks: Vec<(Convolution, Activation)>,
    last: Linear,
}

impl ConvNet {
    const CHANNELS: usize = 2;
    /// Pixels of a channel after the second pool: 28 → 24 → 12 → 8 → 4.
    const PIXELS: usize = 16;

    /// # Errors
    /// Those of the activation's constructor.
    pub fn new(rng: &mut ChaCha8Rng, classes: usize, activation: ActivationKind) -> ds_core::Result<Self> {
        let window = Window { kernel: 5, stride: 1, padding: 0 };
        let mut blocks = Vec::new();
        for inputs in [1, Self::CHANNELS] {
            let conv = Convolution::new(rng, inputs, Self::CHANNELS, window, true, WeightInit::Uniform)?;
            blocks.push((conv, activation.build(Self::CHANNELS, false)?));
        }
        let last = Linear::new(rng, Self::CHANNELS * Self::PIXELS, classes, true, WeightInit::Uniform)?;
        Ok(Self { blocks, last })
    }

    /// Images (N, 1, 28, 28) → logits (N, classes).
    ///
    /// # Errors
    /// If x has another shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, _mode: Mode<'_>) -> Result<G::Value> {
        let mut x = enter(graph, x)?;
        for (conv, activation) in &self.blocks {
            x = conv.forward_in(graph, &x)?;
            x = activation.forward_in(graph, &x)?;
            x = graph.apply1(MaxPool(Window { kernel: 2, stride: 2, padding: 0 }), &x)?;
        }
        let x = leave(graph, &x)?;
        self.last.forward_in(graph, &x)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (depth, (conv, activation)) in self.blocks.iter().enumerate() {
            all.extend(conv.parameters(&format!("block{depth}.conv")));
            all.extend(activation.parameters(&format!("block{depth}.activation")));
        }
        all.extend(self.last.parameters("last"));
        all
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(Self {
            blocks: layers_copied(&self.blocks, Convolution::copied, dtype, device)?,
            last: self.last.copied(dtype, device)?,
        })
    }

    /// The network as Lipschitz bounds see it.
    pub fn architecture(&self) -> Architecture {
        let mut operators = Vec::new();
        for (conv, activation) in &self.blocks {
            let pool = PoolWindow { kernel: 2, stride: 2, padding: 0 };
            operators.extend([conv.operator(), Operator::Activation(activation.clone()), Operator::MaxPool(pool)]);
        }
        operators.push(self.last.operator());
        Architecture { input: Signal { channels: 1, plane: (28, 28) }, operators }
    }

    /// The activation layers.
    pub fn activations(&self) -> Vec<&Activation> {
        self.blocks.iter().map(|(_, activation)| activation).collect()
    }
}
