//! The bound of Aziznejad2020 (theorem 1), for p = 1, 2 and ∞.
//!
//! A layer σ∘W changes ℓp distances by at most max_i ‖w_i‖_q · (Σ_n BV²(σ_n)^p)^(1/p), with 1/p + 1/q = 1 and w_i the rows of W:
//! |w_i·Δ| ≤ ‖w_i‖_q·‖Δ‖_p, and BV²(σ) bounds the slope of σ. A convolution is such a W too, with one σ for each channel *and
//! pixel*: the sum goes over both (the original's code counts channels only, which proves nothing).
//!
//! What the theorem does not speak of is bounded in the same way. After a linear layer only the largest change of an element is
//! known, and it goes through pools, batch norm and sums of branches as it is; where there is no linear layer before an
//! activation, the largest of its BV² counts.

use super::architecture::{Architecture, Operator, Signal};
use super::larger;
use crate::activation::Activation;
use crate::backend::real::in_double_precision;
use crate::regularization::{Norm, bv2};
use candle_core::{Result, bail};

/// The p of the ℓp norms that distances are measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exponent {
    /// ℓ1.
    One,
    /// ℓ2.
    Two,
    /// ℓ∞.
    Infinity,
}

impl Exponent {
    fn dual(self) -> Self {
        match self {
            Self::One => Self::Infinity,
            Self::Two => Self::Two,
            Self::Infinity => Self::One,
        }
    }

    fn norm(self, values: impl IntoIterator<Item = f64>) -> f64 {
        let values = values.into_iter().map(f64::abs);
        match self {
            Self::One => values.sum(),
            Self::Two => values.map(|v| v * v).sum::<f64>().sqrt(),
            Self::Infinity => values.fold(0.0, larger),
        }
    }

    /// The norm of n ones.
    fn of_ones(self, n: usize) -> f64 {
        match self {
            Self::One => n as f64,
            Self::Two => (n as f64).sqrt(),
            Self::Infinity => 1.0,
        }
    }
}

/// The bound of a network, from the ℓp norm of its inputs to that of its outputs.
///
/// # Errors
/// If layers do not fit each other, or an activation is no function of one channel.
pub fn bound(architecture: &Architecture, p: Exponent) -> Result<f64> {
    let (known, outputs) = passed(architecture, p)?;
    Ok(match known {
        Known::Norm(factor) => factor,
        Known::Largest(factor) => factor * p.of_ones(outputs.elements()),
    })
}

/// The bound from the ℓp norm of the inputs to the largest change of an output, if a linear layer is the last, and to the ℓp
/// norm of the outputs elsewhere: for p = 1 the number that the original's code gives for fully connected networks.
///
/// # Errors
/// As for [`bound`].
pub fn bound_to_largest(architecture: &Architecture, p: Exponent) -> Result<f64> {
    Ok(match passed(architecture, p)?.0 {
        Known::Norm(factor) | Known::Largest(factor) => factor,
    })
}

/// What is known of the change of a signal, over the ℓp norm of the change of the input.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// Of its ℓp norm.
    Norm(f64),
    /// Of its largest element.
    Largest(f64),
}

impl Known {
    fn times(self, factor: f64) -> Self {
        match self {
            Self::Norm(known) => Self::Norm(known * factor),
            Self::Largest(known) => Self::Largest(known * factor),
        }
    }

    /// Every norm is at least the largest element.
    fn largest(self) -> f64 {
        match self {
            Self::Norm(known) | Self::Largest(known) => known,
        }
    }
}

fn passed(architecture: &Architecture, p: Exponent) -> Result<(Known, Signal)> {
    through(&architecture.operators, Known::Norm(1.0), architecture.input, p)
}

