//! What must hold between keys.

use super::error::ConfigError;
use super::keys::KEYS;
use super::load::Layers;
use super::names::{AUTO, Dataset, Experiment, Judged, NetworkKind, OptimizerKind};
use super::run_name::broken_rule;
use super::sections::{Config, Sparsify};
use ds_core::activation::{ActivationKind, Init};
use ds_core::sparsify::Cost;

/// The least distance of knots: an argument divided by it must be finite in f32.
const SMALLEST_STEP: f64 = 1e-30;

impl Config {
    pub(super) fn validate(&self, layers: &Layers) -> Result<(), ConfigError> {
        let experiment = self.experiment;
        let (networks, datasets): (&[NetworkKind], &[Dataset]) = match experiment {
            Experiment::Cifar10 => (
                &[NetworkKind::Resnet32, NetworkKind::Nin, NetworkKind::LipschitzConv],
                &[Dataset::Cifar10, Dataset::Cifar100],
            ),
            Experiment::Mnist => (
                &[NetworkKind::Convnet, NetworkKind::Lipschitz, NetworkKind::LipschitzConv],
                &[Dataset::Mnist, Dataset::FashionMnist],
            ),
            Experiment::Area2d => (&[NetworkKind::Area], &[Dataset::Circle, Dataset::SShape]),
            Experiment::Fit1d => (
                &[NetworkKind::Scalar, NetworkKind::Lipschitz],
                &[
                    Dataset::Square,
                    Dataset::Sine,
                    Dataset::Absolute,
                    Dataset::Cube,
                    Dataset::Cosine7,
                    Dataset::SlopesPm1,
                    Dataset::SlopesPm10,
                ],
            ),
        };
        if !networks.contains(&self.network.kind) {
            return Err(layers.error("network.kind", self.network.kind, one_of(networks, experiment)));
        }
        if !datasets.contains(&self.data.dataset) {
            return Err(layers.error("data.dataset", self.data.dataset, one_of(datasets, experiment)));
        }
        self.validate_keys_of_others(layers)?;
        self.validate_activation(layers)?;
        self.validate_optimizers(layers)?;
        if layers.is_given("activation.step") && layers.is_given("activation.range") {
            let allowed = "either a range or a step, not both";
            return Err(layers.error("activation.step", show(self.activation.step), allowed));
        }
        if !self.train.milestones.is_sorted_by(|a, b| a < b) {
            let value = format!("{:?}", self.train.milestones);
            return Err(layers.error("train.milestones", value, "an ascending list of epochs"));
        }
        if self.network.kind == NetworkKind::LipschitzConv && self.network.hidden.is_empty() {
            let allowed = "the channels of the first layer and the units of dense ones, such as [16, 128]";
            return Err(layers.error("network.hidden", "[]", allowed));
        }
        let side = if self.experiment == Experiment::Mnist { 28usize } else { 32 };
        if self.network.kind == NetworkKind::LipschitzConv && !side.is_multiple_of(1 << self.network.stages()) {
            let most = side.trailing_zeros();
            let allowed = format!("at most {most}: images of {side} pixels can be halved that often");
            return Err(layers.error("network.stages", self.network.stages(), allowed));
        }
        if self.network.kind == NetworkKind::Area && self.network.hidden.is_empty() {
            return Err(layers.error("network.hidden", "[]", "at least one hidden layer, such as [4, 4]"));
        }
        let Sparsify { enabled, knots, threshold, accuracy, finetune_epochs, iterate, .. } = &self.sparsify;
        let method = self.sparsify.method();
        if threshold.is_some() && !method.thresholds() {
            return Err(layers.error("sparsify.method", method, "papers or both where sparsify.threshold is given"));
        }
        if knots.is_some() && !method.refits() {
            return Err(layers.error("sparsify.method", method, "refit or both where sparsify.knots is given"));
        }
        if self.network.kind.is_lipschitz() && *enabled && method.thresholds() {
            let allowed = format!("refit for {}: eliminated knots could exceed its slopes", self.network.kind);
            return Err(layers.error("sparsify.method", method, allowed));
        }
        self.validate_effects_of_pruning(layers)?;
        if *iterate && (*finetune_epochs == 0 || knots.is_some()) {
            let allowed = "false without sparsify.finetune_epochs, or with sparsify.knots: more knots are removed between epochs of \
                           training; set sparsify.finetune_epochs above 0, such as 5, and no sparsify.knots";
            return Err(layers.error("sparsify.iterate", true, allowed));
        }
        if experiment == Experiment::Fit1d && *enabled {
            let needed = [
                ("sparsify.knots", method.refits() && knots.is_none()),
                ("sparsify.threshold", method.thresholds() && threshold.is_none()),
            ];
            if let Some((key, _)) = needed.into_iter().find(|(_, is_missing)| *is_missing) {
                let allowed = "a number for fit1d, which has no accuracy to search with, or sparsify.enabled = false";
                return Err(layers.error(key, "missing", allowed));
            }
        }
        if *enabled && *accuracy == Judged::Validation && self.data.validation == 0.0 {
            let allowed = "training where data.validation = 0; set data.validation above 0, such as 0.1";
            return Err(layers.error("sparsify.accuracy", accuracy, allowed));
        }
        if self.train.keep_best && self.data.validation == 0.0 {
            let allowed = "false where data.validation = 0, so that no network is selected on test data; set data.validation \
                           above 0, such as 0.1";
            return Err(layers.error("train.keep_best", true, allowed));
        }
        // A run that was made before some of the rules were is still read.
        let is_path = self.name.contains(['/', '\\']) || self.name.starts_with('.');
        if let Some(rule) = broken_rule(&self.name).filter(|_| is_path || layers.is_given("name")) {
            return Err(layers.error("name", format!("{:?}", self.name), rule));
        }
        Ok(())
    }

