//! One activation on one number: the 1D fits of Bohra-Campos2020.

use crate::layers::Layer;
use crate::network::Network;
use ds_core::Result;
use ds_core::activation::ActivationConfig;
use ds_core::lipschitz::architecture::Signal;

/// x (N, 1) → σ(x).
///
/// # Errors
/// Those of the activation's constructor.
pub fn scalar(activation: impl Into<ActivationConfig>) -> Result<Network> {
    Ok(Network::new(Signal::vector(1), [("activation", Layer::Activation(activation.into().build(1, false)?))]))
}
