//! Proof that multipliers are a certificate, rounding included.

use super::super::matrix::gamma;
use super::cholesky::factorise;
use super::composite::Composite;
use crate::lipschitz::piecewise_linear::{Matrix, PiecewiseLinear};

/// The least ρ from `rho` on, in steps that grow, for which X of [`minimise`](super::newton::minimise) is proven positive
/// definite; `None` if none is.
///
/// The neurons of the last layer are eliminated, which leaves S = [[K, Yᵀ], [Y, 1 − Y_B·T⁻¹·Y_Bᵀ]]. If Cholesky's
/// factorisation of S − c runs to its end, with c above its rounding and the ℓ2 norm of the errors of S, then S is positive
/// definite (Rump 2006, "Verification of positive definiteness").
pub(super) fn certified_square(
    network: &PiecewiseLinear,
    slopes: &[Vec<(f64, f64)>],
    composite: &Composite,
    rho: f64,
    t: &[f64],
) -> Option<f64> {
    if t.iter().any(|t| !(*t > 0.0 && t.is_finite())) {
        return None;
    }
    let exact = Parts::new(composite, t);
    let absolute = Parts::new(&Composite::absolute(network, slopes), t);
    let a = composite.g.dims().1;
    let n = a + composite.y.dims().0;
    // The errors of G and Y, of their products, and of the sums.
    let relative = 2.0 * (2.0 * gamma(composite.operations) + gamma(t.len() + a + 8));
    let mut rise = 1e-12;
    while rise < 1.0 {
        let rho = rho * (1.0 + rise);
        let mut s = exact.matrix(composite.inputs, rho, t);
        // Powers of two that bring the diagonal near 1 scale without rounding.
        let scale: Vec<f64> = (0..n).map(|k| power_of_two(s.row(k)[k])).collect();
        s.scale_rows(&scale);
        s.scale_columns(&scale);
        let error = relative * (absolute.largest_row(&scale) + 4.0);
        let trace: f64 = (0..n).map(|k| s.row(k)[k]).sum();
        let shift = 2.0 * (error + gamma(n + 1) * trace);
        (0..n).for_each(|k| s.row_mut(k)[k] -= shift);
        if factorise(&mut s) {
            return Some(rho * (1.0 + 4.0 * f64::EPSILON));
        }
        rise *= 10.0;
    }
    None
}

/// A power of two near 1/√x.
fn power_of_two(x: f64) -> f64 {
    if x > 0.0 && x.is_finite() { 2f64.powi((-0.5 * x.log2()).round().clamp(-500.0, 500.0) as i32) } else { 1.0 }
}

/// Gᵀ·diag(t)·G and the other parts of S, without signs.
struct Parts {
    gram: Matrix,
    /// Y_A (outputs, A).
    first: Matrix,
    /// Y_B·T⁻¹·Y_Bᵀ.
    corner: Matrix,
}

impl Parts {
    fn new(composite: &Composite, t: &[f64]) -> Self {
        let a = composite.g.dims().1;
        let (outputs, columns) = composite.y.dims();
        let mut scaled = composite.g.clone();
        scaled.scale_rows(t);
        let gram = composite.g.transposed_times(&scaled);
        let (mut first, mut last) = (Matrix::zeros(outputs, a), Matrix::zeros(outputs, columns - a));
        for (row, y) in composite.y.rows().enumerate() {
            first.row_mut(row).copy_from_slice(&y[..a]);
            last.row_mut(row).copy_from_slice(&y[a..]);
        }
        let mut divided = last.clone();
        divided.scale_columns(&t[t.len() - (columns - a)..].iter().map(|t| 1.0 / t).collect::<Vec<_>>());
        Self { gram, first, corner: divided.times_transposed(&last) }
    }

    /// The lower half of S.
    fn matrix(&self, inputs: usize, rho: f64, t: &[f64]) -> Matrix {
        let (outputs, a) = self.first.dims();
        let mut s = Matrix::zeros(a + outputs, a + outputs);
        for (i, row) in self.gram.rows().enumerate() {
            s.row_mut(i)[..a].iter_mut().zip(row).for_each(|(s, g)| *s = -g);
            s.row_mut(i)[i] += if i < inputs { rho } else { t[i - inputs] };
        }
        for (i, (first, corner)) in self.first.rows().zip(self.corner.rows()).enumerate() {
            let row = s.row_mut(a + i);
            row[..a].copy_from_slice(first);
            row[a..].iter_mut().zip(corner).for_each(|(s, c)| *s = -c);
            row[a + i] += 1.0;
        }
        s
    }

    /// The largest sum of a row of the matrix without signs, rows and columns scaled: no less than its ℓ2 norm.
    fn largest_row(&self, scale: &[f64]) -> f64 {
        let a = self.first.dims().1;
        let (of_first, of_outputs) = scale.split_at(a);
        let dot = |row: &[f64], factors: &[f64]| row.iter().zip(factors).map(|(x, f)| x * f).sum::<f64>();
        let mut sums: Vec<f64> = self.gram.rows().map(|row| dot(row, of_first)).collect();
        for (y, factor) in self.first.rows().zip(of_outputs) {
            sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += y * factor);
        }
        sums.extend(self.first.rows().zip(self.corner.rows()).map(|(y, c)| dot(y, of_first) + dot(c, of_outputs)));
        sums.iter().zip(scale).map(|(sum, factor)| sum * factor).fold(0.0, f64::max) * (1.0 + gamma(2 * scale.len()))
    }
}
