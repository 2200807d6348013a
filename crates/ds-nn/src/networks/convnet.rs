//! The small convolutional network for MNIST.

use crate::layers::{Conv2d, Layer, Linear, WeightInit};
use crate::network::Network;
use crate::ops::Window;
use ds_core::Result;
use ds_core::activation::ActivationConfig;
use ds_core::lipschitz::architecture::Signal;
use rand_chacha::ChaCha8Rng;

const CHANNELS: usize = 2;
/// The features after the second pool: the sides of a plane are 28, 24, 12, 8 and 4.
const FEATURES: usize = CHANNELS * 4 * 4;

/// 5×5 convolution to 2 channels, activation, 2×2 max-pool, twice, then a linear layer: (N, 1, 28, 28) → (N, classes).
///
/// # Errors
/// Those of the activation's constructor.
pub fn convnet(rng: &mut ChaCha8Rng, classes: usize, activation: impl Into<ActivationConfig>) -> Result<Network> {
    let activation = activation.into();
    let window = Window { kernel: 5, stride: 1, padding: 0 };
    let mut layers = Vec::new();
    for (depth, inputs) in [1, CHANNELS].into_iter().enumerate() {
        let conv = Conv2d::new(rng, inputs, CHANNELS, window, true, WeightInit::Uniform)?;
        layers.push((format!("block{depth}.conv"), Layer::Conv2d(conv)));
        layers.push((format!("block{depth}.activation"), Layer::Activation(activation.build(CHANNELS, false)?)));
        layers.push((format!("block{depth}.pool"), Layer::MaxPool(Window { kernel: 2, stride: 2, padding: 0 })));
    }
    layers.push(("flatten".to_owned(), Layer::Flatten { features: FEATURES }));
    let last = Linear::new(rng, FEATURES, classes, true, WeightInit::Uniform)?;
    layers.push(("last".to_owned(), Layer::Linear(last)));
    Ok(Network::new(Signal { channels: 1, plane: (28, 28) }, layers))
}
