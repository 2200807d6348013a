//! Bounds by diagonal multipliers (LipSDP, Fazlyab et al. 2019): for slopes in intervals, one multiplier for each neuron weighs
//! what its unknown slope may change. Every choice of multipliers is a proof; the best of them take the layers of a network
//! together, where a product of norms takes each in its worst case.

mod check;
mod cholesky;
mod composite;
mod newton;

use super::matrix::{Goal as NormGoal, gamma, largest_singular_value};
use super::{TopSingular, dense_norm_of};
use crate::lipschitz::piecewise_linear::{Layer, Matrix, PiecewiseLinear};
pub(crate) use cholesky::inverse;
use composite::{Composite, middle, radius};
use newton::{Goal, Solution, minimise};

/// Intervals [α, β] of the slopes of each neuron of each layer.
pub type Slopes = Vec<Vec<(f64, f64)>>;

/// The intervals over all inputs.
pub(crate) fn all_slopes(network: &PiecewiseLinear) -> Slopes {
    let of_layer =
        |layer: &Layer| layer.functions.iter().map(|f| f.slopes_on(f64::NEG_INFINITY, f64::INFINITY)).collect();
    network.layers.iter().map(of_layer).collect()
}

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

/// A bound of all Jacobians of slopes in intervals, and what a search learns from it.
#[derive(Debug, Clone)]
pub(crate) struct Subproblem {
    /// No Jacobian has a larger ℓ2 norm.
    pub bound: f64,
    /// Layer and index of each neuron whose slope is open.
    pub neurons: Vec<(usize, usize)>,
    /// The share of the bound that each of them leaves open.
    pub open: Vec<f64>,
    /// Where between its smallest slope, −1, and its largest, 1, the worst case has each.
    pub worst: Vec<f64>,
    rho: f64,
    multipliers: Vec<f64>,
    slopes: Slopes,
}

/// A subproblem, from the multipliers of one with larger intervals on if that is given. The bound is as good as it needs to be to
/// say whether its square is below `cutoff`.
pub(crate) fn subproblem(
    network: &PiecewiseLinear,
    slopes: &Slopes,
    parent: Option<&Subproblem>,
    cutoff: f64,
) -> Subproblem {
    let composite = Composite::new(network, slopes);
    let neurons = composite.neurons.clone();
    let known = |bound: f64| Subproblem {
        bound,
        neurons: Vec::new(),
        open: Vec::new(),
        worst: Vec::new(),
        rho: bound * bound,
        multipliers: Vec::new(),
        slopes: slopes.clone(),
    };
    if neurons.is_empty() {
        return known(linear(network, slopes, &composite));
    }
    let goal = Goal { gap: 1e-2, cutoff: Some(cutoff), first_weight: 1.0, decrement: 0.5, steps: 100 };
    // |w| ≤ r·|z| with the smaller r and another middle follows from the larger interval with t·r/r′ for t.
    let from_parent = parent.and_then(|parent| {
        let mut multipliers = Vec::with_capacity(neurons.len());
        let mut of_parent = parent.neurons.iter().zip(&parent.multipliers);
        for &(layer, neuron) in &neurons {
            let (_, t) = of_parent.find(|(of, _)| **of == (layer, neuron))?;
            multipliers.push(t * radius(parent.slopes[layer][neuron]) / radius(slopes[layer][neuron]));
        }
        minimise(&composite, (parent.rho, &multipliers), Goal { first_weight: 3.0, ..goal })
    });
    let solution = from_parent.or_else(|| {
        let start = start(network, slopes);
        minimise(&composite, (start.rho, &start.multipliers), goal)
    });
    let Some(Solution { rho, multipliers, open, worst }) = solution else {
        let product = start(network, slopes).product.sqrt();
        return if product > 0.0 {
            Subproblem { open: vec![0.0; neurons.len()], worst: vec![0.0; neurons.len()], neurons, ..known(product) }
        } else {
            known(0.0)
        };
    };
    let square = check::certified_square(network, slopes, &composite, rho, &multipliers).unwrap_or(f64::INFINITY);
    Subproblem {
        bound: square.sqrt() * (1.0 + 4.0 * f64::EPSILON),
        neurons,
        open,
        worst,
        rho,
        multipliers,
        slopes: slopes.clone(),
    }
}

/// A lower bound of the norm of the Jacobian of known slopes, and the direction in which it is that steep.
pub(crate) fn norm_of_known(network: &PiecewiseLinear, slopes: &Slopes) -> (f64, Vec<f64>) {
    let mut jacobian = network.layers.first().map_or(&network.output, |layer| &layer.affine).weight.clone();
    let mut sizes = jacobian.clone();
    sizes.data_mut().iter_mut().for_each(|w| *w = w.abs());
    let mut operations = jacobian.dims().1;
    for (depth, slopes) in slopes.iter().enumerate() {
        let factors: Vec<f64> = slopes.iter().map(|slopes| slopes.0).collect();
        jacobian.scale_rows(&factors);
        sizes.scale_rows(&factors.iter().map(|f| f.abs()).collect::<Vec<_>>());
        let next = &network.layers.get(depth + 1).map_or(&network.output, |layer| &layer.affine).weight;
        let mut next_sizes = next.clone();
        next_sizes.data_mut().iter_mut().for_each(|w| *w = w.abs());
        operations += next.dims().1 + 4;
        (jacobian, sizes) = (next.times(&jacobian), next_sizes.times(&sizes));
    }
    let (rows, columns) = jacobian.dims();
    let direction = TopSingular::new(rows, columns, jacobian.data()).right;
    // ‖J·v‖/‖v‖ is attained.
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let image = norm(&mut jacobian.rows().map(|row| row.iter().zip(&direction).map(|(j, v)| j * v).sum()));
    let length = norm(&mut direction.iter().copied());
    let error = gamma(operations + columns + rows) * norm(&mut sizes.data().iter().copied());
    let quotient = if length > 0.0 { image / length * (1.0 - 1e-14) - 2.0 * error } else { 0.0 };
    (quotient.max(0.0), direction)
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
        largest_singular_value(rows, columns, matrix.data(), NormGoal::within(1e-7)).upper
    };
    let mut product = norm(&network.output.weight).powi(2) * ABOVE_ROUNDING;
    let mut rho = product * ROOM;
    let mut multipliers = Vec::new();
    for (layer, slopes) in network.layers.iter().zip(slopes).rev() {
        let (mut factors, mut largest_share) = (Vec::with_capacity(slopes.len()), 1.0f64);
        for &slopes in slopes.iter().rev() {
            let (m, r) = (middle(slopes).abs(), radius(slopes));
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
