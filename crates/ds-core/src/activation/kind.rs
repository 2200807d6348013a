//! Which activation a layer has, before its number of channels is known.

use super::{Activation, Apl, ClippedPRelu, Householder, Init, LipschitzSpline, PRelu, Spline};
use crate::{Error, Grid, Result};
use candle_core::{DType, Device};

/// Which activation a network has, before it knows its channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationKind {
    /// max(0, x).
    Relu,
    /// LeakyReLU(0.01).
    LeakyRelu,
    /// A learned negative slope per channel.
    PRelu,
    /// Learned hinges.
    Apl {
        /// S, per channel.
        hinges: usize,
    },
    /// [`Spline::bspline`].
    BSpline {
        /// The knots.
        grid: Grid,
        /// The initial shape.
        init: Init,
    },
    /// [`Spline::explicit_linear`].
    ExplicitLinear {
        /// The knots.
        grid: Grid,
        /// The initial shape.
        init: Init,
        /// Whether b0 is fixed; `None` leaves it to the network.
        fixed_bias: Option<bool>,
    },
    /// [`Spline::relu_spline`].
    ReluSpline {
        /// The knots.
        grid: Grid,
        /// The initial shape.
        init: Init,
        /// Whether b0 is fixed; `None` leaves it to the network.
        fixed_bias: Option<bool>,
    },
    /// [`LipschitzSpline`].
    Lipschitz {
        /// K, even or odd.
        size: usize,
        /// The knots lie on [−range, range].
        range: f64,
        /// The initial shape.
        init: Init,
        /// Whether a scaling is learned.
        scaling: bool,
    },
    /// |x|.
    Absolute,
    /// (max, min) of pairs of channels.
    MaxMin,
    /// Learned reflections of pairs of channels.
    Householder,
    /// PReLU with slopes in [−1, 1].
    ClippedPRelu,
}

impl ActivationKind {
    /// A layer of these activations; `fixed_bias` is what the network wants where the kind leaves it open.
    ///
    /// # Errors
    /// Those of the constructors.
    pub fn build(self, channels: usize, fixed_bias: bool) -> Result<Activation> {
        let (dtype, device) = (DType::F32, &Device::Cpu);
        Ok(match self {
            Self::Relu => Activation::Relu,
            Self::LeakyRelu => Activation::LeakyRelu,
            Self::PRelu => Activation::PRelu(PRelu::new(channels, dtype, device)?),
            Self::Apl { hinges } => Activation::Apl(Apl::new(channels, hinges, dtype, device)?),
            Self::BSpline { grid, init } => Activation::Spline(Spline::bspline(channels, grid, init, dtype, device)?),
            Self::ExplicitLinear { grid, init, fixed_bias: own } => Activation::Spline(Spline::explicit_linear(
                channels,
                grid,
                init,
                own.unwrap_or(fixed_bias),
                dtype,
                device,
            )?),
            Self::ReluSpline { grid, init, fixed_bias: own } => {
                Activation::Spline(Spline::relu_spline(channels, grid, init, own.unwrap_or(fixed_bias), dtype, device)?)
            }
            Self::Lipschitz { size, range, init, scaling } => {
                Activation::Lipschitz(LipschitzSpline::new(channels, size, range, init, scaling, dtype, device)?)
            }
            Self::Absolute => Activation::Absolute,
            Self::MaxMin if !channels.is_multiple_of(2) => {
                return Err(Error::OddChannels { kind: "max_min", channels });
            }
            Self::MaxMin => Activation::MaxMin,
            Self::Householder => Activation::Householder(Householder::new(channels, dtype, device)?),
            Self::ClippedPRelu => Activation::ClippedPRelu(ClippedPRelu::new(channels, dtype, device)?),
        })
    }

    /// Whether it is one of the three kinds of splines without a constraint.
    pub fn is_spline(self) -> bool {
        matches!(self, Self::BSpline { .. } | Self::ExplicitLinear { .. } | Self::ReluSpline { .. })
    }
}
