//! Copies of activations in another precision or on another device.

use super::{Activation, Apl, ClippedPRelu, Householder, Kind, LinearTerm, PRelu, Spline};
use crate::Result;
use crate::parameter::copied;
use candle_core::{DType, Device, Var};

impl Activation {
    /// A copy with parameters of a type and on a device: f64 for what f32 would round away.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        let copy = |var: &Var| copied(var, dtype, device);
        Ok(match self {
            Self::Relu => Self::Relu,
            Self::LeakyRelu => Self::LeakyRelu,
            Self::Absolute => Self::Absolute,
            Self::MaxMin => Self::MaxMin,
            Self::PRelu(prelu) => Self::PRelu(PRelu { slopes: copy(&prelu.slopes)? }),
            Self::ClippedPRelu(prelu) => Self::ClippedPRelu(ClippedPRelu { slopes: copy(&prelu.slopes)? }),
            Self::Householder(householder) => Self::Householder(Householder { angles: copy(&householder.angles)? }),
            Self::Apl(apl) => Self::Apl(Apl { slopes: copy(&apl.slopes)?, offsets: copy(&apl.offsets)? }),
            Self::Spline(spline) => Self::Spline(spline.to(dtype, device)?),
            Self::Lipschitz(spline) => Self::Lipschitz(spline.to(dtype, device)?),
        })
    }
}

impl Spline {
    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        let copy = |var: &Var| copied(var, dtype, device);
        let line = |linear: &LinearTerm| -> candle_core::Result<_> {
            Ok(LinearTerm { weight: copy(&linear.weight)?, bias: copy(&linear.bias)?, fixed_bias: linear.fixed_bias })
        };
        let kind = match self.kind() {
            Kind::BSpline { coefficients } => Kind::BSpline { coefficients: copy(coefficients)? },
            Kind::ExplicitLinear { coefficients, linear } => {
                Kind::ExplicitLinear { coefficients: copy(coefficients)?, linear: line(linear)? }
            }
            Kind::ReluSpline { slopes, linear } => Kind::ReluSpline { slopes: copy(slopes)?, linear: line(linear)? },
        };
        Self::from_parameters(self.grid(), kind)
    }
}
