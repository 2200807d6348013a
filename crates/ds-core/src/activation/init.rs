//! Initial shapes of spline activations.

use crate::{Error, Grid, Result};

/// The function that a spline is before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Init {
    /// x for x > 0, 0.01·x elsewhere.
    #[default]
    LeakyRelu,
    /// max(0, x).
    Relu,
    /// |x| for the first half of the channels (rounded down), soft-thresholding by 0.5 for the others.
    EvenOdd,
    /// x.
    Identity,
    /// |x|.
    AbsoluteValue,
    /// |x| for even channels, x for odd ones. This is MaxMin of pairs in another basis: max(a, b) and min(a, b) are
    /// ((a + b) ± |a − b|)/2, and orthonormal weights before and after make the sums and differences.
    MaxMin,
    /// 0.
    Zero,
}

impl Init {
    /// Its name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeakyRelu => "leaky_relu",
            Self::Relu => "relu",
            Self::EvenOdd => "even_odd",
            Self::Identity => "identity",
            Self::AbsoluteValue => "absolute_value",
            Self::MaxMin => "maxmin",
            Self::Zero => "zero",
        }
    }

    /// The value at `x` for channel `channel` of `channels`.
    pub fn value(self, x: f64, channel: usize, channels: usize) -> f64 {
        match self {
            Self::LeakyRelu => x.max(0.01 * x),
            Self::Relu => x.max(0.0),
            Self::EvenOdd if channel < channels / 2 => x.abs(),
            Self::EvenOdd => x.signum() * (x.abs() - 0.5).max(0.0),
            Self::Identity => x,
            Self::AbsoluteValue => x.abs(),
            Self::MaxMin if channel.is_multiple_of(2) => x.abs(),
            Self::MaxMin => x,
            Self::Zero => 0.0,
        }
    }

    /// (b1, b0) of the line that the shape is left of all its knots.
    pub(crate) fn left_line(self, channel: usize, channels: usize) -> (f64, f64) {
        match self {
            Self::LeakyRelu => (0.01, 0.0),
            Self::Relu => (0.0, 0.0),
            Self::EvenOdd if channel < channels / 2 => (-1.0, 0.0),
            Self::EvenOdd => (1.0, 0.5),
            Self::Identity => (1.0, 0.0),
            Self::AbsoluteValue => (-1.0, 0.0),
            Self::MaxMin if channel.is_multiple_of(2) => (-1.0, 0.0),
            Self::MaxMin => (1.0, 0.0),
            Self::Zero => (0.0, 0.0),
        }
    }

    /// The slope change at the middle knot, for the shapes that have no other.
    pub(crate) fn middle_slope_change(self) -> Result<f64> {
        match self {
            Self::LeakyRelu => Ok(0.99),
            Self::Relu => Ok(1.0),
            Self::Identity | Self::Zero => Ok(0.0),
            Self::AbsoluteValue => Ok(2.0),
            Self::EvenOdd | Self::MaxMin => {
                let allowed = "leaky_relu, relu, identity, absolute_value, zero";
                Err(Error::Init { init: self.name(), kind: "relu_spline", allowed })
            }
        }
    }

    /// The coefficients (C, K) of the shape, less the line b1·x + b0 given for each channel.
    pub(crate) fn coefficients(self, grid: Grid, channels: usize, line: impl Fn(usize) -> (f64, f64)) -> Vec<f64> {
        let mut rows = Vec::with_capacity(channels * grid.size());
        for channel in 0..channels {
            let (b1, b0) = line(channel);
            rows.extend(grid.knots().map(|x| {
                let c = self.value(x, channel, channels) - (b1 * x + b0);
                // Rounding must not leave slope changes of 1e-17 in what is a straight line.
                if c.abs() < 1e-12 { 0.0 } else { c }
            }));
        }
        rows
    }
}
