//! Which defaults a config has.

use super::names::{Experiment, NetworkKind};

/// An experiment with a network, or with those of its networks that have the same defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their titles say it")]
pub enum Profile {
    Resnet32,
    Nin,
    Mnist,
    Area2d,
    Fit1d,
    Fit1dLipschitz,
    MnistLipschitz,
    MnistLipschitzConv,
    Cifar10LipschitzConv,
}

impl Profile {
    /// All profiles.
    pub const ALL: &'static [Self] = &[
        Self::Resnet32,
        Self::Nin,
        Self::Mnist,
        Self::Area2d,
        Self::Fit1d,
        Self::Fit1dLipschitz,
        Self::MnistLipschitz,
        Self::MnistLipschitzConv,
        Self::Cifar10LipschitzConv,
    ];

    /// The profile of a config, by the names that it gives.
    pub(super) fn of(experiment: Experiment, network: Option<NetworkKind>) -> Self {
        match (experiment, network) {
            (Experiment::Area2d, _) => Self::Area2d,
            (Experiment::Fit1d, Some(NetworkKind::Lipschitz)) => Self::Fit1dLipschitz,
            (Experiment::Fit1d, _) => Self::Fit1d,
            (Experiment::Mnist, Some(NetworkKind::Lipschitz)) => Self::MnistLipschitz,
            (Experiment::Mnist, Some(NetworkKind::LipschitzConv)) => Self::MnistLipschitzConv,
            (Experiment::Mnist, _) => Self::Mnist,
            (Experiment::Cifar10, Some(NetworkKind::LipschitzConv)) => Self::Cifar10LipschitzConv,
            (Experiment::Cifar10, Some(NetworkKind::Nin)) => Self::Nin,
            (Experiment::Cifar10, _) => Self::Resnet32,
        }
    }

    /// The name in `--help`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Resnet32 => "cifar10",
            Self::Nin => "cifar10 with nin",
            Self::Mnist => "mnist",
            Self::Area2d => "area2d",
            Self::Fit1d => "fit1d",
            Self::Fit1dLipschitz => "fit1d with lipschitz",
            Self::MnistLipschitz => "mnist with lipschitz",
            Self::MnistLipschitzConv => "mnist with lipschitz_conv",
            Self::Cifar10LipschitzConv => "cifar10 with lipschitz_conv",
        }
    }
}
