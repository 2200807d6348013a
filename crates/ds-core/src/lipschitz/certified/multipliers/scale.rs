//! Powers of two that bring weights and slopes near 1, where products of them would leave the range of numbers.

use super::super::matrix::{exponent_above, largest_magnitude, product_above};
use crate::lipschitz::piecewise_linear::{Matrix, PiecewiseLinear};

/// Squares of products of layers whose exponents add up to no more than this are numbers of full precision.
const MOST: i64 = 300;

/// Whether products of norms may leave the range of numbers.
pub(super) fn is_far_from_one(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> bool {
    let weights = weights(network).map(|weight| exponent(weight.data()));
    weights.chain(slopes.iter().map(|slopes| of_slopes(slopes))).map(|e| i64::from(e).abs()).sum::<i64>() > MOST
}

/// A network with all weights and slopes near 1; its functions and biases are as they were.
pub(super) struct Scaled {
    pub network: PiecewiseLinear,
    pub slopes: Vec<Vec<(f64, f64)>>,
    /// Of the power of two that Jacobians have lost.
    pub exponent: i64,
}

/// `None` if a number cannot be scaled without rounding.
pub(super) fn brought_near_one(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> Option<Scaled> {
    let (mut network, mut slopes, mut lost) = (network.clone(), slopes.to_vec(), 0);
    for map in network.layers.iter_mut().map(|layer| &mut layer.affine).chain([&mut network.output]) {
        let exponent = exponent(map.weight.data());
        lost += i64::from(exponent);
        scale(exponent, map.weight.data_mut().iter_mut())?;
    }
    for slopes in &mut slopes {
        let exponent = of_slopes(slopes);
        lost += i64::from(exponent);
        scale(exponent, slopes.iter_mut().flat_map(|(low, high)| [low, high]))?;
    }
    Some(Scaled { network, slopes, exponent: lost })
}

/// Over a power of two; `None` if that needs rounding.
fn scale<'a>(exponent: i32, mut values: impl Iterator<Item = &'a mut f64>) -> Option<()> {
    let factor = 2f64.powi(-exponent);
    values.try_for_each(|value| {
        let scaled = *value * factor;
        let is_exact = *value == 0.0 || scaled.abs() >= f64::MIN_POSITIVE;
        *value = scaled;
        is_exact.then_some(())
    })
}

/// x·2^exponent, from above.
pub(super) fn times_power_of_two(mut x: f64, mut exponent: i64) -> f64 {
    while exponent != 0 {
        let step = exponent.clamp(-1000, 1000);
        x = product_above(x, 2f64.powi(step as i32));
        exponent -= step;
    }
    x
}

fn weights(network: &PiecewiseLinear) -> impl Iterator<Item = &Matrix> {
    network.layers.iter().map(|layer| &layer.affine.weight).chain([&network.output.weight])
}

/// Of a power of two near the largest modulus; 0 where there is none.
fn exponent(values: &[f64]) -> i32 {
    let size = largest_magnitude(values);
    if size > 0.0 && size.is_finite() { exponent_above(size) } else { 0 }
}

fn of_slopes(slopes: &[(f64, f64)]) -> i32 {
    exponent(&slopes.iter().map(|(low, high)| low.abs().max(high.abs())).collect::<Vec<_>>())
}
