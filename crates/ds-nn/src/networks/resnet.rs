//! ResNet32 (He et al. 2016) for CIFAR, with 1×1 convolutions and batch norm where a shortcut changes size.

use super::ActivationKind;
use crate::layers::{Convolution, Linear, Mode, Normalization, WeightInit};
use crate::ops::Window;
use crate::ops::blocks::{enter, leave};
use crate::ops::pool::AveragePool;
use candle_core::{DType, Device, Result, Var, bail};
use ds_core::Parameter;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use rand_chacha::ChaCha8Rng;

/// A convolution and its batch norm.
#[derive(Debug, Clone)]
struct Unit {
    conv: Convolution,
    norm: Normalization,
}

impl Unit {
    fn new(rng: &mut ChaCha8Rng, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Result<Self> {
        let window = Window { kernel, stride, padding: kernel / 2 };
        let conv = Convolution::new(rng, inputs, outputs, window, false, WeightInit::HeFanOut)?;
        Ok(Self { conv, norm: Normalization::new(outputs)? })
    }

    fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let weight = graph.parameter(&self.conv.weight);
        if matches!(mode, Mode::Evaluation) && !graph.is_tracked(x) && !graph.is_tracked(&weight) {
            return self.norm.folded_into(&self.conv)?.forward_in(graph, x);
        }
        let x = self.conv.forward_in(graph, x)?;
        self.norm.forward_in(graph, &x, mode)
    }

    fn activated_in<G: Graph>(
        &self,
        graph: &mut G,
        x: &G::Value,
        residual: Option<&G::Value>,
        activation: &Activation,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        let x = self.conv.forward_in(graph, x)?;
        self.norm.activated_in(graph, &x, residual, activation, mode)
    }

    fn copied(&self, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { conv: self.conv.copied(dtype, device)?, norm: self.norm.copied(dtype, device)? })
    }

    fn operator(&self) -> Result<Operator> {
        self.norm.operator_after(&self.conv)
    }

    fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let mut all = self.conv.parameters(&format!("{prefix}.conv"));
        all.extend(self.norm.parameters(&format!("{prefix}.norm")));
        all
    }
}

/// activation(second(activation(first(x))) + shortcut(x)).
#[derive(Debug, Clone)]
struct Block {
    first: Unit,
    inner: Activation,
    second: Unit,
    shortcut: Option<Unit>,
    outer: Activation,
}

/// A 3×3 convolution to 16 channels, five blocks each of 16, 32 and 64 channels, the mean over the plane and a linear
/// layer: (N, 3, 32, 32) → (N, classes).
#[derive(Debug, Clone)]
pub struct ResNet32 {
    stem: Unit,
    activation: Activation,
    blocks: Vec<Block>,
    last: Linear,
}

impl ResNet32 {
    const BLOCKS: usize = 5;

    /// # Errors
    /// Those of the activation's constructor.
    pub fn new(rng: &mut ChaCha8Rng, classes: usize, activation: ActivationKind) -> ds_core::Result<Self> {
        let stem = Unit::new(rng, 3, 16, 3, 1)?;
        let (mut blocks, mut inputs) = (Vec::new(), 16);
        for width in [16, 32, 64] {
            for _ in 0..Self::BLOCKS {
                let stride = if width == inputs { 1 } else { 2 };
                blocks.push(Block {
                    first: Unit::new(rng, inputs, width, 3, stride)?,
                    inner: activation.build(width, true)?,
                    second: Unit::new(rng, width, width, 3, 1)?,
                    shortcut: (stride > 1).then(|| Unit::new(rng, inputs, width, 1, stride)).transpose()?,
                    outer: activation.build(width, true)?,
                });
                inputs = width;
            }
        }
        let last = Linear::new(rng, inputs, classes, true, WeightInit::Uniform)?;
        Ok(Self { stem, activation: activation.build(16, true)?, blocks, last })
    }

