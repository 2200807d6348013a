//! The largest singular value of a matrix, between two bounds that hold.
//!
//! Gram iteration (Delattre et al. 2023, "Efficient bound of Lipschitz constant for convolutional layers by Gram iteration"):
//! with G₀ = AᴴA and G_{t+1} = G_tᴴG_t, ‖A‖₂ = ‖G_t‖₂^(1/2^{t+1}), and any norm of G_t gives an upper bound whose excess
//! shrinks with the root. A power iteration, which comes from below, proves nothing.
//!
//! Products are rounded, so the roots are taken one by one, and each adds what rounding may have cost before it:
//! ‖G_t‖₂² ≤ ‖fl(G_tᴴG_t)‖₂ + γ‖G_t‖_F², with γ the bound of a rounded inner product (Higham 2002, section 3.5).

use crate::backend::parallel::{SharedSlice, for_each_piece};
use crate::lipschitz::larger;
use gemm::c64;

/// Real or complex numbers that matrices are made of.
pub(super) trait Scalar: Copy + Send + Sync + 'static {
    const ZERO: Self;
    const ONE: Self;
    /// |x|, of numbers whose squares are in the range of f64.
    fn modulus(self) -> f64;
    /// The largest |element|, between |x|/√2 and |x|.
    fn magnitude(self) -> f64;
    fn squared_modulus(self) -> f64;
    fn scaled(self, factor: f64) -> Self;
    fn times(self, other: Self) -> Self;
    fn plus(self, other: Self) -> Self;
}

impl Scalar for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn modulus(self) -> f64 {
        self.abs()
    }
    fn magnitude(self) -> f64 {
        self.abs()
    }
    fn squared_modulus(self) -> f64 {
        self * self
    }
    fn scaled(self, factor: f64) -> Self {
        self * factor
    }
    fn times(self, other: Self) -> Self {
        self * other
    }
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

impl Scalar for c64 {
    const ZERO: Self = Self { re: 0.0, im: 0.0 };
    const ONE: Self = Self { re: 1.0, im: 0.0 };
    fn modulus(self) -> f64 {
        self.squared_modulus().sqrt()
    }
    fn magnitude(self) -> f64 {
        larger(self.re.abs(), self.im.abs())
    }
    fn squared_modulus(self) -> f64 {
        self.re * self.re + self.im * self.im
    }
    fn scaled(self, factor: f64) -> Self {
        Self { re: self.re * factor, im: self.im * factor }
    }
    fn times(self, other: Self) -> Self {
        Self { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }
    fn plus(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }
}

/// Two numbers with the largest singular value between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bracket {
    pub lower: f64,
    pub upper: f64,
}

impl Bracket {
    /// Scales both.
    pub fn times(self, factor: f64) -> Self {
        Self { lower: self.lower * factor, upper: product_above(self.upper, factor) }
    }
}

/// a·b of numbers that are not negative, from above where it is below the range of f64.
pub(crate) fn product_above(a: f64, b: f64) -> f64 {
    let product = a * b;
    if a > 0.0 && b > 0.0 && product < f64::MIN_POSITIVE { f64::MIN_POSITIVE } else { product }
}

/// When a bracket is good enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// (upper − lower)/lower is no larger than this.
    pub tolerance: f64,
    /// Or the upper bound is no larger than this.
    pub floor: f64,
    /// Or this many squarings are done.
    pub squarings: usize,
}

impl Goal {
    /// As near as `tolerance`, which no 26 squarings leave open down to about 1e-8.
    pub fn within(tolerance: f64) -> Self {
        Self { tolerance, floor: 0.0, squarings: 26 }
    }
}

/// The unit roundoff of f64.
pub(crate) const ROUNDOFF: f64 = f64::EPSILON / 2.0;

/// The relative error of an inner product of `n` terms, complex ones included, in any order of summation.
pub(crate) fn gamma(n: usize) -> f64 {
    4.0 * (n as f64 + 4.0) * ROUNDOFF
}

