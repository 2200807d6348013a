//! Sets of inputs, and how far linear functions reach on them.

use super::matrix::{ROUNDOFF, gamma};
use crate::lipschitz::larger;
use candle_core::{Result, bail};

/// A set of inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Region {
    /// All inputs.
    All,
    /// Those with ‖x − centre‖₂ ≤ radius.
    Ball {
        /// The centre (inputs).
        centre: Vec<f64>,
        /// The radius; 0 is the centre alone.
        radius: f64,
    },
    /// Those with low ≤ x ≤ high in every element.
    Box {
        /// The smallest elements (inputs).
        low: Vec<f64>,
        /// The largest elements (inputs).
        high: Vec<f64>,
    },
}

impl Region {
    /// Centre and extent; `None` for all inputs.
    pub(super) fn bounded(&self, inputs: usize) -> Result<Option<Bounded>> {
        let checked = |vector: &[f64]| match vector.iter().find(|x| !x.is_finite()) {
            _ if vector.len() != inputs => bail!("region: {} elements, not {inputs} as an input has", vector.len()),
            Some(x) => bail!("region: {x} is no element of a bounded set"),
            None => Ok(()),
        };
        match self {
            Self::All => Ok(None),
            Self::Ball { centre, radius } => {
                checked(centre)?;
                if !radius.is_finite() || *radius < 0.0 {
                    bail!("region: a ball has no radius of {radius}");
                }
                Ok(Some(Bounded { centre: centre.clone(), extent: Extent::Radius(*radius) }))
            }
            Self::Box { low, high } => {
                checked(low)?;
                checked(high)?;
                if let Some((low, high)) = low.iter().zip(high).find(|(low, high)| low > high) {
                    bail!("region: a box from {low} to {high} is empty");
                }
                let sides = low.iter().zip(high).map(|(&low, &high)| middle_and_half(low, high));
                let (centre, halves) = sides.unzip();
                Ok(Some(Bounded { centre, extent: Extent::Sides(halves) }))
            }
        }
    }
}

/// The middle of an interval and half of its width, from above.
pub(super) fn middle_and_half(low: f64, high: f64) -> (f64, f64) {
    let middle = 0.5 * low + 0.5 * high;
    (middle, (high - middle).max(middle - low) * (1.0 + 4.0 * ROUNDOFF))
}

/// A ball or a box.
pub(super) struct Bounded {
    /// Its centre.
    pub centre: Vec<f64>,
    extent: Extent,
}

enum Extent {
    Radius(f64),
    /// Half of each side.
    Sides(Vec<f64>),
}

impl Bounded {
    /// The centre alone.
    pub fn at_centre(&self) -> Self {
        Self { centre: self.centre.clone(), extent: Extent::Radius(0.0) }
    }

    /// An upper bound of |row·(x − centre)| on the region.
    pub fn reach(&self, row: &[f64]) -> f64 {
        match &self.extent {
            Extent::Radius(radius) => radius * norm_above(row) * (1.0 + 2.0 * ROUNDOFF),
            Extent::Sides(halves) => {
                row.iter().zip(halves).map(|(w, half)| w.abs() * half).sum::<f64>() * (1.0 + gamma(row.len()))
            }
        }
    }

    /// The radius of a ball around the centre that has all of the region.
    pub fn radius(&self) -> f64 {
        match &self.extent {
            Extent::Radius(radius) => *radius,
            Extent::Sides(halves) => norm_above(halves),
        }
    }

    /// The largest |x| of each element.
    pub fn sizes(&self) -> Vec<f64> {
        let size = |(k, centre): (usize, &f64)| match &self.extent {
            Extent::Radius(radius) => centre.abs() + radius,
            Extent::Sides(halves) => centre.abs() + halves[k],
        };
        self.centre.iter().enumerate().map(size).collect()
    }

    /// Bounds of row·x + offset on the region.
    pub fn values(&self, row: &[f64], offset: f64) -> (f64, f64) {
        let (mut value, mut size) = (offset, offset.abs());
        for (w, x) in row.iter().zip(&self.centre) {
            value += w * x;
            size += (w * x).abs();
        }
        around(value, self.reach(row), gamma(row.len()) * size)
    }
}

/// Far below all numbers that count, and above what underflow loses.
pub(super) const TINY: f64 = 1e-300;

/// value ± (reach + rounding), outwards. What is no number bounds nothing.
pub(super) fn around(value: f64, reach: f64, rounding: f64) -> (f64, f64) {
    let reach = (reach + rounding + TINY + 2.0 * ROUNDOFF * value.abs()) * (1.0 + 8.0 * ROUNDOFF);
    at_least_all((value - reach, value + reach))
}

/// An interval without an end where it is no number.
pub(super) fn at_least_all((low, high): (f64, f64)) -> (f64, f64) {
    (if low.is_nan() { f64::NEG_INFINITY } else { low }, if high.is_nan() { f64::INFINITY } else { high })
}

/// ‖v‖₂ from above.
pub(crate) fn norm_above(v: &[f64]) -> f64 {
    let largest = v.iter().map(|x| x.abs()).fold(0.0, larger);
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    // Squares of small numbers must not vanish.
    let squares: f64 = v.iter().map(|x| (x / largest).powi(2)).sum();
    largest * squares.sqrt() * (1.0 + gamma(v.len()))
}
