//! The optimisers of a run.

use crate::config::Config;
use crate::penalty::decay_factors;
use anyhow::Result;
use ds_core::{Group, Parameter};
use ds_nn::networks::Network;
use ds_nn::optim::{Decay, Optimizer, Rule, multi_step};

/// Two optimisers, one for each group of parameters, and their common schedule.
pub struct Optimizers {
    /// Of everything that is no spline.
    pub weights: Optimizer,
    /// Of the splines.
    pub splines: Optimizer,
    rates: (f64, f64),
    milestones: Vec<usize>,
    gamma: f64,
}

impl Optimizers {
    /// As the config has it, for a network before its first step.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn new(config: &Config, network: &Network) -> Result<Self> {
        let decay = Decay { weights: config.regularization.weight_decay, hinges: config.activation.hinge_penalty };
        let of_group = |group| network.parameters().into_iter().filter(move |p: &Parameter| p.group == group);
        let (weights, splines) = (&config.optimizer.weights, &config.optimizer.splines);
        let factors = decay_factors(config, network)?;
        let optimizer = |rule, group| -> Result<Optimizer> {
            let mut optimizer = Optimizer::new(rule, decay, of_group(group))?;
            optimizer.scale_decay(|parameter| factors.get(&parameter.name).copied().unwrap_or(1.0));
            Ok(optimizer)
        };
        Ok(Self {
            weights: optimizer(Rule::from(weights), Group::Weights)?,
            splines: optimizer(Rule::from(splines), Group::Splines)?,
            rates: (weights.lr, splines.lr),
            milestones: config.train.milestones.clone(),
            gamma: config.train.gamma,
        })
    }

    /// The learning rates (weights, splines) of an epoch, counted from 0.
    pub fn rates(&self, epoch: usize) -> (f64, f64) {
        let factor = multi_step(epoch, &self.milestones, self.gamma);
        (self.rates.0 * factor, self.rates.1 * factor)
    }
}
