//! The optimisers of a run.

use super::penalty::{SplinePenalty, decay_factors};
use crate::config::Config;
use anyhow::Result;
use ds_core::graph::Gradients;
use ds_core::{Group, Parameter};
use ds_nn::Network;
use ds_nn::optim::{Decay, Optimizer, Rule, multi_step};

/// An optimiser for each group of parameters, and their common schedule.
pub struct Optimizers {
    /// Of everything that is no spline.
    pub weights: Optimizer,
    /// Of the splines.
    pub splines: Optimizer,
    /// Of the scalings of 1-Lipschitz splines.
    pub scalings: Optimizer,
    rates: [f64; 3],
    milestones: Vec<usize>,
    gamma: f64,
}

impl Optimizers {
    /// As the config has it, for a network before its first step. Of the penalty they take what `prox_adam` makes proximal steps of.
    pub fn new(config: &Config, network: &Network, penalty: Option<&SplinePenalty>) -> Result<Self> {
        let decay = Decay { weights: config.regularization.weight_decay, hinges: config.activation.hinge_penalty };
        let of_group = |group| network.parameters().into_iter().filter(move |p: &Parameter| p.group == group);
        let (weights, splines) = (&config.optimizer.weights, &config.optimizer.splines);
        let scalings_rate = config.optimizer.scalings.as_ref().map_or(splines.lr, |scalings| scalings.lr);
        let factors = decay_factors(config, network)?;
        let optimizer = |rule, group| -> Result<Optimizer> {
            let mut optimizer = Optimizer::new(rule, decay, of_group(group))?;
            optimizer.scale_decay(|parameter| factors.get(&parameter.name).copied().unwrap_or(1.0));
            Ok(optimizer)
        };
        let mut all = Self {
            weights: optimizer(Rule::from(weights), Group::Weights)?,
            splines: optimizer(Rule::from(splines), Group::Splines)?,
            scalings: optimizer(Rule::from(splines), Group::Scalings)?,
            rates: [weights.lr, splines.lr, scalings_rate],
            milestones: config.train.milestones.clone(),
            gamma: config.train.gamma,
        };
        all.set_proximal(network, penalty)?;
        Ok(all)
    }

    /// Makes proximal steps of what the penalty leaves to them, on the grids that the network has now.
    pub(super) fn set_proximal(&mut self, network: &Network, penalty: Option<&SplinePenalty>) -> Result<()> {
        Ok(self.splines.set_proximal(penalty.map(|penalty| penalty.proximal(network)).unwrap_or_default())?)
    }

    /// The learning rates of weights, splines and scalings in an epoch, counted from 0.
    pub fn rates(&self, epoch: usize) -> [f64; 3] {
        let factor = multi_step(epoch, &self.milestones, self.gamma);
        self.rates.map(|rate| rate * factor)
    }

    /// Begins a step at the rates of an epoch.
    pub fn prepare(&mut self, epoch: usize) -> candle_core::Result<()> {
        let [weights, splines, scalings] = self.rates(epoch);
        self.weights.prepare(weights)?;
        self.splines.prepare(splines)?;
        self.scalings.prepare(scalings)
    }

    /// Updates all parameters in the step that was begun.
    ///
    /// # Errors
    /// If a gradient does not have its parameter's shape.
    pub fn apply(&self, gradients: &impl Gradients) -> candle_core::Result<()> {
        self.weights.apply(gradients)?;
        self.splines.apply(gradients)?;
        self.scalings.apply(gradients)
    }

    /// The L2 terms of all parameters.
    ///
    /// # Errors
    /// If the device fails.
    pub fn l2_terms(&self) -> candle_core::Result<f64> {
        Ok(self.weights.l2_terms()? + self.splines.l2_terms()? + self.scalings.l2_terms()?)
    }

    /// Tells these from other optimisers on a device.
    pub(super) fn schedules(&self) -> [Option<candle_core::TensorId>; 3] {
        [&self.weights, &self.splines, &self.scalings].map(Optimizer::schedule)
    }
}
