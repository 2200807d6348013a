//! The penalties beside the data loss: λ·norm of the splines and weight decay, with the same weight in all layers or, as the
//! area experiments of Aziznejad2020 tune them, relative to what each layer has before training:
//! λ/‖TV²(σ₀)‖₁ for its splines and (decay/2)·‖W‖²/‖W₀‖² for its weights.

use crate::config::{Config, OptimizerKind};
use anyhow::Result;
use ds_core::L2;
use ds_core::graph::Gradients;
use ds_core::regularization::{Norm, ProximalTv2, sum_of_squares};
use ds_nn::Network;
use std::collections::HashMap;

/// The norm of the splines in the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct SplinePenalty {
    norm: Norm,
    /// λ of each activation layer; 0 for those without splines.
    weights: Vec<f64>,
    /// The epoch, counted from 0, from which TV² is left to proximal steps.
    proximal_from: Option<usize>,
    /// Whether it is now.
    is_proximal: bool,
}

impl SplinePenalty {
    /// As the config has it after a warm-up, for a network before its first step; `None` if splines are not penalised.
    pub fn new(config: &Config, network: &Network) -> Result<Option<Self>> {
        let Some((norm, lambda)) = config.regularization.spline_norm() else { return Ok(None) };
        let weight_of = |initial: f64| if config.regularization.per_layer { relative(lambda, initial) } else { lambda };
        let weight = |activation| Ok(Norm::Tv2.value_of(activation)?.map_or(0.0, weight_of));
        let weights = network.activations().into_iter().map(weight).collect::<Result<_>>()?;
        let splines = &config.optimizer.splines;
        let proximal_from = (splines.kind == OptimizerKind::ProxAdam).then_some(splines.warmup_epochs);
        Ok(Some(Self { norm, weights, proximal_from, is_proximal: proximal_from.is_some() }))
    }

    /// Goes to an epoch, counted from 0: `optimizer.splines.warmup_epochs` come before the first proximal step. Whether the gradient of
    /// another part of the penalty is needed than before; then optimisers need [`proximal`](Self::proximal) anew.
    pub fn begin_epoch(&mut self, epoch: usize) -> bool {
        let is_proximal = self.proximal_from.is_some_and(|from| epoch >= from);
        std::mem::replace(&mut self.is_proximal, is_proximal) != is_proximal
    }

    /// Σ λ·norm over the layers.
    pub fn value(&self, network: &Network) -> candle_core::Result<f64> {
        let layers = network.activations().into_iter().zip(&self.weights);
        layers.map(|(activation, weight)| Ok(weight * self.norm.value_of(activation)?.unwrap_or(0.0))).sum()
    }

    /// λ·TV² of each layer, where proximal steps take care of it.
    pub fn proximal(&self, network: &Network) -> Vec<ProximalTv2> {
        let layers = network.activations().into_iter().zip(&self.weights).filter(|_| self.is_proximal);
        layers.filter_map(|(activation, &weight)| Some(ProximalTv2::new(activation.spline()?, weight))).collect()
    }

    /// Adds the gradient of what no proximal step takes care of to what the backward pass left.
    pub fn add_gradient(&self, network: &Network, gradients: &mut impl Gradients) -> candle_core::Result<()> {
        let layers = || network.activations().into_iter().zip(self.weights.iter().copied());
        // Plain splines together: on a GPU they take one launch.
        let plain: Vec<_> = layers().filter_map(|(activation, weight)| Some((activation.spline()?, weight))).collect();
        if self.is_proximal {
            return self.norm.add_gradients_without_tv2(&plain, gradients);
        }
        self.norm.add_gradients(&plain, gradients)?;
        let mut others = layers().filter(|(activation, _)| activation.spline().is_none());
        others.try_for_each(|(activation, weight)| self.norm.add_gradient_of(activation, weight, gradients))
    }
}

/// What the weight decay of each parameter is multiplied with: 1, or 1/‖W₀‖² of the layer that it belongs to. To be asked
/// before the first step.
pub fn decay_factors(config: &Config, network: &Network) -> Result<HashMap<String, f64>> {
    let parameters = network.parameters();
    let decayed = || parameters.iter().filter(|parameter| parameter.l2 == L2::WeightDecay);
    if !config.regularization.per_layer {
        return Ok(decayed().map(|parameter| (parameter.name.clone(), 1.0)).collect());
    }
    let mut squares = HashMap::new();
    for parameter in decayed().filter(|parameter| !is_offset(&parameter.name)) {
        let of_weight = sum_of_squares(std::slice::from_ref(parameter), L2::WeightDecay)?;
        *squares.entry(layer(&parameter.name).to_owned()).or_insert(0.0) += of_weight;
    }
    let factor = |name: &str| relative(1.0, squares.get(layer(name)).copied().unwrap_or(0.0));
    Ok(decayed().map(|parameter| (parameter.name.clone(), factor(&parameter.name))).collect())
}

/// A layer that is 0 at first has no size to be relative to.
fn relative(weight: f64, initial: f64) -> f64 {
    if initial > 0.0 { weight / initial } else { weight }
}

fn layer(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(layer, _)| layer)
}

/// Biases and b0, which W₀ does not count.
fn is_offset(name: &str) -> bool {
    name.ends_with(".bias") || name.ends_with(".b0")
}
