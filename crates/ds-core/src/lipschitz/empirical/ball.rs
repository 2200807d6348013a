//! Pairs of inputs with a large quotient in a ball.

use super::{DISTANCE, Witness, difference, norm};
use crate::lipschitz::certified::TopSingular;
use crate::lipschitz::piecewise_linear::{Layer, Matrix, PiecewiseLinear};
use candle_core::{Result, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The largest quotient that is found of two inputs with ‖x − centre‖₂ ≤ radius, from the Jacobians at that many points: a third
/// of them random, the others moves from the best so far, along its pair or to a random side.
///
/// # Errors
/// If the centre has not as many elements as an input, or the radius is not a positive number.
pub fn lower_bound_in_ball(
    network: &PiecewiseLinear,
    centre: &[f64],
    radius: f64,
    points: usize,
    seed: u64,
) -> Result<Witness> {
    if centre.len() != network.inputs {
        bail!("lower bound in a ball: a centre of {} elements, not {}", centre.len(), network.inputs);
    }
    if !(radius.is_finite() && radius > 0.0) {
        bail!("lower bound in a ball: there are no pairs within a radius of {radius}");
    }
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut best = steepest_pair(network, centre, radius, centre);
    for step in 1..points {
        let random = uniform_in_ball(rng, centre, radius);
        let share = [1.0, 0.3, 0.1, 0.03][step % 4];
        let x: Vec<f64> = if 3 * step < points {
            random
        } else if step % 3 == 0 {
            // The function changes fastest along the pair.
            let along = difference(&best.y, &best.x);
            let reach =
                radius * share * if rng.random_bool(0.5) { 1.0 } else { -1.0 } / norm(&along).max(f64::MIN_POSITIVE);
            best.x.iter().zip(along).map(|(x, d)| x + reach * d).collect()
        } else {
            best.x.iter().zip(random).map(|(x, other)| x + share * (other - x)).collect()
        };
        let found = steepest_pair(network, centre, radius, &x);
        if found.quotient > best.quotient {
            best = found;
        }
    }
    Ok(best)
}

fn uniform_in_ball(rng: &mut ChaCha8Rng, centre: &[f64], radius: f64) -> Vec<f64> {
    // Sums of uniform numbers are near enough to normal ones for a direction.
    let direction: Vec<f64> = centre.iter().map(|_| (0..4).map(|_| rng.random_range(-1.0..1.0)).sum()).collect();
    let length = radius * rng.random_range(0.0f64..1.0).powf(1.0 / centre.len().max(1) as f64);
    let scale = length / norm(&direction).max(f64::MIN_POSITIVE);
    centre.iter().zip(direction).map(|(c, d)| c + scale * d).collect()
}

/// The point nearest to x of the ball.
fn projected(x: &[f64], centre: &[f64], radius: f64) -> Vec<f64> {
    let away = difference(x, centre);
    let distance = norm(&away);
    if distance <= radius {
        return x.to_vec();
    }
    centre.iter().zip(away).map(|(c, d)| c + radius / distance * d).collect()
}

/// The pair round x in the direction of the top right singular vector of the Jacobian there, in the ball.
fn steepest_pair(network: &PiecewiseLinear, centre: &[f64], radius: f64, x: &[f64]) -> Witness {
    let half = (0.5 * DISTANCE).min(0.25 * radius);
    let middle = projected(x, centre, radius - half);
    let jacobian = jacobian(network, &middle);
    let (rows, columns) = jacobian.dims();
    let v = TopSingular::new(rows, columns, jacobian.data()).right;
    let moved = |by: f64| middle.iter().zip(&v).map(|(x, v)| x + by * v).collect::<Vec<f64>>();
    let (x, y) = (moved(-half), moved(half));
    let (input, output) = (norm(&difference(&x, &y)), norm(&difference(&network.value(&x), &network.value(&y))));
    let quotient = if input > 0.0 && output.is_finite() { output / input } else { 0.0 };
    Witness { quotient, x, y }
}

/// The Jacobian at a point, from the outputs back to the inputs.
fn jacobian(network: &PiecewiseLinear, x: &[f64]) -> Matrix {
    let (mut signal, mut slopes) = (x.to_vec(), Vec::with_capacity(network.layers.len()));
    for Layer { affine, functions } in &network.layers {
        let z = affine.apply(&signal);
        slopes.push(z.iter().zip(functions).map(|(&z, f)| f.slopes()[f.piece(z)]).collect::<Vec<f64>>());
        signal = z.iter().zip(functions).map(|(&z, f)| f.value(z)).collect();
    }
    let layers = network.layers.iter().zip(slopes).rev();
    layers.fold(network.output.weight.clone(), |mut product, (layer, slopes)| {
        product.scale_columns(&slopes);
        product.times(&layer.affine.weight)
    })
}
