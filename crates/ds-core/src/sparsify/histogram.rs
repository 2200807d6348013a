//! Where the inputs of each function of a layer lie.

use crate::activation::Activation;
use crate::backend::planes::Planes;
use crate::backend::pointwise::channel_sums;
use crate::backend::real::{in_double_precision, with_elements};
use crate::ops::linear_spline::LinearSpline;
use crate::{Error, Grid, Result, dispatch_real};
use candle_core::{DType, Tensor};
use std::ops::Range;

/// A histogram of the inputs of each function of a spline layer, with linear binning (Wand 1994): an input between two bins counts
/// for both, in proportion to its distance from the other one.
///
/// The bins lie on the knots and between them, twice as far out as the grid reaches; inputs beyond that count for the last bin.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Of the knots.
    grid: Grid,
    /// The knots that can have a slope change, of each function.
    inner: usize,
    /// Of the bins.
    bins: Grid,
    /// (C, bins).
    counts: Vec<f64>,
    channels: usize,
}

impl Histogram {
    /// The number of bins is about this, so that their sums fit into the shared memory of any GPU.
    const BINS: usize = 200;

    /// The empty histogram of a spline layer; `None` for activations that are no splines.
    ///
    /// # Errors
    /// If the layer's grid is too fine to be divided.
    pub fn of(activation: &Activation) -> Result<Option<Self>> {
        match activation {
            Activation::Spline(spline) => {
                Self::new(spline.grid(), spline.grid().size() - 2, spline.channels()).map(Some)
            }
            Activation::Lipschitz(spline) => Self::new(spline.grid(), spline.size() - 2, spline.channels()).map(Some),
            _ => Ok(None),
        }
    }

    fn new(grid: Grid, inner: usize, channels: usize) -> Result<Self> {
        let segments = 2 * (grid.size() - 1);
        let division = (Self::BINS / segments).max(1);
        let bins = Grid::from_step(segments * division + 1, grid.step() / division as f64)?;
        Ok(Self { grid, inner, bins, counts: vec![0.0; channels * bins.size()], channels })
    }

    /// The number of functions.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Counts inputs (N, C, …), each as one or with a weight of its own. Inputs are arguments of
    /// [`LinearSpline`], which a [`Graph`](crate::graph::Graph)'s forward hook sees.
    ///
    /// # Errors
    /// If x has other channels, the weights have not its shape, a type is not f32 or f64, or the device fails.
    pub fn add(&mut self, x: &Tensor, weights: Option<&Tensor>) -> Result<()> {
        if let Some(weights) = weights.filter(|weights| weights.shape() != x.shape()) {
            return Err(Error::Shape { what: "weights", got: weights.shape().clone(), expected: x.shape().clone() });
        }
        let x = x.detach();
        let sums = if x.device().is_cpu() {
            dispatch_real!(x.dtype(), "histogram", T => with_elements::<T, _>(&x, |values| {
                let planes = Planes::new(x.shape(), self.channels, "histogram")?;
                match weights {
                    None => Ok(self.sums(planes, |range| values[range].iter().map(|x| (x.to_f64(), 1.0)))),
                    Some(weights) => with_elements::<T, _>(weights, |weights| {
                        let pair = |(x, w): (&T, &T)| (x.to_f64(), w.to_f64());
                        Ok(self.sums(planes, |range| values[range.clone()].iter().zip(&weights[range]).map(pair)))
                    }),
                }
            }))?
        } else {
            self.sums_on_device(&x, weights)?
        };
        self.counts.iter_mut().zip(sums).for_each(|(count, sum)| *count += sum);
        Ok(())
    }

    fn sums<I: Iterator<Item = (f64, f64)>>(
        &self,
        planes: Planes,
        pairs: impl Fn(Range<usize>) -> I + Sync + Send,
    ) -> Vec<f64> {
        let (bins, last) = (self.bins.size(), (self.bins.size() - 1) as f64);
        let (inverse, middle) = (1.0 / self.bins.step(), (self.bins.size() / 2) as f64);
        channel_sums(planes, bins, |_, range, sums: &mut [f64]| {
            for (x, weight) in pairs(range) {
                // NaN counts for the first bin.
                let position = x.mul_add(inverse, middle).max(0.0).min(last);
                let bin = (position as usize).min(bins - 2);
                let t = weight * (position - bin as f64);
                sums[bin] += weight - t;
                sums[bin + 1] += t;
            }
        })
    }

    /// The gradient of a spline's coefficients is a sum of B-splines times the gradient of its values: that of a spline on the bins,
    /// with weights in the gradient's place, is the histogram.
    fn sums_on_device(&self, x: &Tensor, weights: Option<&Tensor>) -> Result<Vec<f64>> {
        let end = self.bins.knot(self.bins.size() - 1);
        let x = x.to_dtype(DType::F32)?.clamp(-end, end)?;
        let weights = weights.map_or_else(|| x.ones_like(), |weights| weights.to_dtype(DType::F32))?;
        let zeros = Tensor::zeros((self.channels, self.bins.size()), DType::F32, x.device())?;
        let (_, sums) = LinearSpline::new(self.bins).backward(&x, &zeros, &weights)?;
        Ok(in_double_precision(&sums)?)
    }

