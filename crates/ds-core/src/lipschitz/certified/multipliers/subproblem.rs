//! Bounds of networks of which some pieces are allowed, one after the other, as branch and bound asks for them.

use super::super::TopSingular;
use super::super::matrix::gamma;
use super::super::region::middle_and_half;
use super::composite::Composite;
use super::newton::{Goal, Solution, minimise};
use super::scale::is_far_from_one;
use super::{Slopes, bound, check, linear, start};
use crate::lipschitz::piecewise_linear::PiecewiseLinear;

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
    let known = |bound: f64| Subproblem {
        bound,
        neurons: Vec::new(),
        open: Vec::new(),
        worst: Vec::new(),
        rho: bound * bound,
        multipliers: Vec::new(),
        slopes: slopes.clone(),
    };
    // There is little that a search could gain.
    if is_far_from_one(network, slopes) {
        return known(bound(network, slopes));
    }
    let composite = Composite::new(network, slopes);
    let neurons = composite.neurons.clone();
    if neurons.is_empty() {
        return known(linear(network, slopes, &composite));
    }
    let goal = Goal { gap: 1e-2, cutoff: Some(cutoff), first_weight: 1.0, decrement: 0.5, steps: 100 };
    // |w| ≤ r·|z| with the smaller r and another middle follows from the larger interval with t·r/r′ for t.
    let from_parent = parent.and_then(|parent| {
        let mut multipliers = Vec::with_capacity(neurons.len());
        let mut of_parent = parent.neurons.iter().zip(&parent.multipliers);
        for &(layer, neuron) in &neurons {
            let radius = |slopes: &Slopes| {
                let (low, high) = slopes[layer][neuron];
                middle_and_half(low, high).1
            };
            let (_, t) = of_parent.find(|(of, _)| **of == (layer, neuron))?;
            multipliers.push(t * radius(&parent.slopes) / radius(slopes));
        }
        minimise(&composite, (parent.rho, &multipliers), Goal { first_weight: 3.0, ..goal })
    });
    let solution = from_parent.or_else(|| {
        let start = start(network, slopes);
        minimise(&composite, (start.rho, &start.multipliers), goal)
    });
    // Where no multipliers are proven, the product of norms is.
    let product = || start(network, slopes).product;
    match solution {
        Some(Solution { rho, multipliers, open, worst }) => {
            let square =
                check::certified_square(network, slopes, &composite, rho, &multipliers).unwrap_or_else(product);
            let bound = square.sqrt() * (1.0 + 4.0 * f64::EPSILON);
            Subproblem { bound, neurons, open, worst, rho, multipliers, slopes: slopes.clone() }
        }
        None => {
            let bound = product().sqrt() * (1.0 + 4.0 * f64::EPSILON);
            let nothing = vec![0.0; neurons.len()];
            Subproblem { open: nothing.clone(), worst: nothing, neurons, ..known(bound) }
        }
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
