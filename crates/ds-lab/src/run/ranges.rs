//! Ranges that follow the inputs: the knots of each spline layer are moved to where its inputs lie, and its functions stay as they are
//! but for the interpolation.

use super::optimizers::Optimizers;
use super::penalty::SplinePenalty;
use super::sparsify::input_histograms;
use crate::data::Samples;
use anyhow::Result;
use ds_core::Grid;
use ds_nn::Network;

/// The share of a layer's inputs that its range takes in.
const SHARE: f64 = 0.999;

/// Fits the range of each spline layer to the inputs that the samples give it, and interpolates coefficients and the moving averages
/// of their optimiser. A range grows to twice its length at most, which is as far as inputs are counted.
///
/// # Errors
/// If the samples do not fit the network, the device fails, or a signal was received.
pub fn fit(
    network: &Network,
    samples: &Samples,
    optimizers: &mut Optimizers,
    penalty: Option<&SplinePenalty>,
) -> Result<()> {
    let histograms = input_histograms(network, samples, false)?.counts;
    for (spline, histogram) in network.splines().into_iter().zip(&histograms) {
        let range = histogram.distance_of_share(SHARE);
        if range <= 0.0 {
            continue;
        }
        let (old, new) = (spline.grid(), Grid::from_range(spline.grid().size(), range)?);
        spline.resample(new)?;
        // A gradient is a sum over the inputs near a knot: there are as many more as knots are farther apart.
        let ratio = (new.step() / old.step()) as f32;
        let mut factor = ratio;
        optimizers.splines.map_state(spline.knot_parameters().id(), |state| {
            state.chunks_exact_mut(old.size()).for_each(|row| interpolate(row, old, new, factor));
            // The second moving average, if there is one, is of squares.
            factor *= ratio;
        })?;
    }
    optimizers.set_proximal(network, penalty)
}

/// The range of each spline layer, as it stands in summaries.
pub fn of_layers(network: &Network) -> String {
    let range = |grid: Grid| format!("{:.3}", grid.knot(grid.size() - 1));
    network.splines().into_iter().map(|spline| range(spline.grid())).collect::<Vec<_>>().join(" ")
}

/// The values of a row at other knots, times a factor; beyond the first and the last knot as there.
fn interpolate(row: &mut [f32], old: Grid, new: Grid, factor: f32) {
    let before = row.to_vec();
    for (value, x) in row.iter_mut().zip(new.knots()) {
        let (i, t) = old.locate(x);
        let t = t.clamp(0.0, 1.0) as f32;
        *value = factor * (before[i] + t * (before[i + 1] - before[i]));
    }
}