/// The largest singular value of `a` (rows, columns), row by row. Elements that are not finite have no finite bound.
pub(super) fn largest_singular_value<T: Scalar>(rows: usize, columns: usize, a: &[T], goal: Goal) -> Bracket {
    top(rows, columns, a, goal).0
}

/// The same, with a vector that is near the singular vector of the shorter side.
pub(super) fn top<T: Scalar>(rows: usize, columns: usize, a: &[T], goal: Goal) -> (Bracket, Vec<T>) {
    let size = largest_magnitude(a);
    if a.is_empty() || size == 0.0 || !size.is_finite() {
        let upper = if size == 0.0 { 0.0 } else { f64::INFINITY };
        return (Bracket { lower: 0.0, upper }, vec![T::ZERO; rows.min(columns)]);
    }
    // Powers of two scale without rounding.
    let scale = power_of_two_above(size);
    let a: Vec<T> = a.iter().map(|x| x.scaled(1.0 / scale)).collect();
    let a = Tall::new(rows, columns, &a);
    let (bracket, vector) = a.bracket(Goal { floor: goal.floor / scale, ..goal });
    (bracket.times(scale), vector)
}

/// The largest element of the numbers, whose moduli are no more than √2 times as large; ∞ if one is NaN.
pub(super) fn largest_magnitude<T: Scalar>(a: &[T]) -> f64 {
    a.iter().map(|x| x.magnitude()).fold(0.0, |m: f64, x| if x.is_nan() { f64::INFINITY } else { m.max(x) })
}

fn power_of_two_above(x: f64) -> f64 {
    2f64.powi(exponent_above(x))
}

/// The exponent of a power of two near x and above it, far from the ends of the range: the power and its inverse are both numbers.
pub(super) fn exponent_above(x: f64) -> i32 {
    (x.log2().floor() as i32 + 1).clamp(-1022, 1022)
}

