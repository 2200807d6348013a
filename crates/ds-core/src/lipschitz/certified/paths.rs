//! A bound of the Jacobian of a network whose slopes lie in intervals.
//!
//! With slopes M + Δ, |Δ| ≤ R, of each layer, the Jacobian of layer l is J_l = W_l·(M + Δ)·J_{l−1}. Unrolled at Δ,
//!
//! J_l = C_l + Σ_j S_{l,j}·R_j^½·Δ′_j·R_j^½·J_j with |Δ′| ≤ 1,
//!
//! where C_l is the Jacobian with the slopes M everywhere, and S_{l,j} the part of it that follows layer j. So
//! ‖J_l‖ ≤ ‖C_l‖ + Σ_j ‖S_{l,j}·R_j^½‖·ν_j with ν_j ≥ ‖R_j^½·J_j‖, which is bounded in the same way. The slopes that are
//! known have no part in the sum. Where most are not, ‖W_l·max|slope|‖·‖J_{l−1}‖ is smaller, and both are taken at each layer.

use super::dense_norm_of;
use super::matrix::{ROUNDOFF, gamma};
use super::region::norm_above;
use crate::lipschitz::piecewise_linear::{Matrix, PiecewiseLinear};

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

/// A matrix that was computed, and an upper bound of the norm of its error.
struct Rounded {
    matrix: Matrix,
    error: f64,
}

impl Rounded {
    fn norm(&self) -> f64 {
        norm_of(&self.matrix) + self.error
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

fn norm_of(matrix: &Matrix) -> f64 {
    let (rows, columns) = matrix.dims();
    dense_norm_of(rows, columns, matrix.data())
}

/// What the Jacobian of the layers so far is a sum of.
pub(super) struct Paths {
    /// The last factor of each term, and a bound of the norm of all that precedes it. The first term is C.
    terms: Vec<(Rounded, f64)>,
    norm: f64,
    rows: Vec<f64>,
}

impl Paths {
    /// Of a linear map.
    pub fn new(weight: &Matrix) -> Self {
        let rows = weight.rows().map(norm_above).collect();
        let norm = norm_of(weight);
        Self { terms: vec![(Rounded { matrix: weight.clone(), error: 0.0 }, 1.0)], norm, rows }
    }

    /// An upper bound of the Jacobian's norm.
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// Upper bounds of the norms of the Jacobian's rows.
    pub fn row_norms(&self) -> &[f64] {
        &self.rows
    }

    /// On through functions with slopes in these intervals, and a linear map.
    pub fn pass(&mut self, slopes: &[(f64, f64)], weight: &Matrix) {
        let middles: Vec<f64> = slopes.iter().map(|&(low, high)| 0.5 * low + 0.5 * high).collect();
        let (mut open, mut roots) = (Vec::new(), Vec::new());
        for (k, (&(low, high), middle)) in slopes.iter().zip(&middles).enumerate() {
            if low < high {
                open.push(k);
                roots
                    .push(((high - middle).max(middle - low) * (1.0 + 8.0 * ROUNDOFF)).sqrt() * (1.0 + 4.0 * ROUNDOFF));
            }
        }
        let mut known = weight.clone();
        known.scale_columns(&middles);
        let mut steepest = weight.clone();
        steepest.scale_columns(&slopes.iter().map(|&(low, high)| low.abs().max(high.abs())).collect::<Vec<_>>());
        let before = self.norm;
        let open_part = (!open.is_empty()).then(|| {
            let sum: f64 = self.terms.iter().map(|(last, bound)| last.rows(&open, &roots).norm() * bound).sum();
            let largest = roots.iter().copied().fold(0.0, f64::max);
            let bound = (sum * self.above_rounding()).min(largest * before * (1.0 + 4.0 * ROUNDOFF));
            (columns(weight, &open, &roots), bound)
        });
        for (last, _) in &mut self.terms {
            *last = last.after(&known);
        }
        self.terms.extend(open_part);
        let sum = self.terms.iter().map(|(last, bound)| last.norm() * bound).sum::<f64>() * self.above_rounding();
        let rounded = 1.0 + gamma(slopes.len());
        self.norm = number(sum.min(norm_of(&steepest) * before * rounded));
        self.rows = (0..weight.dims().0)
            .map(|row| {
                let of_term = |(last, bound): &(Rounded, f64)| (norm_above(last.matrix.row(row)) + last.error) * bound;
                let sum = self.terms.iter().map(of_term).sum::<f64>() * self.above_rounding();
                number(sum.min(norm_above(steepest.row(row)) * before * rounded)).min(self.norm)
            })
            .collect();
    }

    fn above_rounding(&self) -> f64 {
        1.0 + gamma(self.terms.len())
    }
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
