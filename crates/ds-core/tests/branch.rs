//! Constants by branch and bound against the enumeration of all pieces, random gradients, and finite differences.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{Device, Tensor};
use common::{generator, uniform};
use ds_core::activation::Activation;
use ds_core::lipschitz::architecture::{Architecture, Operator, Signal};
use ds_core::lipschitz::bv2::Exponent;
use ds_core::lipschitz::certified;
use ds_core::lipschitz::exact::{Domain, Limits, branch_and_bound, constant};
use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn affine(rng: &mut ChaCha8Rng, inputs: usize, outputs: usize) -> Affine {
    let weight = Matrix::new(outputs, inputs, uniform(rng, inputs * outputs, -1.0, 1.0));
    Affine { weight, bias: uniform(rng, outputs, -1.0, 1.0) }
}

fn function(rng: &mut ChaCha8Rng) -> Arc<Function> {
    Arc::new(match rng.random_range(0..4) {
        0 => Function::rectifier(0.0),
        1 => Function::absolute(),
        2 => Function::rectifier(rng.random_range(-1.0..1.0)),
        _ => {
            let mut knots = uniform(rng, 4, -1.5, 1.5);
            knots.sort_by(f64::total_cmp);
            Function::new(&knots, &uniform(rng, 5, -1.0, 1.0), (0.0, 0.0))
        }
    })
}

fn network(rng: &mut ChaCha8Rng, inputs: usize) -> PiecewiseLinear {
    let mut width = inputs;
    let mut layers = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let next = rng.random_range(1..6);
        let functions = (0..next).map(|_| function(rng)).collect();
        layers.push(Layer { affine: affine(rng, width, next), functions });
        width = next;
    }
    let outputs = rng.random_range(1..3);
    PiecewiseLinear { inputs, layers, output: affine(rng, width, outputs) }
}

/// ‖J·v‖₂ at x for a v of norm 1, by a difference quotient inside a piece.
fn slope(network: &PiecewiseLinear, x: &[f64], v: &[f64]) -> f64 {
    let h = 1e-7;
    let moved = |sign: f64| -> Vec<f64> { x.iter().zip(v).map(|(x, v)| x + sign * h * v).collect() };
    let (plus, minus) = (network.value(&moved(1.0)), network.value(&moved(-1.0)));
    plus.iter().zip(minus).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt() / (2.0 * h)
}

#[test]
fn one_and_two_inputs_agree_with_the_enumeration() {
    let rng = &mut generator(1);
    let mut most = 0;
    for round in 0..300 {
        let inputs = rng.random_range(1..3);
        let network = network(rng, inputs);
        let enumerated = constant(&network, Exponent::Two, &Domain::All).unwrap();
        let bracket =
            branch_and_bound(&network, Limits { subproblems: 20_000, ..Limits::default() }, |_| Ok(true)).unwrap();
        let room = 1e-9 * enumerated.upper + 1e-12;
        assert!(bracket.lower <= enumerated.upper + room, "round {round}: {bracket:?} {enumerated:?}");
        assert!(bracket.upper >= enumerated.lower - room, "round {round}: {bracket:?} {enumerated:?}");
        assert!(
            bracket.upper <= bracket.lower * (1.0 + 1e-6) + 1e-12,
            "round {round}: open: {bracket:?}, {enumerated:?}"
        );
        most = most.max(bracket.subproblems);
    }
    println!("at most {most} subproblems");
}

#[test]
fn points_attain_the_lower_bound_and_no_gradient_is_above_the_upper() {
    let rng = &mut generator(2);
    for round in 0..100 {
        let inputs = rng.random_range(3..7);
        let network = network(rng, inputs);
        let bracket = branch_and_bound(&network, Limits::default(), |_| Ok(true)).unwrap();
        assert!(bracket.upper <= bracket.lower * (1.0 + 1e-6) + 1e-12, "round {round}: open: {bracket:?}");
        let Some(x) = &bracket.x else { continue };
        let attained = slope(&network, x, &bracket.direction);
        // Pieces can be thinner than the step of the quotient.
        assert!(attained <= bracket.upper * (1.0 + 1e-6) + 1e-7, "round {round}: {attained} above {bracket:?}");
        for _ in 0..200 {
            let x = uniform(rng, inputs, -3.0, 3.0);
            let mut v = uniform(rng, inputs, -1.0, 1.0);
            let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
            v.iter_mut().for_each(|v| *v /= norm);
            let found = slope(&network, &x, &v);
            assert!(found <= bracket.upper * (1.0 + 1e-6) + 1e-7, "round {round}: {found} above {bracket:?}");
        }
    }
}

