//! The certified bound of a network, composed from its layers.

use super::matrix::{Goal, exponent_above, largest_magnitude, largest_singular_value, product_above};
use super::multipliers::{self, with_few_outputs};
use super::slopes::everywhere;
use super::{Geometry, convolution_norm_of, dense_norm_of};
use crate::backend::real::in_double_precision;
use crate::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal, geometry};
use crate::lipschitz::exact::{Limits, branch_and_bound};
use crate::lipschitz::larger;
use crate::lipschitz::piecewise_linear::{PiecewiseLinear, Rounding};
use candle_core::Result;

/// A bound of the Lipschitz constant in ℓ2 that holds: for no pair of inputs is ‖f(x) − f(y)‖₂ larger than that times ‖x − y‖₂.
///
/// It is the product of norms, or with at most 1600 neurons the smaller one by diagonal multipliers (LipSDP, Fazlyab et al. 2019)
/// if that is less: in milliseconds for tens of neurons, in some seconds for a thousand. With at most 96 neurons the first
/// subproblems of [`branch_and_bound`] follow.
///
/// # Errors
/// If layers do not fit each other.
pub fn bound(architecture: &Architecture) -> Result<f64> {
    let product = product_of_norms(architecture)?;
    // Nothing to gain, or nothing that could be computed with.
    if product == 0.0 || !product.is_finite() || neurons(&architecture.operators, architecture.input)? > MOST_NEURONS {
        return Ok(product);
    }
    let Some((network, rounding)) = PiecewiseLinear::with_rounding(architecture)? else { return Ok(product) };
    let slopes = everywhere(&network);
    let of_rounding = of_rounding(&network, &rounding, &slopes);
    let network = with_few_outputs(network);
    let bound = (multipliers::bound(&network, &slopes) + of_rounding).min(product);
    if bound == 0.0 || !has_few_neurons(&network) {
        return Ok(bound);
    }
    // Which pieces there are depends on every rounding.
    let network =
        if rounding.is_exact { Some(network) } else { PiecewiseLinear::apart(architecture)?.map(with_few_outputs) };
    let Some(network) = network else { return Ok(bound) };
    Ok(by_subproblems(&network)?.map_or(bound, |found| found.min(bound)))
}

/// The bound by the first subproblems of branch and bound; `None` if the network has too many neurons for that, or none that bend.
pub(super) fn by_subproblems(network: &PiecewiseLinear) -> Result<Option<f64>> {
    if !has_few_neurons(network) {
        return Ok(None);
    }
    let limits = Limits { subproblems: SUBPROBLEMS, ..Limits::default() };
    Ok(Some(branch_and_bound(network, limits, |_| Ok(true))?.upper))
}

fn has_few_neurons(network: &PiecewiseLinear) -> bool {
    network.is_finite() && (1..=FEW_NEURONS).contains(&network.bends())
}

