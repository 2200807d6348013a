//! Linear functions below and above each neuron of a network on a region.
//!
//! On the interval of its inputs, each function has a line below it and one above it. Put into the layers one after the other,
//! from the last to the first, they leave a linear function of the input, whose extremes on a ball or a box are known. This is
//! the backward substitution of CROWN (Zhang et al. 2018, "Efficient neural network robustness certification with general
//! activation functions") and DeepPoly (Singh et al. 2019, "An abstract domain for certifying neural networks").
//!
//! The lines are those with the smallest area to the function: segments of its convex and its concave envelope, namely those at
//! the middle of the interval. For ReLU these are the lines of DeepPoly.

use super::matrix::{ROUNDOFF, gamma};
use super::region::{Bounded, TINY, norm_above};
use crate::lipschitz::piecewise_linear::{Affine, Function, Matrix};

/// x ↦ slope·x + offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub slope: f64,
    pub offset: f64,
}

/// A point of a function, and how far rounding may have moved it.
#[derive(Debug, Clone, Copy)]
struct Corner {
    x: f64,
    y: f64,
    error: f64,
}

/// The ends of all pieces of a function on an interval. As stored, pieces may miss each other at a knot by a rounding.
fn corners(f: &Function, (low, high): (f64, f64)) -> Vec<Corner> {
    let first = f.piece(low);
    let last = f.knots().partition_point(|&knot| knot <= high).max(first);
    let mut corners = Vec::with_capacity(2 * (last - first + 1));
    for piece in first..=last {
        let start = if piece == first { low } else { f.knots()[piece - 1] };
        let end = if piece == last { high } else { f.knots()[piece] };
        let (slope, offset) = (f.slopes()[piece], f.offsets()[piece]);
        corners.extend([start, end].map(|x| {
            // A level piece has its value at infinity too.
            let rise = if slope == 0.0 { 0.0 } else { slope * x };
            Corner { x, y: rise + offset, error: 4.0 * ROUNDOFF * (rise.abs() + offset.abs()) + TINY }
        }));
    }
    corners
}

/// Bounds of a function's values on an interval.
pub(super) fn values(f: &Function, interval: (f64, f64)) -> (f64, f64) {
    let mut all = (f64::INFINITY, f64::NEG_INFINITY);
    for Corner { y, error, .. } in corners(f, interval) {
        if !(y + error).is_finite() {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        all = (all.0.min(y - error), all.1.max(y + error));
    }
    all
}

/// A line below a function on an interval of finite ends, and one above it.
pub(super) fn lines(f: &Function, interval: (f64, f64)) -> (Line, Line) {
    let corners = corners(f, interval);
    let (least, most) = f.slopes_on(interval.0, interval.1);
    let middle = 0.5 * interval.0 + 0.5 * interval.1;
    let line = |sign: f64| {
        let slope = sign * slope_below(&corners, middle, sign);
        // Rounding may make it steeper than the function is anywhere.
        let slope = if slope.is_finite() { slope.max(least).min(most) } else { 0.0 };
        let gap = |c: &Corner| {
            let rise = slope * c.x;
            let gap = sign * (c.y - rise) - c.error - 4.0 * ROUNDOFF * (c.y.abs() + rise.abs()) - TINY;
            if gap.is_nan() { f64::NEG_INFINITY } else { gap }
        };
        Line { slope, offset: sign * corners.iter().map(gap).fold(f64::INFINITY, f64::min) }
    };
    (line(1.0), line(-1.0))
}

/// The slope at `middle` of the convex envelope of sign·y.
fn slope_below(corners: &[Corner], middle: f64, sign: f64) -> f64 {
    let mut hull: Vec<(f64, f64)> = Vec::with_capacity(corners.len());
    for corner in corners {
        let (x, y) = (corner.x, sign * corner.y);
        while let [.., (x0, y0), (x1, y1)] = hull[..] {
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0) {
                break;
            }
            hull.pop();
        }
        // Of two points above each other the lower one.
        match hull.last_mut() {
            Some(last) if last.0 >= x => last.1 = last.1.min(y),
            _ => hull.push((x, y)),
        }
    }
    let after = hull.iter().position(|&(x, _)| x >= middle).unwrap_or(0).max(1);
    match (hull.get(after - 1), hull.get(after)) {
        (Some((x0, y0)), Some((x1, y1))) => (y1 - y0) / (x1 - x0),
        _ => 0.0,
    }
}

/// A layer with lines for its functions.
pub(super) struct Relaxed<'a> {
    affine: &'a Affine,
    below: Vec<Line>,
    above: Vec<Line>,
    /// Σ_j |w_ij|·|x_j| + |b_i|, which roundings of pre-activations are relative to.
    sizes: Vec<f64>,
}

