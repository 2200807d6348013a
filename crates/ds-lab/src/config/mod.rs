//! The config of a run: defaults of the experiment, overlaid with the user's TOML file, overlaid with `--set key=value`.

mod error;
mod keys;
mod load;
mod precision;
mod protocol;
mod run_name;
mod setting;
mod training;
mod validate;

pub use error::{ConfigError, Origin};
pub(crate) use keys::nearest_of;
pub use keys::{KEYS, Key, Kind, find, reference_doc};
pub(crate) use load::{parse, read_text};
pub use precision::Precision;
pub use protocol::protocol;
pub(crate) use run_name::broken_rule;
pub use setting::Setting;

use ds_core::Grid;
use ds_core::regularization::Norm;
use ds_nn::optim::Rule;
use serde::{Deserialize, Serialize};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }
        impl $name {
            /// All names, as configs have them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}
use names;

names!(
    /// The experiments of the papers.
    Experiment {
        /// Points of the plane, inside or outside an area.
        Area2d = "area2d",
        /// One function of one variable by one activation.
        Fit1d = "fit1d",
        /// Digits or fashion articles by a small convolutional network.
        Mnist = "mnist",
        /// CIFAR-10 or CIFAR-100 by ResNet32 or NiN.
        Cifar10 = "cifar10",
    }
);

names!(
    /// The data sets and generated problems.
    Dataset {
        /// Krizhevsky 2009, 10 classes.
        Cifar10 = "cifar10",
        /// Krizhevsky 2009, 100 classes.
        Cifar100 = "cifar100",
        /// LeCun et al. 1998.
        Mnist = "mnist",
        /// Xiao et al. 2017.
        FashionMnist = "fashion_mnist",
        /// ‖x‖² < 2/π.
        Circle = "circle",
        /// Between two shifted sines.
        SShape = "s_shape",
        /// x².
        Square = "square",
        /// sin(πx).
        Sine = "sine",
        /// |x|.
        Absolute = "absolute",
        /// x³.
        Cube = "cube",
        /// cos(7πx)/(7π).
        Cosine7 = "cosine7",
        /// Eight pieces with slopes −1 or 1, drawn from the seed.
        SlopesPm1 = "slopes_pm1",
        /// Eight pieces with slopes −1, 0 or 1, drawn from the seed.
        SlopesPm10 = "slopes_pm1_0",
    }
);

impl Dataset {
    /// Whether it is the points of an area.
    pub fn is_area(self) -> bool {
        matches!(self, Self::Circle | Self::SShape)
    }
}

names!(
    /// The networks.
    NetworkKind {
        /// [`ds_nn::networks::ResNet32`].
        Resnet32 = "resnet32",
        /// [`ds_nn::networks::NetworkInNetwork`].
        Nin = "nin",
        /// [`ds_nn::networks::ConvNet`].
        Convnet = "convnet",
        /// [`ds_nn::networks::AreaNet`].
        Area = "area",
        /// [`ds_nn::networks::ScalarNet`].
        Scalar = "scalar",
        /// [`ds_nn::networks::LipschitzNet`].
        Lipschitz = "lipschitz",
        /// [`ds_nn::networks::LipschitzConvNet`].
        LipschitzConv = "lipschitz_conv",
    }
);

impl NetworkKind {
    /// Whether its Lipschitz constant is fixed.
    pub fn is_lipschitz(self) -> bool {
        matches!(self, Self::Lipschitz | Self::LipschitzConv)
    }
}

names!(
    /// How a lipschitz network keeps its dense weights at norm 1.
    WeightConstraint {
        /// Orthonormal rows or columns.
        Orthonormal = "orthonormal",
        /// Divided by a bound of the largest singular value.
        Spectral = "spectral",
    }
);

names!(
    /// The activations.
    ActivationName {
        /// Coefficients at the knots.
        Bspline = "bspline",
        /// Coefficients and a linear term.
        ExplicitLinear = "explicit_linear",
        /// Slopes and a linear term.
        ReluSpline = "relu_spline",
        /// max(0, x).
        Relu = "relu",
        /// Slope 0.01 for x < 0.
        LeakyRelu = "leaky_relu",
        /// A learned slope for x < 0.
        Prelu = "prelu",
        /// Learned hinges.
        Apl = "apl",
        /// A spline with slopes in [−1, 1].
        LipschitzSpline = "lipschitz_spline",
        /// |x|.
        Absolute = "absolute",
        /// (max, min) of pairs of channels.
        MaxMin = "max_min",
        /// Learned reflections of pairs of channels.
        Householder = "householder",
        /// PReLU with slopes in [−1, 1].
        ClippedPrelu = "clipped_prelu",
    }
);

names!(
    /// Initial shapes of splines.
    InitShape {
        /// LeakyReLU(0.01).
        LeakyRelu = "leaky_relu",
        /// ReLU.
        Relu = "relu",
        /// Half |x|, half soft threshold.
        EvenOdd = "even_odd",
        /// x.
        Identity = "identity",
        /// |x|.
        AbsoluteValue = "absolute_value",
        /// |x| and x in turn.
        Maxmin = "maxmin",
        /// Slopes of −1 and 1 with kinks at 0 and half of the range.
        Zigzag = "zigzag",
        /// 0.
        Zero = "zero",
    }
);

names!(
    /// The norm that the splines' penalty takes.
    NormName {
        /// Σ|slope changes|.
        Tv2 = "tv2",
        /// TV² + |σ(0)| + |σ(1)|.
        Bv2 = "bv2",
        /// No penalty.
        None = "none",
    }
);

names!(
    /// Update rules.
    OptimizerKind {
        /// Nesterov momentum.
        Sgd = "sgd",
        /// Adam.
        Adam = "adam",
    }
);

names!(
    /// Where the training points of an area come from.
    Points {
        /// Drawn from the run's seed.
        Generated = "generated",
        /// The original's points, from CSV files.
        Original = "original",
    }
);

names!(
    /// How the largest threshold is searched.
    Search {
        /// Every threshold of the papers' list, until the first that falls.
        Every = "every",
        /// Bisection of the list: few evaluations, for large data sets.
        Bisect = "bisect",
    }
);

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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightConstraint>,
}

