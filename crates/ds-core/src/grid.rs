//! The uniform grid of knots that all splines of a layer share.

use crate::{Error, Result};

/// The most segments of a grid. An f32 counts so many, and halves of one, without rounding: the segments that kernels find in f32 stay
/// inside their tables.
pub(crate) const MAX_SEGMENTS: usize = 1 << 23;

/// K knots `x_k = (k − (K−1)/2)·T`, centred at 0.
///
/// Between knots a linear spline is interpolated, outside it goes on with the slope of its outermost segment
/// (Bohra-Campos2020, section III-A).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    size: usize,
    step: f64,
}

impl Grid {
    /// A grid of `size` knots with distance `step`.
    ///
    /// # Errors
    /// If `size` is even, below 3 or above 2²³ + 1, or `step` is not a positive number in the range of f32, which kernels compute in.
    pub fn from_step(size: usize, step: f64) -> Result<Self> {
        check_size(size)?;
        if !((step as f32).is_normal() && step > 0.0) {
            return Err(Error::Grid { what: "step", value: step });
        }
        Ok(Self { size, step })
    }

    /// A grid of `size` knots on `[−range, range]`, but for a cut of the step.
    ///
    /// The step is `range / ((size−1)/2)` cut down to a multiple of 1e-6, as DeepSplines has it, so that checkpoints and
    /// numbers can be compared. The last knot lies up to 1e-6·(size−1)/2 before `range`; [`from_step`](Self::from_step) cuts nothing.
    /// A range so small that the step would be 0 keeps the exact quotient.
    ///
    /// # Errors
    /// As for [`from_step`](Self::from_step), or if `range` is not a positive finite number.
    pub fn from_range(size: usize, range: f64) -> Result<Self> {
        check_size(size)?;
        if !(range.is_finite() && range > 0.0) {
            return Err(Error::Grid { what: "range", value: range });
        }
        let exact = range / (size / 2) as f64;
        // Python's `exact // 1e-6`, which divides by the f64 nearest to 1e-6 without rounding: 0.7 becomes 0.699999.
        let micro = ((exact - exact % 1e-6) / 1e-6).round() / 1e6;
        Self::from_step(size, if micro > 0.0 { micro } else { exact })
    }

    /// A grid of the size and step that a layer holds.
    pub(crate) fn unchecked(size: usize, step: f64) -> Self {
        Self { size, step }
    }

    /// The number of knots K.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The distance T of neighbouring knots.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// The position of knot `k`.
    pub fn knot(&self, k: usize) -> f64 {
        (k as f64 - (self.size / 2) as f64) * self.step
    }

    /// The positions of all knots, ascending.
    pub fn knots(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        (0..self.size).map(|k| self.knot(k))
    }

    /// The segment `i` in 0..=K−2 that serves `x`, and `t` with `σ(x) = c_i + t·(c_{i+1} − c_i)`; `t` leaves [0, 1] where
    /// the spline is extrapolated.
    pub fn locate(&self, x: f64) -> (usize, f64) {
        let (u, centre) = (x / self.step, (self.size / 2) as f64);
        let i = (u.floor() + centre).clamp(0.0, (self.size - 2) as f64);
        (i as usize, u - (i - centre))
    }
}

fn check_size(size: usize) -> Result<()> {
    match size {
        _ if size < 3 || size.is_multiple_of(2) => Err(Error::Size(size)),
        _ if size - 1 > MAX_SEGMENTS => Err(Error::TooManyKnots(size)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_cut_to_micro_steps() {
        let grid = Grid::from_range(31, 1.0).expect("a valid grid");
        assert_eq!(grid.step(), 0.066666);
        assert_eq!(grid.knot(15), 0.0);
        assert_eq!(grid.knots().len(), 31);
    }

    /// Values that Python computed with the original's function.
    #[test]
    fn steps_are_those_of_the_original() {
        for (size, range, step) in [
            (51, 4.0, 0.16),
            (21, 1.0, 0.1),
            (3, 0.7, 0.699_999),
            (21, 3.5, 0.349_999),
            (17, 0.7, 0.087_499),
            (15, 3.0, 0.428_571),
        ] {
            assert_eq!(
                Grid::from_range(size, range).expect("a valid grid").step(),
                step,
                "{size} knots, range {range}"
            );
        }
    }

    #[test]
    fn bad_grids_say_what_is_allowed() {
        for size in [0, 1, 2, 50] {
            let error = Grid::from_range(size, 1.0).expect_err("size is not allowed");
            assert!(error.to_string().contains("odd"), "{error}");
        }
        let most = MAX_SEGMENTS + 1;
        assert!(Grid::from_step(most, 1e-6).is_ok() && Grid::from_range(most, 4.0).is_ok());
        for size in [most + 2, 33_554_439, usize::MAX] {
            for grid in [Grid::from_step(size, 1e-6), Grid::from_range(size, 4.0)] {
                let error = grid.expect_err("more segments than an f32 counts").to_string();
                assert!(error.contains(&most.to_string()) && error.contains("f32"), "{error}");
            }
        }
        for range in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Grid::from_range(5, range).is_err());
            assert!(Grid::from_step(5, range).is_err());
        }
        // An f32 would make 0 and ∞ of these.
        for step in [1e-50, 1e39] {
            assert!(Grid::from_step(5, step).is_err());
        }
    }

    #[test]
    fn location_extrapolates() {
        let grid = Grid::from_step(5, 0.5).expect("a valid grid");
        assert_eq!(grid.locate(-2.0), (0, -2.0));
        assert_eq!(grid.locate(0.0), (2, 0.0));
        assert_eq!(grid.locate(1.0), (3, 1.0));
        assert_eq!(grid.locate(1.5), (3, 2.0));
    }
}
