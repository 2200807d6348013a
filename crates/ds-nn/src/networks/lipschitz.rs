//! Networks that are L-Lipschitz in ℓ2 whatever their parameters are: 1-Lipschitz layers and activations, and a factor L at
//! the end (Anil, Lucas, Grosse 2019; Ducotterd et al. 2024).

use crate::layers::{ConstrainedConv2d, ConstrainedLinear, Constraint, Layer, Layers};
use crate::network::Network;
use crate::ops::Window;
use ds_core::activation::ActivationConfig;
use ds_core::lipschitz::architecture::Signal;
use ds_core::{Error, Result};
use rand_chacha::ChaCha8Rng;

/// The images that a network takes: square, of `channels` planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Images {
    /// C.
    pub channels: usize,
    /// H = W.
    pub side: usize,
}

impl Images {
    /// MNIST and Fashion-MNIST.
    pub const MNIST: Self = Self { channels: 1, side: 28 };
    /// CIFAR-10 and CIFAR-100.
    pub const CIFAR: Self = Self { channels: 3, side: 32 };
}

/// Dense layers with an activation per hidden unit: (N, …) with `inputs` numbers each → (N, outputs). The output is `constant` times
/// what the 1-Lipschitz layers give; `weights` is orthonormal or spectral.
///
/// # Errors
/// If a width is 0, or those of the activation's constructor.
pub fn lipschitz(
    rng: &mut ChaCha8Rng,
    sizes: (usize, &[usize], usize),
    weights: Constraint,
    activation: impl Into<ActivationConfig>,
    constant: f64,
) -> Result<Network> {
    let layers = dense_part(rng, sizes, weights, &activation.into(), constant)?;
    Ok(Network { input: Signal::vector(sizes.0), layers })
}

/// The dense layers that both networks end with, and the factor.
fn dense_part(
    rng: &mut ChaCha8Rng,
    (mut inputs, hidden, outputs): (usize, &[usize], usize),
    weights: Constraint,
    activation: &ActivationConfig,
    constant: f64,
) -> Result<Layers> {
    let mut layers = vec![("flatten".to_owned(), Layer::Flatten { features: inputs })];
    for (depth, &units) in hidden.iter().enumerate() {
        let linear = ConstrainedLinear::new(rng, inputs, units, weights)?;
        layers.push((format!("hidden{depth}.linear"), Layer::ConstrainedLinear(linear)));
        layers.push((format!("hidden{depth}.activation"), Layer::Activation(activation.build(units, false)?)));
        inputs = units;
    }
    let last = ConstrainedLinear::new(rng, inputs, outputs, weights)?;
    layers.extend([("last".to_owned(), Layer::ConstrainedLinear(last)), ("scale".to_owned(), Layer::Scale(constant))]);
    Ok(layers)
}

/// What a [`lipschitz_conv`] is made of.
#[derive(Debug, Clone, Copy)]
pub struct LipschitzConv<'a> {
    /// Channels c of the first stage; each stage has twice as many as the one before.
    pub channels: usize,
    /// How often the resolution is halved; the images' side must be a multiple of 2^stages.
    pub stages: usize,
    /// 3×3 convolutions of each stage.
    pub depth: usize,
    /// Units of the hidden dense layers.
    pub hidden: &'a [usize],
    /// Orthonormal or spectral, of the dense layers.
    pub weights: Constraint,
    /// The factor at the end.
    pub constant: f64,
}

impl LipschitzConv<'_> {
    /// One convolution in each of two stages, no hidden dense layers, orthonormal weights and the constant 1.
    pub fn new(channels: usize) -> Self {
        Self { channels, stages: 2, depth: 1, hidden: &[], weights: Constraint::Orthonormal, constant: 1.0 }
    }
}

/// A convolutional network without norms and pools: (N, C, S, S) → (N, classes).
///
/// Each stage has `depth` 3×3 convolutions, then 2×2 patches with stride 2 to twice the channels, with an activation after each; then
/// dense layers. Convolutions are almost orthogonal, patches orthonormal. The output is `constant` times what the 1-Lipschitz layers
/// give.
///
/// # Errors
/// If a number of channels, stages, convolutions or units is 0, the side is no multiple of 2^stages, or those of the activation's
/// constructor.
pub fn lipschitz_conv(
    rng: &mut ChaCha8Rng,
    images: Images,
    classes: usize,
    config: LipschitzConv<'_>,
    activation: impl Into<ActivationConfig>,
) -> Result<Network> {
    let LipschitzConv { channels, stages, depth, hidden, weights, constant } = config;
    for (what, number) in [("the number of stages", stages), ("the number of convolutions of a stage", depth)] {
        if number == 0 {
            return Err(Error::Empty(what));
        }
    }
    let shrinks = u32::try_from(stages).ok().and_then(|stages| 2usize.checked_pow(stages));
    let Some(factor) = shrinks.filter(|&factor| images.side > 0 && images.side.is_multiple_of(factor)) else {
        return Err(Error::ImageSide { side: images.side, stages });
    };
    let activation = activation.into();
    let convolution = Window { kernel: 3, stride: 1, padding: 1 };
    let patches = Window { kernel: 2, stride: 2, padding: 0 };
    let (mut layers, mut inputs) = (Vec::new(), images.channels);
    for stage in 0..stages {
        let width = channels << stage;
        for (window, outputs) in std::iter::repeat_n((convolution, width), depth).chain([(patches, 2 * width)]) {
            let number = layers.len() / 2;
            let conv = ConstrainedConv2d::new(rng, inputs, outputs, window)?;
            layers.push((format!("block{number}.conv"), Layer::ConstrainedConv2d(conv)));
            layers.push((format!("block{number}.activation"), Layer::Activation(activation.build(outputs, false)?)));
            inputs = outputs;
        }
    }
    let features = inputs * (images.side / factor).pow(2);
    layers.extend(dense_part(rng, (features, hidden, classes), weights, &activation, constant)?);
    Ok(Network { input: Signal { channels: images.channels, plane: (images.side, images.side) }, layers })
}
