//! Products of affine maps, with bounds of their rounding.

use super::{Affine, Matrix};
use crate::lipschitz::certified::{gamma, norm_above};

/// An affine map that layers were multiplied into.
#[derive(Debug, Clone)]
pub(super) struct Product {
    pub affine: Affine,
    /// At least ‖W − the product without rounding‖₂.
    pub error: f64,
    /// Whether nothing was rounded, in W and in the bias.
    pub is_exact: bool,
}

impl Product {
    pub fn identity(n: usize) -> Self {
        Self::exact(Matrix::identity(n))
    }

    /// A matrix that nothing was rounded for, without a bias.
    pub fn exact(weight: Matrix) -> Self {
        let bias = vec![0.0; weight.dims().0];
        Self { affine: Affine { weight, bias }, error: 0.0, is_exact: true }
    }

    /// (outputs, inputs).
    pub fn dims(&self) -> (usize, usize) {
        self.affine.weight.dims()
    }

    /// This map and then the next one.
    pub fn followed_by(&self, next: &Self) -> Self {
        let (before, weight) = (&self.affine.weight, &next.affine.weight);
        let inherited = if self.error == 0.0 { 0.0 } else { spectral_above(weight) * self.error };
        let of_next = if next.error == 0.0 { 0.0 } else { next.error * (spectral_above(before) + self.error) };
        let rounding = if is_exact(weight, before) { 0.0 } else { rounding(weight, before) };
        let affine = Affine { weight: weight.times(before), bias: weight.times_vector(&self.affine.bias) };
        let error = (inherited + of_next + rounding) * (1.0 + 1e-12);
        let mut product = Self { affine, error, is_exact: self.is_exactly_followed_by(weight) && next.is_exact };
        product.add(&next.affine.bias);
        product
    }

    /// Whether a product with that weight is what it is without rounding.
    pub fn is_exactly_followed_by(&self, weight: &Matrix) -> bool {
        let Affine { weight: before, bias } = &self.affine;
        let bias_is_exact =
            bias.iter().all(|b| *b == 0.0) || (has_single_powers(weight.rows()) && bias.iter().all(is_moderate));
        self.is_exact && bias_is_exact && is_exact(weight, before)
    }

    /// Every output times its factor.
    pub fn scale(&mut self, factors: &[f64]) {
        let (mut of_weight, mut of_bias) = (Errors::default(), Errors::default());
        for (k, &factor) in factors.iter().enumerate() {
            self.affine.weight.row_mut(k).iter_mut().for_each(|w| *w = of_weight.of_product(*w, factor));
            self.affine.bias[k] = of_bias.of_product(self.affine.bias[k], factor);
        }
        let largest = factors.iter().fold(0.0f64, |largest, factor| largest.max(factor.abs()));
        let inherited = if self.error == 0.0 { 0.0 } else { largest * self.error };
        self.error = (inherited + of_weight.norm()) * (1.0 + 1e-12);
        self.is_exact &= of_weight.is_zero() && of_bias.is_zero();
    }

    /// Adds to the bias.
    pub fn add(&mut self, bias: &[f64]) {
        let mut errors = Errors::default();
        self.affine.bias.iter_mut().zip(bias).for_each(|(sum, bias)| *sum = errors.of_sum(*sum, *bias));
        self.is_exact &= errors.is_zero();
    }

    /// The sum of maps of the same input.
    pub fn sum(maps: &[&Self]) -> Self {
        let mut sum = maps[0].clone();
        for map in &maps[1..] {
            let mut errors = Errors::default();
            let weights = sum.affine.weight.data_mut().iter_mut().zip(map.affine.weight.data());
            weights.for_each(|(sum, w)| *sum = errors.of_sum(*sum, *w));
            sum.error = (sum.error + map.error + errors.norm()) * (1.0 + 1e-12);
            sum.is_exact &= map.is_exact && errors.is_zero();
            sum.add(&map.affine.bias);
        }
        sum
    }

    /// All outputs of maps of the same input.
    pub fn stacked(maps: &[&Self]) -> Self {
        let columns = maps.first().map_or(0, |map| map.dims().1);
        let data: Vec<f64> = maps.iter().flat_map(|map| map.affine.weight.data()).copied().collect();
        Self::joined(maps, |rows| Matrix::new(rows, columns, data))
    }

    /// All outputs of maps, each of an input of its own.
    pub fn side_by_side(maps: &[&Self]) -> Self {
        let columns = maps.iter().map(|map| map.dims().1).sum();
        Self::joined(maps, |rows| {
            let mut weight = Matrix::zeros(rows, columns);
            let (mut row, mut column) = (0, 0);
            for map in maps {
                for values in map.affine.weight.rows() {
                    weight.row_mut(row)[column..column + values.len()].copy_from_slice(values);
                    row += 1;
                }
                column += map.dims().1;
            }
            weight
        })
    }

