//! The largest slopes of activations, which bounds of a network's Lipschitz constant are composed from.

use super::lipschitz_spline::Evaluated;
use super::{Activation, Apl, Spline};
use crate::backend::real::in_double_precision;
use crate::lipschitz::larger;
use candle_core::{Result, bail};

impl Activation {
    /// The largest |slope| of each of `channels` functions, computed in f64 from the stored parameters, and never below the truth;
    /// for activations of pairs of channels the ℓ2 norm of their Jacobian, 1.
    ///
    /// These are slopes of the function as real numbers have it. The kernels of f32 round the distance of the knots, and with it a
    /// slope by up to 6e-8 of itself, as they round the values.
    ///
    /// # Errors
    /// If the layer has another number of channels.
    pub fn largest_slopes(&self, channels: usize) -> Result<Vec<f64>> {
        let slopes = match self {
            Self::Relu | Self::LeakyRelu | Self::Absolute | Self::MaxMin => vec![1.0; channels],
            Self::Householder(householder) => {
                let of_pair = |angle: f64| [if angle.is_finite() { 1.0 } else { f64::NAN }; 2];
                in_double_precision(&householder.angles)?.into_iter().flat_map(of_pair).collect()
            }
            Self::PRelu(prelu) => {
                in_double_precision(&prelu.slopes)?.into_iter().map(|a| larger(1.0, a.abs())).collect()
            }
            Self::ClippedPRelu(prelu) => {
                in_double_precision(&prelu.slopes)?.into_iter().map(|a| larger(1.0, a.clamp(-1.0, 1.0).abs())).collect()
            }
            Self::Apl(apl) => of_apl(apl)?,
            Self::Spline(spline) => of_spline(spline)?,
            Self::Lipschitz(spline) => {
                let largest = |row: Evaluated| largest_modulus(row.slopes) * ABOVE_ROUNDING;
                spline.evaluated()?.into_iter().map(largest).collect()
            }
        };
        if slopes.len() != channels {
            bail!("largest slopes: the activation has {} channels, not {channels}", slopes.len());
        }
        Ok(slopes)
    }
}

/// More than what the few roundings of a difference quotient in f64 can take away.
const ABOVE_ROUNDING: f64 = 1.0 + 8.0 * f64::EPSILON;

fn largest_modulus(slopes: impl IntoIterator<Item = f64>) -> f64 {
    slopes.into_iter().map(f64::abs).fold(0.0, larger)
}

fn of_spline(spline: &Spline) -> Result<Vec<f64>> {
    let (size, step) = (spline.grid().size(), spline.grid().step());
    let coefficients = in_double_precision(&spline.coefficients()?)?;
    let largest = |c: &[f64]| largest_modulus(c.windows(2).map(|c| (c[1] - c[0]) / step)) * ABOVE_ROUNDING;
    Ok(coefficients.chunks_exact(size).map(largest).collect())
}

/// The slopes between neighbouring kinks of max(0, x) + Σ a_s·max(0, b_s − x), and outside of all.
fn of_apl(apl: &Apl) -> Result<Vec<f64>> {
    let hinges = apl.slopes.dims()[1];
    let (a, b) = (in_double_precision(&apl.slopes)?, in_double_precision(&apl.offsets)?);
    let largest = |(a, b): (&[f64], &[f64])| {
        // Comparisons pass over a kink that is nowhere.
        if b.iter().any(|b| !b.is_finite()) {
            return f64::NAN;
        }
        // Right of a kink, and left of all.
        let slope = |kink: f64| {
            let right = if kink >= 0.0 { 1.0 } else { 0.0 };
            right - a.iter().zip(b).filter(|(_, b)| **b > kink).map(|(a, _)| a).sum::<f64>()
        };
        let kinks = b.iter().copied().chain([f64::NEG_INFINITY, 0.0]);
        let size = 1.0 + a.iter().map(|a| a.abs()).sum::<f64>();
        // The sum of the hinges is rounded by less than this.
        largest_modulus(kinks.map(slope)) + size * (hinges + 2) as f64 * f64::EPSILON
    };
    Ok(a.chunks_exact(hinges).zip(b.chunks_exact(hinges)).map(largest).collect())
}
