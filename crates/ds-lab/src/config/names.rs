//! The names that values of keys have.

use candle_core::DType;
use ds_core::{named, serde_by_name};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

named!(
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

named!(
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

    /// How many images it has for training and for testing.
    pub(crate) fn image_counts(self) -> Option<(usize, usize)> {
        match self {
            Self::Cifar10 | Self::Cifar100 => Some((50_000, 10_000)),
            Self::Mnist | Self::FashionMnist => Some((60_000, 10_000)),
            _ => None,
        }
    }

    /// The shape of a sample.
    pub fn sample(self) -> &'static [usize] {
        match self {
            Self::Cifar10 | Self::Cifar100 => &[3, 32, 32],
            Self::Mnist | Self::FashionMnist => &[1, 28, 28],
            Self::Circle | Self::SShape => &[2],
            _ => &[1],
        }
    }

    /// The outputs of a network for it: a logit for each class, or one number.
    pub fn outputs(self) -> usize {
        match self {
            Self::Cifar100 => 100,
            Self::Cifar10 | Self::Mnist | Self::FashionMnist => 10,
            _ => 1,
        }
    }
}

named!(
    /// The networks.
    NetworkKind {
        /// [`ds_nn::networks::resnet32`].
        Resnet32 = "resnet32",
        /// [`ds_nn::networks::nin`].
        Nin = "nin",
        /// [`ds_nn::networks::convnet`].
        Convnet = "convnet",
        /// [`ds_nn::networks::area`].
        Area = "area",
        /// [`ds_nn::networks::scalar`].
        Scalar = "scalar",
        /// [`ds_nn::networks::lipschitz`].
        Lipschitz = "lipschitz",
        /// [`ds_nn::networks::lipschitz_conv`].
        LipschitzConv = "lipschitz_conv",
    }
);

impl NetworkKind {
    /// Whether its Lipschitz constant is fixed.
    pub fn is_lipschitz(self) -> bool {
        matches!(self, Self::Lipschitz | Self::LipschitzConv)
    }
}

named!(
    /// Update rules.
    OptimizerKind {
        /// Nesterov momentum.
        Sgd = "sgd",
        /// Adam.
        Adam = "adam",
        /// Adam with proximal steps for TV², of splines only: [`ds_nn::optim::Optimizer::set_proximal`].
        ProxAdam = "prox_adam",
    }
);

named!(
    /// Where the training points of an area come from.
    Points {
        /// Drawn from the run's seed.
        Generated = "generated",
        /// The original's points, from CSV files.
        Original = "original",
    }
);

named!(
    /// How the knots of a trained network are pruned.
    PruningMethod {
        /// The cheapest knots of all functions go, and each function is fitted again: [`ds_core::sparsify::Pruning`].
        Refit = "refit",
        /// Knots below a threshold go, as in the papers: [`ds_core::sparsify::eliminate_knots`].
        Papers = "papers",
        /// Both, each from the trained network.
        Both = "both",
    }
);

impl PruningMethod {
    /// Whether functions are fitted again.
    pub fn refits(self) -> bool {
        self != Self::Papers
    }

    /// Whether a threshold is searched, as in the papers.
    pub fn thresholds(self) -> bool {
        self != Self::Refit
    }
}

named!(
    /// The accuracy that pruning may lose some points of.
    #[derive(Default)]
    Judged {
        /// On the training samples, as in the papers.
        #[default]
        Training = "training",
        /// On the samples that `data.validation` holds out.
        Validation = "validation",
    }
);

named!(
    /// How the fewest knots or the largest threshold are searched.
    Search {
        /// Every entry of the list, until the first that falls.
        Every = "every",
        /// Bisection of the list: few evaluations, for large data sets.
        Bisect = "bisect",
    }
);

named!(
    /// The type of what flows between layers in training; parameters and sums stay f32.
    #[derive(Default)]
    Precision {
        /// Single precision.
        #[default]
        F32 = "f32",
        /// Eight bits of precision and the range of f32, on a GPU.
        Bf16 = "bf16",
    }
);

impl Precision {
    /// As Candle has it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

serde_by_name!(Experiment, Dataset, NetworkKind, OptimizerKind, Points, PruningMethod, Judged, Search, Precision);

/// Names of a norm, or `none` for no penalty.
pub(super) mod norm_or_none {
    use ds_core::regularization::Norm;
    use serde::{Deserialize, Deserializer, Serializer};

    /// All names.
    pub const NAMES: &[&str] = &["tv2", "bv2", "none"];

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub fn serialize<S: Serializer>(norm: &Option<Norm>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(norm.map_or("none", Norm::name))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Norm>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "none" => Ok(None),
            name => name.parse().map(Some).map_err(serde::de::Error::custom),
        }
    }
}

/// Of a range that is fitted to the inputs.
pub(super) const AUTO: &str = "auto";

/// The end of a grid of knots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// This one in all layers.
    Fixed(f64),
    /// Fitted to the inputs of each layer: [`run::ranges`](crate::run::ranges).
    Auto,
}

impl Range {
    /// Of automatic ranges before any input is known.
    const INITIAL: f64 = 4.0;

    /// Whether it is fitted to the inputs.
    pub fn is_auto(self) -> bool {
        self == Self::Auto
    }

    /// The range that all layers begin with.
    pub fn before_training(self) -> f64 {
        match self {
            Self::Fixed(range) => range,
            Self::Auto => Self::INITIAL,
        }
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(range) => serializer.serialize_f64(*range),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Number(f64),
            Text(String),
        }
        match Value::deserialize(deserializer)? {
            Value::Number(range) => Ok(Self::Fixed(range)),
            Value::Text(text) if text == AUTO => Ok(Self::Auto),
            Value::Text(text) => Err(serde::de::Error::custom(format!("{text}: expected a number or {AUTO}"))),
        }
    }
}

/// Names of a constraint.
pub(super) mod constraint {
    use ds_nn::layers::Constraint;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub fn serialize<S: Serializer>(constraint: &Option<Constraint>, serializer: S) -> Result<S::Ok, S::Error> {
        match constraint {
            Some(constraint) => serializer.serialize_str(constraint.name()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Constraint>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| name.parse().map_err(serde::de::Error::custom)).transpose()
    }
}
