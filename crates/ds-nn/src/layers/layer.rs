//! A layer of a network, and what is done with a list of layers.

use super::batch_norm::BatchNorm;
use super::constrained::{ConstrainedConv2d, ConstrainedLinear};
use super::conv2d::Conv2d;
use super::linear::Linear;
use super::mode::Mode;
use super::pool;
use crate::ops::Window;
use crate::ops::batch_sums::BatchSums;
use crate::ops::blocks::flatten_features;
use crate::ops::dropout::Dropout;
use crate::ops::pool::{AveragePool, MaxPool};
use crate::ops::scale::Scale;
use crate::ops::sum::Sum;
use candle_core::{Result, Tensor, bail};
use ds_core::Parameter;
use ds_core::activation::{Activation, NewTensor};
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Operator, PoolWindow, Signal};

/// A layer of a network.
#[derive(Debug, Clone)]
pub enum Layer {
    /// x·Wᵀ + b.
    Linear(Linear),
    /// A 2D convolution.
    Conv2d(Conv2d),
    /// Batch norm.
    BatchNorm(BatchNorm),
    /// An activation.
    Activation(Activation),
    /// The largest of each window.
    MaxPool(Window),
    /// The mean of each window.
    AveragePool(Window),
    /// The mean over each plane: (N, C, H, H) → (N, C).
    GlobalAveragePool,
    /// Dropout with this probability; the index tells the layer's mask from those of others.
    Dropout {
        /// p, in [0, 1).
        probability: f64,
        /// The index of the mask.
        index: u64,
    },
    /// (N, …) → (N, features).
    Flatten {
        /// The numbers of a sample.
        features: usize,
    },
    /// A dense layer that is 1-Lipschitz in ℓ2.
    ConstrainedLinear(ConstrainedLinear),
    /// A convolution that is 1-Lipschitz in ℓ2.
    ConstrainedConv2d(ConstrainedConv2d),
    /// Multiplication with a constant.
    Scale(f64),
    /// A residual block.
    Residual(Residual),
}

/// The output of layers, one after the other. A batch norm and what follows it are fused; in evaluation without gradients a batch
/// norm that nothing follows is folded into the convolution before it.
pub(crate) fn forward_in<G: Graph>(
    graph: &mut G,
    layers: &[(String, Layer)],
    x: &G::Value,
    mode: Mode<'_>,
) -> Result<G::Value> {
    Ok(forward_with_sums(graph, layers, x, mode)?.0)
}

/// The same, and what the last layer has left for a batch norm after it.
fn forward_with_sums<G: Graph>(
    graph: &mut G,
    layers: &[(String, Layer)],
    x: &G::Value,
    mode: Mode<'_>,
) -> Result<(G::Value, Option<BatchSums>)> {
    let (mut x, mut rest, mut sums) = (x.clone(), layers, None);
    while let [(_, layer), tail @ ..] = rest {
        if let (Layer::Conv2d(conv), [(_, Layer::BatchNorm(norm)), after @ ..]) = (layer, tail)
            && matches!(mode, Mode::Evaluation)
            && !matches!(after, [(_, Layer::Activation(_)), ..])
            && !graph.is_tracked(&x)
            && !graph.has_parameter_gradients()
        {
            x = norm.folded_into(conv)?.forward_in(graph, &x)?;
            (rest, sums) = (after, None);
            continue;
        }
        let activation = match tail {
            [(_, Layer::Activation(activation)), ..] => Some(activation),
            _ => None,
        };
        let takes_activation = matches!(layer, Layer::BatchNorm(_) | Layer::Residual(_));
        x = layer.forward_in(graph, (&x, &mut sums), activation.filter(|_| takes_activation), mode)?;
        rest = if takes_activation && activation.is_some() { &tail[1..] } else { tail };
    }
    Ok((x, sums))
}

