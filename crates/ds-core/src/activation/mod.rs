//! Activations: learnable linear splines, and the fixed and parametric ones that they are compared with.

mod bounds;
mod config;
mod init;
mod kind;
mod linear_term;
mod lipschitz_spline;
mod module;
mod parametric;
mod spline;
mod tensors;
mod var_builder;

pub use config::ActivationConfig;
pub use init::Init;
pub use kind::ActivationKind;
pub use linear_term::LinearTerm;
pub use lipschitz_spline::LipschitzSpline;
pub use module::ChannelsLast;
pub use parametric::{Apl, ClippedPRelu, Householder, PRelu};
pub use spline::{Kind, Spline};
pub use tensors::NewTensor;
pub use var_builder::{Groups, activation, from_builder, spline};

use crate::graph::Graph;
use crate::ops::pairs::MaxMin;
use crate::ops::rectifier::Rectifier;
use crate::parameter::Parameter;
use candle_core::Result;

/// Any activation of this crate.
#[derive(Debug, Clone)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// x for x > 0, 0.01·x elsewhere.
    LeakyRelu,
    /// A learned negative slope per channel.
    PRelu(PRelu),
    /// Learned hinges per channel.
    Apl(Apl),
    /// A learned linear spline per channel.
    Spline(Spline),
    /// A learned linear spline per channel with slopes in [−1, 1].
    Lipschitz(LipschitzSpline),
    /// |x|.
    Absolute,
    /// (max, min) of pairs of channels.
    MaxMin,
    /// A learned reflection per pair of channels.
    Householder(Householder),
    /// A learned negative slope in [−1, 1] per channel.
    ClippedPRelu(ClippedPRelu),
}

impl Activation {
    /// The slope of LeakyReLU's negative side.
    pub const LEAKY_SLOPE: f64 = 0.01;

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> Result<G::Value> {
        match self {
            Self::Relu => graph.apply(Rectifier { slope: 0.0 }, [x]),
            Self::LeakyRelu => graph.apply(Rectifier { slope: Self::LEAKY_SLOPE }, [x]),
            Self::PRelu(prelu) => prelu.forward_in(graph, x),
            Self::Apl(apl) => apl.forward_in(graph, x),
            Self::Spline(spline) => spline.forward_in(graph, x),
            Self::Lipschitz(spline) => spline.forward_in(graph, x),
            // A rectifier of slope −1.
            Self::Absolute => graph.apply(Rectifier { slope: -1.0 }, [x]),
            Self::MaxMin => graph.apply(MaxMin, [x]),
            Self::Householder(householder) => householder.forward_in(graph, x),
            Self::ClippedPRelu(prelu) => prelu.forward_in(graph, x),
        }
    }

    /// The trainable parameters.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        match self {
            Self::Relu | Self::LeakyRelu | Self::Absolute | Self::MaxMin => Vec::new(),
            Self::PRelu(prelu) => prelu.parameters(prefix),
            Self::Apl(apl) => apl.parameters(prefix),
            Self::Spline(spline) => spline.parameters(prefix),
            Self::Lipschitz(spline) => spline.parameters(prefix),
            Self::Householder(householder) => householder.parameters(prefix),
            Self::ClippedPRelu(prelu) => prelu.parameters(prefix),
        }
    }

    /// Whether it acts on pairs of channels, and is no function of one number.
    pub fn takes_pairs(&self) -> bool {
        matches!(self, Self::MaxMin | Self::Householder(_))
    }

    /// The number of functions, if they are linear splines.
    pub fn channels_of_splines(&self) -> Option<usize> {
        match self {
            Self::Spline(spline) => Some(spline.channels()),
            Self::Lipschitz(spline) => Some(spline.channels()),
            _ => None,
        }
    }

    /// The splines without a constraint, if that is what it is.
    pub fn spline(&self) -> Option<&Spline> {
        match self {
            Self::Spline(spline) => Some(spline),
            _ => None,
        }
    }
}