impl<'a> Relaxed<'a> {
    /// With the intervals of pre-activations, and the largest |x| of the inputs.
    pub fn new(
        affine: &'a Affine,
        functions: &[impl AsRef<Function>],
        intervals: &[(f64, f64)],
        inputs: &[f64],
    ) -> Self {
        let (below, above) = functions.iter().zip(intervals).map(|(f, &interval)| lines(f.as_ref(), interval)).unzip();
        let size =
            |(row, bias): (&[f64], &f64)| bias.abs() + row.iter().zip(inputs).map(|(w, x)| (w * x).abs()).sum::<f64>();
        Self { affine, below, above, sizes: affine.weight.rows().zip(&affine.bias).map(size).collect() }
    }
}

/// Bounds of the linear functions rows·a + offsets of the activations a of the last of these layers.
pub(super) fn extremes(layers: &[Relaxed], rows: &Matrix, offsets: &[f64], region: &Bounded) -> Vec<(f64, f64)> {
    let (count, columns) = rows.dims();
    // Least values of the functions and of their negatives.
    let both = rows.data().iter().copied().chain(rows.data().iter().map(|w| -w)).collect();
    let offsets = offsets.iter().copied().chain(offsets.iter().map(|b| -b)).collect();
    let least = least(layers, Matrix::new(2 * count, columns, both), offsets, region);
    let (low, high) = least.split_at(count);
    low.iter().zip(high).map(|(&low, &high)| (low, -high)).collect()
}

fn least(layers: &[Relaxed], mut rows: Matrix, mut offsets: Vec<f64>, region: &Bounded) -> Vec<f64> {
    let mut errors = vec![0.0; offsets.len()];
    for layer in layers.iter().rev() {
        let affine = layer.affine;
        let rounding = gamma(2 * rows.dims().1);
        for (row, (offset, error)) in offsets.iter_mut().zip(&mut errors).enumerate() {
            let (mut sum, mut size) = (0.0, 0.0);
            for (j, w) in rows.row_mut(row).iter_mut().enumerate() {
                if *w == 0.0 {
                    continue;
                }
                let line = if *w > 0.0 { layer.below[j] } else { layer.above[j] };
                size += w.abs() * (line.slope.abs() * layer.sizes[j] + line.offset.abs());
                sum += *w * line.offset;
                *w *= line.slope;
                sum += *w * affine.bias[j];
            }
            *offset += sum;
            *error += rounding * size + 2.0 * ROUNDOFF * offset.abs();
        }
        rows = rows.times(&affine.weight);
    }
    let bound = |(row, (offset, error)): (&[f64], (&f64, &f64))| {
        let value = row.iter().zip(&region.centre).map(|(w, x)| w * x).sum::<f64>();
        let size = norm_above(row) * norm_above(&region.centre) + offset.abs();
        let below = region.reach(row) + error + gamma(row.len() + 2 * layers.len()) * size;
        value + offset - below * (1.0 + 8.0 * ROUNDOFF) - TINY
    };
    rows.rows().zip(offsets.iter().zip(&errors)).map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_relu_are_the_usual_ones() {
        let relu = Function::rectifier(0.0);
        let close =
            |line: Line, slope: f64, offset: f64| (line.slope - slope).abs() + (line.offset - offset).abs() < 1e-12;
        let (below, above) = lines(&relu, (-1.0, 3.0));
        assert!(close(below, 1.0, 0.0) && close(above, 0.75, 0.75), "{below:?}, {above:?}");
        let (below, above) = lines(&relu, (-3.0, 1.0));
        assert!(close(below, 0.0, 0.0) && close(above, 0.25, 0.75), "{below:?}, {above:?}");
        let (below, above) = lines(&relu, (1.0, 3.0));
        assert!(close(below, 1.0, 0.0) && close(above, 1.0, 0.0), "{below:?}, {above:?}");
        let (below, above) = lines(&relu, (-2.0, -2.0));
        assert!(close(below, 0.0, 0.0) && close(above, 0.0, 0.0), "{below:?}, {above:?}");
    }

    #[test]
    fn lines_do_not_cross_the_function() {
        let f = Function::new(&[-2.0, -1.0, 0.5, 1.0, 3.0], &[1.0, -2.0, 0.3, 4.0, -1.0, 0.7], (0.0, 0.2));
        for k in 0..60 {
            let (low, high) = (-4.0 + 0.1 * f64::from(k), -3.5 + 0.17 * f64::from(k));
            let (below, above) = lines(&f, (low, high));
            let range = values(&f, (low, high));
            for t in 0..=50 {
                let x = low + (high - low) * f64::from(t) / 50.0;
                let y = f.value(x);
                assert!(
                    below.slope * x + below.offset <= y && y <= above.slope * x + above.offset,
                    "{low}, {high}, {x}"
                );
                assert!(range.0 <= y && y <= range.1);
            }
        }
    }
}
