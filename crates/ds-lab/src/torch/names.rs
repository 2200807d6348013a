//! The names and shapes that parameters have in the original's classes.

use crate::config::{Config, NetworkKind};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use ds_core::activation::ActivationKind;
use ds_nn::Network;

/// Blocks of a stage of ResNet32.
const BLOCKS: usize = 5;

/// The names of DeepSplines for the networks of the papers.
pub(super) const NETWORKS: [(&str, NetworkKind); 4] = [
    ("resnet32_cifar", NetworkKind::Resnet32),
    ("nin_cifar", NetworkKind::Nin),
    ("convnet_mnist", NetworkKind::Convnet),
    ("twoDnet", NetworkKind::Area),
];

/// The names of DeepSplines for activations.
pub(super) const ACTIVATIONS: [(&str, ActivationKind); 5] = [
    ("deepBspline", ActivationKind::BSpline),
    ("deepBspline_explicit_linear", ActivationKind::ExplicitLinear),
    ("deepReLUspline", ActivationKind::ReluSpline),
    ("relu", ActivationKind::Relu),
    ("leaky_relu", ActivationKind::LeakyRelu),
];

/// The original's name of a layer, for ours.
fn layer(kind: NetworkKind, name: &str) -> Option<String> {
    let (head, tail) = name.split_once('.').unwrap_or((name, ""));
    let number = |prefix: &str| head.strip_prefix(prefix)?.parse::<usize>().ok();
    Some(match kind {
        NetworkKind::Area => match (number("hidden"), tail) {
            (Some(depth), "linear") => format!("fc{}", depth + 1),
            (Some(depth), "activation") => format!("activations.{depth}"),
            _ if name == "last" => "fc_last".to_owned(),
            _ => return None,
        },
        NetworkKind::Convnet => match (number("block"), tail) {
            (Some(depth), "conv") => format!("conv{}", depth + 1),
            (Some(depth), "activation") => format!("activations.{depth}"),
            _ if name == "last" => "fc1".to_owned(),
            _ => return None,
        },
        NetworkKind::Nin => {
            // A convolution and an activation each; a pool and dropout behind the third and the sixth.
            let depth = number("layer")?;
            let index = 2 * depth + 2 * (depth / 3);
            match tail {
                "conv" => format!("classifier.{index}"),
                "activation" => format!("classifier.{}", index + 1),
                _ => return None,
            }
        }
        NetworkKind::Resnet32 => {
            let block = || number("block").map(|k| format!("layer{}.{}", 1 + k / BLOCKS, k % BLOCKS));
            let inner = match (head, tail) {
                ("stem", "conv") => return Some("layer0.0".to_owned()),
                ("stem", "norm") => return Some("layer0.1".to_owned()),
                ("activation", "") => return Some("layer0.2".to_owned()),
                ("last", "") => return Some("linear".to_owned()),
                (_, "first.conv") => "conv1",
                (_, "first.norm") => "bn1",
                (_, "second.conv") => "conv2",
                (_, "second.norm") => "bn2",
                (_, "shortcut.conv") => "downsample.0",
                (_, "shortcut.norm") => "downsample.1",
                (_, "inner") => "activations.0",
                (_, "outer") => "activations.1",
                _ => return None,
            };
            format!("{}.{inner}", block()?)
        }
        NetworkKind::Scalar | NetworkKind::Lipschitz | NetworkKind::LipschitzConv => return None,
    })
}

/// A parameter or running statistic of a network as the original's classes have it.
pub(super) struct Entry {
    /// Our name.
    pub ours: String,
    /// The original's name.
    pub name: String,
    /// The tensor of the network.
    pub tensor: Tensor,
}

impl Entry {
    /// The shape in the original: coefficients of all functions are one vector.
    pub fn shape(&self) -> Vec<usize> {
        if self.ours.ends_with(".coefficients") { vec![self.tensor.elem_count()] } else { self.tensor.dims().to_vec() }
    }

    /// The tensor as the original has it.
    pub fn reshaped(&self) -> candle_core::Result<Tensor> {
        self.tensor.detach().to_device(&candle_core::Device::Cpu)?.reshape(self.shape())
    }
}

/// The parameters and running statistics of a network, with their names in the original's classes.
///
/// # Errors
/// If the original has no such network or activation.
pub(super) fn entries(config: &Config, network: &Network) -> Result<Vec<Entry>> {
    let (kind, activation) = (config.network.kind, config.activation.kind);
    if !ACTIVATIONS.iter().any(|(_, known)| *known == activation) {
        bail!(
            "DeepSplines has no activation like {activation}; it has {}",
            ACTIVATIONS.map(|(name, _)| name).join(", ")
        );
    }
    if config.network.hidden.len() > 2 && kind == NetworkKind::Area {
        bail!("DeepSplines' twoDnet has one or two hidden layers, this network has {}", config.network.hidden.len());
    }
    let parameters = network.parameters().into_iter().map(|parameter| (parameter.name, parameter.var.into_inner()));
    let entry = |(ours, tensor): (String, Tensor)| {
        let (of, last) = ours.rsplit_once('.').with_context(|| format!("{ours} has no layer"))?;
        let layer = layer(kind, of).with_context(|| format!("DeepSplines has no network like {kind} (layer {of})"))?;
        let last = match last {
            "coefficients" => "_coefficients_vect",
            "slopes" => "_relu_slopes",
            "b1" => "spline_weight",
            "b0" => "spline_bias",
            "scale" => "weight",
            "shift" => "bias",
            "running_variance" => "running_var",
            other => other,
        };
        Ok(Entry { name: format!("{layer}.{last}"), ours: ours.clone(), tensor })
    };
    parameters.chain(network.buffers()).map(entry).collect()
}