fn through(operators: &[Operator], mut known: Known, mut signal: Signal, p: Exponent) -> Result<(Known, Signal)> {
    for operator in operators {
        let next = operator.output(signal)?;
        known = match operator {
            Operator::Dense(weight) | Operator::Convolution { weight, .. } => {
                let rows = in_double_precision(weight)?;
                let rows = || rows.chunks_exact((rows.len() / next.channels).max(1));
                let largest = |q: Exponent| Exponent::Infinity.norm(rows().map(|row| q.norm(row.iter().copied())));
                Known::Largest(match known {
                    Known::Norm(known) => known * largest(p.dual()),
                    Known::Largest(known) => known * largest(Exponent::One),
                })
            }
            Operator::Activation(activation) => {
                let each = bv2_of(activation, signal.channels)?;
                match known {
                    Known::Norm(known) => Known::Norm(known * Exponent::Infinity.norm(each)),
                    Known::Largest(known) => Known::Norm(known * p.norm(each) * p.of_ones(signal.pixels())),
                }
            }
            Operator::ChannelScale(scale) => known.times(Exponent::Infinity.norm(in_double_precision(scale)?)),
            Operator::Bias(_) => known,
            Operator::Scale(scale) => known.times(scale.abs()),
            // A mean is no larger than its largest element; a pixel is a part of as many means as windows cover it.
            Operator::AveragePool(window) => match known {
                Known::Largest(known) => Known::Largest(known),
                Known::Norm(known) => {
                    let share = p.of_ones(window.overlap()) / p.of_ones(window.kernel * window.kernel);
                    Known::Norm(known * if p == Exponent::Infinity { 1.0 } else { share })
                }
            },
            Operator::MaxPool(window) => match known {
                Known::Largest(known) => Known::Largest(known),
                Known::Norm(known) => Known::Norm(known * p.of_ones(window.overlap())),
            },
            Operator::Sum(branches) => {
                let branches: Vec<Known> =
                    branches.iter().map(|branch| Ok(through(branch, known, signal, p)?.0)).collect::<Result<_>>()?;
                let sum = branches.iter().map(|branch| branch.largest()).sum();
                let all_norms = branches.iter().all(|branch| matches!(branch, Known::Norm(_)));
                if all_norms { Known::Norm(sum) } else { Known::Largest(sum) }
            }
        };
        signal = next;
    }
    Ok((known, signal))
}

/// BV²(σ_n) of each channel. Fixed and parametric activations are linear splines too, and counted as such.
///
/// # Errors
/// If the activations are no functions of one channel each (MaxMin, Householder), or are of another number of channels.
pub fn bv2_of(activation: &Activation, channels: usize) -> Result<Vec<f64>> {
    let each: Vec<f64> = match activation {
        // |slope change at 0| + |σ(0)| + |σ(1)|.
        Activation::Relu => vec![2.0; channels],
        Activation::LeakyRelu => vec![2.0 - Activation::LEAKY_SLOPE; channels],
        Activation::Absolute => vec![3.0; channels],
        Activation::PRelu(prelu) => in_double_precision(&prelu.slopes)?.iter().map(|a| (1.0 - a).abs() + 1.0).collect(),
        Activation::ClippedPRelu(prelu) => {
            let slopes = in_double_precision(&prelu.slopes)?;
            slopes.iter().map(|a| (1.0 - a.clamp(-1.0, 1.0)).abs() + 1.0).collect()
        }
        Activation::Apl(apl) => {
            let hinges = apl.slopes.dims()[1];
            let (a, b) = (in_double_precision(&apl.slopes)?, in_double_precision(&apl.offsets)?);
            a.chunks_exact(hinges)
                .zip(b.chunks_exact(hinges))
                .map(|(a, b)| {
                    let at = |x: f64| x + a.iter().zip(b).map(|(a, b)| a * larger(0.0, b - x)).sum::<f64>();
                    1.0 + a.iter().map(|a| a.abs()).sum::<f64>() + at(0.0).abs() + at(1.0).abs()
                })
                .collect()
        }
        Activation::Spline(spline) => bv2(spline)?,
        Activation::Lipschitz(spline) => spline.norms(Norm::Bv2)?,
        Activation::MaxMin | Activation::Householder(_) => bail!(
            "the bound of Aziznejad2020 is for functions of one channel: max_min and householder take pairs, use a \
             certified bound"
        ),
    };
    if each.len() != channels {
        bail!("BV²: the activation has {} channels, not {channels}", each.len());
    }
    Ok(each)
}
