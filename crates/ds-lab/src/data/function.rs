//! Functions of one variable on [−1, 1].

use rand::Rng;
use rand_chacha::ChaCha8Rng;
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
    /// A line through nine equally spaced knots, by the slopes of its pieces; the values at the knots have mean 0.
    Pieces([i8; PIECES]),
}

/// The pieces of [`Target::Pieces`].
const PIECES: usize = 8;

impl Target {
    /// [`Target::Pieces`] with slopes drawn from these.
    pub fn drawn(rng: &mut ChaCha8Rng, slopes: &[i8]) -> Self {
        Self::Pieces(std::array::from_fn(|_| slopes[rng.random_range(0..slopes.len())]))
    }

    /// The value at `x`.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Self::Square => x * x,
            Self::Sine => (PI * x).sin(),
            Self::Absolute => x.abs(),
            Self::Cube => x * x * x,
            Self::Cosine7 => (7.0 * PI * x).cos() / (7.0 * PI),
            Self::Pieces(slopes) => {
                // In units of a piece, from the left end on.
                let at = |u: f64| -> f64 {
                    let length = |k: usize| (u - k as f64).clamp(0.0, 1.0);
                    slopes.iter().enumerate().map(|(k, &slope)| f64::from(slope) * length(k)).sum()
                };
                let mean = (0..=PIECES).map(|k| at(k as f64)).sum::<f64>() / (PIECES + 1) as f64;
                let piece = 2.0 / PIECES as f64;
                piece * (at((x + 1.0) / piece) - mean)
            }
        }
    }

    /// `n` pairs (x, value), x equally spaced over [−1, 1].
    pub fn samples(self, n: usize) -> Vec<(f32, f32)> {
        let x = |k: usize| if n < 2 { 0.0 } else { 2.0 * k as f64 / (n - 1) as f64 - 1.0 };
        (0..n).map(|k| (x(k) as f32, self.value(x(k)) as f32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn pieces_have_their_slopes_and_mean_0() {
        for (seed, allowed) in [(0, &[-1, 1][..]), (1, &[-1, 0, 1])] {
            let target = Target::drawn(&mut ChaCha8Rng::seed_from_u64(seed), allowed);
            let Target::Pieces(slopes) = target else { panic!("{target:?}") };
            assert!(slopes.iter().all(|slope| allowed.contains(slope)));
            for (k, &slope) in slopes.iter().enumerate() {
                let (left, right) = (k as f64 / 4.0 - 0.99, k as f64 / 4.0 - 0.76);
                let quotient = (target.value(right) - target.value(left)) / (right - left);
                assert!((quotient - f64::from(slope)).abs() < 1e-12);
            }
            let sum: f64 = (0..=8).map(|k| target.value(k as f64 / 4.0 - 1.0)).sum();
            assert!(sum.abs() < 1e-12);
        }
    }
}
