//! Bounds of a trained network's Lipschitz constant, and the accuracy that they certify.

use crate::data::Samples;
use crate::interrupt;
use anyhow::Result;
use candle_core::{DType, Device};
use ds_core::graph::{Graph, InputGraph};
use ds_core::lipschitz::bv2::{self, Exponent};
use ds_core::lipschitz::certified;
use ds_core::lipschitz::empirical::{Search, lower_bound};
use ds_core::lipschitz::exact::{Domain, Exact, constant_unless};
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::ops::conv2d::Options;
use ds_nn::tape::Tape;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Bounds in ℓ2 of a network as a function of its inputs, and the seconds that each took: lower ≤ truth ≤ upper for all upper
/// bounds. One row of `bounds.csv`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct Bounds {
    pub lower_l2: f64,
    pub certified_l2: f64,
    /// Of Aziznejad2020 with p = 2; none with activations of pairs of channels.
    pub papers_l2: Option<f64>,
    /// The same with p = 1, to the largest change of an output.
    pub papers_l1: Option<f64>,
    pub lower_seconds: f64,
    pub certified_seconds: f64,
    pub papers_seconds: f64,
    /// The constant over all inputs, from above; of networks that [`exact`] has one of.
    #[serde(default)]
    pub exact_l2: Option<f64>,
    /// The linear pieces that it is the largest of.
    #[serde(default)]
    pub pieces: Option<u64>,
    #[serde(default)]
    pub exact_seconds: Option<f64>,
    /// The quotient of a pair of points in the steepest piece: what the exact constant is attained to.
    #[serde(default)]
    pub attained_l2: Option<f64>,
}

/// Points that the search for the lower bound starts from, by default.
pub const POINTS: usize = 64;

/// The same at the end of a run: few where each takes long.
pub fn points_after_training(network: &Network) -> usize {
    if is_small(network) { POINTS } else { 8 }
}

fn is_small(network: &Network) -> bool {
    network.parameter_count() < 10_000
}

impl Bounds {
    /// Of a network, searching from the first of the samples on.
    pub fn new(network: &Network, samples: &Samples, points: usize) -> Result<Self> {
        let started = Instant::now();
        let lower_l2 = lower(network, samples, points)?;
        let lower_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let certified_l2 = certified(network)?;
        let certified_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let papers_l1 = network.lipschitz_bound_l1()?;
        let papers_l2 = papers_l1.map(|_| bv2::bound(&network.architecture()?, Exponent::Two)).transpose()?;
        let papers_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let exact = exact(network)?;
        let exact_seconds = exact.is_some().then(|| started.elapsed().as_secs_f64());
        Ok(Self {
            lower_l2,
            certified_l2,
            papers_l2,
            papers_l1,
            lower_seconds,
            certified_seconds,
            papers_seconds,
            exact_l2: exact.as_ref().map(|exact| exact.upper),
            pieces: exact.as_ref().map(|exact| exact.pieces),
            exact_seconds,
            attained_l2: exact.map(|exact| exact.lower),
        })
    }
}

/// The certified bound in ℓ2 of the layers one by one, in little time.
pub fn product_of_norms(network: &Network) -> candle_core::Result<f64> {
    certified::product_of_norms(&network.architecture()?)
}

/// The certified bound in ℓ2.
pub fn certified(network: &Network) -> candle_core::Result<f64> {
    certified::bound(&network.architecture()?)
}

/// The Lipschitz constant in ℓ2 of a network of one or two inputs, over all of them. `None` with more inputs, where all linear pieces
/// would take more than some seconds, and where there is none, for numbers that are not finite.
pub fn exact(network: &Network) -> Result<Option<Exact>> {
    let architecture = network.architecture()?;
    if !(1..=2).contains(&architecture.input.elements()) {
        return Ok(None);
    }
    let network = PiecewiseLinear::new(&architecture)?;
    let most = most_pieces(&network);
    let exact = constant_unless(&network, Exponent::Two, &Domain::All, |pieces| {
        if pieces.is_multiple_of(1024) {
            interrupt::check().map_err(candle_core::Error::wrap)?;
        }
        if pieces > most { candle_core::bail!("more than {most} linear pieces") } else { Ok(()) }
    });
    // A run that has ended is not to fail for what its summary can leave empty.
    interrupt::check()?;
    Ok(exact.ok())
}

