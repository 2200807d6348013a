//! Patterns: for each neuron the pieces of its function that it may be in.

use super::cone::Cone;
use crate::lipschitz::certified::multipliers::{Slopes, subproblem};
use crate::lipschitz::certified::paths::that_matter;
use crate::lipschitz::piecewise_linear::{Function, Layer, Matrix, PiecewiseLinear};
use std::sync::Arc;

/// The first and the last piece of each neuron of each layer.
pub(super) type Pattern = Vec<Vec<(usize, usize)>>;

/// All pieces.
pub(super) fn all(network: &PiecewiseLinear) -> Pattern {
    network.layers.iter().map(|layer| layer.functions.iter().map(|f| (0, f.knots().len())).collect()).collect()
}

/// The slopes of a pattern that its Jacobians depend on: 0 for neurons that are the same for all of its inputs.
pub(super) fn slopes(network: &PiecewiseLinear, pattern: &Pattern) -> Slopes {
    let of_layer = |(layer, pieces): (&Layer, &Vec<(usize, usize)>)| {
        let of_neuron = |(f, &(first, last)): (&Arc<Function>, &(usize, usize))| {
            let slopes: &[f64] = &f.slopes()[first..=last];
            let low = slopes.iter().copied().fold(f64::INFINITY, f64::min);
            (low, slopes.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        };
        layer.functions.iter().zip(pieces).map(of_neuron).collect()
    };
    let slopes: Slopes = network.layers.iter().zip(pattern).map(of_layer).collect();
    that_matter(network, &slopes)
}

/// A half-space: sign·(z − knot) > 0 for a pre-activation z, or the 1 of (x, 1) above 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// Layer and index of the neuron; `None` for the 1.
    pub of: Option<(usize, usize)>,
    pub sign: f64,
    pub knot: f64,
}

/// The inputs of a pattern.
pub(super) struct Inputs {
    /// The half-spaces that are known.
    pub cone: Cone,
    /// Where each of its vectors comes from.
    pub sides: Vec<Side>,
    /// Whether the pre-activation of each neuron is affine on them.
    pub affine: Vec<Vec<bool>>,
}

/// Rounded operations of any pre-activation here are fewer than 1e4, of 1.1e-16 each.
const ROUNDING: f64 = 1e-12;