    /// Keys of pruning that the user gave and that change nothing beside the others. A config that a checkpoint holds is still read.
    fn validate_effects_of_pruning(&self, layers: &Layers) -> Result<(), ConfigError> {
        let sparsify = &self.sparsify;
        let (refits, trains) = (sparsify.method().refits(), sparsify.finetune_epochs > 0);
        let has_other_lr = sparsify.finetune_lr() != Sparsify::FINETUNE_LR;
        let keys = [
            ("sparsify.cost", refits, sparsify.cost != Cost::default(), Cost::default().to_string()),
            ("sparsify.finetune_epochs", refits, trains, "0".to_owned()),
            ("sparsify.finetune_lr", refits && trains, has_other_lr, Sparsify::FINETUNE_LR.to_string()),
            ("sparsify.iterate", refits, sparsify.iterate, "false".to_owned()),
        ];
        let reason = match sparsify.method {
            _ if refits => {
                "with sparsify.finetune_epochs = 0: nothing is trained after pruning; set that above 0, such as 5"
            }
            Some(_) => {
                "with sparsify.method = papers, which fits no function and trains nothing; set sparsify.method = \"both\""
            }
            None => {
                "with sparsify.threshold and no sparsify.method, which means papers: no function is fitted and nothing trained; set \
                 sparsify.method = \"both\""
            }
        };
        for (key, has_effect, is_other, usual) in keys {
            if is_other && !has_effect && layers.is_given(key) {
                let value = layers.get(key).map(ToString::to_string).unwrap_or_default();
                return Err(layers.error(key, value, format!("{usual} {reason}, or leave {key} out")));
            }
        }
        Ok(())
    }

    fn validate_optimizers(&self, layers: &Layers) -> Result<(), ConfigError> {
        if self.optimizer.weights.kind == OptimizerKind::ProxAdam {
            let allowed = "sgd or adam; prox_adam is for optimizer.splines.kind";
            return Err(layers.error("optimizer.weights.kind", OptimizerKind::ProxAdam, allowed));
        }
        let is_lipschitz = self.activation.kind == ActivationKind::LipschitzSpline;
        if self.optimizer.splines.kind == OptimizerKind::ProxAdam && is_lipschitz {
            let allowed = "sgd or adam for lipschitz_spline; prox_adam is for bspline, explicit_linear and relu_spline";
            return Err(layers.error("optimizer.splines.kind", OptimizerKind::ProxAdam, allowed));
        }
        let warmup = self.optimizer.splines.warmup_epochs;
        if warmup > 0 && self.optimizer.splines.kind != OptimizerKind::ProxAdam {
            let allowed = "0 without optimizer.splines.kind = \"prox_adam\"";
            return Err(layers.error("optimizer.splines.warmup_epochs", warmup, allowed));
        }
        if warmup >= self.train.epochs && warmup > 0 {
            let allowed = format!("fewer than the {} epochs of train.epochs", self.train.epochs);
            return Err(layers.error("optimizer.splines.warmup_epochs", warmup, allowed));
        }
        Ok(())
    }

    fn validate_activation(&self, layers: &Layers) -> Result<(), ConfigError> {
        let (kind, init) = (self.activation.kind, self.activation.init);
        let has_more_kinks = matches!(init, Init::EvenOdd | Init::MaxMin | Init::Zigzag);
        if kind == ActivationKind::ReluSpline && has_more_kinks {
            let allowed = "leaky_relu, relu, identity, absolute or zero for relu_spline, which has one slope \
                           change at first, the same in all channels";
            return Err(layers.error("activation.init", init, allowed));
        }
        if self.activation.size.is_multiple_of(2) && kind.is_spline() {
            let allowed = "an odd whole number from 3 to 100001; even ones are for lipschitz_spline";
            return Err(layers.error("activation.size", self.activation.size, allowed));
        }
        let key = if self.activation.step.is_some() { "activation.step" } else { "activation.range" };
        let distance = 2.0 * self.activation.layer().knot_range() / (self.activation.size - 1) as f64;
        if self.activation.range.is_auto() && !matches!(kind, ActivationKind::BSpline | ActivationKind::ExplicitLinear)
        {
            let allowed = format!("a number for {kind}; auto is for bspline and explicit_linear");
            return Err(layers.error("activation.range", AUTO, allowed));
        }
        if !self.activation.range_epochs().is_sorted_by(|a, b| a < b) {
            let value = format!("{:?}", self.activation.range_epochs());
            return Err(layers.error("activation.range_epochs", value, "an ascending list of epochs"));
        }
        if distance < SMALLEST_STEP {
            let allowed = format!("one that leaves at least {SMALLEST_STEP:e} between knots, for numbers in f32");
            return Err(layers.error(
                key,
                show(self.activation.step.or(Some(self.activation.range.before_training()))),
                allowed,
            ));
        }
        if self.network.kind.is_lipschitz() && !kind.is_lipschitz() {
            let allowed = "an activation with slopes in [-1, 1] for lipschitz networks: lipschitz_spline, absolute, max_min, \
                           householder, clipped_prelu, relu or leaky_relu";
            return Err(layers.error("activation.kind", kind, allowed));
        }
        if kind.takes_pairs() && !self.network.kind.is_lipschitz() {
            let allowed =
                format!("an activation of single channels for {}; {kind} is for lipschitz networks", self.network.kind);
            return Err(layers.error("activation.kind", kind, allowed));
        }
        if kind.takes_pairs() && self.network.hidden.iter().any(|units| !units.is_multiple_of(2)) {
            let value = format!("{:?}", self.network.hidden);
            return Err(layers.error("network.hidden", value, format!("even widths for {kind}, which takes pairs")));
        }
        Ok(())
    }

