//! Network in network (Lin et al. 2014) for CIFAR.

use crate::layers::{Conv2d, Layer, WeightInit};
use crate::network::Network;
use crate::ops::Window;
use ds_core::Result;
use ds_core::activation::ActivationConfig;
use ds_core::lipschitz::architecture::Signal;
use rand_chacha::ChaCha8Rng;

/// Three blocks of a spatial and two 1×1 convolutions, an activation after each: 192-160-96, max-pool, dropout; 192-192-192,
/// average pool, dropout; 192-192-classes, average over the plane. (N, 3, 32, 32) → (N, classes).
///
/// # Errors
/// Those of the activation's constructor.
pub fn nin(
    rng: &mut ChaCha8Rng,
    classes: usize,
    dropout: f64,
    activation: impl Into<ActivationConfig>,
) -> Result<Network> {
    let activation = activation.into();
    let widths = [(192, 5), (160, 1), (96, 1), (192, 5), (192, 1), (192, 1), (192, 3), (192, 1), (classes, 1)];
    let pool = Window { kernel: 3, stride: 2, padding: 1 };
    let (mut layers, mut inputs) = (Vec::new(), 3);
    for (depth, (outputs, kernel)) in widths.into_iter().enumerate() {
        let window = Window { kernel, stride: 1, padding: kernel / 2 };
        let conv = Conv2d::new(rng, inputs, outputs, window, true, WeightInit::Normal(0.05))?;
        let mut push = |name: &str, layer| layers.push((format!("layer{depth}.{name}"), layer));
        push("conv", Layer::Conv2d(conv));
        push("activation", Layer::Activation(activation.build(outputs, true)?));
        if let Some(pool) =
            [(2, Layer::MaxPool(pool)), (5, Layer::AveragePool(pool))].into_iter().find(|p| p.0 == depth)
        {
            push("pool", pool.1);
            push("dropout", Layer::Dropout { probability: dropout, index: depth as u64 });
        }
        inputs = outputs;
    }
    layers.push(("pool".to_owned(), Layer::GlobalAveragePool));
    Ok(Network::new(Signal { channels: 3, plane: (32, 32) }, layers))
}
