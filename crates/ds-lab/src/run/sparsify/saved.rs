//! Variables as they were, to go back to.

use candle_core::{Result, Tensor, Var};
use ds_core::Group;
use ds_nn::Network;

/// Copies of variables.
pub(super) struct Saved(Vec<(Var, Tensor)>);

impl Saved {
    /// Of the splines of a network.
    pub fn splines(network: &Network) -> Result<Self> {
        let parameters = network.parameters().into_iter().filter(|parameter| parameter.group == Group::Splines);
        Self::of(parameters.map(|parameter| parameter.var))
    }

    /// Of all parameters and running statistics.
    pub fn all(network: &Network) -> Result<Self> {
        let parameters = network.parameters().into_iter().map(|parameter| parameter.var);
        Self::of(parameters.chain(network.buffers().into_iter().map(|(_, var)| var)))
    }

    fn of(vars: impl Iterator<Item = Var>) -> Result<Self> {
        vars.map(|var| Ok((var.clone(), var.as_tensor().copy()?))).collect::<Result<_>>().map(Self)
    }

    /// Puts them back.
    pub fn restore(&self) -> Result<()> {
        self.0.iter().try_for_each(|(var, saved)| var.set(saved))
    }
}