/// The linear pieces that are looked at: as many on every machine, so that all have the same rows.
fn most_pieces(network: &PiecewiseLinear) -> u64 {
    const NANOSECONDS: u64 = 5_000_000_000;
    let weights: usize = network.layers.iter().map(|layer| layer.affine.weight.data().len()).sum();
    let neurons: usize = network.layers.iter().map(|layer| layer.functions.len()).sum();
    NANOSECONDS / (500 + 4 * weights as u64 + 300 * neurons as u64)
}

/// The largest quotient that is found from the first of the samples on, in f64; for a small network that of its weights as they are.
fn lower(network: &Network, samples: &Samples, points: usize) -> Result<f64> {
    let indices: Vec<usize> = (0..samples.len().min(points)).collect();
    let points = samples.batch(&indices, None)?.inputs.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let of_weights = network.architecture()?;
    let network = network.to(DType::F64, &Device::Cpu)?;
    let outputs = |x: &candle_core::Tensor| {
        interrupt::check().map_err(candle_core::Error::wrap)?;
        network.forward_in(&mut InputGraph, x, Mode::Evaluation)
    };
    let found = lower_bound(outputs, &points, search(&network, indices.len()))?;
    if is_small(&network) {
        // Constrained weights and splines are other numbers in f64; the other bounds are of those in use.
        return Ok(quotient(&PiecewiseLinear::new(&of_weights)?, &found.x, &found.y));
    }
    Ok(found.quotient)
}

fn quotient(network: &PiecewiseLinear, x: &[f64], y: &[f64]) -> f64 {
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let between = distance(x, y);
    if between == 0.0 { 0.0 } else { distance(&network.value(x), &network.value(y)) / between }
}

/// How long the lower bound is searched from so many points.
pub(crate) fn search(network: &Network, points: usize) -> Search {
    // Where a step is cheap many are taken.
    let (climbers, steps) = if is_small(network) { (16, 200) } else { (8.min(points), 10) };
    Search { steps, climbers, ..Search::default() }
}

/// Percent of the samples whose class no change of the image by less than each of `radii` in ℓ2 can change, for pixels in
/// [0, 1], given a bound of the network's Lipschitz constant: those that are right with a margin above √2·bound·radius, since
/// the difference of two outputs is √2 times as steep as all of them can be (Tsuzuku et al. 2018).
///
/// # Errors
/// Samples that have no classes have no such accuracy: `None`.
pub fn certified_accuracy(
    network: &Network,
    samples: &Samples,
    bound: f64,
    radii: &[f64],
) -> candle_core::Result<Option<Vec<f64>>> {
    let Some(contrast) = samples.contrast()? else { return Ok(None) };
    let mut network = network.clone();
    // A margin is of what is computed in f32.
    network.set_convolution_options(Options { tf32: false, ..Options::default() });
    let samples = samples.to(DType::F32, &network.device())?;
    let steepest = std::f64::consts::SQRT_2 * bound * contrast;
    let indices: Vec<usize> = (0..samples.len()).collect();
    let mut certified = vec![0usize; radii.len()];
    for indices in indices.chunks(256) {
        let batch = samples.batch(indices, None)?;
        let Some(labels) = batch.labels()? else { return Ok(None) };
        let mut tape = Tape::inference();
        let x = tape.constant(&batch.inputs);
        let output = network.forward_in(&mut tape, &x, Mode::Evaluation)?;
        for (row, &label) in tape.tensor(&output).to_vec2::<f32>()?.iter().zip(&labels) {
            let margin = margin(row, usize::from(label));
            certified.iter_mut().zip(radii).for_each(|(count, radius)| {
                *count += usize::from(margin > steepest * radius);
            });
        }
    }
    let percent = |count: usize| 100.0 * count as f64 / samples.len().max(1) as f64;
    Ok(Some(certified.into_iter().map(percent).collect()))
}

/// The output of the right class above the largest other one; negative where the answer is wrong.
fn margin(row: &[f32], label: usize) -> f64 {
    let others = row.iter().enumerate().filter(|&(class, _)| class != label).map(|(_, &v)| f64::from(v));
    row.get(label).map_or(f64::NEG_INFINITY, |&right| f64::from(right) - others.fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_against_the_best_other_class() {
        assert_eq!(margin(&[1.0, 3.0, 2.0], 1), 1.0);
        assert_eq!(margin(&[1.0, 3.0, 2.0], 0), -2.0);
        assert_eq!(margin(&[1.0], 3), f64::NEG_INFINITY);
    }
}
