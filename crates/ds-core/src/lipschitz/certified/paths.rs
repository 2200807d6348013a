//! A bound of the Jacobian of a network whose slopes lie in intervals.
//!
//! With slopes M + Δ, |Δ| ≤ R, of each layer, the Jacobian of layer l is J_l = W_l·(M + Δ)·J_{l−1}. Unrolled at Δ, and with any
//! diagonal T_j,
//!
//! J_l = C_l + Σ_j S_{l,j}·R_j^½·T_j·Δ′_j·T_j⁻¹·R_j^½·J_j with |Δ′| ≤ 1,
//!
//! where C_l is the Jacobian with the slopes M everywhere, and S_{l,j} the part of it that follows layer j. So
//! ‖J_l‖ ≤ ‖C_l‖ + Σ_j ‖S_{l,j}·R_j^½·T_j‖·ν_j with ν_j ≥ ‖T_j⁻¹·R_j^½·J_j‖, which is bounded in the same way. The slopes that
//! are known have no part in the sum, and neither have those of neurons that do not move. T_j makes the norms of rows of the
//! one factor those of columns of the other. Where most slopes are open, ‖W_l·max|slope|‖·‖J_{l−1}‖ is smaller, and the smaller
//! of both is taken at each layer.

use super::matrix::{Goal, ROUNDOFF, gamma, largest_singular_value};
use super::region::norm_above;
use crate::lipschitz::piecewise_linear::{Layer, Matrix, PiecewiseLinear};

