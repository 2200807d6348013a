//! Functions of few knots in integer multiples of a power of two, so that what lies between knots is exactly straight.

use crate::activation::{Kind, Spline};
use crate::backend::real::{Real, with_elements};
use crate::{Result, dispatch_real};

/// How many knots of each function have a slope change above `threshold` when it is computed in f64 from the stored parameters: without
/// rounding where those are f32, or of a pruned function.
///
/// [`active_knots`](crate::regularization::active_knots) counts in the precision of the parameters, as the original does,
/// and then takes rounding noise for knots where the threshold is below it; after pruning this count is the
/// number of kept knots for the same threshold and for all below it.
pub fn exact_active_knots(spline: &Spline, threshold: f64) -> Result<Vec<usize>> {
    let (grid, knots) = (spline.grid(), spline.knot_parameters());
    let of_relus = matches!(spline.kind(), Kind::ReluSpline { .. });
    let counts = dispatch_real!(knots.dtype(), "exact-active-knots", T => {
        with_elements::<T, _>(knots, |values| {
            let width = if of_relus { grid.size() - 2 } else { grid.size() };
            Ok(values.chunks_exact(width).map(|row| {
                let row: Vec<f64> = row.iter().map(|v| v.to_f64()).collect();
                if of_relus {
                    row.iter().filter(|a| a.abs() > threshold).count()
                } else {
                    row.windows(3).filter(|c| (second_difference(c) / grid.step()).abs() > threshold).count()
                }
            }).collect::<Vec<usize>>())
        })
    })?;
    Ok(counts)
}

pub(super) fn second_difference(c: &[f64]) -> f64 {
    (c[2] - c[1]) - (c[1] - c[0])
}

/// A function of few knots on the grid of a row, by index.
pub(super) struct Polyline<'a> {
    /// Its values at all of the row's indices.
    pub values: &'a [f64],
    /// Its rise from each index to the next.
    pub rises: &'a [f64],
    /// Where it bends, ascending; neither the first index nor the last.
    pub knots: &'a [usize],
}

/// The power of two that a function of this row can be written in; `None` if it is 0 everywhere.
pub(super) fn unit_of<T: Real>(values: &[f64]) -> Option<f64> {
    let largest = values.iter().fold(0.0f64, |m, c| m.max(c.abs()));
    (largest > 0.0).then(|| unit_for::<T>(largest, values.len()))
}

/// Writes the function in multiples of `unit`. `rise` gets the rise before a segment, the one that would lead back to the function,
/// both in units, and the index where the segment starts, and gives an integer.
pub(super) fn write<T: Real>(
    row: &mut [T],
    function: &Polyline<'_>,
    unit: f64,
    mut rise: impl FnMut(Option<f64>, f64, usize) -> f64,
) {
    let mut value = (function.values[0] / unit).round();
    row[0] = T::from_f64(value * unit);
    let mut previous: Option<f64> = None;
    let mut start = 0;
    for end in function.knots.iter().copied().chain([row.len() - 1]) {
        let length = (end - start) as f64;
        // The rounded slope leads back to the function, but never moves by more than half a unit for it.
        let drift = ((function.values[start] / unit - value) / length).clamp(-0.5, 0.5);
        let rise = rise(previous, function.rises[start] / unit + drift, start);
        for k in start..end {
            value += rise;
            row[k + 1] = T::from_f64(value * unit);
        }
        previous = Some(rise);
        start = end;
    }
}

/// The smallest power of two of which `largest` (and a little more, for the drift) is at most 2^p multiples, p being the
/// precision of T.
fn unit_for<T: Real>(largest: f64, size: usize) -> f64 {
    let precision = if T::DTYPE == candle_core::DType::F32 { 24 } else { 53 };
    let limit = 2f64.powi(precision) - size as f64;
    // Below this a power of two has fewer digits, and 2^−1075 is 0.
    let exponent = (largest.log2().floor() as i32 - precision).max(f64::MIN_EXP - 1);
    let mut unit = 2f64.powi(exponent);
    while largest / unit > limit {
        unit *= 2.0;
    }
    unit
}
