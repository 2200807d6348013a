//! Constrained weights: gradients against central differences, singular values, and networks that no pair of inputs beats.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{Set, assert_close, check_gradients, flat, generator, random, uniform};
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::backend::op::{backward, forward};
use ds_core::graph::{CandleGraph, Gradients, Graph};
use ds_core::lipschitz::certified::TopSingular;
use ds_nn::Network;
use ds_nn::layers::{ConstrainedConv2d, ConstrainedLinear, Constraint, Layer, Mode};
use ds_nn::networks::{self, Images, LipschitzConv};
use ds_nn::ops::Window;
use ds_nn::ops::almost_orthogonal::AlmostOrthogonal;
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::orthonormal::{PolarFactor, polar_factor};
use ds_nn::ops::scale::Scale;
use ds_nn::ops::spectral::SpectralNormalization;
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::tape::Tape;
use rand_chacha::ChaCha8Rng;

fn dense_bound(rows: usize, columns: usize, w: &[f64]) -> f64 {
    TopSingular::new(rows, columns, w).bound
}

/// The largest singular value by power iteration with many steps: from below, to 1e-9 and better where there is a gap.
fn largest_singular_value(rows: usize, columns: usize, w: &[f64]) -> f64 {
    let mut v: Vec<f64> = (0..columns).map(|k| 1.0 + (k as f64).sin()).collect();
    let mut value = 0.0;
    for _ in 0..3000 {
        let u: Vec<f64> = w.chunks_exact(columns).map(|w| w.iter().zip(&v).map(|(w, v)| w * v).sum()).collect();
        v = vec![0.0; columns];
        for (w, u) in w.chunks_exact(columns).zip(&u) {
            v.iter_mut().zip(w).for_each(|(v, w)| *v += u * w);
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        value = norm.sqrt();
        v.iter_mut().for_each(|v| *v /= norm.max(1e-300));
    }
    assert_eq!(w.len(), rows * columns);
    value
}

/// ‖I − QᵀQ‖ or ‖I − QQᵀ‖, largest entry.
fn distance_from_orthonormal(q: &Tensor) -> f64 {
    let q = q.to_dtype(DType::F64).unwrap().flatten_from(1).unwrap();
    let (rows, columns) = q.dims2().unwrap();
    let gram = if columns <= rows { q.t().unwrap().matmul(&q) } else { q.matmul(&q.t().unwrap()) }.unwrap();
    let identity = Tensor::eye(rows.min(columns), DType::F64, &Device::Cpu).unwrap();
    flat(&(gram - identity).unwrap()).into_iter().fold(0.0, |m, v| m.max(v.abs()))
}

const SHAPES: [[usize; 2]; 7] = [[1, 1], [5, 3], [3, 5], [8, 8], [1, 9], [40, 17], [150, 170]];

#[test]
fn polar_factors_are_orthonormal_and_nearest() {
    let rng = &mut generator(1);
    for shape in SHAPES {
        for size in [1e-3, 1.0, 30.0] {
            let w = (random(rng, &shape).as_tensor() * size).unwrap();
            let q = polar_factor(&w).unwrap();
            assert!(distance_from_orthonormal(&q) < 1e-8, "{shape:?}");
            // W = Q·P with P symmetric and positive: QᵀW (or WQᵀ) is symmetric, and its trace is the sum of singular values.
            let p = if shape[1] <= shape[0] { q.t().unwrap().matmul(&w) } else { w.matmul(&q.t().unwrap()) }.unwrap();
            assert_close("symmetric", &flat(&p.t().unwrap().contiguous().unwrap()), &flat(&p), 1e-6);
            let again = polar_factor(&q).unwrap();
            assert_close("once more", &flat(&again), &flat(&q), 1e-8);
            let single = polar_factor(&w.to_dtype(DType::F32).unwrap()).unwrap();
            assert!(distance_from_orthonormal(&single) < 1e-6);
        }
    }
}

#[test]
fn weights_without_full_rank_stay_below_1() {
    let rng = &mut generator(2);
    let (a, b) = (random(rng, &[12, 2]), random(rng, &[2, 9]));
    let low = a.matmul(&b).unwrap();
    for w in [
        low,
        Tensor::zeros((12, 9), DType::F64, &Device::Cpu).unwrap(),
        (random(rng, &[12, 9]).as_tensor() * 1e9).unwrap(),
    ] {
        let q = polar_factor(&w.to_dtype(DType::F32).unwrap()).unwrap();
        assert!(largest_singular_value(12, 9, &flat(&q)) <= 1.0 + 1e-6);
    }
}

#[test]
fn gradients_of_constraints() {
    let rng = &mut generator(3);
    for shape in [&[5, 3][..], &[3, 5], &[4, 4], &[3, 2, 2, 2], &[7, 1]] {
        let w = Var::from_tensor(&polar_factor(random(rng, shape).as_tensor()).unwrap()).unwrap();
        check_gradients(&format!("polar factor {shape:?}"), std::slice::from_ref(&w), |tape, v| {
            tape.apply(PolarFactor, [&v[0]])
        });
        let w = random(rng, shape);
        check_gradients(&format!("spectral {shape:?}"), &[w], |tape, v| tape.apply(SpectralNormalization, [&v[0]]));
    }
    for (outputs, inputs, kernel, stride) in
        [(4, 3, 3, 1), (2, 5, 3, 1), (3, 2, 3, 2), (3, 2, 2, 2), (2, 2, 5, 3), (3, 1, 1, 1)]
    {
        let w = random(rng, &[outputs, inputs, kernel, kernel]);
        check_gradients(&format!("almost orthogonal {:?}, stride {stride}", w.shape()), &[w], |tape, v| {
            tape.apply(AlmostOrthogonal { stride }, [&v[0]])
        });
    }
    check_gradients("scale", &[random(rng, &[3, 2])], |tape, v| tape.apply(Scale { factor: -2.5 }, [&v[0]]));
}

#[test]
fn spectral_bounds_are_tight_and_above() {
    let rng = &mut generator(4);
    for [rows, columns] in SHAPES {
        for size in [1e-8, 1.0, 1e8] {
            let w: Vec<f64> = uniform(rng, rows * columns, -size, size);
            let (bound, value) = (dense_bound(rows, columns, &w), largest_singular_value(rows, columns, &w));
            assert!(
                bound >= value * (1.0 - 1e-15) && bound <= value * (1.0 + 1e-6),
                "{rows}×{columns}: {bound} for {value}"
            );
        }
    }
    // Equal singular values, and nothing at all.
    let identity: Vec<f64> = (0..64 * 64).map(|k| if k % 65 == 0 { 3.0 } else { 0.0 }).collect();
    let bound = dense_bound(64, 64, &identity);
    assert!((3.0..3.0 * (1.0 + 1e-6)).contains(&bound));
    assert_eq!(dense_bound(2, 3, &[0.0; 6]), 0.0);
}

/// The matrix of a convolution on planes of one side, a column for each input.
fn unrolled(kernel: &Tensor, window: Window, side: usize) -> (usize, usize, Vec<f64>) {
    let inputs = kernel.dims()[1] * side * side;
    let identity = Tensor::eye(inputs, DType::F64, &Device::Cpu).unwrap();
    let images = identity.reshape((inputs, kernel.dims()[1], side, side)).unwrap();
    let op = Conv2d { input_gradient: false, weight_gradient: false, ..Conv2d::new(window) };
    let columns = CandleGraph.apply(op, [&images, &kernel.to_dtype(DType::F64).unwrap()]).unwrap();
    let columns = columns.flatten_from(1).unwrap();
    (inputs, columns.dims()[1], flat(&columns))
}

#[test]
fn convolutions_have_norm_1_at_most() {
    let rng = &mut generator(5);
    for (kernel, stride, padding) in
        [(3, 1, 1), (3, 1, 0), (3, 2, 1), (5, 2, 2), (5, 3, 1), (2, 2, 0), (3, 3, 0), (1, 1, 0), (2, 3, 0)]
    {
        for (inputs, outputs) in [(1, 4), (3, 2), (4, 4)] {
            let window = Window { kernel, stride, padding };
            let layer = ConstrainedConv2d::new(rng, inputs, outputs, window).unwrap();
            let norm = |layer: &ConstrainedConv2d| {
                let (rows, columns, matrix) = unrolled(&layer.effective_weight().unwrap(), window, 8);
                largest_singular_value(rows, columns, &matrix)
            };
            let initial = norm(&layer);
            assert!((0.4..=1.0 + 1e-6).contains(&initial), "{window:?}: {initial}");
            layer.weight.set(&random(rng, layer.weight.dims()).to_dtype(DType::F32).unwrap()).unwrap();
            let drawn = norm(&layer);
            assert!(drawn <= 1.0 + 1e-6 && drawn > 0.2, "{window:?}: {drawn}");
            // Windows that tile the image make one orthonormal matrix.
            if kernel == stride && padding == 0 {
                assert!(distance_from_orthonormal(&layer.effective_weight().unwrap()) < 1e-5, "{window:?}");
            }
        }
    }
}

/// d_i by the definition, on zero-padded kernels, for stride 1.
#[test]
fn almost_orthogonal_kernels_by_their_definition() {
    let rng = &mut generator(6);
    let (outputs, inputs, side) = (3, 4, 3);
    let w = random(rng, &[outputs, inputs, side, side]);
    let k = flat(&w);
    let at = |o: usize, i: usize, y: isize, x: isize| {
        let inside = (0..side as isize).contains(&y) && (0..side as isize).contains(&x);
        if inside { k[((o * inputs + i) * side + y as usize) * side + x as usize] } else { 0.0 }
    };
    let mut expected = Vec::new();
    for i in 0..inputs {
        let mut total = 0.0;
        for j in 0..inputs {
            for p in 0..25 {
                let (py, px) = (p / 5 - 2, p % 5 - 2);
                let sum: f64 = (0..outputs * 9)
                    .map(|n| {
                        let (o, y, x) = (n / 9, (n % 9 / 3) as isize, (n % 3) as isize);
                        at(o, i, y, x) * at(o, j, y + py, x + px)
                    })
                    .sum();
                total += sum.abs();
            }
        }
        expected.push(1.0 / f64::sqrt(total));
    }
    let scaled = flat(&forward(&AlmostOrthogonal { stride: 1 }, [&w]).unwrap());
    for (n, (scaled, k)) in scaled.iter().zip(&k).enumerate() {
        assert!((scaled - k * expected[n / 9 % inputs]).abs() < 1e-12);
    }
}

#[test]
fn training_writes_orthonormal_weights_back() {
    let rng = &mut generator(7);
    let layer = ConstrainedLinear::new(rng, 6, 4, Constraint::Orthonormal).unwrap();
    let step = (random(rng, &[4, 6]).to_dtype(DType::F32).unwrap() * 0.2).unwrap();
    let moved = (&layer.weight + step).unwrap().detach();
    layer.weight.set(&moved).unwrap();
    let x = Tensor::ones((3, 6), DType::F32, &Device::Cpu).unwrap();
    let y = layer.forward_in(&mut CandleGraph, &x, Mode::Evaluation).unwrap();
    assert_eq!(flat(&layer.weight), flat(&moved), "evaluation changes nothing");
    let effective = layer.effective_weight().unwrap();
    let again = layer.forward_in(&mut CandleGraph, &x, Mode::training(0)).unwrap();
    assert_eq!(flat(&y), flat(&again));
    assert_eq!(flat(&layer.weight), flat(&effective));
}

fn kinds() -> [ActivationConfig; 8] {
    let spline = |size, scaling| {
        let config = ActivationConfig::spline(ActivationKind::LipschitzSpline, size, 1.0, Init::Absolute);
        ActivationConfig { scaling, ..config }
    };
    [
        spline(9, false),
        spline(10, true),
        ActivationKind::Relu.into(),
        ActivationKind::LeakyRelu.into(),
        ActivationKind::Absolute.into(),
        ActivationKind::MaxMin.into(),
        ActivationKind::Householder.into(),
        ActivationKind::ClippedPRelu.into(),
    ]
}

fn scramble(rng: &mut ChaCha8Rng, network: &Network) {
    for parameter in network.parameters() {
        parameter.var.set(&random(rng, parameter.var.dims()).to_dtype(DType::F32).unwrap()).unwrap();
    }
}

fn evaluate(network: &Network, x: &Tensor) -> Tensor {
    network.forward_in(&mut CandleGraph, x, Mode::Evaluation).unwrap().detach()
}

#[test]
fn no_pair_of_inputs_beats_the_constant() {
    let rng = &mut generator(8);
    for kind in kinds() {
        for (weights, constant) in [(Constraint::Orthonormal, 1.0), (Constraint::Spectral, 3.0)] {
            let dense = networks::lipschitz(rng, (48, &[10, 6], 3), weights, kind, constant).unwrap();
            let images = Images { channels: 3, side: 4 };
            let conv = networks::lipschitz_conv(
                rng,
                images,
                3,
                LipschitzConv { hidden: &[6], weights, constant, ..LipschitzConv::new(4) },
                kind,
            )
            .unwrap();
            for network in [dense, conv] {
                scramble(rng, &network);
                for reach in [0.01, 1.0] {
                    let x = random(rng, &[32, 3, 4, 4]).to_dtype(DType::F32).unwrap();
                    let step = (random(rng, &[32, 3, 4, 4]).to_dtype(DType::F32).unwrap() * reach).unwrap();
                    let squares = |t: Tensor| flat(&t.flatten_from(1).unwrap().sqr().unwrap().sum(1).unwrap());
                    let inputs = squares(step.clone());
                    let outputs =
                        squares((evaluate(&network, &x) - evaluate(&network, &(&x + &step).unwrap())).unwrap());
                    for (input, output) in inputs.into_iter().zip(outputs) {
                        assert!(output.sqrt() <= constant * input.sqrt() * (1.0 + 1e-5) + 1e-5, "{kind:?} {weights:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let rng = &mut generator(9);
    let net = |rng: &mut ChaCha8Rng, hidden: &[usize], kind: ActivationKind| {
        networks::lipschitz(rng, (4, hidden, 1), Constraint::Orthonormal, kind, 1.0)
    };
    let error = net(rng, &[5], ActivationKind::MaxMin).unwrap_err().to_string();
    assert!(error.contains("max_min") && error.contains("even"), "{error}");
    assert!(net(rng, &[0], ActivationKind::Relu).is_err());
    let network = net(rng, &[4], ActivationKind::Relu).unwrap();
    let x = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
    let error = network.forward_in(&mut CandleGraph, &x, Mode::Evaluation).unwrap_err().to_string();
    assert!(error.contains("4 numbers"), "{error}");
    let images = Images { channels: 1, side: 6 };
    let conv = networks::lipschitz_conv(rng, images, 3, LipschitzConv::new(4), ActivationKind::Relu);
    assert!(conv.unwrap_err().to_string().contains("multiple of 2^2"));
    let plain = LipschitzConv::new(4);
    for wrong in [LipschitzConv::new(0), LipschitzConv { depth: 0, ..plain }, LipschitzConv { stages: 3, ..plain }] {
        assert!(networks::lipschitz_conv(rng, Images::MNIST, 3, wrong, ActivationKind::Relu).is_err(), "{wrong:?}");
    }
    assert!(ConstrainedConv2d::new(rng, 1, 1, Window { kernel: 0, stride: 0, padding: 0 }).is_err());
}

/// |x| from lines: the loss falls, and weights stay orthonormal.
#[test]
fn training_learns_and_keeps_constraints() {
    for weights in [Constraint::Orthonormal, Constraint::Spectral] {
        let rng = &mut generator(10);
        let kind = ActivationConfig::spline(ActivationKind::LipschitzSpline, 10, 1.0, Init::Identity);
        let network = networks::lipschitz(rng, (1, &[10, 10, 10], 1), weights, kind, 1.0).unwrap();
        let x: Vec<f32> = (0..64).map(|k| k as f32 / 31.5 - 1.0).collect();
        let targets: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        let targets = Tensor::new(targets, &Device::Cpu).unwrap();
        let x = Tensor::from_vec(x, (64, 1), &Device::Cpu).unwrap();
        let decay = Decay { weights: 0.0, hinges: 0.0 };
        let mut optimizer = Optimizer::new(Rule::Adam, decay, network.parameters()).unwrap();
        let mut losses = Vec::new();
        for step in 0..300 {
            let mut tape = Tape::recording();
            let (x, targets) = (tape.constant(&x), tape.constant(&targets));
            let y = network.forward_in(&mut tape, &x, Mode::training(step)).unwrap();
            let loss = tape.apply(Loss::from(Kind::MeanSquaredError), [&y, &targets]).unwrap();
            losses.push(flat(tape.tensor(&loss))[0]);
            let gradients = tape.backward(&loss).unwrap();
            assert!(network.parameters().iter().all(|p| gradients.gradient(&p.var).is_some()));
            optimizer.step(&gradients, 5e-3).unwrap();
        }
        let last = losses.last().unwrap();
        assert!(last < &(losses[0] / 30.0), "{weights:?}: from {} to {last}", losses[0]);
        for (_, layer) in &network.layers {
            let Layer::ConstrainedLinear(linear) = layer else { continue };
            let effective = linear.effective_weight().unwrap();
            let (rows, columns) = effective.dims2().unwrap();
            assert!(largest_singular_value(rows, columns, &flat(&effective)) <= 1.0 + 1e-6);
        }
    }
}

#[test]
fn weights_do_not_depend_on_the_number_of_threads() {
    let rng = &mut generator(11);
    let (wide, kernel) = (random(rng, &[200, 300]), random(rng, &[40, 40, 3, 3]));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let q = polar_factor(&wide).unwrap();
            let [dw, ..] = backward(&PolarFactor, [&wide], &q, &wide).unwrap();
            let aol = AlmostOrthogonal { stride: 1 };
            let k = forward(&aol, [&kernel]).unwrap();
            let [dk, ..] = backward(&aol, [&kernel], &k, &kernel).unwrap();
            let bound = dense_bound(200, 300, &flat(&wide));
            [flat(&q), flat(&dw.unwrap()), flat(&k), flat(&dk.unwrap()), vec![bound]]
        })
    };
    assert_eq!(run(1), run(3));
}
