//! Bounds of multipliers against the largest norm of all patterns of slopes.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn random(rng: &mut ChaCha8Rng, widths: &[usize]) -> PiecewiseLinear {
    let mut affine = |inputs: usize, outputs: usize| Affine {
        weight: Matrix::new(outputs, inputs, (0..inputs * outputs).map(|_| rng.random_range(-1.0..1.0)).collect()),
        bias: vec![0.0; outputs],
    };
    let (inner, last) = widths.split_at(widths.len() - 1);
    let layers = inner.windows(2).map(|w| Layer {
        affine: affine(w[0], w[1]),
        functions: (0..w[1]).map(|_| Arc::new(Function::rectifier(0.0))).collect(),
    });
    let layers = layers.collect();
    PiecewiseLinear { inputs: widths[0], layers, output: affine(inner[inner.len() - 1], last[0]) }
}

/// The largest norm over all slopes at the ends of their intervals.
fn brute_force(network: &PiecewiseLinear, slopes: &Slopes) -> f64 {
    let count: usize = slopes.iter().map(Vec::len).sum();
    let mut largest = 0.0f64;
    for pattern in 0..1u32 << count {
        let (mut bit, mut jacobian) = (0, Matrix::identity(network.inputs));
        for (layer, slopes) in network.layers.iter().zip(slopes) {
            jacobian = layer.affine.weight.times(&jacobian);
            let factors = slopes.iter().map(|&(low, high)| {
                bit += 1;
                if pattern >> (bit - 1) & 1 == 0 { low } else { high }
            });
            let factors: Vec<f64> = factors.collect();
            jacobian.scale_rows(&factors);
        }
        jacobian = network.output.weight.times(&jacobian);
        let (rows, columns) = jacobian.dims();
        largest = largest.max(dense_norm_of(rows, columns, jacobian.data()));
    }
    largest
}

#[test]
fn bounds_lie_between_the_worst_pattern_and_the_product_of_norms() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let (mut gained, mut exact) = (0.0, 0);
    for round in 0..60 {
        let widths = match round % 4 {
            0 => vec![3, 5, 2],
            1 => vec![7, 4, 1],
            2 => vec![2, 3, 4, 2],
            _ => vec![3, 3, 3, 3, 1],
        };
        let network = random(rng, &widths);
        let slopes: Slopes = network
            .layers
            .iter()
            .map(|layer| {
                layer
                    .functions
                    .iter()
                    .map(|_| {
                        let low = rng.random_range(-1.0..1.0);
                        if rng.random_bool(0.2) { (low, low) } else { (low, low + rng.random_range(0.0..1.5)) }
                    })
                    .collect()
            })
            .collect();
        let (worst, bound, product) =
            (brute_force(&network, &slopes), bound(&network, &slopes), start(&network, &slopes).product.sqrt());
        assert!(worst <= bound * (1.0 + 2e-7), "round {round}: {worst} above {bound}");
        assert!(bound <= product * (1.0 + 1e-9), "round {round}: {bound} above {product}");
        gained += (product / bound).ln() / 60.0;
        exact += usize::from(bound < worst * 1.0001);
    }
    assert!(gained > 0.05, "{gained}: no better than the product");
    assert!(exact > 10, "{exact} of 60 are exact");
}
