//! The certified bound of a network, composed from its layers.

use super::slopes::everywhere;
use super::{Geometry, convolution_norm_of, dense_norm_of, multipliers};
use crate::activation::Activation;
use crate::backend::real::in_double_precision;
use crate::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal, geometry};
use crate::lipschitz::exact::{Limits, branch_and_bound};
use crate::lipschitz::piecewise_linear::PiecewiseLinear;
use candle_core::Result;

/// A bound of the Lipschitz constant in ℓ2 that holds: for no pair of inputs is ‖f(x) − f(y)‖₂ larger than that times ‖x − y‖₂.
///
/// It is the product of norms, or with at most 1600 neurons the smaller one by diagonal multipliers (LipSDP, Fazlyab et al. 2019)
/// if that is less: in milliseconds for tens of neurons, in some seconds for a thousand. With at most 96 neurons the first
/// subproblems of [`branch_and_bound`] follow.
///
/// # Errors
/// If layers do not fit each other, or a parameter is not f32 or f64.
pub fn bound(architecture: &Architecture) -> Result<f64> {
    let product = product_of_norms(architecture)?;
    // Nothing to gain, or nothing that could be computed with.
    if product == 0.0 || !product.is_finite() || neurons(&architecture.operators, architecture.input)? > MOST_NEURONS {
        return Ok(product);
    }
    let network = PiecewiseLinear::new(architecture)?;
    let bound = multipliers::bound(&network, &everywhere(&network)).min(product);
    if bound == 0.0 || !network.is_finite() || network.bends() > FEW_NEURONS {
        return Ok(bound);
    }
    let limits = Limits { subproblems: SUBPROBLEMS, ..Limits::default() };
    Ok(branch_and_bound(&network, limits, |_| Ok(true))?.upper.min(bound))
}

/// At most so many neurons that bend are worth the subproblems, of some milliseconds each.
const FEW_NEURONS: usize = 96;

/// Subproblems that every such network gets.
const SUBPROBLEMS: u64 = 32;

/// More neurons than this are not unrolled into matrices.
const MOST_NEURONS: usize = 1600;

/// The numbers that go into activations and pools.
fn neurons(operators: &[Operator], mut signal: Signal) -> Result<usize> {
    let mut count = 0;
    for operator in operators {
        match operator {
            Operator::Activation(_) | Operator::MaxPool(_) => count += signal.elements(),
            Operator::Sum(branches) => {
                for branch in branches {
                    count += neurons(branch, signal)?;
                }
            }
            // Unrolled, these are as large as what goes in and comes out.
            _ => count += usize::from(signal.elements() > MOST_NEURONS) * signal.elements(),
        }
        signal = operator.output(signal)?;
    }
    Ok(count)
}

/// The certified bound of the layers one by one, in little time for any network.
///
/// Each linear layer counts with its norm, each activation with its largest |slope|, channel by channel: the slopes of a layer
/// are multiplied into the columns of the linear layer that follows, which is never worse than the largest of them times its
/// norm. Branches of a sum add.
///
/// # Errors
/// If layers do not fit each other, or a parameter is not f32 or f64.
pub fn product_of_norms(architecture: &Architecture) -> Result<f64> {
    let mut change = Change::of_input(architecture.input);
    change.pass(&architecture.operators)?;
    Ok(change.total())
}

/// ‖S⁻¹·Δ‖₂ ≤ factor·‖Δ of the input‖₂, with S the scales of the channels on the diagonal.
#[derive(Debug, Clone)]
struct Change {
    factor: f64,
    scales: Vec<f64>,
    signal: Signal,
}

/// More than the roundings of the few products between layers, which are relative to positive numbers.
const ABOVE_ROUNDING: f64 = 1.0 + 1e-13;

impl Change {
    fn of_input(signal: Signal) -> Self {
        Self { factor: 1.0, scales: vec![1.0; signal.channels], signal }
    }

    fn total(&self) -> f64 {
        self.factor * self.scales.iter().fold(0.0, |largest, &s| if s <= largest { largest } else { s })
    }

    fn pass(&mut self, operators: &[Operator]) -> Result<()> {
        for operator in operators {
            let output = operator.output(self.signal)?;
            match operator {
                Operator::Dense(weight) => {
                    let pixels = self.signal.pixels();
                    let weight = self.scaled(in_double_precision(weight)?, pixels);
                    self.linear(dense_norm_of(output.channels, self.signal.elements(), &weight), output);
                }
                Operator::Convolution { weight, stride, padding } => {
                    let geometry = geometry(weight, *stride, *padding, self.signal)?;
                    let weight = self.scaled(in_double_precision(weight)?, geometry.kernel * geometry.kernel);
                    self.linear(convolution_norm_of(&weight, geometry), output);
                }
                Operator::ChannelScale(scale) => self.scale_channels(in_double_precision(scale)?),
                Operator::Bias(_) => {}
                Operator::Scale(scale) => self.factor *= scale.abs(),
                // These act on pairs of channels, whose scales they mix.
                Operator::Activation(Activation::MaxMin | Activation::Householder(_)) => {
                    for pair in self.scales.chunks_mut(2) {
                        let larger = pair.iter().copied().fold(0.0, f64::max);
                        pair.fill(larger);
                    }
                }
                Operator::Activation(activation) => {
                    self.scale_channels(activation.largest_slopes(self.signal.channels)?);
                }
                Operator::AveragePool(window) => self.factor *= average_norm(*window, self.signal.plane),
                // A pixel that is the largest of several windows changes all of them.
                Operator::MaxPool(window) => self.factor *= (window.overlap() as f64).sqrt(),
                Operator::Sum(branches) => {
                    let mut sum = 0.0;
                    for branch in branches {
                        let mut change = self.clone();
                        change.pass(branch)?;
                        sum += change.total();
                    }
                    (self.factor, self.scales) = (sum, vec![1.0; output.channels]);
                }
            }
            self.factor *= ABOVE_ROUNDING;
            self.signal = output;
        }
        Ok(())
    }

    fn linear(&mut self, norm: f64, output: Signal) {
        self.factor *= norm;
        self.scales = vec![1.0; output.channels];
    }

    fn scale_channels(&mut self, factors: Vec<f64>) {
        self.scales.iter_mut().zip(factors).for_each(|(scale, factor)| *scale *= factor.abs());
    }

    /// The rows of a weight with the scales of the inputs, `run` elements of a row for each channel, in their columns.
    fn scaled(&self, mut weight: Vec<f64>, run: usize) -> Vec<f64> {
        if self.scales.iter().any(|&scale| scale != 1.0) {
            let columns = self.scales.iter().cycle();
            weight
                .chunks_mut(run.max(1))
                .zip(columns)
                .for_each(|(run, scale)| run.iter_mut().for_each(|w| *w *= scale));
        }
        weight
    }
}

/// A mean over windows is a convolution of each channel with itself.
fn average_norm(window: PoolWindow, plane: (usize, usize)) -> f64 {
    let PoolWindow { kernel, stride, padding } = window;
    let area = kernel * kernel;
    let geometry = Geometry { outputs: 1, inputs: 1, kernel, stride, padding, plane };
    convolution_norm_of(&vec![1.0 / area as f64; area], geometry)
}