/// A matrix, or its transpose, with no more columns than rows.
struct Tall<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T: Scalar> Tall<'a, T> {
    fn new(rows: usize, columns: usize, data: &'a [T]) -> Self {
        assert_eq!(data.len(), rows * columns);
        if rows >= columns {
            Self { data, rows, columns, row_stride: columns, column_stride: 1 }
        } else {
            Self { data, rows: columns, columns: rows, row_stride: 1, column_stride: columns }
        }
    }

    fn bracket(&self, goal: Goal) -> (Bracket, Vec<T>) {
        let n = self.columns;
        let squares: f64 = self.data.iter().map(|x| x.squared_modulus()).sum();
        if n == 1 {
            let (value, error) = (squares.sqrt(), gamma(self.rows));
            return (Bracket { lower: value * (1.0 - error), upper: value * (1.0 + error) }, vec![T::ONE]);
        }
        let mut gram = self.gram();
        // What was divided out of the matrix of each root, and what its rounding may have cost.
        let mut roots = vec![(1.0, gamma(self.rows) * squares * (1.0 + gamma(self.data.len())))];
        let mut squaring = 0;
        loop {
            let scale = power_of_two_above(largest_magnitude(&gram));
            if scale.is_finite() {
                gram.iter_mut().for_each(|x| *x = x.scaled(1.0 / scale));
            }
            if let Some((divided, _)) = roots.last_mut() {
                *divided = scale;
            }
            let square = Square { n, data: &gram };
            let frobenius = square.frobenius();
            let root = |norm: f64, &(divided, error): &(f64, f64)| (divided * norm + error).sqrt();
            let upper = roots.iter().rev().fold(square.norm(frobenius), root) * (1.0 + 32.0 * ROUNDOFF);
            let vector = square.longest_column();
            let lower = self.stretch(&vector) * (1.0 - gamma(self.rows + n));
            let done = upper <= lower * (1.0 + goal.tolerance) || upper <= goal.floor || squaring == goal.squarings;
            if done || !upper.is_finite() {
                return (Bracket { lower, upper }, vector);
            }
            roots.push((1.0, gamma(n) * frobenius * frobenius));
            gram = Tall::new(n, n, &gram).gram();
            squaring += 1;
        }
    }

    /// AᴴA, by blocks of rows, so that the sums do not depend on the number of threads.
    fn gram(&self) -> Vec<T> {
        const BLOCK: usize = 64;
        let n = self.columns;
        let mut out = vec![T::ZERO; n * n];
        let shared = SharedSlice::new(&mut out);
        for_each_piece(n.div_ceil(BLOCK), n * n * self.rows / 16, |piece| {
            let (start, count) = (piece * BLOCK, BLOCK.min(n - piece * BLOCK));
            let to = shared.pointer(start * n, count * n);
            // SAFETY: `to` has count·n elements that no other piece writes, and the strides stay inside the data, whose
            // length is rows·columns.
            unsafe {
                gemm::gemm(
                    count,
                    n,
                    self.rows,
                    to,
                    1,
                    n as isize,
                    false,
                    self.data.as_ptr().add(start * self.column_stride),
                    self.row_stride as isize,
                    self.column_stride as isize,
                    self.data.as_ptr(),
                    self.column_stride as isize,
                    self.row_stride as isize,
                    T::ZERO,
                    T::ONE,
                    false,
                    true,
                    false,
                    gemm::Parallelism::None,
                );
            }
        });
        out
    }

    /// ‖A·v‖/‖v‖ of a vector; 0 for a vector that is 0.
    fn stretch(&self, v: &[T]) -> f64 {
        let row = |row: usize| {
            let term =
                |(column, &v): (usize, &T)| self.data[row * self.row_stride + column * self.column_stride].times(v);
            v.iter().enumerate().map(term).fold(T::ZERO, T::plus).squared_modulus()
        };
        let (output, input) = ((0..self.rows).map(row).sum::<f64>(), norm_squared(v.iter().copied()));
        if input > 0.0 { (output / input).sqrt() } else { 0.0 }
    }
}

fn norm_squared<T: Scalar>(v: impl Iterator<Item = T>) -> f64 {
    v.map(T::squared_modulus).sum()
}

struct Square<'a, T> {
    n: usize,
    data: &'a [T],
}

impl<T: Scalar> Square<'_, T> {
    fn frobenius(&self) -> f64 {
        norm_squared(self.data.iter().copied()).sqrt() * (1.0 + gamma(self.data.len()))
    }

    /// The smaller of two bounds of the spectral norm: Frobenius's, and √(‖G‖₁·‖G‖_∞), which is exact where Frobenius's is
    /// worst, for the identity.
    fn norm(&self, frobenius: f64) -> f64 {
        let mut columns = vec![0.0; self.n];
        let mut largest_row = 0.0f64;
        for row in self.data.chunks_exact(self.n) {
            let mut sum = 0.0;
            for (column, x) in columns.iter_mut().zip(row) {
                // Scaled, so that what its square loses is no part of a norm of 1/2 or more.
                let modulus = x.modulus();
                sum += modulus;
                *column += modulus;
            }
            largest_row = largest_row.max(sum);
        }
        let largest_column = columns.into_iter().fold(0.0, f64::max);
        frobenius.min((largest_row * largest_column).sqrt() * (1.0 + gamma(self.n)))
    }

    /// The column of G with the largest diagonal element: near the first singular vector once G is near rank one.
    fn longest_column(&self) -> Vec<T> {
        let diagonal = |k: &usize| self.data[k * self.n + k].squared_modulus();
        let longest = (0..self.n).max_by(|a, b| diagonal(a).total_cmp(&diagonal(b))).unwrap_or(0);
        (0..self.n).map(|row| self.data[row * self.n + longest]).collect()
    }
}
