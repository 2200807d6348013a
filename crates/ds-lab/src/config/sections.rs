//! The sections of a config.

use super::names::{
    Dataset, Experiment, Judged, NetworkKind, OptimizerKind, Points, Precision, PruningMethod, Range, Search,
    constraint, norm_or_none,
};
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::regularization::Norm;
use ds_core::sparsify::Cost;
use ds_nn::layers::Constraint;
use ds_nn::optim::Rule;
use serde::{Deserialize, Serialize};

/// A run, fully specified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Config {
    pub experiment: Experiment,
    pub name: String,
    pub seed: u64,
    pub data: Data,
    pub network: NetworkConfig,
    pub activation: Activation,
    pub regularization: Regularization,
    pub optimizer: OptimizersConfig,
    pub train: Train,
    pub sparsify: Sparsify,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Data {
    pub dataset: Dataset,
    pub validation: f64,
    pub augment: bool,
    pub points: Points,
    pub train_points: usize,
    pub test_grid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct NetworkConfig {
    pub kind: NetworkKind,
    pub hidden: Vec<usize>,
    pub dropout: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lipschitz: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "constraint")]
    pub weights: Option<Constraint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
}

impl NetworkConfig {
    /// Stages of lipschitz_conv.
    pub fn stages(&self) -> usize {
        self.stages.unwrap_or(2)
    }

    /// 3×3 convolutions of each stage of lipschitz_conv.
    pub fn depth(&self) -> usize {
        self.depth.unwrap_or(1)
    }
}

/// `[activation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Activation {
    pub kind: ActivationKind,
    pub size: usize,
    pub range: Range,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_epochs: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    pub init: Init,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<bool>,
    pub hinges: usize,
    pub hinge_penalty: f64,
}

impl Activation {
    /// The epochs after which ranges are fitted to the inputs; none where the range is a number.
    pub fn range_epochs(&self) -> &[usize] {
        match self.range {
            Range::Auto => self.range_epochs.as_deref().unwrap_or(&[1]),
            Range::Fixed(_) => &[],
        }
    }

    /// What activation layers are made from.
    pub fn layer(&self) -> ActivationConfig {
        ActivationConfig {
            kind: self.kind,
            size: self.size,
            range: self.range.before_training(),
            step: self.step,
            init: self.init,
            fixed_bias: self.fixed_bias,
            scaling: self.scaling.unwrap_or(true),
            hinges: self.hinges,
        }
    }
}

/// `[regularization]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Regularization {
    #[serde(with = "norm_or_none")]
    pub norm: Option<Norm>,
    pub lambda: f64,
    pub weight_decay: f64,
    pub per_layer: bool,
}

impl Regularization {
    /// The norm and its λ, if splines are penalised at all.
    pub fn spline_norm(&self) -> Option<(Norm, f64)> {
        self.norm.map(|norm| (norm, self.lambda)).filter(|(_, lambda)| *lambda > 0.0)
    }
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct OptimizersConfig {
    pub weights: OptimizerConfig,
    pub splines: OptimizerConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scalings: Option<ScalingsConfig>,
}

/// `[optimizer.weights]` and `[optimizer.splines]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct OptimizerConfig {
    pub kind: OptimizerKind,
    pub lr: f64,
    pub momentum: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub warmup_epochs: usize,
}

/// `[optimizer.scalings]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct ScalingsConfig {
    pub lr: f64,
}

impl From<&OptimizerConfig> for Rule {
    fn from(config: &OptimizerConfig) -> Self {
        match config.kind {
            OptimizerKind::Sgd => Self::Sgd { momentum: config.momentum },
            OptimizerKind::Adam | OptimizerKind::ProxAdam => Self::Adam,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Train {
    pub epochs: usize,
    pub batch_size: usize,
    pub milestones: Vec<usize>,
    pub gamma: f64,
    pub eval_every: usize,
    pub log_steps: usize,
    pub checkpoint_seconds: f64,
    pub threads: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_best: bool,
    pub max_train_images: usize,
    pub max_test_images: usize,
}

impl Train {
    /// What the logit of the right class is reduced by in training.
    pub fn margin(&self) -> f64 {
        self.margin.unwrap_or(0.0)
    }
}

/// `[sparsify]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Sparsify {
    pub enabled: bool,
    // Keys that came later and have their default do not show, so that digests of configs stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<PruningMethod>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cost: Cost,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knots: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub accuracy: Judged,
    pub tolerance: f64,
    pub search: Search,
    #[serde(default, skip_serializing_if = "is_default")]
    pub finetune_epochs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finetune_lr: Option<f64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub iterate: bool,
}

impl Sparsify {
    /// The method: that of the papers where the config gives their threshold and no method.
    pub fn method(&self) -> PruningMethod {
        let usual = if self.threshold.is_some() { PruningMethod::Papers } else { PruningMethod::Refit };
        self.method.unwrap_or(usual)
    }

    /// What the learning rates are multiplied with in training after pruning: 0.1 where the config does not say.
    pub fn finetune_lr(&self) -> f64 {
        self.finetune_lr.unwrap_or(Self::FINETUNE_LR)
    }

    pub(super) const FINETUNE_LR: f64 = 0.1;
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