    /// Keys that a user gave and that this experiment, network or activation does not have.
    fn validate_keys_of_others(&self, layers: &Layers) -> Result<(), ConfigError> {
        for key in KEYS.iter().filter(|key| layers.is_given(key.path)) {
            let Some(value) = layers.get(key.path) else { continue };
            if let Some(owner) = key.other_owner(self, value) {
                let allowed = format!("no value: the key belongs to {owner}, not to {}", self.experiment);
                return Err(layers.error(key.path, value, allowed));
            }
        }
        Ok(())
    }
}

fn one_of(names: &[impl std::fmt::Display], experiment: Experiment) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    format!("{} for {experiment}", names.join(" or "))
}

fn show(value: Option<f64>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Origin;

    const MNIST: &str = "experiment = \"mnist\"\n";

    /// As a config file of a user's is read.
    fn of_file(more: &str) -> Result<Config, ConfigError> {
        let table = format!("{MNIST}{more}").parse().unwrap();
        Config::from_table(table, Origin::File("run.toml".into()), &[])
    }

    #[test]
    fn keys_of_pruning_without_effect_are_refused() {
        let papers = "sparsify.method = \"papers\"\n";
        let threshold = "sparsify.threshold = 0.1\n";
        let trains = "sparsify.finetune_epochs = 5\n";
        for (text, parts) in [
            (
                format!("{papers}sparsify.cost = \"mean_square\""),
                ["`sparsify.cost` = \"mean_square\"", "squared_gradient"],
            ),
            (format!("{papers}{trains}"), ["`sparsify.finetune_epochs` = 5: expected 0", "sparsify.method = \"both\""]),
            (
                format!("{papers}sparsify.finetune_lr = 0.5"),
                ["`sparsify.finetune_lr` = 0.5", "leave sparsify.finetune_lr out"],
            ),
            (format!("{papers}sparsify.iterate = true"), ["`sparsify.iterate` = true", "trains nothing"]),
            (format!("{threshold}{trains}"), ["`sparsify.finetune_epochs` = 5", "which means papers"]),
            ("sparsify.finetune_lr = 0.5".to_owned(), ["`sparsify.finetune_lr` = 0.5", "such as 5"]),
            ("sparsify.iterate = true".to_owned(), ["`sparsify.iterate` = true", "sparsify.finetune_epochs above 0"]),
        ] {
            let error = of_file(&text).unwrap_err().to_string();
            assert!(
                error.starts_with("run.toml: ") && parts.iter().all(|part| error.contains(part)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn keys_of_pruning_with_an_effect_or_their_default_are_taken() {
        let defaults = "sparsify.cost = \"squared_gradient\"\nsparsify.finetune_epochs = 0\nsparsify.finetune_lr = 0.1\n\
                        sparsify.iterate = false\n";
        let others = "sparsify.cost = \"mean_square\"\nsparsify.finetune_epochs = 5\nsparsify.finetune_lr = 0.5\n\
                      sparsify.iterate = true\n";
        for method in ["papers", "refit", "both"] {
            let config = of_file(&format!("{defaults}sparsify.method = \"{method}\"")).unwrap();
            assert_eq!(of_file(&config.to_toml().replace(MNIST, "")).unwrap(), config);
        }
        of_file(&format!("{defaults}sparsify.threshold = 0.1")).unwrap();
        for method in ["refit", "both"] {
            of_file(&format!("{others}sparsify.method = \"{method}\"")).unwrap();
        }
    }

    #[test]
    fn a_checkpoint_of_an_earlier_version_may_have_keys_without_effect() {
        for text in ["sparsify.method = \"papers\"\nsparsify.finetune_epochs = 5", "sparsify.finetune_lr = 0.5"] {
            assert!(of_file(text).is_err());
            let config = Config::from_toml(&format!("{MNIST}{text}")).unwrap();
            assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        }
    }
}