impl Layer {
    /// The layer's output, or its activation where one follows that the layer is fused with. `sums` are what the layer before has
    /// left, and then what this one leaves.
    fn forward_in<G: Graph>(
        &self,
        graph: &mut G,
        (x, sums): (&G::Value, &mut Option<BatchSums>),
        activation: Option<&Activation>,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        let left = sums.take();
        match self {
            Self::Linear(linear) => linear.forward_in(graph, x),
            Self::Conv2d(conv) => {
                *sums = matches!(mode, Mode::Training { .. }).then(BatchSums::default);
                conv.forward_with_sums(graph, x, sums.clone())
            }
            Self::BatchNorm(norm) => norm.forward_with_sums(graph, (x, left), None, activation, mode),
            Self::Activation(activation) => activation.forward_in(graph, x),
            Self::MaxPool(window) => graph.apply(MaxPool(*window), [x]),
            Self::AveragePool(window) => graph.apply(AveragePool(*window), [x]),
            Self::GlobalAveragePool => pool::average_over_planes(graph, x),
            Self::Dropout { probability, index } => match mode {
                Mode::Training { dropout } if *probability > 0.0 => {
                    graph.apply(Dropout::of_layer(*probability, dropout, *index), [x])
                }
                _ => Ok(x.clone()),
            },
            Self::Flatten { features } => flatten(graph, x, *features),
            Self::ConstrainedLinear(linear) => linear.forward_in(graph, x, mode),
            Self::ConstrainedConv2d(conv) => conv.forward_in(graph, x, mode),
            Self::Scale(factor) if *factor == 1.0 => Ok(x.clone()),
            Self::Scale(factor) => graph.apply(Scale { factor: *factor }, [x]),
            Self::Residual(residual) => residual.forward_in(graph, x, activation, mode),
        }
    }

    /// The trainable parameters.
    fn parameters(&self, name: &str) -> Vec<Parameter> {
        match self {
            Self::Linear(linear) => linear.parameters(name),
            Self::Conv2d(conv) => conv.parameters(name),
            Self::BatchNorm(norm) => norm.parameters(name),
            Self::Activation(activation) => activation.parameters(name),
            Self::ConstrainedLinear(linear) => linear.parameters(name),
            Self::ConstrainedConv2d(conv) => conv.parameters(name),
            Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Dropout { .. }
            | Self::Flatten { .. }
            | Self::Scale(_)
            | Self::Residual(_) => Vec::new(),
        }
    }

    /// The layer with what `new` gives in place of each of its tensors.
    fn map_tensors(&self, new: &mut NewTensor<'_>) -> ds_core::Result<Self> {
        Ok(match self {
            Self::Linear(linear) => Self::Linear(linear.map_tensors(new)?),
            Self::Conv2d(conv) => Self::Conv2d(conv.map_tensors(new)?),
            Self::BatchNorm(norm) => Self::BatchNorm(norm.map_tensors(new)?),
            Self::Activation(activation) => Self::Activation(activation.map_tensors(new)?),
            Self::ConstrainedLinear(linear) => Self::ConstrainedLinear(linear.map_tensors(new)?),
            Self::ConstrainedConv2d(conv) => Self::ConstrainedConv2d(conv.map_tensors(new)?),
            Self::Residual(Residual { body, shortcut }) => {
                Self::Residual(Residual { body: map_tensors(body, new)?, shortcut: map_tensors(shortcut, new)? })
            }
            Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Dropout { .. }
            | Self::Flatten { .. }
            | Self::Scale(_) => self.clone(),
        })
    }

    /// What Lipschitz bounds see of the layer in evaluation mode, for an input of this shape; nothing for layers that change no
    /// number. A batch norm behind a convolution is part of it ([`operators`]).
    fn operators(&self, input: Signal) -> Result<Vec<Operator>> {
        let window = |&Window { kernel, stride, padding }: &Window| PoolWindow { kernel, stride, padding };
        Ok(match self {
            Self::Linear(linear) => linear.operators(),
            Self::Conv2d(conv) => conv.operators(),
            Self::BatchNorm(norm) => {
                vec![Operator::ChannelScale(norm.factors()?), Operator::Bias(norm.offsets_after(None)?)]
            }
            Self::Activation(activation) => vec![Operator::Activation(activation.clone())],
            Self::MaxPool(of) => vec![Operator::MaxPool(window(of))],
            Self::AveragePool(of) => vec![Operator::AveragePool(window(of))],
            Self::GlobalAveragePool => {
                let side = input.plane.0;
                vec![Operator::AveragePool(PoolWindow { kernel: side, stride: side, padding: 0 })]
            }
            Self::ConstrainedLinear(linear) => linear.operators()?,
            Self::ConstrainedConv2d(conv) => conv.operators()?,
            Self::Scale(factor) => vec![Operator::Scale(*factor)],
            Self::Residual(residual) => {
                vec![Operator::Sum(vec![operators(&residual.body, input)?, operators(&residual.shortcut, input)?])]
            }
            Self::Dropout { .. } | Self::Flatten { .. } => Vec::new(),
        })
    }
}

/// (N, …) → (N, features); images in blocks leave them.
fn flatten<G: Graph>(graph: &mut G, x: &G::Value, features: usize) -> Result<G::Value> {
    let x = if graph.tensor(x).rank() == 2 { x.clone() } else { flatten_features(graph, x)? };
    match graph.tensor(&x).dims() {
        &[_, found] if found == features => Ok(x),
        dims => bail!("flatten: an input of shape {dims:?} does not have {features} numbers a sample"),
    }
}

