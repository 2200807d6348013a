//! The bound of Aziznejad2020 with p = 1, for chains of dense layers and convolutions.
//!
//! A layer σ∘W changes ℓ1 distances by at most max|W_ij|·Σ_n BV²(σ_n) (Aziznejad2020, theorem 1 with p = 1), since BV²(σ)
//! bounds the slope of σ and the rows of W have the dual norm ℓ∞. A last linear layer adds its max|W_ij|. A convolution is such
//! a W too, with one σ for each channel *and pixel*: the sum goes over both (the original's code counts channels only, which
//! proves nothing). Pools whose windows do not overlap change no ℓ1 distance.

use crate::activation::Activation;
use crate::dispatch_real;
use crate::ops::real::with_elements;
use crate::regularization::{Norm, bv2};
use candle_core::{Result, Tensor, bail};

/// One factor of the bound.
#[derive(Debug, Clone, Copy)]
pub enum Factor<'a> {
    /// The weights of a dense layer or of a convolution.
    Dense(&'a Tensor),
    /// A layer of activations, one per unit.
    Activation {
        /// The functions.
        activation: &'a Activation,
        /// The number of units that they act on.
        units: usize,
    },
    /// A layer of activations, one per channel.
    Channels {
        /// The functions.
        activation: &'a Activation,
        /// The number of channels.
        channels: usize,
        /// The pixels of a channel.
        pixels: usize,
    },
}

/// The bound of a chain of linear layers and activations: from ℓ1 to ℓ1, or to ℓ∞ if a linear layer is the last.
///
/// # Errors
/// If parameters are not f32 or f64 on the CPU.
pub fn bound_l1<'a>(factors: impl IntoIterator<Item = Factor<'a>>) -> Result<f64> {
    let mut bound = 1.0;
    for factor in factors {
        bound *= match factor {
            Factor::Dense(weight) => largest_weight(weight)?,
            Factor::Activation { activation, units } => sum_of_bv2(activation, units)?,
            Factor::Channels { activation, channels, pixels } => pixels as f64 * sum_of_bv2(activation, channels)?,
        };
    }
    Ok(bound)
}

/// max|W_ij|, the norm of W from ℓ1 to ℓ∞.
///
/// # Errors
/// If W is not f32 or f64 on the CPU.
pub fn largest_weight(weight: &Tensor) -> Result<f64> {
    dispatch_real!(weight.dtype(), "largest-weight", T => {
        with_elements::<T, _>(weight, |w| Ok(w.iter().fold(0.0f64, |m, w| m.max(w.to_f64().abs()))))
    })
}

/// Σ_n BV²(σ_n) over the units of a layer. Fixed and parametric activations are linear splines too, and counted as such.
///
/// # Errors
/// If the activations are no functions of one channel each (MaxMin, Householder), or parameters are not f32 or f64 on the CPU.
pub fn sum_of_bv2(activation: &Activation, units: usize) -> Result<f64> {
    let each = |values: Vec<f64>| values.iter().sum::<f64>();
    Ok(match activation {
        // |slope change at 0| + |σ(0)| + |σ(1)|.
        Activation::Relu => 2.0 * units as f64,
        Activation::LeakyRelu => (2.0 - Activation::LEAKY_SLOPE) * units as f64,
        Activation::PRelu(prelu) => each(to_f64(&prelu.slopes)?.iter().map(|a| (1.0 - a).abs() + 1.0).collect()),
        Activation::Apl(apl) => {
            let hinges = apl.slopes.dims()[1];
            let (a, b) = (to_f64(&apl.slopes)?, to_f64(&apl.offsets)?);
            each(
                a.chunks_exact(hinges)
                    .zip(b.chunks_exact(hinges))
                    .map(|(a, b)| {
                        let at = |x: f64| x + a.iter().zip(b).map(|(a, b)| a * (b - x).max(0.0)).sum::<f64>();
                        1.0 + a.iter().map(|a| a.abs()).sum::<f64>() + at(0.0).abs() + at(1.0).abs()
                    })
                    .collect(),
            )
        }
        Activation::Spline(spline) => each(bv2(spline)?),
        Activation::Lipschitz(spline) => each(spline.norms(Norm::Bv2)?),
        Activation::Absolute => 3.0 * units as f64,
        Activation::ClippedPRelu(prelu) => {
            each(to_f64(&prelu.slopes)?.iter().map(|a| (1.0 - a.clamp(-1.0, 1.0)).abs() + 1.0).collect())
        }
        Activation::MaxMin | Activation::Householder(_) => bail!(
            "the bound of Aziznejad2020 is for functions of one channel: max_min and householder take pairs, use a \
             certified bound"
        ),
    })
}

fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    dispatch_real!(tensor.dtype(), "to-f64", T => {
        with_elements::<T, _>(tensor, |v| Ok(v.iter().map(|v| v.to_f64()).collect()))
    })
}
