//! The papers' way: elimination of knots whose slope change is small, and the search for the largest threshold that a tolerance
//! allows.

use super::exact::{Polyline, second_difference, unit_of, write};
use crate::activation::{Kind, Spline};
use crate::backend::pointwise::tensor_of;
use crate::backend::real::{Real, with_elements};
use crate::dispatch_real;
use crate::parameter::variable;
use crate::regularization::measures::slope_changes_of;
use crate::{Error, Result};

/// Eliminates all knots with |a| ≤ `threshold`; returns how many are kept in each function.
///
/// The function left of its first kept knot stays as it is (c_0, c_1 to rounding), as in the original. Every eliminated
/// slope change is exactly 0 when computed from the stored coefficients in f64; every kept one differs from what it was by
/// at most 4·ε·max|c|/T.
///
/// # Errors
/// If `threshold` is negative or not a number, or the layer is frozen.
pub fn eliminate_knots(spline: &Spline, threshold: f64) -> Result<Vec<usize>> {
    if threshold.is_nan() || threshold < 0.0 {
        return Err(Error::Threshold(threshold));
    }
    let (grid, knots) = (spline.grid(), spline.knot_parameters());
    let of_relus = matches!(spline.kind(), Kind::ReluSpline { .. });
    let width = if of_relus { grid.size() - 2 } else { grid.size() };
    let (rebuilt, kept) = dispatch_real!(knots.dtype(), "eliminate-knots", T => {
        with_elements::<T, _>(knots, |values| {
            let mut values = values.to_vec();
            let kept = values
                .chunks_exact_mut(width)
                .map(|row| if of_relus { zero_small(row, threshold) } else { rebuild(row, grid.step(), threshold) })
                .collect::<Vec<usize>>();
            Ok((tensor_of(values, knots.shape()), kept))
        })
    })?;
    variable(spline.knot_parameters_name(), knots)?.set(&rebuilt.to_device(knots.device())?)?;
    Ok(kept)
}

fn zero_small<T: Real>(slopes: &mut [T], threshold: f64) -> usize {
    let mut kept = 0;
    for a in slopes {
        // NaN stays, so that a diverged layer is seen.
        if a.to_f64().abs() <= threshold {
            *a = T::ZERO;
        } else {
            kept += 1;
        }
    }
    kept
}

/// Rebuilds one row of coefficients without the knots whose |a| ≤ threshold, in units of a power of two.
fn rebuild<T: Real>(row: &mut [T], step: f64, threshold: f64) -> usize {
    let c: Vec<f64> = row.iter().map(|c| c.to_f64()).collect();
    if !c.iter().all(|c| c.is_finite()) {
        return slope_changes_of(row, step).filter(|a| a.to_f64().abs() > threshold).count();
    }
    // What rounding makes of a straight line is no knot, even where the threshold is below it.
    let kept: Vec<bool> = slope_changes_of(row, step)
        .zip(c.windows(3))
        .map(|(a, c)| a.to_f64().abs() > threshold && second_difference(c) != 0.0)
        .collect();
    // The function that is aimed at, in f64: the first segment, then the slope changes that are kept.
    let mut target = vec![c[0], c[1]];
    let mut rises = vec![c[1] - c[0]];
    for (j, &keep) in kept.iter().enumerate() {
        let rise = rises[j] + if keep { second_difference(&c[j..j + 3]) } else { 0.0 };
        rises.push(rise);
        target.push(target[j + 1] + rise);
    }
    let Some(unit) = unit_of::<T>(&target) else {
        row.fill(T::ZERO);
        return 0;
    };
    let knots: Vec<usize> = (1..row.len() - 1).filter(|&k| kept[k - 1]).collect();
    // The least slope change, in units, that is above the threshold; a kept one is, so this is finite where it is used.
    let floor = (threshold * step / unit).floor();
    let least = (0..4).map(|more| (floor + f64::from(more)).max(1.0)).find(|n| n * unit / step > threshold);
    let least = least.unwrap_or(floor);
    let function = Polyline { values: &target, rises: &rises, knots: &knots };
    write(row, &function, unit, |previous, wanted, start| match previous {
        None => wanted.round(),
        Some(previous) => {
            // A slope change moves by two units at most, and stays above the threshold on its own side.
            let change = second_difference(&c[start - 1..=start + 1]) / unit;
            let size = ((wanted - previous) * change.signum()).round();
            let size = size.clamp((change.abs() - 2.0).ceil(), (change.abs() + 2.0).floor()).max(least);
            previous + size * change.signum()
        }
    });
    knots.len()
}

/// The thresholds that the papers' search goes through, ascending: 0; 0.0002 to 0.004 by 0.0002; to 1 by 0.05; to 3 by 0.2;
/// to 10 by 0.5; to 100 by 2.
pub fn papers_thresholds() -> Vec<f64> {
    let mut all = vec![0.0];
    let ranges = [(0.0002, 0.004, 0.0002), (0.004, 1.0, 0.05), (1.0, 3.0, 0.2), (3.0, 10.0, 0.5), (10.0, 100.0, 2.0)];
    for (from, to, by) in ranges {
        let steps = ((to - from) / by - 1e-9f64).ceil() as usize;
        // To four decimals, so that 0.204 is not 0.20400000000000001.
        all.extend((0..steps).map(|k| ((from + k as f64 * by) * 1e4).round() / 1e4));
    }
    all.push(100.0);
    all
}

/// Goes through ascending thresholds and stops at the first whose accuracy falls more than `tolerance` below that of the
/// unchanged network; returns the last one before, with its accuracy, or `None` if the first already falls.
///
/// `evaluate` gets a threshold, eliminates knots in a fresh copy of the splines and returns the accuracy.
///
/// # Errors
/// Those of `evaluate`.
pub fn largest_threshold<E>(
    thresholds: &[f64],
    unchanged_accuracy: f64,
    tolerance: f64,
    mut evaluate: impl FnMut(f64) -> std::result::Result<f64, E>,
) -> std::result::Result<Option<(f64, f64)>, E> {
    let mut best = None;
    for &threshold in thresholds {
        let accuracy = evaluate(threshold)?;
        // An accuracy that is NaN is none.
        if unchanged_accuracy - accuracy > tolerance || accuracy.is_nan() {
            break;
        }
        best = Some((threshold, accuracy));
    }
    Ok(best)
}