/// An upper bound of ‖J‖₂ for all Jacobians J = W_L·D_L⋯D₁·W₀ with diagonal D_l of slopes in these intervals (α, β), one list for
/// each layer with functions.
pub(super) fn bound(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> f64 {
    let mut weights = network.layers.iter().map(|layer| &layer.affine.weight).chain([&network.output.weight]);
    let Some(first) = weights.next() else { return f64::INFINITY };
    let mut paths = Paths::new(first);
    for (weight, slopes) in weights.zip(slopes) {
        paths.pass(slopes, weight);
    }
    paths.norm()
}

/// The slopes that the Jacobian depends on, and (0, 0) for those of neurons that are the same for all inputs: at a maximum of two
/// of them, both slopes count otherwise.
pub(crate) fn that_matter(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> Vec<Vec<(f64, f64)>> {
    let mut moving = vec![true; network.inputs];
    let of_layer = |(layer, slopes): (&Layer, &Vec<(f64, f64)>)| {
        let slopes = of_moving(slopes, &moved(&layer.affine.weight, &moving));
        moving = slopes.iter().map(|&slopes| slopes != (0.0, 0.0)).collect();
        slopes
    };
    network.layers.iter().zip(slopes).map(of_layer).collect()
}

fn of_moving(slopes: &[(f64, f64)], moving: &[bool]) -> Vec<(f64, f64)> {
    slopes.iter().zip(moving).map(|(&slopes, &moves)| if moves { slopes } else { (0.0, 0.0) }).collect()
}

/// The outputs of a linear map that are not the same whatever those inputs are that move.
fn moved(weight: &Matrix, moving: &[bool]) -> Vec<bool> {
    weight.rows().map(|row| row.iter().zip(moving).any(|(w, moves)| *moves && *w != 0.0)).collect()
}

/// A matrix that was computed, and an upper bound of the norm of its error.
pub(super) struct Rounded {
    pub matrix: Matrix,
    pub error: f64,
}

impl Rounded {
    pub fn exact(matrix: Matrix) -> Self {
        Self { matrix, error: 0.0 }
    }

    /// self·factor.
    pub fn times(&self, factor: &Matrix) -> Self {
        let rounding = gamma(factor.dims().0) * self.frobenius() + self.error;
        let error = norm_above(factor.data()) * rounding * (1.0 + 8.0 * ROUNDOFF);
        Self { matrix: self.matrix.times(factor), error }
    }

    fn norm(&self, tolerance: f64) -> f64 {
        norm_of(&self.matrix, tolerance) + self.error
    }

    fn frobenius(&self) -> f64 {
        norm_above(self.matrix.data()) + self.error
    }

    /// factor·self, for a factor with elements that have relative roundings.
    fn after(&self, factor: &Matrix) -> Self {
        let rounding = gamma(factor.dims().1) * self.frobenius() + self.error;
        let error = norm_above(factor.data()) * rounding * (1.0 + 8.0 * ROUNDOFF);
        Self { matrix: factor.times(&self.matrix), error }
    }

    /// Rows of it times their factors.
    fn rows(&self, rows: &[usize], factors: &[f64]) -> Self {
        let columns = self.matrix.dims().1;
        let data =
            rows.iter().zip(factors).flat_map(|(&row, factor)| self.matrix.row(row).iter().map(move |w| w * factor));
        let matrix = Matrix::new(rows.len(), columns, data.collect());
        let largest = factors.iter().copied().fold(0.0, f64::max);
        let error = 8.0 * ROUNDOFF * norm_above(matrix.data()) + largest * self.error * (1.0 + 8.0 * ROUNDOFF);
        Self { matrix, error }
    }
}

/// To within a relative tolerance, from above.
fn norm_of(matrix: &Matrix, tolerance: f64) -> f64 {
    let (rows, columns) = matrix.dims();
    largest_singular_value(rows, columns, matrix.data(), Goal::within(tolerance)).upper
}

/// Of norms that are parts of a bound, each of which costs some squarings of a matrix.
const ROUGH: f64 = 1e-4;
/// Of norms that others are only weighed with.
const ROUGHEST: f64 = 0.03;
/// Of the norm that is all of the bound where all slopes are known.
const FINE: f64 = 1e-7;

/// What the Jacobian of the layers so far is a sum of.
pub(super) struct Paths {
    /// The last factor of each term, and a bound of the norm of all that precedes it. The first term is C.
    terms: Vec<(Rounded, f64)>,
    norm: f64,
    rows: Vec<f64>,
    /// The neurons that are not the same for all inputs.
    moving: Vec<bool>,
}

impl Paths {
    /// Of a linear map.
    pub fn new(weight: &Matrix) -> Self {
        Self {
            norm: norm_of(weight, FINE),
            rows: weight.rows().map(norm_above).collect(),
            moving: moved(weight, &vec![true; weight.dims().1]),
            terms: vec![(Rounded { matrix: weight.clone(), error: 0.0 }, 1.0)],
        }
    }

    /// An upper bound of the Jacobian's norm.
    pub fn norm(&self) -> f64 {
        number(norm_of_sum(&self.terms, FINE).min(self.norm))
    }

    /// Upper bounds of the norms of the Jacobian's rows.
    pub fn row_norms(&self) -> &[f64] {
        &self.rows
    }

    /// On through functions with slopes in these intervals, and a linear map.
    pub fn pass(&mut self, slopes: &[(f64, f64)], weight: &Matrix) {
        let slopes = of_moving(slopes, &self.moving);
        let middles: Vec<f64> = slopes.iter().map(|&(low, high)| 0.5 * low + 0.5 * high).collect();
        let scaled = |factors: &[f64]| {
            let mut weight = weight.clone();
            weight.scale_columns(factors);
            weight
        };
        let known = scaled(&middles);
        let steepest = scaled(&slopes.iter().map(|&(low, high)| low.abs().max(high.abs())).collect::<Vec<_>>());
        let open = self.open_part(&slopes, &middles, weight);
        for (last, _) in &mut self.terms {
            *last = last.after(&known);
        }
        self.terms.extend(open);
        let (before, rounded) = (self.norm, 1.0 + gamma(slopes.len()));
        let rows = (0..weight.dims().0).map(|row| {
            let of_term = |(last, bound): &(Rounded, f64)| (norm_above(last.matrix.row(row)) + last.error) * bound;
            let sum = self.terms.iter().map(of_term).sum::<f64>() * self.above_rounding();
            number(sum.min(norm_above(steepest.row(row)) * before * rounded))
        });
        self.rows = rows.collect();
        self.norm = number(norm_of_sum(&self.terms, ROUGH).min(norm_of(&steepest, ROUGH) * before * rounded));
        let moving: Vec<bool> = slopes.iter().map(|&slopes| slopes != (0.0, 0.0)).collect();
        self.moving = moved(weight, &moving);
    }

    /// The term of the slopes that are not known; `None` if all are.
    fn open_part(&self, slopes: &[(f64, f64)], middles: &[f64], weight: &Matrix) -> Option<(Rounded, f64)> {
        let open: Vec<usize> = (0..slopes.len()).filter(|&k| slopes[k].0 < slopes[k].1).collect();
        if open.is_empty() {
            return None;
        }
        let reach = |k: usize| (slopes[k].1 - middles[k]).max(middles[k] - slopes[k].0) * (1.0 + 4.0 * ROUNDOFF);
        let after = column_norms(weight, &open);
        let before: Vec<f64> = open.iter().map(|&k| self.rows[k]).collect();
        let balance = balance(&before, &after);
        // Their product is above the reach, whatever roundings there are.
        let split = |(&k, t): (&usize, &f64)| {
            let (reach, of_column) = (reach(k), reach(k).sqrt() * t);
            if of_column > 0.0 { (reach / of_column * (1.0 + 4.0 * ROUNDOFF), of_column) } else { (reach, 1.0) }
        };
        let (of_rows, of_columns): (Vec<f64>, Vec<f64>) = open.iter().zip(&balance).map(split).unzip();
        let parts: Vec<_> = self.terms.iter().map(|(last, bound)| (last.rows(&open, &of_rows), *bound)).collect();
        let sum = norm_of_sum(&parts, ROUGH);
        let largest = of_rows.iter().copied().fold(0.0, f64::max);
        let bound = sum.min(largest * self.norm * (1.0 + 4.0 * ROUNDOFF));
        Some((columns(weight, &open, &of_columns), number(bound)))
    }

    fn above_rounding(&self) -> f64 {
        1.0 + gamma(self.terms.len())
    }
}

/// An upper bound of ‖Σ_j S_j·X_j‖ for matrices S_j and any X_j with norms up to the bounds ν_j of their terms: Σ_j ‖S_j‖·ν_j, or
/// ‖[S_0·t_0, S_1·t_1, …]‖·√(Σ_j ν_j²/t_j²) with t_j² = ν_j/‖S_j‖, which is no larger where the norms are exact.
fn norm_of_sum(terms: &[(Rounded, f64)], tolerance: f64) -> f64 {
    if let [(only, bound)] = terms {
        return only.norm(tolerance) * bound;
    }
    let norms: Vec<f64> = terms.iter().map(|(last, _)| last.norm(ROUGHEST)).collect();
    let sum = terms.iter().zip(&norms).map(|((_, bound), norm)| norm * bound).sum::<f64>() * (1.0 + gamma(terms.len()));
    let scale = |((_, bound), norm): (&(Rounded, f64), &f64)| (bound / norm).sqrt();
    let scales: Vec<f64> = terms.iter().zip(&norms).map(scale).collect();
    if !scales.iter().all(|t| t.is_finite() && *t > 0.0) {
        return sum;
    }
    let rows = terms[0].0.matrix.dims().0;
    let mut joined = Vec::with_capacity(terms.iter().map(|(last, _)| last.matrix.data().len()).sum());
    for row in 0..rows {
        for ((last, _), t) in terms.iter().zip(&scales) {
            joined.extend(last.matrix.row(row).iter().map(|w| w * t));
        }
    }
    let columns = terms.iter().map(|(last, _)| last.matrix.dims().1).sum();
    let squares = |part: &dyn Fn(&Rounded, f64, f64) -> f64| -> f64 {
        let parts = terms.iter().zip(&scales).map(|((last, bound), t)| part(last, *bound, *t).powi(2));
        parts.sum::<f64>().sqrt() * (1.0 + gamma(terms.len()))
    };
    let joined = Matrix::new(rows, columns, joined);
    let error = squares(&|last, _, t| last.error * t) + 4.0 * ROUNDOFF * norm_above(joined.data());
    let together = (norm_of(&joined, tolerance) + error) * squares(&|_, bound, t| bound / t) * (1.0 + gamma(1));
    sum.min(together)
}

/// √(before/after) of norms, with those that are nearly 0 not too far from the others.
fn balance(before: &[f64], after: &[f64]) -> Vec<f64> {
    const LEAST: f64 = 1e-8;
    let floor = |norms: &[f64]| {
        let largest = norms.iter().copied().filter(|norm| norm.is_finite()).fold(0.0, f64::max);
        if largest > 0.0 { LEAST * largest } else { 1.0 }
    };
    let (low_before, low_after) = (floor(before), floor(after));
    let ratio = |(b, a): (&f64, &f64)| (b.max(low_before) / a.max(low_after)).sqrt();
    before.iter().zip(after).map(ratio).map(|t| if t.is_finite() && t > 0.0 { t } else { 1.0 }).collect()
}

fn column_norms(weight: &Matrix, columns: &[usize]) -> Vec<f64> {
    let mut squares = vec![0.0; columns.len()];
    for row in weight.rows() {
        squares.iter_mut().zip(columns).for_each(|(sum, &column)| *sum += row[column] * row[column]);
    }
    squares.into_iter().map(f64::sqrt).collect()
}

/// A bound that is no number, after an overflow, is none.
fn number(bound: f64) -> f64 {
    if bound.is_nan() { f64::INFINITY } else { bound }
}

/// Columns of a matrix times their factors.
fn columns(weight: &Matrix, columns: &[usize], factors: &[f64]) -> Rounded {
    let data = weight.rows().flat_map(|row| columns.iter().zip(factors).map(|(&column, factor)| row[column] * factor));
    let matrix = Matrix::new(weight.dims().0, columns.len(), data.collect());
    let error = 4.0 * ROUNDOFF * norm_above(matrix.data());
    Rounded { matrix, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_slopes_leave_the_product() {
        let first = Matrix::new(2, 1, vec![1.0, 1.0]);
        let second = Matrix::new(1, 2, vec![1.0, -1.0]);
        let mut paths = Paths::new(&first);
        paths.pass(&[(0.5, 0.5), (0.25, 0.25)], &second);
        assert!((0.25..0.25 + 1e-7).contains(&paths.norm()), "{}", paths.norm());
        // One that is open adds what it can change: 0.5 ± 0.5 of the first.
        let mut paths = Paths::new(&first);
        paths.pass(&[(0.0, 1.0), (0.25, 0.25)], &second);
        assert!((0.75..0.75 + 1e-6).contains(&paths.norm()), "{}", paths.norm());
        assert!((0.75..0.75 + 1e-6).contains(&paths.row_norms()[0]));
    }
}
