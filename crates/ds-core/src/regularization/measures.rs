//! Slope changes of splines, and the norms TV² and BV² that are made of them.

use crate::activation::{Kind, Spline};
use crate::backend::pointwise::tensor_of;
use crate::backend::real::{Real, to_f64, with_elements};
use crate::dispatch_real;
use crate::ops::slope_projection::epsilon;
use candle_core::{Result, Tensor};

/// The slope changes a of one function from its coefficients, in the precision of the coefficients.
///
/// The order of the roundings is that of the original's convolution with [1, −2, 1]/T, so that f32 signs and counts are the
/// same down to the noise of straight lines.
pub(crate) fn slope_changes_of<T: Real>(coefficients: &[T], step: f64) -> impl Iterator<Item = T> + '_ {
    let outer = T::ONE / T::from_f64(step);
    let inner = -(outer + outer);
    coefficients.windows(3).map(move |c| c[2].mul_add(outer, c[1].mul_add(inner, c[0] * outer)))
}

/// The slope changes a (C, K−2) at the inner knots. The linear term of a spline has none.
///
/// They are outside of any graph: for a penalty in a loss see [`Norm::add_gradient`](super::Norm::add_gradient). Where knots were removed,
/// they are 0 but for rounding here; [`exact_active_knots`](crate::sparsify::exact_active_knots) counts without that rounding.
pub fn slope_changes(spline: &Spline) -> Result<Tensor> {
    let knots = spline.knot_parameters();
    if let Kind::ReluSpline { .. } = spline.kind() {
        return Ok(knots.detach());
    }
    let grid = spline.grid();
    dispatch_real!(knots.dtype(), "slope-changes", T => {
        let a = with_elements::<T, _>(knots, |c| {
            Ok(c.chunks_exact(grid.size()).flat_map(|c| slope_changes_of(c, grid.step())).collect::<Vec<T>>())
        })?;
        Ok(tensor_of(a, (spline.channels(), grid.size() - 2)))
    })
}

/// TV² of each function of the layer.
pub fn tv2(spline: &Spline) -> Result<Vec<f64>> {
    per_channel(spline, |a| a.iter().map(|a| a.abs()).sum())
}

/// How many knots of each function have |a| > `threshold`. With a threshold of 0 the rounding in [`slope_changes`] counts;
/// [`significant_knots`] and [`exact_active_knots`](crate::sparsify::exact_active_knots) leave it out.
pub fn active_knots(spline: &Spline, threshold: f64) -> Result<Vec<usize>> {
    per_channel(spline, |a| a.iter().filter(|a| a.abs() > threshold).count())
}

/// How many knots of each function have a slope change that is more than the rounding of the stored parameters can make: those of a
/// function that is straight but for rounding are none.
pub fn significant_knots(spline: &Spline) -> Result<Vec<usize>> {
    Ok(significant_knot_indices(spline)?.iter().map(Vec::len).collect())
}

/// The indices of these knots.
#[doc(hidden)]
pub fn significant_knot_indices(spline: &Spline) -> Result<Vec<Vec<usize>>> {
    let (knots, size) = (spline.knot_parameters(), spline.grid().size());
    let of_relus = |a: &[f64]| (0..a.len()).filter(|&k| a[k].abs() > 0.0).map(|k| k + 1).collect();
    dispatch_real!(knots.dtype(), "significant-knots", T => {
        with_elements::<T, _>(knots, |all| {
            Ok(match spline.kind() {
                Kind::ReluSpline { .. } => all.chunks_exact(size - 2).map(|a| of_relus(&to_f64(a))).collect(),
                _ => all.chunks_exact(size).map(|c| significant_indices(&to_f64(c), epsilon(T::DTYPE))).collect(),
            })
        })
    })
}

/// The indices of the inner knots of a row of coefficients whose second difference is above the rounding of the three coefficients.
#[doc(hidden)]
pub fn significant_indices(c: &[f64], epsilon: f64) -> Vec<usize> {
    (1..c.len() - 1).filter(|&k| significant_sign([c[k - 1], c[k], c[k + 1]], epsilon) != 0.0).collect()
}

/// The sign of the second difference of three coefficients; 0 where it is not above their rounding.
#[inline(always)]
pub(crate) fn significant_sign(c: [f64; 3], epsilon: f64) -> f64 {
    let difference = (c[2] - c[1]) - (c[1] - c[0]);
    let rounding = 0.5 * epsilon * (c[0].abs() + 2.0 * c[1].abs() + c[2].abs());
    if difference.abs() > rounding { difference.signum() } else { 0.0 }
}

fn per_channel<R>(spline: &Spline, f: impl Fn(&[f64]) -> R) -> Result<Vec<R>> {
    let a = slope_changes(spline)?;
    dispatch_real!(a.dtype(), "slope-changes", T => {
        with_elements::<T, _>(&a, |a| {
            Ok(a.chunks_exact(spline.grid().size() - 2)
                .map(|a| f(&a.iter().map(|a| a.to_f64()).collect::<Vec<f64>>()))
                .collect())
        })
    })
}

/// (σ(0), σ(1)) of each function of the layer.
pub fn values_at_0_and_1(spline: &Spline) -> Result<Vec<(f64, f64)>> {
    let grid = spline.grid();
    let coefficients = spline.coefficients()?;
    dispatch_real!(coefficients.dtype(), "values-at-0-and-1", T => {
        with_elements::<T, _>(&coefficients, |c| {
            let value = |c: &[T], x: f64| {
                let (i, t) = grid.locate(x);
                let (left, right) = (c[i].to_f64(), c[i + 1].to_f64());
                left + t * (right - left)
            };
            Ok(c.chunks_exact(grid.size()).map(|c| (value(c, 0.0), value(c, 1.0))).collect())
        })
    })
}

/// BV² = TV² + |σ(0)| + |σ(1)| of each function of the layer.
pub fn bv2(spline: &Spline) -> Result<Vec<f64>> {
    let values = values_at_0_and_1(spline)?;
    Ok(tv2(spline)?.into_iter().zip(values).map(|(tv2, (at_0, at_1))| tv2 + at_0.abs() + at_1.abs()).collect())
}