    /// The counts of a function, with the position of each bin.
    pub fn bins(&self, channel: usize) -> impl Iterator<Item = (f64, f64)> + '_ {
        let counts = self.counts.chunks_exact(self.bins.size()).nth(channel).unwrap_or_default();
        self.bins.knots().zip(counts.iter().copied())
    }

    /// The share of all inputs, in [0, 1], that lie outside the grid; 0 without inputs.
    pub fn share_outside(&self) -> f64 {
        let end = self.grid.knot(self.grid.size() - 1);
        let (mut outside, mut all) = (0.0, 0.0);
        for channel in 0..self.channels {
            for (x, count) in self.bins(channel) {
                all += count;
                if x.abs() > end * (1.0 + f64::EPSILON) {
                    outside += count;
                }
            }
        }
        if all > 0.0 { outside / all } else { 0.0 }
    }

    /// The distance from 0 within which a share of all inputs lies, to the next bin, at most twice the grid's end; 0 without inputs.
    pub fn distance_of_share(&self, share: f64) -> f64 {
        let middle = self.bins.size() / 2;
        let mut by_distance = vec![0.0; middle + 1];
        for counts in self.counts.chunks_exact(self.bins.size()) {
            for (bin, count) in counts.iter().enumerate() {
                by_distance[bin.abs_diff(middle)] += count;
            }
        }
        let all: f64 = by_distance.iter().sum();
        let mut within = 0.0;
        let reached = by_distance.iter().position(|count| {
            within += count;
            within >= share * all
        });
        reached.map_or(0.0, |bin| bin as f64 * self.bins.step())
    }

    /// How many of the inner knots have inputs next to them, so that data can move them: nearer than the neighbouring knots.
    pub fn reached_knots(&self) -> usize {
        let reached = |channel: usize, knot: f64| {
            let near = |&(x, count): &(f64, f64)| count > 0.0 && (x - knot).abs() < self.grid.step() * (1.0 - 1e-9);
            self.bins(channel).any(|bin| near(&bin))
        };
        let inner = || self.grid.knots().skip(1).take(self.inner);
        (0..self.channels).map(|channel| inner().filter(|&knot| reached(channel, knot)).count()).sum()
    }

    /// The bins of a function by the index of the knots: 0 is the first one.
    pub(super) fn by_index(&self, channel: usize) -> Vec<(f64, f64)> {
        let first = self.grid.knot(0);
        // From whole numbers: a bin on a knot is exactly on it.
        let division = (self.bins.size() - 1) / (2 * (self.grid.size() - 1));
        let middle = (self.bins.size() / 2) as f64;
        let offset = (-first / self.grid.step()).round();
        let position = |bin: usize| (bin as f64 - middle) / division as f64 + offset;
        self.bins(channel).enumerate().map(|(bin, (_, count))| (position(bin), count)).collect()
    }

    /// An error where the histogram is not that of a layer.
    pub(super) fn check(&self, grid: Grid, channels: usize) -> Result<()> {
        if (self.grid, self.channels) == (grid, channels) {
            return Ok(());
        }
        let (got, expected) = ((self.channels, self.grid.size()).into(), (channels, grid.size()).into());
        Err(Error::Shape { what: "histogram", got, expected })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::activation::{Init, Spline};
    use candle_core::Device;

    fn layer(channels: usize) -> Activation {
        let grid = Grid::from_range(9, 2.0).unwrap();
        Activation::Spline(Spline::bspline(channels, grid, Init::Relu, DType::F32, &Device::Cpu).unwrap())
    }

    #[test]
    fn counts_are_shared_by_the_bins_beside_an_input() {
        let mut histogram = Histogram::of(&layer(2)).unwrap().unwrap();
        let width = histogram.bins.step();
        // On a bin, between two, and far outside on both sides; the second channel has weights that are not 1.
        let x = Tensor::new(&[[0.0f64, 0.25 * width], [99.0, -99.0]], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[[1.0f64, 4.0], [1.0, 10.0]], &Device::Cpu).unwrap();
        histogram.add(&x, Some(&weights)).unwrap();
        let middle = histogram.bins.size() / 2;
        let of = |channel: usize| histogram.bins(channel).map(|(_, count)| count).collect::<Vec<f64>>();
        let expected = |at: &[(usize, f64)]| {
            let mut all = vec![0.0; histogram.bins.size()];
            at.iter().for_each(|&(bin, count)| all[bin] = count);
            all
        };
        assert_eq!(of(0), expected(&[(middle, 1.0), (2 * middle, 1.0)]));
        let close = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(of(1), expected(&[(0, 10.0), (middle, 3.0), (middle + 1, 1.0)])));
        assert!((histogram.share_outside() - 11.0 / 16.0).abs() < 1e-12);
        // Of 16, 4 lie in the middle and 1 beside it.
        for (share, bin) in [(0.2, 0), (0.3, 1), (0.32, middle), (1.0, middle)] {
            assert!((histogram.distance_of_share(share) - bin as f64 * width).abs() < 1e-12, "{share}");
        }
        // An input on a knot reaches that one; one between two knots reaches both.
        assert_eq!(histogram.reached_knots(), 1 + 2);
    }

    #[test]
    fn the_sums_of_a_device_are_those_of_the_cpu() {
        let mut histogram = Histogram::of(&layer(3)).unwrap().unwrap();
        let x = Tensor::randn(0f32, 1.5, (50, 3, 4), &Device::Cpu).unwrap();
        let weights = Tensor::rand(0f32, 1.0, (50, 3, 4), &Device::Cpu).unwrap();
        for weights in [None, Some(&weights)] {
            let sums = histogram.sums_on_device(&x, weights).unwrap();
            histogram.counts.fill(0.0);
            histogram.add(&x, weights).unwrap();
            let difference = sums.iter().zip(&histogram.counts).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(difference < 1e-4, "{difference}");
        }
    }
}
