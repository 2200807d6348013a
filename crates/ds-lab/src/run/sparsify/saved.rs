//! Variables as they were, to go back to.

use candle_core::{Result, Tensor, Var};
use ds_core::{Group, variable};
use ds_nn::Network;

/// Copies of variables.
pub(super) struct Saved(Vec<(Var, Tensor)>);

impl Saved {
    /// Of the splines of a network.
    pub fn splines(network: &Network) -> Result<Self> {
        let parameters = network.parameters().into_iter().filter(|parameter| parameter.group == Group::Splines);
        Self::of(parameters.map(|parameter| Ok(parameter.var)))
    }

    /// Of all parameters and running statistics.
    pub fn all(network: &Network) -> Result<Self> {
        let parameters = network.parameters().into_iter().map(|parameter| Ok(parameter.var));
        Self::of(parameters.chain(network.buffers().into_iter().map(|(name, tensor)| variable(&name, &tensor))))
    }

    fn of(vars: impl Iterator<Item = ds_core::Result<Var>>) -> Result<Self> {
        let saved = |var: ds_core::Result<Var>| {
            let var = var?;
            let copy = var.as_detached_tensor().copy()?;
            Ok((var, copy))
        };
        vars.map(saved).collect::<Result<_>>().map(Self)
    }

    /// Puts them back.
    pub fn restore(&self) -> Result<()> {
        self.0.iter().try_for_each(|(var, saved)| var.set(saved))
    }
}