/// `[activation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Activation {
    pub kind: ActivationName,
    pub size: usize,
    pub range: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    pub init: InitShape,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<bool>,
    pub hinges: usize,
    pub hinge_penalty: f64,
}

impl ActivationName {
    /// Whether it is one of the three kinds of splines without a constraint.
    pub fn is_spline(self) -> bool {
        matches!(self, Self::Bspline | Self::ExplicitLinear | Self::ReluSpline)
    }
}

impl ActivationName {
    /// Whether its functions take pairs of channels.
    pub fn takes_pairs(self) -> bool {
        matches!(self, Self::MaxMin | Self::Householder)
    }

    /// Whether it is 1-Lipschitz whatever its parameters are.
    pub fn is_lipschitz(self) -> bool {
        !(self.is_spline() || matches!(self, Self::Prelu | Self::Apl))
    }
}

impl Activation {
    /// The end of the knots, given by a range or by a step.
    pub fn knot_range(&self) -> f64 {
        self.step.map_or(self.range, |step| 0.5 * (self.size - 1) as f64 * step)
    }

    /// The knots of its splines, if they have no constraint.
    ///
    /// # Errors
    /// If size, range or step are not allowed.
    pub fn grid(&self) -> ds_core::Result<Grid> {
        match self.step {
            Some(step) => Grid::from_step(self.size, step),
            None => Grid::from_range(self.size, self.range),
        }
    }
}

/// `[regularization]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Regularization {
    pub norm: NormName,
    pub lambda: f64,
    pub weight_decay: f64,
    pub per_layer: bool,
}

impl Regularization {
    /// The norm and its λ, if splines are penalised at all.
    pub fn spline_norm(&self) -> Option<(Norm, f64)> {
        match self.norm {
            NormName::Tv2 => Some((Norm::Tv2, self.lambda)),
            NormName::Bv2 => Some((Norm::Bv2, self.lambda)),
            NormName::None => None,
        }
        .filter(|(_, lambda)| *lambda > 0.0)
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
            OptimizerKind::Adam => Self::Adam,
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
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_best: bool,
    pub max_train_images: usize,
    pub max_test_images: usize,
}

/// `[sparsify]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "every key is described in KEYS")]
pub struct Sparsify {
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    pub tolerance: f64,
    pub search: Search,
}
