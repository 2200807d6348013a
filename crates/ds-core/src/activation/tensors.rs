//! Activations with other tensors: copies in another precision or on another device, or parameters that come from elsewhere.

use super::{Activation, Apl, ClippedPRelu, Householder, Kind, LinearTerm, LipschitzSpline, PRelu, Spline};
use crate::parameter::{GRID_STEP, check_is_real, copied};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// What gives the tensor of a name, such as `coefficients` or `grid_step`, in place of the one that is there.
pub type NewTensor<'a> = dyn FnMut(&str, &Tensor) -> candle_core::Result<Tensor> + 'a;

impl Activation {
    /// The activation with what `new` gives in place of each of its tensors: a copy, or one that is found under the name.
    ///
    /// # Errors
    /// If a shape does not fit, a tensor is neither f32 nor f64, or those of `new`.
    pub fn map_tensors(&self, new: &mut NewTensor<'_>) -> Result<Self> {
        let new = &mut checked(new);
        Ok(match self {
            Self::Relu | Self::LeakyRelu | Self::Absolute | Self::MaxMin => self.clone(),
            Self::PRelu(prelu) => Self::PRelu(PRelu { slopes: new("slopes", &prelu.slopes)? }),
            Self::ClippedPRelu(prelu) => Self::ClippedPRelu(ClippedPRelu { slopes: new("slopes", &prelu.slopes)? }),
            Self::Householder(householder) => {
                Self::Householder(Householder { angles: new("angles", &householder.angles)? })
            }
            Self::Apl(apl) => {
                Self::Apl(Apl { slopes: new("slopes", &apl.slopes)?, offsets: new("offsets", &apl.offsets)? })
            }
            Self::Spline(spline) => Self::Spline(spline.with(new)?),
            Self::Lipschitz(spline) => Self::Lipschitz(spline.with(new)?),
        })
    }

    /// A copy with parameters of a type and on a device: f64 for what f32 would round away.
    ///
    /// # Errors
    /// If the type is neither f32 nor f64, or the device is out of memory.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        self.map_tensors(&mut |name, tensor| copied(name, tensor, dtype, device))
    }
}

/// The same, with an error for a tensor of another shape or of a type that parameters cannot have.
fn checked<'a>(new: &'a mut NewTensor<'_>) -> impl FnMut(&'static str, &Tensor) -> Result<Tensor> + 'a {
    |what, old| {
        let tensor = new(what, old)?;
        if tensor.shape() != old.shape() {
            return Err(Error::Shape { what, got: tensor.shape().clone(), expected: old.shape().clone() });
        }
        check_is_real(what, tensor.dtype())?;
        Ok(tensor)
    }
}

impl Spline {
    /// [`Activation::map_tensors`] of a spline: `coefficients` or `slopes`, `b1` and `b0`, and `grid_step`.
    ///
    /// # Errors
    /// If a shape does not fit, or those of `new`.
    pub fn map_tensors(&self, new: &mut NewTensor<'_>) -> Result<Self> {
        self.with(&mut checked(new))
    }

    fn with(&self, new: &mut impl FnMut(&'static str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let of_line =
            |linear: &LinearTerm, new: &mut dyn FnMut(&'static str, &Tensor) -> Result<Tensor>| -> Result<_> {
                let (weight, bias) = (new("b1", &linear.weight)?, new("b0", &linear.bias)?);
                Ok(LinearTerm { weight, bias, fixed_bias: linear.fixed_bias })
            };
        let kind = match self.kind() {
            Kind::BSpline { coefficients } => Kind::BSpline { coefficients: new("coefficients", coefficients)? },
            Kind::ExplicitLinear { coefficients, linear } => {
                Kind::ExplicitLinear { coefficients: new("coefficients", coefficients)?, linear: of_line(linear, new)? }
            }
            Kind::ReluSpline { slope_changes, linear } => {
                Kind::ReluSpline { slope_changes: new("slopes", slope_changes)?, linear: of_line(linear, new)? }
            }
        };
        Self::from_parameters(self.grid(), kind)?.with_step(&new(GRID_STEP, self.step())?)
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// If the type is neither f32 nor f64, or the device is out of memory.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        self.map_tensors(&mut |name, tensor| copied(name, tensor, dtype, device))
    }
}

impl LipschitzSpline {
    /// [`Activation::map_tensors`] of a spline: `coefficients`, and `log_scaling` if it is learned.
    ///
    /// # Errors
    /// If a shape does not fit, or those of `new`.
    pub fn map_tensors(&self, new: &mut NewTensor<'_>) -> Result<Self> {
        self.with(&mut checked(new))
    }

    fn with(&self, new: &mut impl FnMut(&'static str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let coefficients = new("coefficients", self.coefficients())?;
        let log_scaling = self.log_scaling().map(|tensor| new("log_scaling", tensor)).transpose()?;
        Ok(self.with_parameters(coefficients, log_scaling))
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// If the type is neither f32 nor f64, or the device is out of memory.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        self.map_tensors(&mut |name, tensor| copied(name, tensor, dtype, device))
    }
}
