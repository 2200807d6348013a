//! Variables as they were, to go back to.

use candle_core::{Tensor, Var};
use ds_core::{Result, variable};
use ds_nn::Network;

/// Copies of variables.
pub(super) struct Saved(Vec<(Var, Tensor)>);

impl Saved {
    /// Of all parameters and statistics of a network, and of offsets that pruning alone changes.
    pub fn of(network: &Network) -> Result<Self> {
        let mut saved = Vec::new();
        network.map_tensors(|name, tensor| {
            let var = variable(name, tensor)?;
            let copy = var.as_detached_tensor().copy()?;
            saved.push((var, copy));
            Ok(tensor.clone())
        })?;
        Ok(Self(saved))
    }

    /// Puts them back.
    pub fn restore(&self) -> Result<()> {
        Ok(self.0.iter().try_for_each(|(var, saved)| var.set(saved))?)
    }
}
