//! All that an activation layer is made from but its number of channels.

use super::{Activation, ActivationKind, Apl, ClippedPRelu, Householder, Init, LipschitzSpline, PRelu, Spline};
use crate::{Error, Grid, Result};
use candle_core::{DType, Device};

/// All that an activation layer is made from but its number of channels. A kind takes the fields that it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationConfig {
    /// The kind.
    pub kind: ActivationKind,
    /// K, the knots of a spline: odd, or for [`ActivationKind::LipschitzSpline`] also even.
    pub size: usize,
    /// The knots lie on [−range, range].
    pub range: f64,
    /// The distance of the knots, instead of a range.
    pub step: Option<f64>,
    /// The initial shape of splines.
    pub init: Init,
    /// Whether b0 of [`ActivationKind::ExplicitLinear`] and [`ActivationKind::ReluSpline`] is fixed; `None` leaves it to the network.
    pub fixed_bias: Option<bool>,
    /// Whether [`ActivationKind::LipschitzSpline`] learns a scaling.
    pub scaling: bool,
    /// S, the hinges of [`ActivationKind::Apl`] per channel.
    pub hinges: usize,
}

/// B-spline coefficients at 51 knots on [−4, 4], which start as LeakyReLU.
impl Default for ActivationConfig {
    fn default() -> Self {
        Self {
            kind: ActivationKind::BSpline,
            size: 51,
            range: 4.0,
            step: None,
            init: Init::LeakyRelu,
            fixed_bias: None,
            scaling: true,
            hinges: 1,
        }
    }
}

impl From<ActivationKind> for ActivationConfig {
    fn from(kind: ActivationKind) -> Self {
        Self { kind, ..Self::default() }
    }
}

impl ActivationConfig {
    /// Splines of a kind on `size` knots on [−range, range], with an initial shape.
    pub fn spline(kind: ActivationKind, size: usize, range: f64, init: Init) -> Self {
        Self { kind, size, range, init, ..Self::default() }
    }

    /// The knots of splines without a constraint.
    ///
    /// # Errors
    /// If size, range or step are not allowed.
    pub fn grid(&self) -> Result<Grid> {
        match self.step {
            Some(step) => Grid::from_step(self.size, step),
            None => Grid::from_range(self.size, self.range),
        }
    }

    /// The end of the knots, given by a range or by a step.
    pub fn knot_range(&self) -> f64 {
        self.step.map_or(self.range, |step| 0.5 * self.size.saturating_sub(1) as f64 * step)
    }

    /// A layer in f32 on the CPU; `fixed_bias` is what the network wants where the config leaves it open.
    ///
    /// # Errors
    /// Those of the constructors.
    pub fn build(&self, channels: usize, fixed_bias: bool) -> Result<Activation> {
        let (dtype, device, init) = (DType::F32, &Device::Cpu, self.init);
        let fixed_bias = self.fixed_bias.unwrap_or(fixed_bias);
        Ok(match self.kind {
            ActivationKind::Relu => Activation::Relu,
            ActivationKind::LeakyRelu => Activation::LeakyRelu,
            ActivationKind::PRelu => Activation::PRelu(PRelu::new(channels, dtype, device)?),
            ActivationKind::Apl => Activation::Apl(Apl::new(channels, self.hinges, dtype, device)?),
            ActivationKind::BSpline => {
                Activation::Spline(Spline::bspline(channels, self.grid()?, init, dtype, device)?)
            }
            ActivationKind::ExplicitLinear => {
                Activation::Spline(Spline::explicit_linear(channels, self.grid()?, init, fixed_bias, dtype, device)?)
            }
            ActivationKind::ReluSpline => {
                Activation::Spline(Spline::relu_spline(channels, self.grid()?, init, fixed_bias, dtype, device)?)
            }
            ActivationKind::LipschitzSpline => {
                let (size, range, scaling) = (self.size, self.knot_range(), self.scaling);
                Activation::Lipschitz(LipschitzSpline::new(channels, size, range, init, scaling, dtype, device)?)
            }
            ActivationKind::Absolute => Activation::Absolute,
            ActivationKind::MaxMin if !channels.is_multiple_of(2) => {
                return Err(Error::OddChannels { kind: self.kind.name(), channels });
            }
            ActivationKind::MaxMin => Activation::MaxMin,
            ActivationKind::Householder => Activation::Householder(Householder::new(channels, dtype, device)?),
            ActivationKind::ClippedPRelu => Activation::ClippedPRelu(ClippedPRelu::new(channels, dtype, device)?),
        })
    }
}