/// The inputs of a pattern, as far as they are bounded by hyperplanes: of neurons that are affine because all that act on them
/// are in one piece. Vectors are of (x, 1).
pub(super) fn inputs(network: &PiecewiseLinear, pattern: &Pattern) -> Inputs {
    let n = network.inputs;
    let mut cone = Cone::default();
    let mut positive = vec![0.0; n + 1];
    positive[n] = 1.0;
    cone.push(positive, vec![0.0; n + 1]);
    let mut sides = vec![Side { of: None, sign: 1.0, knot: 0.0 }];
    // The affine maps of the signal, their magnitudes, and whether they are known.
    let (mut signal, mut magnitude) = (Matrix::zeros(n, n + 1), Matrix::zeros(n, n + 1));
    for k in 0..n {
        (signal.row_mut(k)[k], magnitude.row_mut(k)[k]) = (1.0, 1.0);
    }
    let mut known = vec![true; n];
    let mut affine = Vec::new();
    for (layer, pieces) in network.layers.iter().zip(pattern) {
        let weight = &layer.affine.weight;
        let mut sizes = weight.clone();
        sizes.data_mut().iter_mut().for_each(|w| *w = w.abs());
        let (mut z, mut z_size) = (weight.times(&signal), sizes.times(&magnitude));
        let mut is_affine = Vec::with_capacity(pieces.len());
        for (k, (f, &(first, last))) in layer.functions.iter().zip(pieces).enumerate() {
            z.row_mut(k)[n] += layer.affine.bias[k];
            z_size.row_mut(k)[n] += layer.affine.bias[k].abs();
            let of_known = weight.row(k).iter().zip(&known).all(|(w, known)| *known || *w == 0.0);
            is_affine.push(of_known);
            if of_known {
                let mut side = |sign: f64, knot: f64| {
                    let mut row: Vec<f64> = z.row(k).iter().map(|z| sign * z).collect();
                    row[n] -= sign * knot;
                    // Constant and on the knot, which is part of the piece left of it.
                    if sign < 0.0 && row.iter().all(|x| *x == 0.0) {
                        return;
                    }
                    let mut error: Vec<f64> = z_size.row(k).iter().map(|z| ROUNDING * z).collect();
                    error[n] += ROUNDING * knot.abs();
                    cone.push(row, error);
                    sides.push(Side { of: Some((affine.len(), k)), sign, knot });
                };
                if first > 0 {
                    side(1.0, f.knots()[first - 1]);
                }
                if last < f.knots().len() {
                    side(-1.0, f.knots()[last]);
                }
            }
            let (slope, offset) = (f.slopes()[first], f.offsets()[first]);
            for (row, add, scale) in [(z.row_mut(k), offset, slope), (z_size.row_mut(k), offset.abs(), slope.abs())] {
                row.iter_mut().for_each(|z| *z *= scale);
                row[n] += add;
            }
        }
        // A constant function is known whatever it is applied to.
        let in_one_piece = |((&(first, last), &of_known), f): ((&(usize, usize), &bool), &Arc<Function>)| {
            first == last && (of_known || f.slopes()[first] == 0.0)
        };
        known = pieces.iter().zip(&is_affine).zip(&layer.functions).map(in_one_piece).collect();
        for (k, (f, &(first, _))) in layer.functions.iter().zip(pieces).enumerate() {
            if known[k] && f.slopes()[first] == 0.0 {
                z.row_mut(k)[..n].fill(0.0);
                z.row_mut(k)[n] = f.offsets()[first];
            }
        }
        affine.push(is_affine);
        (signal, magnitude) = (z, z_size);
    }
    Inputs { cone, sides, affine }
}

/// The pattern at a point, if it lies inside a piece of each neuron that is not the same for all inputs round it, whatever
/// rounding does.
pub(super) fn at(network: &PiecewiseLinear, x: &[f64]) -> Option<Pattern> {
    let mut signal = x.to_vec();
    let mut error: Vec<f64> = vec![0.0; x.len()];
    let mut moving = vec![true; x.len()];
    let mut pattern = Vec::with_capacity(network.layers.len());
    for Layer { affine, functions } in &network.layers {
        let (mut next, mut next_error, mut next_moving, mut pieces) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((row, bias), f) in affine.weight.rows().zip(&affine.bias).zip(functions) {
            let terms = || row.iter().zip(&signal).map(|(w, v)| w * v);
            let z = bias + terms().sum::<f64>();
            let size = bias.abs() + terms().map(f64::abs).sum::<f64>();
            let e = row.iter().zip(&error).map(|(w, e)| w.abs() * e).sum::<f64>() + ROUNDING * size;
            let moves = row.iter().zip(&moving).any(|(w, moves)| *moves && *w != 0.0);
            let piece = f.piece(z - e);
            if moves && (f.piece(z + e) != piece || f.knots().get(piece).is_some_and(|&knot| knot <= z + e)) {
                return None;
            }
            next_moving.push(moves && f.slopes()[piece] != 0.0);
            pieces.push((piece, piece));
            next.push(f.slopes()[piece] * z + f.offsets()[piece]);
            let (low, high) = f.slopes_on(z - e, z + e);
            next_error.push(low.abs().max(high.abs()) * e + ROUNDING * (z.abs() + f.offsets()[piece].abs()));
        }
        pattern.push(pieces);
        (signal, error, moving) = (next, next_error, next_moving);
    }
    Some(pattern)
}

/// A lower bound of the norm of the Jacobian of a pattern of single pieces, and the direction in which it is that steep.
pub(super) fn norm(network: &PiecewiseLinear, pattern: &Pattern) -> (f64, Vec<f64>) {
    subproblem::norm_of_known(network, &slopes(network, pattern))
}
