//! Activations: learnable linear splines, and the fixed and parametric ones that they are compared with.

mod fixed;
mod init;
mod linear_term;
mod spline;

pub use fixed::{Apl, PRelu};
pub use init::Init;
pub use linear_term::LinearTerm;
pub use spline::{Kind, Spline};

use crate::graph::{CandleGraph, Graph};
use crate::ops::rectifier::Rectifier;
use crate::parameter::{Parameter, copied};
use candle_core::{Device, Result, Tensor};

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
}

impl Activation {
    /// The slope of LeakyReLU's negative side.
    pub const LEAKY_SLOPE: f64 = 0.01;

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels, or on Candle's errors.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> Result<G::Value> {
        match self {
            Self::Relu => graph.apply1(Rectifier { slope: 0.0 }, x),
            Self::LeakyRelu => graph.apply1(Rectifier { slope: Self::LEAKY_SLOPE }, x),
            Self::PRelu(prelu) => prelu.forward_in(graph, x),
            Self::Apl(apl) => apl.forward_in(graph, x),
            Self::Spline(spline) => spline.forward_in(graph, x),
        }
    }

    /// A copy of the layer on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Relu => Self::Relu,
            Self::LeakyRelu => Self::LeakyRelu,
            Self::PRelu(prelu) => Self::PRelu(PRelu { slopes: copied(&prelu.slopes, device)? }),
            Self::Apl(apl) => {
                Self::Apl(Apl { slopes: copied(&apl.slopes, device)?, offsets: copied(&apl.offsets, device)? })
            }
            Self::Spline(spline) => Self::Spline(spline.to_device(device)?),
        })
    }

    /// The trainable parameters.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        match self {
            Self::Relu | Self::LeakyRelu => Vec::new(),
            Self::PRelu(prelu) => prelu.parameters(prefix),
            Self::Apl(apl) => apl.parameters(prefix),
            Self::Spline(spline) => spline.parameters(prefix),
        }
    }

    /// The splines, if that is what it is.
    pub fn spline(&self) -> Option<&Spline> {
        match self {
            Self::Spline(spline) => Some(spline),
            _ => None,
        }
    }
}

impl candle_nn::Module for Activation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_in(&mut CandleGraph, &x.contiguous()?)
    }
}
