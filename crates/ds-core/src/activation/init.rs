//! Initial shapes of spline activations.

use crate::{Error, Grid, Result};

crate::named!(
    /// The function that a spline is before training.
    #[derive(Default)]
    Init {
        /// x for x > 0, 0.01·x elsewhere.
        #[default]
        LeakyRelu = "leaky_relu",
        /// max(0, x).
        Relu = "relu",
        /// |x| for the first half of the channels (rounded down), soft-thresholding by 0.5 for the others.
        EvenOdd = "even_odd",
        /// x.
        Identity = "identity",
        /// |x|.
        Absolute = "absolute",
        /// |x| for even channels, x for odd ones. This is MaxMin of pairs in another basis: max(a, b) and min(a, b) are
        /// ((a + b) ± |a − b|)/2, and orthonormal weights before and after make the sums and differences.
        MaxMin = "max_min",
        /// Slopes of −1 and 1 in turn, with kinks at −f, 0 and f for even channels and at 0 and f for odd ones, f the knot
        /// nearest to half of the grid's range: |x| with more than one kink, and not the same on both sides everywhere.
        Zigzag = "zigzag",
        /// 0.
        Zero = "zero",
    }
);

/// Where [`Init::Zigzag`] turns back: the knot nearest to half of the range of `size` knots, or nowhere if that is the last one.
pub(crate) fn fold(size: usize, step: f64) -> f64 {
    let (first, last) = (if size.is_multiple_of(2) { 0.5 } else { 0.0 }, 0.5 * (size - 1) as f64);
    let knot = first + (0.5 * last - first).round();
    if knot < last { knot * step } else { f64::INFINITY }
}

impl Init {
    /// The value at `x` for channel `channel` of `channels`, with the [`fold`] of the grid.
    pub(crate) fn value(self, x: f64, fold: f64, channel: usize, channels: usize) -> f64 {
        match self {
            Self::LeakyRelu => x.max(0.01 * x),
            Self::Relu => x.max(0.0),
            Self::EvenOdd if channel < channels / 2 => x.abs(),
            Self::EvenOdd => x.signum() * (x.abs() - 0.5).max(0.0),
            Self::Identity => x,
            Self::Absolute => x.abs(),
            Self::MaxMin if channel.is_multiple_of(2) => x.abs(),
            Self::MaxMin => x,
            Self::Zigzag if x < -fold && channel.is_multiple_of(2) => 2.0 * fold + x,
            Self::Zigzag if x > fold => 2.0 * fold - x,
            Self::Zigzag => x.abs(),
            Self::Zero => 0.0,
        }
    }

    /// (b1, b0) of the line that the shape is left of all its knots.
    pub(crate) fn left_line(self, grid: Grid, channel: usize, channels: usize) -> (f64, f64) {
        let fold = fold(grid.size(), grid.step());
        match self {
            Self::LeakyRelu => (0.01, 0.0),
            Self::Relu => (0.0, 0.0),
            Self::EvenOdd if channel < channels / 2 => (-1.0, 0.0),
            Self::EvenOdd => (1.0, 0.5),
            Self::Identity => (1.0, 0.0),
            Self::Absolute => (-1.0, 0.0),
            Self::MaxMin if channel.is_multiple_of(2) => (-1.0, 0.0),
            Self::MaxMin => (1.0, 0.0),
            Self::Zigzag if fold.is_finite() && channel.is_multiple_of(2) => (1.0, 2.0 * fold),
            Self::Zigzag => (-1.0, 0.0),
            Self::Zero => (0.0, 0.0),
        }
    }

    /// The slope change at the middle knot, for the shapes that have no other.
    pub(crate) fn middle_slope_change(self) -> Result<f64> {
        match self {
            Self::LeakyRelu => Ok(0.99),
            Self::Relu => Ok(1.0),
            Self::Identity | Self::Zero => Ok(0.0),
            Self::Absolute => Ok(2.0),
            Self::EvenOdd | Self::MaxMin | Self::Zigzag => {
                let allowed = "leaky_relu, relu, identity, absolute, zero";
                Err(Error::Init { init: self.name(), kind: "relu_spline", allowed })
            }
        }
    }

    /// The coefficients (C, K) of the shape, less the line b1·x + b0 given for each channel.
    pub(crate) fn coefficients(self, grid: Grid, channels: usize, line: impl Fn(usize) -> (f64, f64)) -> Vec<f64> {
        let fold = fold(grid.size(), grid.step());
        let mut rows = Vec::with_capacity(channels * grid.size());
        for channel in 0..channels {
            let (b1, b0) = line(channel);
            rows.extend(grid.knots().map(|x| {
                let c = self.value(x, fold, channel, channels) - (b1 * x + b0);
                // Rounding must not leave slope changes of 1e-17 in what is a straight line.
                if c.abs() < 1e-12 { 0.0 } else { c }
            }));
        }
        rows
    }
}