    /// The sum of maps, each of an input of its own, without the biases.
    pub fn beside(maps: &[&Self]) -> Self {
        let rows = maps.first().map_or(0, |map| map.dims().0);
        let data = (0..rows).flat_map(|row| maps.iter().flat_map(move |map| map.affine.weight.row(row))).copied();
        let weight = Matrix::new(rows, maps.iter().map(|map| map.dims().1).sum(), data.collect());
        let error = maps.iter().map(|map| map.error).sum();
        Self { error, is_exact: maps.iter().all(|map| map.is_exact), ..Self::exact(weight) }
    }

    fn joined(maps: &[&Self], weight: impl FnOnce(usize) -> Matrix) -> Self {
        let bias: Vec<f64> = maps.iter().flat_map(|map| &map.affine.bias).copied().collect();
        let error = maps.iter().map(|map| map.error).sum();
        let is_exact = maps.iter().all(|map| map.is_exact);
        Self { affine: Affine { weight: weight(bias.len()), bias }, error, is_exact }
    }
}

/// The rounding errors of single operations.
#[derive(Debug, Default)]
struct Errors {
    sum: f64,
    largest: f64,
}

impl Errors {
    fn of_product(&mut self, a: f64, b: f64) -> f64 {
        let product = a * b;
        let is_small = product.abs() < 1e-280 && a != 0.0 && b != 0.0;
        // The error of a small product may be below the range of numbers.
        let of_small = product.abs() * f64::EPSILON + f64::MIN_POSITIVE;
        self.add(if is_small { of_small } else { a.mul_add(b, -product) });
        product
    }

    fn of_sum(&mut self, a: f64, b: f64) -> f64 {
        let sum = a + b;
        let of_b = sum - a;
        self.add((a - (sum - of_b)) + (b - of_b));
        sum
    }

    fn add(&mut self, error: f64) {
        self.sum += error.abs();
        self.largest = self.largest.max(error.abs());
    }

    fn is_zero(&self) -> bool {
        self.sum == 0.0
    }

    /// √Σe² ≤ √(max|e|·Σ|e|), from above.
    fn norm(&self) -> f64 {
        (self.largest.sqrt() * self.sum.sqrt()).max(self.largest) * (1.0 + 1e-6)
    }
}

/// An upper bound of ‖A·B − what is computed for it‖₂: each element is an inner product of as many terms as a row of A has elements
/// other than 0.
fn rounding(a: &Matrix, b: &Matrix) -> f64 {
    let norms: Vec<f64> = b.rows().map(norm_above).collect();
    let of_row = |row: &[f64]| {
        let terms = row.iter().filter(|a| **a != 0.0).count();
        gamma(terms) * row.iter().zip(&norms).map(|(a, norm)| (a * norm).abs()).sum::<f64>()
    };
    let all: Vec<f64> = a.rows().map(of_row).collect();
    // The sums are of numbers that are not negative, and each term may fall below the range of numbers.
    let (rows, inner) = a.dims();
    norm_above(&all) * (1.0 + 1e-9) + (rows * inner * b.dims().1) as f64 * f64::MIN_POSITIVE
}

/// Whether A·B needs no rounding: no element is a sum, and all factors on one side are powers of two.
fn is_exact(a: &Matrix, b: &Matrix) -> bool {
    let all_moderate = |matrix: &Matrix| matrix.data().iter().all(is_moderate);
    (has_single_powers(a.rows()) && all_moderate(b)) || (has_single_powers_in_columns(b) && all_moderate(a))
}

/// Whether products with powers of two that are not far from 1 are exact.
fn is_moderate(x: &f64) -> bool {
    *x == 0.0 || (1e-200..1e200).contains(&x.abs())
}

fn is_power(x: f64) -> bool {
    const DIGITS: u64 = (1 << 52) - 1;
    x.to_bits() & DIGITS == 0 && (1e-30..1e30).contains(&x.abs())
}

/// Whether each row has at most one element, a power of two.
fn has_single_powers<'a>(mut rows: impl Iterator<Item = &'a [f64]>) -> bool {
    rows.all(|row| {
        let mut elements = row.iter().filter(|x| **x != 0.0);
        elements.next().is_none_or(|x| is_power(*x)) && elements.next().is_none()
    })
}

fn has_single_powers_in_columns(matrix: &Matrix) -> bool {
    let mut taken = vec![false; matrix.dims().1];
    matrix.rows().all(|row| {
        let mut elements = row.iter().zip(&mut taken).filter(|(x, _)| **x != 0.0);
        elements.all(|(x, taken)| is_power(*x) && !std::mem::replace(taken, true))
    })
}

/// The smaller of two bounds of ‖A‖₂: Frobenius's norm, and √(‖A‖₁·‖A‖_∞).
fn spectral_above(a: &Matrix) -> f64 {
    let mut columns = vec![0.0; a.dims().1];
    let mut largest_row = 0.0f64;
    for row in a.rows() {
        columns.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.abs());
        largest_row = largest_row.max(row.iter().map(|x| x.abs()).sum());
    }
    let largest_column = columns.into_iter().fold(0.0, f64::max);
    let (rows, columns) = a.dims();
    norm_above(a.data()).min((largest_row * largest_column).sqrt() * (1.0 + gamma(rows + columns)))
}