#[test]
fn limits_leave_a_bracket() {
    let rng = &mut generator(3);
    let network = PiecewiseLinear {
        inputs: 8,
        layers: vec![
            Layer { affine: affine(rng, 8, 16), functions: (0..16).map(|_| Function::rectifier(0.0).into()).collect() },
            Layer {
                affine: affine(rng, 16, 16),
                functions: (0..16).map(|_| Function::rectifier(0.0).into()).collect(),
            },
        ],
        output: affine(rng, 16, 2),
    };
    let mut last = f64::INFINITY;
    for subproblems in [1, 10, 100] {
        let bracket = branch_and_bound(&network, Limits { subproblems, ..Limits::default() }, |_| Ok(true)).unwrap();
        assert!(bracket.lower > 0.0 && bracket.lower < bracket.upper, "{bracket:?}");
        assert!(bracket.upper <= last, "{bracket:?} after {last}");
        last = bracket.upper;
    }
    let stopped = branch_and_bound(&network, Limits::default(), |count| Ok(count < 5)).unwrap();
    assert_eq!(stopped.subproblems, 5);
    let error = branch_and_bound(&network, Limits::default(), |_| candle_core::bail!("interrupted")).unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    // Over a ball that is in one piece the bound is that of the piece, and never above the constant.
    let local = certified::local_bound(&network, &certified::Region::All).unwrap();
    assert!(last <= local * (1.0 + 1e-9), "{last} above {local}");
}

#[test]
fn neurons_that_are_constant_on_a_knot_are_in_one_of_its_pieces() {
    // max(0, 0·x) + |x − y| + max(0, max(0, x) − max(0, x)), whose gradient is (±1, ∓1).
    let relu = || Arc::new(Function::rectifier(0.0));
    let network = PiecewiseLinear {
        inputs: 2,
        layers: vec![
            Layer {
                affine: Affine {
                    weight: Matrix::new(4, 2, vec![0.0, 0.0, 1.0, -1.0, 1.0, 0.0, 1.0, 0.0]),
                    bias: vec![0.0; 4],
                },
                functions: vec![relu(), Arc::new(Function::absolute()), relu(), relu()],
            },
            Layer {
                affine: Affine {
                    weight: Matrix::new(3, 4, vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0]),
                    bias: vec![0.0; 3],
                },
                functions: vec![relu(), relu(), relu()],
            },
        ],
        output: Affine { weight: Matrix::new(1, 3, vec![1.0, 1.0, 1.0]), bias: vec![0.0] },
    };
    let bracket = branch_and_bound(&network, Limits { subproblems: 5000, ..Limits::default() }, |_| Ok(true)).unwrap();
    let constant = 2f64.sqrt();
    assert!(bracket.lower <= constant * (1.0 + 1e-9) && bracket.upper >= constant * (1.0 - 1e-9), "{bracket:?}");
}

#[test]
fn numbers_that_are_not_finite_are_named_and_end_no_bound() {
    let rng = &mut generator(4);
    let mut network = network(rng, 3);
    network.layers[0].affine.bias[0] = f64::NAN;
    let error = branch_and_bound(&network, Limits::default(), |_| Ok(true)).unwrap_err().to_string();
    assert!(error.contains("not all parameters"), "{error}");
    let vector = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
    let dense = |values: &[f64]| Operator::Dense(vector(values).reshape((2, 2)).unwrap());
    let architecture = Architecture {
        input: Signal::vector(2),
        operators: vec![
            dense(&[1.0, 0.0, 0.0, 2.0]),
            Operator::Bias(vector(&[f64::NAN, 0.0])),
            Operator::Activation(Activation::Relu),
            dense(&[1.0, 0.0, 0.0, 1.0]),
        ],
    };
    // A bias is in no bound of all inputs.
    let bound = certified::bound(&architecture).unwrap();
    assert!((bound - 2.0).abs() < 1e-6, "{bound}");
}
