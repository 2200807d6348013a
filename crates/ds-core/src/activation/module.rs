//! Activations among the modules of candle-nn.
//!
//! They take (N, C, …) of any strides, and give the same shape and type. The input has the type of the parameters, f32 or f64; f16 and
//! bf16 go with parameters in f32. Where no kernel takes their type, the function is evaluated in f32, and its values are rounded. That is
//! so on the CPU, and on a GPU for f16, except for splines without a constraint.

use super::{Activation, LipschitzSpline, Spline};
use crate::graph::CandleGraph;
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::Module;

/// Applies `f` to the input, in a type that it takes; `takes_f16`: whether its kernels on a GPU take f16.
fn forward(
    x: &Tensor,
    parameters: Option<&Tensor>,
    takes_f16: bool,
    f: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let dtype = x.dtype();
    let is_half = matches!(dtype, DType::F16 | DType::BF16);
    let wide = if is_half { DType::F32 } else { dtype };
    let expected = parameters.map_or(wide, Tensor::dtype);
    if wide != expected || !matches!(wide, DType::F32 | DType::F64) {
        let taken = if expected == DType::F64 { "f64" } else { "f32, f16 or bf16" };
        bail!("activation: an input in {}, expected {taken}: convert it, or the layer with `to`", dtype.as_str());
    }
    // All kernels on a GPU take f32 and bf16.
    let is_taken = !x.device().is_cpu() && (takes_f16 || dtype != DType::F16);
    let x = if is_half && !is_taken { x.to_dtype(wide)? } else { x.clone() };
    f(&x.contiguous()?)?.to_dtype(dtype)
}

impl Module for Spline {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        forward(x, Some(self.knot_parameters()), true, |x| self.forward_in(&mut CandleGraph, x))
    }
}

impl Module for LipschitzSpline {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        forward(x, Some(self.coefficients()), false, |x| self.forward_in(&mut CandleGraph, x))
    }
}

impl Module for Activation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let parameters = match self {
            Self::Relu | Self::LeakyRelu | Self::Absolute | Self::MaxMin => None,
            Self::PRelu(prelu) => Some(&prelu.slopes),
            Self::Apl(apl) => Some(&apl.slopes),
            Self::Spline(spline) => Some(spline.knot_parameters()),
            Self::Lipschitz(spline) => Some(spline.coefficients()),
            Self::Householder(householder) => Some(&householder.angles),
            Self::ClippedPRelu(prelu) => Some(&prelu.slopes),
        };
        forward(x, parameters, self.spline().is_some(), |x| self.forward_in(&mut CandleGraph, x))
    }
}

/// An activation whose channels are the last dimension of its input: (…, C), as the sequences (N, T, C) of transformers.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap};
/// use ds_core::activation::{ActivationConfig, ChannelsLast, spline};
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
/// let activation = ChannelsLast(spline(64, ActivationConfig::default(), vb.pp("mlp.act"))?);
/// let y = activation.forward(&Tensor::zeros((2, 10, 64), DType::F32, &Device::Cpu)?)?;
/// assert_eq!(y.dims(), [2, 10, 64]);
/// # Ok::<(), ds_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChannelsLast<M>(pub M);

impl<M: Module> Module for ChannelsLast<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(&x.flatten_to(D::Minus2)?)?.reshape(x.shape())
    }
}
