//! Bounds by diagonal multipliers (LipSDP, Fazlyab et al. 2019): for slopes in intervals, one multiplier for each neuron weighs
//! what its unknown slope may change. Every choice of multipliers is a proof; the best of them take the layers of a network
//! together, where a product of norms takes each in its worst case.

mod check;
mod cholesky;
mod composite;
mod newton;
mod scale;
pub(crate) mod subproblem;

use super::dense_norm_of;
use super::matrix::gamma;
use super::paths::Rounded;
use super::region::{middle_and_half, norm_above};
use crate::lipschitz::piecewise_linear::PiecewiseLinear;
pub(crate) use cholesky::inverse;
use composite::Composite;
pub(crate) use composite::with_few_outputs;
use newton::{Goal, Solution, minimise};

/// Intervals [α, β] of the slopes of each neuron of each layer.
pub type Slopes = Vec<Vec<(f64, f64)>>;

/// More inputs and neurons before the last layer than this are too many: a step takes the cube of their number.
const MOST_BEFORE_LAST: usize = 640;

/// More neurons than this are too many: a step takes the cube of their number, too.
const MOST_NEURONS: usize = 1600;

/// An upper bound of the largest ‖J‖₂ of all Jacobians of slopes in these intervals: never above the product of norms of the
/// layers, each scaled by the largest |slope| of its neurons, and infinite only if numbers are not finite or cannot be scaled.
pub(crate) fn bound(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> f64 {
    if !scale::is_far_from_one(network, slopes) {
        return bound_near_one(network, slopes);
    }
    let Some(scaled) = scale::brought_near_one(network, slopes) else { return f64::INFINITY };
    scale::times_power_of_two(bound_near_one(&scaled.network, &scaled.slopes), scaled.exponent)
}

/// The bound of a network whose norms have squares and products in the range of numbers.
fn bound_near_one(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> f64 {
    let start = start(network, slopes);
    let product = start.product.sqrt() * (1.0 + 4.0 * f64::EPSILON);
    if !start.rho.is_finite() || start.rho == 0.0 {
        return product;
    }
    let (neurons, in_last) = Composite::unknown(network, slopes);
    if neurons - in_last + network.inputs.min(shortest(network)) > MOST_BEFORE_LAST || neurons > MOST_NEURONS {
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
    let error = gamma(composite.operations) * norm_above(sizes.data());
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
    let mut start = Start { product: 1.0, rho: 1.0, multipliers: Vec::new() };
    let mut pass = |after: &Rounded, share: f64| {
        let (rows, columns) = after.matrix.dims();
        let norm = dense_norm_of(rows, columns, after.matrix.data()) + after.error;
        let square = in_range(norm, norm) * ABOVE_ROUNDING;
        start.product = in_range(start.product, square);
        start.rho = in_range(start.rho, square * share * ROOM);
        start.rho
    };
    let mut multipliers = Vec::new();
    // The matrix behind a layer's functions.
    let (mut after, mut largest_share) = (Rounded::exact(network.output.weight.clone()), 1.0);
    for (layer, slopes) in network.layers.iter().zip(slopes).rev() {
        let mut weight = layer.affine.weight.clone();
        if layer.is_linear() {
            // The norm is that of the product of layers, which are kept apart.
            let slope = slopes.iter().map(|slopes| slopes.0).fold(0.0, f64::max);
            weight.scale_rows(&vec![slope; slopes.len()]);
            after = after.times(&weight);
            continue;
        }
        let rho = pass(&after, largest_share);
        let mut factors = Vec::with_capacity(slopes.len());
        largest_share = 1.0f64;
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
        weight.scale_rows(&factors);
        after = Rounded::exact(weight);
    }
    pass(&after, largest_share);
    multipliers.reverse();
    Start { multipliers, ..start }
}

/// a·b, and infinity where it is below all numbers that have full precision with some room.
fn in_range(a: f64, b: f64) -> f64 {
    let product = a * b;
    if a > 0.0 && b > 0.0 && product < 1e-250 { f64::INFINITY } else { product }
}

#[cfg(test)]
mod tests;
