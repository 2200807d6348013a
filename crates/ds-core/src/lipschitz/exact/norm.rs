//! Norms of matrices of two columns, with errors.

use crate::lipschitz::bv2::Exponent;

/// The operator norm from ℓp to ℓp of the first two columns of rows, and how far it can be from that of the rows without their
/// errors.
pub(super) fn norm(rows: impl Iterator<Item = ([f64; 3], [f64; 3])>, p: Exponent) -> (f64, f64) {
    let (mut sums, mut errors) = (Sums::default(), Sums::default());
    for (row, error) in rows {
        sums.add(row);
        errors.add(error);
    }
    let (norm, rest) = (sums.norm(p), errors.norm_above(p));
    (norm, rest * (1.0 + sums.rounding()) + norm * sums.rounding())
}

/// The unit vector, in ℓp, that a matrix stretches most, its zeros being exact.
pub(super) fn steepest(rows: impl Iterator<Item = ([f64; 3], [f64; 3])>, p: Exponent) -> [f64; 2] {
    let mut sums = Sums::default();
    rows.for_each(|(row, _)| sums.add(row));
    let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
    match p {
        Exponent::One if sums.columns[1] > sums.columns[0] => [0.0, 1.0],
        Exponent::Infinity if sums.largest > 0.0 => sums.largest_row.map(sign),
        Exponent::Two if sums.scale > 0.0 => {
            let [a, b] = sums.squares;
            let (sin, cos) = (0.5 * (2.0 * sums.product).atan2(a - b)).sin_cos();
            [cos, sin]
        }
        _ => [1.0, 0.0],
    }
}

/// What the norms are made of, row by row.
#[derive(Debug, Default)]
struct Sums {
    rows: usize,
    columns: [f64; 2],
    largest: f64,
    largest_row: [f64; 2],
    /// Of the rows over `scale`, so that no square leaves the range of numbers.
    squares: [f64; 2],
    product: f64,
    scale: f64,
}

impl Sums {
    fn add(&mut self, [a, b, _]: [f64; 3]) {
        self.rows += 1;
        self.columns[0] += a.abs();
        self.columns[1] += b.abs();
        let sum = a.abs() + b.abs();
        if sum > self.largest {
            (self.largest, self.largest_row) = (sum, [a, b]);
        }
        if sum > self.scale {
            let shrink = self.scale / sum;
            self.squares = self.squares.map(|square| square * shrink * shrink);
            self.product *= shrink * shrink;
            self.scale = sum;
        }
        if self.scale > 0.0 {
            let (a, b) = (a / self.scale, b / self.scale);
            self.squares[0] += a * a;
            self.squares[1] += b * b;
            self.product += a * b;
        }
    }

    fn norm(&self, p: Exponent) -> f64 {
        let [a, b] = self.squares;
        match p {
            Exponent::One => self.columns[0].max(self.columns[1]),
            Exponent::Infinity => self.largest,
            // The larger eigenvalue of the matrix of squares and products.
            Exponent::Two => self.scale * (0.5 * (a + b + (a - b).hypot(2.0 * self.product))).sqrt(),
        }
    }

    /// The same from above, for rows without signs.
    fn norm_above(&self, p: Exponent) -> f64 {
        self.norm(p) * (1.0 + self.rounding())
    }

    /// The relative rounding error of the norms: each row adds less than eight to the sums.
    fn rounding(&self) -> f64 {
        8.0 * (self.rows as f64 + 4.0) * f64::EPSILON
    }
}
