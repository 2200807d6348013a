//! Constants and bounds where numbers cancel, vanish, are none, or are very many.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device};
use candle_nn::Module;
use common::{Set, flat, generator, tensor, uniform};
use ds_core::Grid;
use ds_core::activation::{Activation, Apl, ClippedPRelu, Householder, Init, LipschitzSpline, PRelu, Spline};
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use ds_core::lipschitz::bv2::{self, Exponent};
use ds_core::lipschitz::certified::{bound, convolution_norm, product_of_norms};
use ds_core::lipschitz::exact::{Domain, constant};
use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
use std::sync::mpsc;
use std::time::Duration;

fn dense(outputs: usize, inputs: usize, weight: &[f64]) -> Operator {
    Operator::Dense(tensor(weight.to_vec(), &[outputs, inputs]))
}

fn relu() -> Operator {
    Operator::Activation(Activation::Relu)
}

fn vector(inputs: usize, operators: Vec<Operator>) -> Architecture {
    Architecture { input: Signal::vector(inputs), operators }
}

#[test]
fn kinks_that_meet_but_for_rounding_end_no_search() {
    // Three kinks make a triangle of 1e-16 near (0.6, 1.1), whose corners are one point in f64.
    let affine =
        Affine { weight: Matrix::new(3, 2, vec![-0.7, -0.3, 1.0, 0.0, 0.6, 1.0]), bias: vec![0.75, -0.6, -1.46] };
    let functions = vec![Function::rectifier(0.0).into(); 3];
    let output = Affine { weight: Matrix::identity(3), bias: vec![0.0; 3] };
    let network = PiecewiseLinear { inputs: 2, layers: vec![Layer { affine, functions }], output };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        sender.send(constant(&network, Exponent::Two, &Domain::Box(vec![(0.0, 2.0); 2])).unwrap())
    });
    let exact = receiver.recv_timeout(Duration::from_secs(60)).expect("the search ends");
    assert!(exact.lower > 1.0 && exact.lower <= exact.upper && exact.upper < 2.0, "{exact:?}");
}

#[test]
fn products_that_cancel_are_not_lost() {
    // 2·ε²·2^103 = 1, which no product of the first two matrices in f64 has.
    let e = f64::EPSILON;
    let linear = [
        dense(3, 1, &[1.0 + e, 1.0 + e, 1.0]),
        dense(1, 3, &[1.0 + e, 1.0 + e, -2.0 * (1.0 + 2.0 * e)]),
        Operator::Scale(2f64.powi(103)),
    ];
    // 1 + 2^-60 − 1.
    let branches = [1.0, 2f64.powi(-60), -1.0].map(|w| vec![dense(1, 1, &[w])]);
    let sum = [Operator::Sum(branches.to_vec()), Operator::Scale(2f64.powi(60))];
    // Scales of channels that are rounded.
    let scaled = [
        Operator::ChannelScale(tensor(vec![0.1, 0.1], &[2])),
        dense(1, 2, &[3.0, -0.3 / 0.1]),
        Operator::Scale(2f64.powi(60)),
    ];
    for (inputs, linear, truth) in [(1, &linear[..], 1.0), (1, &sum[..], 1.0), (2, &scaled[..], 0.0)] {
        let mut operators = linear.to_vec();
        let found = bound(&vector(inputs, operators.clone())).unwrap();
        assert!(found >= truth && found.is_finite(), "{found} below {truth}");
        operators.extend([relu(), dense(1, 1, &[1.0])]);
        let found = bound(&vector(inputs, operators)).unwrap();
        assert!(found >= truth && found.is_finite(), "{found} below {truth} before a function");
    }
}

/// Activations of four channels with parameters.
fn learned() -> Vec<Activation> {
    let (dtype, device) = (DType::F64, &Device::Cpu);
    let grid = Grid::from_step(9, 0.3).unwrap();
    vec![
        Activation::PRelu(PRelu::new(4, dtype, device).unwrap()),
        Activation::ClippedPRelu(ClippedPRelu::new(4, dtype, device).unwrap()),
        Activation::Apl(Apl::new(4, 3, dtype, device).unwrap()),
        Activation::Householder(Householder::new(4, dtype, device).unwrap()),
        Activation::Spline(Spline::bspline(4, grid, Init::Relu, dtype, device).unwrap()),
        Activation::Spline(Spline::explicit_linear(4, grid, Init::Relu, false, dtype, device).unwrap()),
        Activation::Spline(Spline::relu_spline(4, grid, Init::Relu, false, dtype, device).unwrap()),
        Activation::Lipschitz(LipschitzSpline::new(4, 7, 1.0, Init::Absolute, true, dtype, device).unwrap()),
    ]
}

