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
    /// H = W; a multiple of 4.
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

/// A small convolutional network without norms and pools: (N, C, S, S) → (N, classes).
///
/// 3×3 convolution to c channels, 2×2 patches with stride 2 to 2c channels, 3×3 convolution, 2×2 patches to 4c channels, an
/// activation after each; then dense layers. Convolutions are almost orthogonal, patches orthonormal. `widths` = [c, hidden units of
/// each dense layer …]; the output is `constant` times what the 1-Lipschitz layers give; `weights`, orthonormal or spectral, is of
/// the dense layers.
///
/// # Errors
/// If there is no width or one is 0, the side is no multiple of 4, or those of the activation's constructor.
pub fn lipschitz_conv(
    rng: &mut ChaCha8Rng,
    images: Images,
    (widths, classes): (&[usize], usize),
    weights: Constraint,
    activation: impl Into<ActivationConfig>,
    constant: f64,
) -> Result<Network> {
    let Some((&width, hidden)) = widths.split_first() else { return Err(Error::Empty("the number of widths")) };
    if images.side == 0 || !images.side.is_multiple_of(4) {
        return Err(Error::ImageSide(images.side));
    }
    let activation = activation.into();
    let convolution = Window { kernel: 3, stride: 1, padding: 1 };
    let patches = Window { kernel: 2, stride: 2, padding: 0 };
    let (mut layers, mut inputs) = (Vec::new(), images.channels);
    let sizes = [(convolution, width), (patches, 2 * width), (convolution, 2 * width), (patches, 4 * width)];
    for (depth, (window, outputs)) in sizes.into_iter().enumerate() {
        let conv = ConstrainedConv2d::new(rng, inputs, outputs, window)?;
        layers.push((format!("block{depth}.conv"), Layer::ConstrainedConv2d(conv)));
        layers.push((format!("block{depth}.activation"), Layer::Activation(activation.build(outputs, false)?)));
        inputs = outputs;
    }
    let features = inputs * (images.side / 4).pow(2);
    layers.extend(dense_part(rng, (features, hidden, classes), weights, &activation, constant)?);
    Ok(Network { input: Signal { channels: images.channels, plane: (images.side, images.side) }, layers })
}