    /// Images (N, 3, 32, 32) → logits (N, classes).
    ///
    /// # Errors
    /// If x has another shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let x = enter(graph, x)?;
        let mut x = self.stem.activated_in(graph, &x, None, &self.activation, mode)?;
        for block in &self.blocks {
            let inner = block.first.activated_in(graph, &x, None, &block.inner, mode)?;
            let shortcut = match &block.shortcut {
                Some(shortcut) => shortcut.forward_in(graph, &x, mode)?,
                None => x,
            };
            x = block.second.activated_in(graph, &inner, Some(&shortcut), &block.outer, mode)?;
        }
        let features = average_over_plane(graph, &x)?;
        self.last.forward_in(graph, &features)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = self.stem.parameters("stem");
        all.extend(self.activation.parameters("activation"));
        for (k, block) in self.blocks.iter().enumerate() {
            all.extend(block.first.parameters(&format!("block{k}.first")));
            all.extend(block.inner.parameters(&format!("block{k}.inner")));
            all.extend(block.second.parameters(&format!("block{k}.second")));
            all.extend(block.shortcut.iter().flat_map(|s| s.parameters(&format!("block{k}.shortcut"))));
            all.extend(block.outer.parameters(&format!("block{k}.outer")));
        }
        all.extend(self.last.parameters("last"));
        all
    }

    /// The running statistics of the batch norms.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        let mut all = self.stem.norm.buffers("stem.norm");
        for (k, block) in self.blocks.iter().enumerate() {
            all.extend(block.first.norm.buffers(&format!("block{k}.first.norm")));
            all.extend(block.second.norm.buffers(&format!("block{k}.second.norm")));
            all.extend(block.shortcut.iter().flat_map(|s| s.norm.buffers(&format!("block{k}.shortcut.norm"))));
        }
        all
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        let block = |block: &Block| -> ds_core::Result<Block> {
            Ok(Block {
                first: block.first.copied(dtype, device)?,
                inner: block.inner.copied(dtype, device)?,
                second: block.second.copied(dtype, device)?,
                shortcut: block.shortcut.as_ref().map(|unit| unit.copied(dtype, device)).transpose()?,
                outer: block.outer.copied(dtype, device)?,
            })
        };
        Ok(Self {
            stem: self.stem.copied(dtype, device)?,
            activation: self.activation.copied(dtype, device)?,
            blocks: self.blocks.iter().map(block).collect::<ds_core::Result<_>>()?,
            last: self.last.copied(dtype, device)?,
        })
    }

    /// The network in evaluation mode, as Lipschitz bounds see it.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn architecture(&self) -> Result<Architecture> {
        let activation = |activation: &Activation| Operator::Activation(activation.clone());
        let mut operators = vec![self.stem.operator()?, activation(&self.activation)];
        for block in &self.blocks {
            let inner = vec![block.first.operator()?, activation(&block.inner), block.second.operator()?];
            let shortcut = block.shortcut.iter().map(Unit::operator).collect::<Result<_>>()?;
            operators.extend([Operator::Sum(vec![inner, shortcut]), activation(&block.outer)]);
        }
        operators.push(Operator::AveragePool(PoolWindow { kernel: 8, stride: 8, padding: 0 }));
        operators.push(self.last.operator());
        Ok(Architecture { input: Signal { channels: 3, plane: (32, 32) }, operators })
    }

    /// The activation layers.
    pub fn activations(&self) -> Vec<&Activation> {
        let inside = self.blocks.iter().flat_map(|block| [&block.inner, &block.outer]);
        std::iter::once(&self.activation).chain(inside).collect()
    }
}

/// (N, C, H, H), in blocks or not, → (N, C): the mean over each plane.
pub(super) fn average_over_plane<G: Graph>(graph: &mut G, x: &G::Value) -> Result<G::Value> {
    let (height, width) = match *graph.tensor(x).dims() {
        [_, _, height, width] | [_, _, height, width, _] => (height, width),
        _ => bail!("average over planes: expected (N, C, H, W), got {:?}", graph.tensor(x).shape()),
    };
    if height != width {
        bail!("average over planes: expected square planes, got {height}×{width}");
    }
    let mean = graph.apply1(AveragePool(Window { kernel: height, stride: height, padding: 0 }), x)?;
    leave(graph, &mean)
}