#[test]
fn no_bound_of_a_diverged_network_is_finite() {
    let rng = &mut generator(1);
    let weight: Vec<f64> = uniform(rng, 16, -1.0, 1.0);
    let check = |what: &str, operators: Vec<Operator>| {
        let architecture = vector(4, operators);
        for found in [bound(&architecture), product_of_norms(&architecture)] {
            assert!(found.as_ref().map_or(true, |bound| !bound.is_finite()), "{what}: {found:?}");
        }
        for p in [Exponent::One, Exponent::Two, Exponent::Infinity] {
            let found = bv2::bound(&architecture, p);
            assert!(found.as_ref().map_or(true, |bound| !bound.is_finite()), "{what}, {p:?}: {found:?}");
        }
    };
    for activation in learned() {
        for parameter in activation.parameters("") {
            let (values, n) = (flat(&parameter.var), parameter.var.elem_count());
            for place in [0, n / 2, n - 1] {
                let mut diverged = values.clone();
                diverged[place] = f64::NAN;
                parameter.var.set(&tensor(diverged, parameter.var.dims())).unwrap();
                // The NaN at the end of the network, and with the scales of channels that go into a matrix.
                let operator = Operator::Activation(activation.clone());
                let what = format!("{activation:?}");
                check(&what, vec![dense(4, 4, &weight), operator.clone()]);
                check(&what, vec![dense(4, 4, &weight), operator, dense(4, 4, &weight)]);
            }
            parameter.var.set(&tensor(values, parameter.var.dims())).unwrap();
        }
    }
    for place in 0..4 {
        let mut values = vec![0.5; 4];
        values[place] = f64::NAN;
        let scale = Operator::ChannelScale(tensor(values, &[4]));
        check("channel scale", vec![scale.clone()]);
        check("channel scale, relu", vec![scale.clone(), relu()]);
        check("channel scale, max_min", vec![scale, Operator::Activation(Activation::MaxMin)]);
    }
    check("scale", vec![Operator::Scale(f64::NAN), relu()]);
    let mut diverged = weight.clone();
    diverged[3] = f64::NAN;
    check("dense", vec![dense(4, 4, &diverged), relu(), dense(4, 4, &weight)]);
}

#[test]
fn outputs_may_be_many() {
    let rng = &mut generator(2);
    let (first, last) = (dense(24, 8, &uniform(rng, 8 * 24, -1.0, 1.0)), uniform(rng, 24 * 24, -1.0, 1.0));
    let with_outputs = |copies: usize| {
        let weight = last.iter().copied().cycle().take(copies * last.len()).collect::<Vec<_>>();
        bound(&vector(8, vec![first.clone(), relu(), dense(24 * copies, 24, &weight)])).unwrap()
    };
    // 512 copies of the outputs are √512 times as far from each other.
    let (few, many) = (with_outputs(1), with_outputs(512));
    assert!((many / few / 512f64.sqrt() - 1.0).abs() < 1e-6, "{many} for {few}");
}

#[test]
fn what_is_too_large_to_be_unrolled_has_the_product_of_norms() {
    let input = Signal { channels: 1, plane: (40, 40) };
    let weight = tensor(vec![1.0; 64], &[64, 1, 1, 1]);
    let architecture = Architecture { input, operators: vec![Operator::Convolution { weight, stride: 1, padding: 0 }] };
    assert_eq!(bound(&architecture).unwrap(), product_of_norms(&architecture).unwrap());
    let error = PiecewiseLinear::new(&architecture).unwrap_err().to_string();
    assert!(error.contains("1600 numbers to 102400"), "{error}");
}

#[test]
fn linear_networks_need_no_search() {
    let n = 256;
    let rng = &mut generator(3);
    let architecture = vector(n, vec![dense(n, n, &uniform(rng, n * n, -1.0, 1.0))]);
    let (found, product) = (bound(&architecture).unwrap(), product_of_norms(&architecture).unwrap());
    assert!(found <= product && found >= product * (1.0 - 1e-6), "{found} for {product}");
}

