//! Continuous piecewise-linear functions of one number.

use crate::activation::{Activation, Apl, LipschitzSpline, Spline};
use crate::backend::real::in_double_precision;
use crate::lipschitz::larger;
use candle_core::{Result, bail};

/// A continuous function that is linear between its knots and beyond them.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    knots: Vec<f64>,
    slopes: Vec<f64>,
    offsets: Vec<f64>,
}

impl Function {
    /// From knots in ascending order, one slope more than knots, and a point (x, y) of it. Knots without a change of slope are
    /// left out.
    ///
    /// # Panics
    /// If there is not one slope more than knots.
    pub fn new(knots: &[f64], slopes: &[f64], (x, y): (f64, f64)) -> Self {
        assert_eq!(slopes.len(), knots.len() + 1, "slopes of {} knots", knots.len());
        let mut function = Self { knots: Vec::new(), slopes: vec![slopes[0]], offsets: vec![0.0] };
        for (&knot, &slope) in knots.iter().zip(&slopes[1..]) {
            let (last, offset) = (function.slopes[function.knots.len()], function.offsets[function.knots.len()]);
            if slope != last {
                function.knots.push(knot);
                function.slopes.push(slope);
                function.offsets.push(offset + (last - slope) * knot);
            }
        }
        let shift = y - function.value(x);
        function.offsets.iter_mut().for_each(|offset| *offset += shift);
        function
    }

    /// x.
    pub fn identity() -> Self {
        Self::new(&[], &[1.0], (0.0, 0.0))
    }

    /// |x|.
    pub fn absolute() -> Self {
        Self::rectifier(-1.0)
    }

    /// x for x > 0, slope·x elsewhere.
    pub fn rectifier(slope: f64) -> Self {
        Self::new(&[0.0], &[slope, 1.0], (0.0, 0.0))
    }

    /// Where it bends, ascending.
    pub fn knots(&self) -> &[f64] {
        &self.knots
    }

    /// The slopes left of the first knot, between knots, and right of the last.
    pub fn slopes(&self) -> &[f64] {
        &self.slopes
    }

    /// The values of the lines of all pieces at 0.
    pub fn offsets(&self) -> &[f64] {
        &self.offsets
    }

    /// The piece that x lies in; at a knot the one left of it.
    pub fn piece(&self, x: f64) -> usize {
        self.knots.partition_point(|&knot| knot < x)
    }

    /// f(x).
    pub fn value(&self, x: f64) -> f64 {
        let piece = self.piece(x);
        self.slopes[piece] * x + self.offsets[piece]
    }

    /// The smallest and the largest slope of the pieces that an interval meets.
    pub fn slopes_on(&self, low: f64, high: f64) -> (f64, f64) {
        // A knot at the upper end is no way into the piece right of it, but rounding could be.
        let (first, last) = (self.piece(low), self.knots.partition_point(|&knot| knot <= high));
        let slopes = || self.slopes[first..=last.max(first)].iter().copied();
        (-slopes().map(|slope| -slope).fold(f64::NEG_INFINITY, larger), slopes().fold(f64::NEG_INFINITY, larger))
    }

    /// The functions of a layer's channels, from its parameters as the forward pass uses them.
    ///
    /// # Errors
    /// If the activation takes pairs of channels, or has another number of them.
    pub fn of(activation: &Activation, channels: usize) -> Result<Vec<Self>> {
        let functions = match activation {
            Activation::Relu => vec![Self::rectifier(0.0); channels],
            Activation::LeakyRelu => vec![Self::rectifier(Activation::LEAKY_SLOPE); channels],
            Activation::Absolute => vec![Self::absolute(); channels],
            Activation::PRelu(prelu) => in_double_precision(&prelu.slopes)?.into_iter().map(Self::rectifier).collect(),
            Activation::ClippedPRelu(prelu) => in_double_precision(&prelu.slopes)?
                .into_iter()
                .map(|slope| Self::rectifier(slope.clamp(-1.0, 1.0)))
                .collect(),
            Activation::Apl(apl) => of_apl(apl)?,
            Activation::Spline(spline) => of_spline(spline)?,
            Activation::Lipschitz(spline) => of_lipschitz_spline(spline)?,
            Activation::MaxMin | Activation::Householder(_) => bail!("max_min and householder take pairs of channels"),
        };
        if functions.len() != channels {
            bail!("piecewise-linear functions: the activation has {} channels, not {channels}", functions.len());
        }
        Ok(functions)
    }
}

/// A function through values at knots, with the outermost segments extended.
fn through(knots: &[f64], values: &[f64], slopes: &[f64]) -> Function {
    let middle = knots.len() / 2;
    Function::new(&knots[1..knots.len() - 1], slopes, (knots[middle], values[middle]))
}

fn of_spline(spline: &Spline) -> Result<Vec<Function>> {
    let (grid, coefficients) = (spline.grid(), in_double_precision(&spline.coefficients()?)?);
    let knots: Vec<f64> = grid.knots().collect();
    let of_row = |c: &[f64]| {
        let slopes: Vec<f64> = c.windows(2).map(|c| (c[1] - c[0]) / grid.step()).collect();
        through(&knots, c, &slopes)
    };
    Ok(coefficients.chunks_exact(grid.size()).map(of_row).collect())
}

fn of_lipschitz_spline(spline: &LipschitzSpline) -> Result<Vec<Function>> {
    Ok(spline.evaluated()?.iter().map(|row| through(&row.knots, &row.values, &row.slopes)).collect())
}

/// max(0, x) + Σ a_s·max(0, b_s − x), whose value right of all kinks is x.
fn of_apl(apl: &Apl) -> Result<Vec<Function>> {
    let hinges = apl.slopes.dims()[1];
    let (a, b) = (in_double_precision(&apl.slopes)?, in_double_precision(&apl.offsets)?);
    let of_row = |(a, b): (&[f64], &[f64])| {
        let mut kinks: Vec<(f64, f64)> = b.iter().copied().zip(a.iter().copied()).chain([(0.0, 1.0)]).collect();
        kinks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let knots: Vec<f64> = kinks.iter().map(|&(knot, _)| knot).collect();
        // Right of a kink its hinge no longer falls, or max(0, x) rises.
        let mut slopes = vec![-a.iter().sum::<f64>()];
        for &(_, change) in &kinks {
            slopes.push(slopes[slopes.len() - 1] + change);
        }
        let x = knots.iter().copied().fold(0.0, f64::max) + 1.0;
        Function::new(&knots, &slopes, (x, x))
    };
    Ok(a.chunks_exact(hinges).zip(b.chunks_exact(hinges)).map(of_row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_slopes_are_those_of_the_pieces() {
        // |x| up to 2, then level.
        let f = Function::new(&[-1.0, 0.0, 2.0], &[-1.0, -1.0, 1.0, 0.0], (5.0, 2.0));
        assert_eq!(f.knots(), [0.0, 2.0]);
        assert_eq!([-3.0, 0.0, 1.5, 2.0, 7.0].map(|x| f.value(x)), [3.0, 0.0, 1.5, 2.0, 2.0]);
        assert_eq!(f.slopes_on(0.5, 1.5), (1.0, 1.0));
        assert_eq!(f.slopes_on(-0.5, 3.0), (-1.0, 1.0));
    }
}
