//! Fully connected networks (2, h, 1) and (2, h, h, 1) that classify points of the plane.

use crate::layers::{Layer, Linear, WeightInit};
use crate::network::Network;
use ds_core::Result;
use ds_core::activation::ActivationConfig;
use ds_core::lipschitz::architecture::Signal;
use rand_chacha::ChaCha8Rng;

/// Dense layers with an activation per hidden unit, and one logit: (N, 2) → (N, 1).
///
/// With splines the first layer has no bias: their grid is where the points are, and b0 or the coefficients shift them.
///
/// # Errors
/// Those of the activation's constructor.
pub fn area(rng: &mut ChaCha8Rng, hidden: &[usize], activation: impl Into<ActivationConfig>) -> Result<Network> {
    let activation = activation.into();
    let (mut inputs, mut layers) = (2, Vec::new());
    for (depth, &units) in hidden.iter().enumerate() {
        let bias = depth > 0 || !activation.kind.is_spline();
        let linear = Linear::new(rng, inputs, units, bias, WeightInit::Uniform)?;
        layers.push((format!("hidden{depth}.linear"), Layer::Linear(linear)));
        layers.push((format!("hidden{depth}.activation"), Layer::Activation(activation.build(units, false)?)));
        inputs = units;
    }
    let last = Linear::new(rng, inputs, 1, true, WeightInit::Uniform)?;
    layers.push(("last".to_owned(), Layer::Linear(last)));
    Ok(Network::new(Signal::vector(2), layers))
}