#[test]
fn slopes_right_of_the_last_knot_count() {
    let (dtype, device) = (DType::F64, &Device::Cpu);
    let rng = &mut generator(4);
    let step = 1.125;
    let spline = LipschitzSpline::new(1, 4, 1.5 * step, Init::Identity, false, dtype, device).unwrap();
    let mut steepest_at_the_end = 0;
    for _ in 0..200 {
        // So large that slopes clipped to 1 are rounded, to multiples of 0.25 of the values.
        let values: Vec<f64> = uniform(rng, 4, -3.0, 3.0).iter().map(|v| v + 2f64.powi(50)).collect();
        spline.coefficients().set(&tensor(values, &[1, 4])).unwrap();
        let activation = Activation::Lipschitz(spline.clone());
        let x = [2.5 * step, 66.5 * step];
        let y = flat(&spline.forward(&tensor(x.to_vec(), &[2, 1])).unwrap());
        let slope = (y[1] - y[0]) / (64.0 * step);
        let largest = activation.largest_slopes(1).unwrap()[0];
        assert!(slope.abs() <= largest, "{slope} above {largest}");
        let inner = spline.slopes().unwrap()[0].iter().fold(0.0f64, |m, s| m.max(s.abs()));
        steepest_at_the_end += usize::from(slope.abs() > inner * 1.01);
        let f = &Function::of(&activation, 1).unwrap()[0];
        let own = (f.value(x[1]) - f.value(x[0])) / (64.0 * step);
        assert!((own - slope).abs() < 0.02, "{own}, not {slope}");
    }
    assert!(steepest_at_the_end > 0, "no case in which it matters");
}

#[test]
fn no_bound_vanishes() {
    let near = |found: f64, truth: f64| {
        assert!(found >= truth && found <= truth * (1.0 + 1e-6), "{found:e}, not {truth:e}");
    };
    for (a, b) in [(1e-100, 1e-100), (1e-160, 1e-40), (1e-200, 1e-100), (1e-170, 1e170), (1e-250, 1e100)] {
        near(bound(&vector(1, vec![dense(1, 1, &[a]), relu(), dense(1, 1, &[b])])).unwrap(), a * b);
        let one = dense(1, 1, &[1.0]);
        near(bound(&vector(1, vec![dense(1, 1, &[a]), dense(1, 1, &[b]), relu(), one])).unwrap(), a * b);
        // Channels scaled before and after.
        let scale = |x: f64| Operator::ChannelScale(tensor(vec![x, x], &[2]));
        let operators = vec![scale(a), relu(), scale(b), dense(2, 2, &[1.0, 0.0, 0.0, 1.0])];
        near(bound(&vector(2, operators)).unwrap(), a * b);
    }
    // A product that no number is.
    let tiny = || dense(1, 1, &[1e-170]);
    let found = bound(&vector(1, vec![tiny(), relu(), tiny(), relu()])).unwrap();
    assert!(found > 0.0 && found < 1e-300, "{found:e}");
    // A column of a matrix and the scale of its channel.
    let operators = vec![
        Operator::ChannelScale(tensor(vec![1e-200, 1.0], &[2])),
        dense(1, 2, &[1e-200, 0.0]),
        Operator::Scale(1e300),
    ];
    let found = product_of_norms(&vector(2, operators)).unwrap();
    assert!(found > 0.0, "{found:e}");
    for side in [8, 64] {
        let kernel = |scale: f64| tensor((1..=9).map(|k| f64::from(k) * scale).collect(), &[1, 1, 3, 3]);
        let norm = |scale: f64| convolution_norm(&kernel(scale), 1, 1, (side, side)).unwrap();
        for scale in [1e-170, 1e-300, 1e200] {
            let ratio = norm(scale) / scale / norm(1.0);
            assert!((ratio - 1.0).abs() < 1e-9, "{scale:e}: {ratio}");
        }
    }
    // In many dimensions the multipliers are those of the numbers near 1.
    let rng = &mut generator(5);
    let (first, last) = (uniform(rng, 4 * 100, -1.0, 1.0), uniform(rng, 100 * 3, -1.0, 1.0));
    let with = |scale: f64| {
        let scaled = |values: &[f64]| values.iter().map(|v| v * scale).collect::<Vec<_>>();
        bound(&vector(4, vec![dense(100, 4, &scaled(&first)), relu(), dense(3, 100, &scaled(&last))])).unwrap()
    };
    let (one, small) = (with(1.0), with(2f64.powi(-400)) * 2f64.powi(800));
    assert!((small / one - 1.0).abs() < 1e-6, "{small}, not {one}");
}

#[test]
fn windows_in_the_padding_alone_are_refused() {
    let window = PoolWindow { kernel: 2, stride: 2, padding: 2 };
    let operators = |pool: Operator, inputs: usize| {
        let input = Signal { channels: 1, plane: (4, 4) };
        Architecture { input, operators: vec![pool, dense(1, inputs, &vec![1.0; inputs])] }
    };
    let architecture = operators(Operator::MaxPool(window), 16);
    for error in [bound(&architecture).unwrap_err(), PiecewiseLinear::new(&architecture).unwrap_err()] {
        assert!(error.to_string().contains("padding"), "{error}");
    }
    // Means of zeros are zeros.
    let unrolled = PiecewiseLinear::new(&operators(Operator::AveragePool(window), 16)).unwrap();
    assert_eq!(unrolled.value(&[1.0; 16]), [4.0]);
}