/// Calls `f` with the names of all layers and the layers, those of residual blocks included, from input to output.
pub(crate) fn visit<'a>(layers: &'a [(String, Layer)], f: &mut impl FnMut(&str, &'a Layer)) {
    visit_below(layers, "", f);
}

fn visit_below<'a>(layers: &'a [(String, Layer)], prefix: &str, f: &mut impl FnMut(&str, &'a Layer)) {
    for (name, layer) in layers {
        let name = &format!("{prefix}{name}");
        f(name, layer);
        if let Layer::Residual(Residual { body, shortcut }) = layer {
            for inner in [body, shortcut] {
                visit_below(inner, &format!("{name}."), f);
            }
        }
    }
}

/// Calls `f` with all layers, those of residual blocks included.
pub(crate) fn visit_mut(layers: &mut [(String, Layer)], f: &mut impl FnMut(&mut Layer)) {
    for (_, layer) in layers {
        f(layer);
        if let Layer::Residual(Residual { body, shortcut }) = layer {
            visit_mut(body, f);
            visit_mut(shortcut, f);
        }
    }
}

/// The trainable parameters of all layers.
pub(crate) fn parameters(layers: &[(String, Layer)]) -> Vec<Parameter> {
    let mut all = Vec::new();
    visit(layers, &mut |name, layer| all.extend(layer.parameters(name)));
    all
}

/// State that is not trained: running statistics.
pub(crate) fn buffers(layers: &[(String, Layer)]) -> Vec<(String, Tensor)> {
    let mut all = Vec::new();
    visit(layers, &mut |name, layer| {
        if let Layer::BatchNorm(norm) = layer {
            all.extend(norm.buffers(name));
        }
    });
    all
}

/// All layers with what `new` gives in place of each of their tensors, by its name in checkpoints.
pub(crate) fn map_tensors(layers: &[(String, Layer)], new: &mut NewTensor<'_>) -> ds_core::Result<Layers> {
    let map = |(name, layer): &(String, Layer)| {
        let layer = layer.map_tensors(&mut |inner, old| {
            let name = format!("{name}.{inner}");
            let tensor = new(&name, old)?;
            if tensor.shape() != old.shape() {
                bail!("{name} has shape {:?}, expected {:?}", tensor.shape(), old.shape());
            }
            Ok(tensor)
        })?;
        Ok((name.clone(), layer))
    };
    layers.iter().map(map).collect()
}

/// What Lipschitz bounds see of layers in evaluation mode, for an input of this shape: a convolution and its batch norm are one
/// convolution.
pub(crate) fn operators(layers: &[(String, Layer)], input: Signal) -> Result<Vec<Operator>> {
    let (mut signal, mut operators, mut rest) = (input, Vec::new(), layers);
    while let [(_, layer), tail @ ..] = rest {
        let of_layer = match (layer, tail) {
            (Layer::Conv2d(conv), [(_, Layer::BatchNorm(norm)), after @ ..]) => {
                rest = after;
                norm.operators_after(conv)?
            }
            _ => {
                rest = tail;
                layer.operators(signal)?
            }
        };
        signal = of_layer.iter().try_fold(signal, |signal, operator| operator.output(signal))?;
        operators.extend(of_layer);
    }
    Ok(operators)
}

/// Layers with their names, from input to output.
pub type Layers = Vec<(String, Layer)>;

/// body(x) + shortcut(x); without layers the shortcut is x itself.
///
/// A batch norm at the end of the body, the sum and an activation behind the block are one op.
#[derive(Debug, Clone)]
pub struct Residual {
    /// The layers of the body.
    pub body: Layers,
    /// The layers of the shortcut.
    pub shortcut: Layers,
}

impl Residual {
    /// The sum, or its activation where one follows.
    pub(super) fn forward_in<G: Graph>(
        &self,
        graph: &mut G,
        x: &G::Value,
        activation: Option<&Activation>,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        if let [inner @ .., (_, Layer::BatchNorm(norm))] = self.body.as_slice() {
            let (y, sums) = forward_with_sums(graph, inner, x, mode)?;
            let shortcut = forward_in(graph, &self.shortcut, x, mode)?;
            return norm.forward_with_sums(graph, (&y, sums), Some(&shortcut), activation, mode);
        }
        let y = forward_in(graph, &self.body, x, mode)?;
        let shortcut = forward_in(graph, &self.shortcut, x, mode)?;
        let sum = graph.apply(Sum, [&y, &shortcut])?;
        activation.map_or(Ok(sum.clone()), |activation| activation.forward_in(graph, &sum))
    }
}
