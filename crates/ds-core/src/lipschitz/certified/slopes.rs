//! The slopes that the functions of a network can have on a region of inputs.
//!
//! Each pre-activation lies in the intersection of three intervals: that of interval bound propagation, from the intervals of
//! the layer before; that of linear functions below and above it ([`super::relaxation`]); and its value at the region's centre
//! ± radius × a bound of its gradient on the region. The first layer is linear, and its interval is exact.

use super::matrix::gamma;
use super::paths::Paths;
use super::region::{Bounded, Region, TINY, around, at_least_all, middle_and_half};
use super::relaxation::{Relaxed, extremes, values};
use crate::lipschitz::piecewise_linear::{Affine, Layer, Matrix, PiecewiseLinear};
use candle_core::{Result, bail};

type Interval = (f64, f64);

/// For each layer with functions and each of its neurons the smallest and the largest slope that it can have for inputs of the
/// region, as interval bounds and linear relaxation know it.
///
/// No slope that occurs is outside: roundings widen the intervals. Where a pre-activation can be at a knot, both slopes count.
///
/// Sources: interval bound propagation (Gowal et al. 2018, "On the effectiveness of interval bound propagation for training
/// verifiably robust models"), CROWN (Zhang et al. 2018) and DeepPoly (Singh et al. 2019).
///
/// # Errors
/// If the region has not as many elements as an input, is empty, or is neither bounded nor [`Region::All`]; if a parameter of
/// the network is not finite.
pub fn slopes(network: &PiecewiseLinear, region: &Region) -> Result<Vec<Vec<(f64, f64)>>> {
    Ok(with_paths(network, region)?.0)
}

/// Slopes, and on a bounded region the paths to the last layer with functions.
pub(super) fn with_paths(network: &PiecewiseLinear, region: &Region) -> Result<(Vec<Vec<Interval>>, Option<Paths>)> {
    if !network.is_finite() {
        bail!("slopes of a network: not all parameters are finite");
    }
    match region.bounded(network.inputs)? {
        Some(region) => Ok(on_bounded(network, &region)),
        None => Ok((everywhere(network), None)),
    }
}

/// All slopes of each function.
pub(super) fn everywhere(network: &PiecewiseLinear) -> Vec<Vec<Interval>> {
    let of_layer =
        |layer: &Layer| layer.functions.iter().map(|f| f.slopes_on(f64::NEG_INFINITY, f64::INFINITY)).collect();
    network.layers.iter().map(of_layer).collect()
}

/// What is known of the activations of a layer.
struct Known {
    /// On the region.
    values: Vec<Interval>,
    /// At its centre.
    at_centre: Vec<Interval>,
    /// Of the Jacobian of the pre-activations.
    paths: Paths,
    slopes: Vec<Interval>,
}

fn on_bounded(network: &PiecewiseLinear, region: &Bounded) -> (Vec<Vec<Interval>>, Option<Paths>) {
    let mut before: Option<Known> = None;
    let mut relaxed: Vec<Relaxed> = Vec::with_capacity(network.layers.len());
    let mut all: Vec<Vec<Interval>> = Vec::with_capacity(network.layers.len());
    let mut sizes = region.sizes();
    for Layer { affine, functions } in &network.layers {
        let (mut intervals, at_centre, paths) = match before {
            None => (exact(affine, region), exact(affine, &region.at_centre()), Paths::new(&affine.weight)),
            Some(Known { values, at_centre, mut paths, slopes }) => {
                paths.pass(&slopes, &affine.weight);
                all.push(slopes);
                let at_centre = image(affine, &at_centre);
                let near = around_centre(&at_centre, paths.row_norms(), region.radius());
                let propagated = image(affine, &values).into_iter();
                (propagated.zip(near).map(|(a, b)| intersection(a, b)).collect(), at_centre, paths)
            }
        };
        let slopes_on = |intervals: &[Interval]| -> Vec<Interval> {
            functions.iter().zip(intervals).map(|(f, &(low, high))| f.slopes_on(low, high)).collect()
        };
        let slopes = slopes_on(&intervals);
        tighten(&mut intervals, &slopes, affine, &relaxed, region);
        relaxed.push(Relaxed::new(affine, functions, &intervals, &sizes));
        let values_on = |intervals: &[Interval]| -> Vec<Interval> {
            functions.iter().zip(intervals).map(|(f, &interval)| values(f, interval)).collect()
        };
        let values = values_on(&intervals);
        sizes = values.iter().map(|(low, high)| low.abs().max(high.abs())).collect();
        before = Some(Known { values, at_centre: values_on(&at_centre), paths, slopes: slopes_on(&intervals) });
    }
    let paths = before.map(|Known { paths, slopes, .. }| {
        all.push(slopes);
        paths
    });
    (all, paths)
}

/// Of a linear map of the region.
fn exact(affine: &Affine, region: &Bounded) -> Vec<Interval> {
    affine.weight.rows().zip(&affine.bias).map(|(row, &bias)| region.values(row, bias)).collect()
}

/// What a function reaches within a radius, from its values at the centre and bounds of its gradient.
fn around_centre(at_centre: &[Interval], gradients: &[f64], radius: f64) -> Vec<Interval> {
    let widened = |(&(low, high), gradient): (&Interval, &f64)| {
        let reach = gradient * radius * (1.0 + gamma(1)) + TINY;
        at_least_all((low - reach - gamma(1) * low.abs(), high + reach + gamma(1) * high.abs()))
    };
    at_centre.iter().zip(gradients).map(widened).collect()
}

/// Both hold, so that their intersection is not empty.
fn intersection((a, b): Interval, (c, d): Interval) -> Interval {
    (a.max(c), b.min(d))
}

/// Bounds of W·x + b with x in these intervals.
fn image(affine: &Affine, inputs: &[Interval]) -> Vec<Interval> {
    let (middles, halves): (Vec<f64>, Vec<f64>) = inputs.iter().map(|&(low, high)| middle_and_half(low, high)).unzip();
    let of_row = |(row, &bias): (&[f64], &f64)| {
        let (mut value, mut size, mut reach) = (bias, bias.abs(), 0.0);
        for ((w, middle), half) in row.iter().zip(&middles).zip(&halves) {
            value += w * middle;
            size += (w * middle).abs();
            reach += w.abs() * half;
        }
        around(value, reach * (1.0 + gamma(row.len())), gamma(row.len()) * size)
    };
    affine.weight.rows().zip(&affine.bias).map(of_row).collect()
}

/// Linear relaxation, for the neurons whose slope is not known.
fn tighten(intervals: &mut [Interval], slopes: &[Interval], affine: &Affine, layers: &[Relaxed], region: &Bounded) {
    let open: Vec<usize> = (0..slopes.len()).filter(|&k| slopes[k].0 < slopes[k].1).collect();
    if open.is_empty() || layers.is_empty() {
        return;
    }
    let rows: Vec<f64> = open.iter().flat_map(|&k| affine.weight.row(k)).copied().collect();
    let rows = Matrix::new(open.len(), affine.weight.dims().1, rows);
    let offsets: Vec<f64> = open.iter().map(|&k| affine.bias[k]).collect();
    for (k, found) in open.into_iter().zip(extremes(layers, &rows, &offsets, region)) {
        intervals[k] = intersection(intervals[k], at_least_all(found));
    }
}
