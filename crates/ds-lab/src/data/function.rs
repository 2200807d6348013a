//! Functions of one variable on [−1, 1].

use std::f64::consts::PI;

/// A function to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// x², the parabola of Bohra-Campos2020.
    Square,
    /// sin(πx).
    Sine,
    /// |x|.
    Absolute,
    /// x³.
    Cube,
    /// cos(7πx)/(7π).
    Cosine7,
}

impl Target {
    /// The value at `x`.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Self::Square => x * x,
            Self::Sine => (PI * x).sin(),
            Self::Absolute => x.abs(),
            Self::Cube => x * x * x,
            Self::Cosine7 => (7.0 * PI * x).cos() / (7.0 * PI),
        }
    }

    /// `n` pairs (x, value), x equally spaced over [−1, 1].
    pub fn samples(self, n: usize) -> Vec<(f32, f32)> {
        let x = |k: usize| if n < 2 { 0.0 } else { 2.0 * k as f64 / (n - 1) as f64 - 1.0 };
        (0..n).map(|k| (x(k) as f32, self.value(x(k)) as f32)).collect()
    }
}