/// A bound of ‖J − J′‖₂ for Jacobians with the same slopes, J′ with the weights of the network and J with others that are no farther
/// from them than the errors. J is J′ with one weight after the other exchanged.
fn of_rounding(network: &PiecewiseLinear, Rounding { errors, .. }: &Rounding, slopes: &[Vec<(f64, f64)>]) -> f64 {
    if errors.iter().all(|error| *error == 0.0) {
        return 0.0;
    }
    let weights = network.layers.iter().map(|layer| &layer.affine.weight).chain([&network.output.weight]);
    let (mut all, mut share) = (1.0, 0.0);
    for (weight, error) in weights.zip(errors) {
        let (rows, columns) = weight.dims();
        let norm = largest_singular_value(rows, columns, weight.data(), Goal::within(0.1)).upper + error;
        all = product_above(all, norm);
        share += if *error == 0.0 { 0.0 } else { error / norm };
    }
    for slopes in slopes {
        all = product_above(all, slopes.iter().flat_map(|(low, high)| [low.abs(), high.abs()]).fold(0.0, larger));
    }
    product_above(all, share) * (1.0 + 1e-9)
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
/// If layers do not fit each other.
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
        product_above(self.factor, self.scales.iter().copied().fold(0.0, larger))
    }

    fn pass(&mut self, operators: &[Operator]) -> Result<()> {
        for operator in operators {
            let output = operator.output(self.signal)?;
            match operator {
                Operator::Dense(weight) => {
                    let pixels = self.signal.pixels();
                    let columns = self.signal.elements();
                    let norm = |weight: &[f64]| dense_norm_of(output.channels, columns, weight);
                    self.linear(self.scaled_norm(in_double_precision(weight)?, pixels, norm), output);
                }
                Operator::Convolution { weight, stride, padding } => {
                    let geometry = geometry(weight, *stride, *padding, self.signal)?;
                    let norm = |weight: &[f64]| convolution_norm_of(weight, geometry);
                    let area = geometry.kernel * geometry.kernel;
                    self.linear(self.scaled_norm(in_double_precision(weight)?, area, norm), output);
                }
                Operator::ChannelScale(scale) => self.scale_channels(in_double_precision(scale)?),
                Operator::Bias(_) => {}
                Operator::Scale(scale) => self.times(scale.abs()),
                Operator::Activation(activation) => {
                    self.scale_channels(activation.largest_slopes(self.signal.channels)?);
                    // These act on pairs of channels, whose scales they mix.
                    if activation.takes_pairs() {
                        for pair in self.scales.chunks_mut(2) {
                            let largest = pair.iter().copied().fold(0.0, larger);
                            pair.fill(largest);
                        }
                    }
                }
                Operator::AveragePool(window) => self.times(average_norm(*window, self.signal.plane)),
                // A pixel that is the largest of several windows changes all of them.
                Operator::MaxPool(window) => self.times((window.overlap() as f64).sqrt()),
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

    fn times(&mut self, factor: f64) {
        self.factor = product_above(self.factor, factor);
    }

    fn linear(&mut self, norm: f64, output: Signal) {
        self.times(norm);
        self.scales = vec![1.0; output.channels];
    }

    fn scale_channels(&mut self, factors: Vec<f64>) {
        self.scales.iter_mut().zip(factors).for_each(|(scale, factor)| *scale = product_above(*scale, factor.abs()));
    }

    /// The norm of a weight with the scales of the inputs, `run` elements of a row for each channel, in its columns.
    fn scaled_norm(&self, mut weight: Vec<f64>, run: usize, norm: impl Fn(&[f64]) -> f64) -> f64 {
        if self.scales.iter().all(|&scale| scale == 1.0) {
            return norm(&weight);
        }
        let power = |values: &[f64]| {
            let size = largest_magnitude(values);
            if size > 0.0 && size.is_finite() { 2f64.powi(exponent_above(size)) } else { 1.0 }
        };
        let (of_weight, of_scales) = (power(&weight), power(&self.scales));
        // What falls below the range of numbers, none of which has a larger norm.
        let mut lost = 0.0;
        for (run, scale) in weight.chunks_mut(run.max(1)).zip(self.scales.iter().cycle()) {
            for w in run {
                let product = *w / of_weight * (scale / of_scales);
                let vanished = product.abs() < f64::MIN_POSITIVE && *w != 0.0 && *scale != 0.0;
                lost += if vanished { f64::MIN_POSITIVE } else { 0.0 };
                *w = product;
            }
        }
        product_above(product_above(norm(&weight) + lost, of_weight), of_scales)
    }
}

/// A mean over windows is a convolution of each channel with itself.
fn average_norm(window: PoolWindow, plane: (usize, usize)) -> f64 {
    let PoolWindow { kernel, stride, padding } = window;
    let area = kernel * kernel;
    let geometry = Geometry { outputs: 1, inputs: 1, kernel, stride, padding, plane };
    convolution_norm_of(&vec![1.0 / area as f64; area], geometry)
}
