//! Bounds by diagonal multipliers (LipSDP, Fazlyab et al. 2019): for slopes in intervals, one multiplier for each neuron weighs
//! what its unknown slope may change. Every choice of multipliers is a proof; the best of them take the layers of a network
//! together, where a product of norms takes each in its worst case.

mod check;
mod cholesky;
mod composite;
mod newton;
pub(crate) mod subproblem;

use super::dense_norm_of;
use super::matrix::gamma;
use super::region::middle_and_half;
use crate::lipschitz::piecewise_linear::{Matrix, PiecewiseLinear};
pub(crate) use cholesky::inverse;
use composite::Composite;
use newton::{Goal, Solution, minimise};

/// Intervals [α, β] of the slopes of each neuron of each layer.
pub type Slopes = Vec<Vec<(f64, f64)>>;

/// More inputs and neurons before the last layer than this are too many: a step takes the cube of their number.
const MOST_BEFORE_LAST: usize = 640;

/// More neurons than this are too many: a step takes the cube of their number, too.
const MOST_NEURONS: usize = 1600;

/// An upper bound of the largest ‖J‖₂ of all Jacobians of slopes in these intervals: never above the product of norms of the
/// layers, each scaled by the largest |slope| of its neurons, and infinite only if a number is not finite.
pub(crate) fn bound(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> f64 {
    let start = start(network, slopes);
    let product = start.product.sqrt() * (1.0 + 4.0 * f64::EPSILON);
    if !start.rho.is_finite() || start.rho == 0.0 {
        return product;
    }
    let free = |slopes: &Vec<(f64, f64)>| slopes.iter().filter(|(low, high)| low != high).count();
    let neurons: usize = slopes.iter().map(free).sum();
    let before_last = neurons - slopes.last().map_or(0, free);
    if before_last + network.inputs.min(shortest(network)) > MOST_BEFORE_LAST || neurons > MOST_NEURONS {
        return product;
    }
    let composite = Composite::new(network, slopes);
    if composite.neurons.is_empty() {
        return linear(network, slopes, &composite).min(product);
    }
    // A step takes up to a second where there are very many neurons, and a millisecond where there are 100.
    let goal = if neurons <= 256 {
        Goal { gap: 1e-7, cutoff: None, first_weight: 1.0, decrement: 0.5, steps: 200 }
    } else if neurons <= 768 {
        Goal { gap: 1e-2, cutoff: None, first_weight: 10.0, decrement: 2.0, steps: 200 }
    } else {
        Goal { gap: 0.4, cutoff: None, first_weight: 30.0, decrement: 30.0, steps: 200 }
    };
    let solution = minimise(&composite, (start.rho, &start.multipliers), goal);
    let square = solution.and_then(|Solution { rho, multipliers, .. }| {
        check::certified_square(network, slopes, &composite, rho, &multipliers)
    });
    square.map_or(product, |square| (square.sqrt() * (1.0 + 4.0 * f64::EPSILON)).min(product))
}

/// The number of outputs of the first layer, which its inputs can be replaced by.
fn shortest(network: &PiecewiseLinear) -> usize {
    network.layers.first().map_or(network.outputs(), |layer| layer.affine.bias.len())
}

/// The norm of a network without unknown slopes.
fn linear(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>], composite: &Composite) -> f64 {
    let (rows, columns) = composite.y.dims();
    let norm = dense_norm_of(rows, columns, composite.y.data());
    let sizes = Composite::absolute(network, slopes).y;
    let error = gamma(composite.operations) * sizes.data().iter().map(|y| y * y).sum::<f64>().sqrt();
    (norm + 2.0 * error) * (1.0 + 1e-12)
}

/// The square of the product of norms, and multipliers that prove a somewhat larger ρ with room on all sides.
struct Start {
    product: f64,
    rho: f64,
    multipliers: Vec<f64>,
}

/// From the output to the input, with the cost of a change p·‖v‖² behind a layer: a multiplier p·(1 + |m|/r) makes it
/// p·max|slope|²·z² before the function.
fn start(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> Start {
    const ABOVE_ROUNDING: f64 = 1.0 + 1e-12;
    // Next to the boundary of what is feasible, Newton's method takes many steps to get away.
    const ROOM: f64 = 1.1;
    let norm = |matrix: &Matrix| {
        let (rows, columns) = matrix.dims();
        dense_norm_of(rows, columns, matrix.data())
    };
    let mut product = norm(&network.output.weight).powi(2) * ABOVE_ROUNDING;
    let mut rho = product * ROOM;
    let mut multipliers = Vec::new();
    for (layer, slopes) in network.layers.iter().zip(slopes).rev() {
        let (mut factors, mut largest_share) = (Vec::with_capacity(slopes.len()), 1.0f64);
        for &slopes in slopes.iter().rev() {
            let (m, r) = middle_and_half(slopes.0, slopes.1);
            let m = m.abs();
            factors.push(m + r);
            if slopes.0 == slopes.1 {
                continue;
            }
            let t = ROOM * (1.0 + m / r);
            multipliers.push(rho * t);
            largest_share = largest_share.max((r * r * t + m * m + m * m / (t - 1.0)) / (m + r).powi(2));
        }
        factors.reverse();
        let mut weight = layer.affine.weight.clone();
        weight.scale_rows(&factors);
        let square = norm(&weight).powi(2) * ABOVE_ROUNDING;
        product *= square;
        rho *= square * largest_share * ROOM;
    }
    multipliers.reverse();
    Start { product, rho, multipliers }
}

#[cfg(test)]
mod tests;
