//! ResNet32 (He et al. 2016) for CIFAR, with 1×1 convolutions and batch norm where a shortcut changes size.

use crate::layers::{BatchNorm, Conv2d, Layer, Layers, Linear, Residual, WeightInit};
use crate::network::Network;
use crate::ops::Window;
use ds_core::Result;
use ds_core::activation::ActivationConfig;
use ds_core::lipschitz::architecture::Signal;
use rand_chacha::ChaCha8Rng;

/// Residual blocks of a width.
const BLOCKS: usize = 5;

/// A 3×3 convolution to 16 channels, five residual blocks each of 16, 32 and 64 channels, the mean over the plane and a linear
/// layer: (N, 3, 32, 32) → (N, classes).
///
/// # Errors
/// Those of the activation's constructor.
pub fn resnet32(rng: &mut ChaCha8Rng, classes: usize, activation: impl Into<ActivationConfig>) -> Result<Network> {
    let activation = activation.into();
    let mut layers = conv_norm(rng, "stem", (3, 16), 3, 1)?;
    layers.push(("activation".to_owned(), Layer::Activation(activation.build(16, true)?)));
    let mut inputs = 16;
    for (k, width) in [16, 32, 64].into_iter().flat_map(|width| [width; BLOCKS]).enumerate() {
        let stride = if width == inputs { 1 } else { 2 };
        let mut body = conv_norm(rng, "first", (inputs, width), 3, stride)?;
        body.push(("inner".to_owned(), Layer::Activation(activation.build(width, true)?)));
        body.extend(conv_norm(rng, "second", (width, width), 3, 1)?);
        let shortcut = if stride > 1 { conv_norm(rng, "shortcut", (inputs, width), 1, stride)? } else { Vec::new() };
        layers.push((format!("block{k}"), Layer::Residual(Residual { body, shortcut })));
        layers.push((format!("block{k}.outer"), Layer::Activation(activation.build(width, true)?)));
        inputs = width;
    }
    layers.push(("pool".to_owned(), Layer::GlobalAveragePool));
    layers.push(("last".to_owned(), Layer::Linear(Linear::new(rng, inputs, classes, true, WeightInit::Uniform)?)));
    Ok(Network { input: Signal { channels: 3, plane: (32, 32) }, layers })
}

/// A convolution and its batch norm.
fn conv_norm(
    rng: &mut ChaCha8Rng,
    name: &str,
    (inputs, outputs): (usize, usize),
    kernel: usize,
    stride: usize,
) -> Result<Layers> {
    let window = Window { kernel, stride, padding: kernel / 2 };
    let conv = Conv2d::new(rng, inputs, outputs, window, false, WeightInit::HeFanOut)?;
    let norm = BatchNorm::new(outputs)?;
    Ok(vec![(format!("{name}.conv"), Layer::Conv2d(conv)), (format!("{name}.norm"), Layer::BatchNorm(norm))])
}
