//! Cholesky's factorisation: fast with products of blocks, or with the order of operations that its rounding analysis is for.

use crate::lipschitz::piecewise_linear::Matrix;

/// Smaller blocks are factorised element by element.
const BLOCK: usize = 24;

/// L⁻¹ of A = L·Lᵀ and ln det A, from the lower half of A (n, n); `None` if A is not positive definite, up to rounding.
pub(super) fn inverse_factor(a: &Matrix) -> Option<(Matrix, f64)> {
    let n = a.dims().0;
    if n <= BLOCK {
        return small(a);
    }
    let Eliminated { half, first, first_log, below, rest } = eliminated(a)?;
    let (second, second_log) = inverse_factor(&rest)?;
    // −L₂₂⁻¹·L₂₁·L₁₁⁻¹.
    let corner = second.times(&below).times(&first);
    let mut out = Matrix::zeros(n, n);
    for (k, row) in first.rows().enumerate() {
        out.row_mut(k)[..half].copy_from_slice(row);
    }
    for (k, (row, corner)) in second.rows().zip(corner.rows()).enumerate() {
        let to = out.row_mut(half + k);
        to[..half].iter_mut().zip(corner).for_each(|(to, c)| *to = -c);
        to[half..].copy_from_slice(row);
    }
    Some((out, first_log + second_log))
}

/// The first half of A's rows and columns, factorised.
struct Eliminated {
    half: usize,
    /// L₁₁⁻¹, and ln det A₁₁.
    first: Matrix,
    first_log: f64,
    /// L₂₁.
    below: Matrix,
    /// A₂₂ − L₂₁·L₂₁ᵀ, what is left to be factorised.
    rest: Matrix,
}

fn eliminated(a: &Matrix) -> Option<Eliminated> {
    let n = a.dims().0;
    let half = n / 2;
    let (first, first_log) = inverse_factor(&part(a, 0, 0, half, half))?;
    // L₂₁ = A₂₁·L₁₁⁻ᵀ.
    let below = part(a, half, 0, n - half, half).times_transposed(&first);
    let mut rest = part(a, half, half, n - half, n - half);
    let update = below.times_transposed(&below);
    rest.data_mut().iter_mut().zip(update.data()).for_each(|(a, u)| *a -= u);
    Some(Eliminated { half, first, first_log, below, rest })
}

/// A⁻¹·b, from the lower half of A; `None` if A is not positive definite, up to rounding.
pub(super) fn solve(a: &Matrix, b: &[f64]) -> Option<Vec<f64>> {
    let n = a.dims().0;
    if n <= BLOCK {
        let (l, _) = small(a)?;
        return Some(l.transposed().times_vector(&l.times_vector(b)));
    }
    let Eliminated { half, first, below, rest, .. } = eliminated(a)?;
    let mut top = first.times_vector(&b[..half]);
    let right: Vec<f64> = b[half..].iter().zip(below.times_vector(&top)).map(|(b, y)| b - y).collect();
    let bottom = solve(&rest, &right)?;
    top.iter_mut().zip(below.transposed().times_vector(&bottom)).for_each(|(y, x)| *y -= x);
    let mut x = first.transposed().times_vector(&top);
    x.extend(bottom);
    Some(x)
}

/// The inverse of a positive definite matrix; `None` for others.
pub(crate) fn inverse(matrix: &Matrix) -> Option<Matrix> {
    let (l, _) = inverse_factor(matrix)?;
    Some(l.transposed_times(&l))
}

fn part(a: &Matrix, row: usize, column: usize, rows: usize, columns: usize) -> Matrix {
    let data = (row..row + rows).flat_map(|r| &a.row(r)[column..column + columns]).copied().collect();
    Matrix::new(rows, columns, data)
}

fn small(a: &Matrix) -> Option<(Matrix, f64)> {
    let n = a.dims().0;
    let mut l = a.clone();
    if !factorise(&mut l) {
        return None;
    }
    let log = 2.0 * (0..n).map(|k| l.row(k)[k].ln()).sum::<f64>();
    let mut inverse = Matrix::zeros(n, n);
    for column in 0..n {
        inverse.row_mut(column)[column] = 1.0 / l.row(column)[column];
        for row in column + 1..n {
            let sum: f64 = (column..row).map(|k| l.row(row)[k] * inverse.row(k)[column]).sum();
            inverse.row_mut(row)[column] = -sum / l.row(row)[row];
        }
    }
    Some((inverse, log))
}

/// Writes L over the lower half of A = L·Lᵀ, row by row with inner products; false if a pivot is not positive.
pub(super) fn factorise(a: &mut Matrix) -> bool {
    let n = a.dims().0;
    for row in 0..n {
        for column in 0..=row {
            let (above, below) = a.data_mut().split_at_mut(row * n);
            let to = &mut below[..n];
            let sum = if column == row {
                to[..row].iter().map(|l| l * l).sum::<f64>()
            } else {
                let other = &above[column * n..column * n + column];
                dot(&to[..column], other)
            };
            let rest = to[column] - sum;
            if column < row {
                to[column] = rest / above[column * n + column];
            } else if rest > 0.0 && rest.is_finite() {
                to[column] = rest.sqrt();
            } else {
                return false;
            }
        }
    }
    true
}

/// In eight sums, which the processor adds side by side.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_factor_makes_the_identity() {
        for n in [1, 7, 24, 61, 130] {
            let mut a = Matrix::identity(n);
            for i in 0..n {
                for j in 0..n {
                    a.row_mut(i)[j] += 1.0 / (1.0 + i as f64 + j as f64);
                }
            }
            let (inverse, log) = inverse_factor(&a).unwrap();
            let identity = inverse.times(&a).times_transposed(&inverse);
            let expected = Matrix::identity(n);
            let errors = identity.data().iter().zip(expected.data()).map(|(a, b)| (a - b).abs());
            assert!(errors.fold(0.0, f64::max) < 1e-12, "{n}");
            let b: Vec<f64> = (0..n).map(|k| k as f64).collect();
            let x = solve(&a, &b).unwrap();
            assert!(a.times_vector(&x).iter().zip(&b).all(|(y, b)| (y - b).abs() < 1e-9), "{n}");
            let mut l = a.clone();
            assert!(factorise(&mut l));
            let expected: f64 = (0..n).map(|k| 2.0 * l.row(k)[k].ln()).sum();
            assert!((log - expected).abs() < 1e-10, "{log} {expected}");
        }
        let indefinite = Matrix::new(2, 2, vec![1.0, 2.0, 2.0, 1.0]);
        assert!(inverse_factor(&indefinite).is_none() && !factorise(&mut indefinite.clone()));
    }
}
