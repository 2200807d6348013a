//! Gradients of every op against central finite differences in f64.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{check_gradients, flat, generator, labels, random, statistics};
use ds_core::Grid;
use ds_core::backend::op::{Apply, backward, forward};
use ds_core::graph::{CandleGraph, Graph};
use ds_nn::ops::Window;
use ds_nn::ops::blocks::{FromBlocks, ToBlocks};
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::dense::Dense;
use ds_nn::ops::dropout::Dropout;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::norm_activation::{ChannelParameters, Function, NormActivation};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::ops::sum::Sum;
use rand::Rng;

/// Random convolutions: odd sizes, one channel, one image, strides 1 and 2, padding 0 to 2.
#[test]
fn convolution() {
    let rng = &mut generator(1);
    for round in 0..40 {
        let kernel = [1, 3, 5][round % 3];
        let window = Window { kernel, stride: rng.random_range(1..=2), padding: rng.random_range(0..=2.min(kernel)) };
        let images = if round == 7 { 19 } else { rng.random_range(1..4) };
        let (inputs, outputs) = (rng.random_range(1..5), rng.random_range(1..6));
        let (height, width) = (rng.random_range(5..12), rng.random_range(5..12));
        let x = random(rng, &[images, inputs, height, width]);
        let w = random(rng, &[outputs, inputs, kernel, kernel]);
        let what = format!("{window:?} {:?} -> {outputs}", x.shape());
        check_gradients(&what, &[x.clone(), w.clone()], |tape, v| tape.apply(Conv2d::new(window), [&v[0], &v[1]]));
        let b = random(rng, &[outputs]);
        check_gradients(&format!("{what} with bias"), &[w, b], |tape, v| {
            let x = tape.constant(&x);
            tape.apply(Conv2d { input_gradient: false, ..Conv2d::new(window) }, [&x, &v[0], &v[1]])
        });
    }
}

#[test]
fn batch_norm_with_activation_and_residual() {
    let rng = &mut generator(2);
    let grid = Grid::from_range(7, 1.5).unwrap();
    let functions = [
        Function::Identity,
        Function::Rectifier { slope: 0.0 },
        Function::Rectifier { slope: 0.1 },
        Function::Spline(grid),
    ];
    for shape in [&[3, 2, 4, 5][..], &[1, 1, 3, 3], &[5, 3, 1, 1], &[2, 4, 9, 7], &[2, 3, 3, 2, 16], &[6, 4]] {
        let channels = shape[1];
        for function in functions {
            for of_batch in [true, false] {
                let (x, residual) = (random(rng, shape), random(rng, shape));
                let (gamma, beta) = (random(rng, &[channels]), random(rng, &[channels]));
                let coefficients = random(rng, &[channels, grid.size()]);
                let what = format!("{function:?} {shape:?}, batch statistics: {of_batch}");
                let op = || NormActivation {
                    statistics: statistics(channels, of_batch),
                    epsilon: 1e-5,
                    function,
                    sums: None,
                };
                let is_spline = matches!(function, Function::Spline(_));
                let mut arguments = vec![x, residual, gamma, beta];
                if is_spline {
                    arguments.push(coefficients);
                }
                check_gradients(&format!("{what}, residual"), &arguments, |tape, v| {
                    let parameters = if is_spline {
                        tape.apply(ChannelParameters, [&v[2], &v[3], &v[4]])?
                    } else {
                        tape.apply(ChannelParameters, [&v[2], &v[3]])?
                    };
                    tape.apply(op(), [&v[0], &v[1], &parameters])
                });
                arguments.remove(1);
                check_gradients(&what, &arguments, |tape, v| {
                    let parameters = if is_spline {
                        tape.apply(ChannelParameters, [&v[1], &v[2], &v[3]])?
                    } else {
                        tape.apply(ChannelParameters, [&v[1], &v[2]])?
                    };
                    tape.apply(op(), [&v[0], &parameters])
                });
            }
        }
    }
}

#[test]
fn blocks() {
    let rng = &mut generator(12);
    let x = random(rng, &[32, 3, 2, 5]);
    check_gradients("to and from blocks", &[x], |tape, v| {
        let blocks = tape.apply(ToBlocks, [&v[0]])?;
        assert_eq!(tape.tensor(&blocks).dims(), [2, 3, 2, 5, 16]);
        let window = Window { kernel: 2, stride: 1, padding: 0 };
        let pooled = tape.apply(AveragePool(window), [&blocks])?;
        tape.apply(FromBlocks, [&pooled])
    });
}

#[test]
fn pools() {
    let rng = &mut generator(3);
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (7, 7, 0)] {
        let window = Window { kernel, stride, padding };
        // Negative values: padding with zeros would win a maximum.
        let x = random(rng, &[2, 3, 7, 9]);
        x.set(&(x.as_tensor() - 1.5).unwrap()).unwrap();
        check_gradients(&format!("max {window:?}"), std::slice::from_ref(&x), |tape, v| {
            tape.apply(MaxPool(window), [&v[0]])
        });
        check_gradients(&format!("average {window:?}"), std::slice::from_ref(&x), |tape, v| {
            tape.apply(AveragePool(window), [&v[0]])
        });
    }
}

#[test]
fn the_first_of_equal_maxima_takes_the_gradient() {
    let x = Var::from_tensor(&Tensor::zeros((1, 1, 2, 2), DType::F64, &Device::Cpu).unwrap()).unwrap();
    let y = x.apply_op1(Apply(MaxPool(Window { kernel: 2, stride: 2, padding: 0 }))).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(flat(gradients.get(&x).unwrap()), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn dense() {
    let rng = &mut generator(4);
    // Plain loops, and the matrix product that large layers take.
    for (rows, inputs, outputs) in [(1, 1, 1), (10, 2, 4), (3, 5, 2), (33, 30, 21)] {
        let arguments = [random(rng, &[rows, inputs]), random(rng, &[outputs, inputs]), random(rng, &[outputs])];
        let op = Dense { input_gradient: true };
        check_gradients("dense with bias", &arguments, |tape, v| tape.apply(op, [&v[0], &v[1], &v[2]]));
        check_gradients("dense", &arguments[..2], |tape, v| tape.apply(op, [&v[0], &v[1]]));
    }
}

#[test]
fn sum_and_dropout() {
    let rng = &mut generator(5);
    let arguments = [random(rng, &[2, 3, 4, 5]), random(rng, &[2, 3, 4, 5])];
    check_gradients("sum", &arguments, |tape, v| tape.apply(Sum, [&v[0], &v[1]]));
    check_gradients("dropout", &arguments[..1], |tape, v| {
        tape.apply(Dropout { probability: 0.4, key: 99, step: None }, [&v[0]])
    });
}

#[test]
fn dropout_keeps_its_share_and_the_mean() {
    let mut graph = CandleGraph;
    let ones = Tensor::ones((100, 1000), DType::F32, &Device::Cpu).unwrap();
    for probability in [0.1, 0.5, 0.9] {
        let y = flat(&graph.apply(Dropout { probability, key: 3, step: None }, [&ones]).unwrap());
        let kept = y.iter().filter(|v| **v != 0.0).count() as f64 / y.len() as f64;
        assert!((kept - (1.0 - probability)).abs() < 0.01, "{probability}: {kept}");
        assert!((y.iter().sum::<f64>() / y.len() as f64 - 1.0).abs() < 0.05);
    }
}

/// Images in blocks have the masks that they have one after the other.
#[test]
fn dropout_does_not_depend_on_the_layout() {
    let rng = &mut generator(13);
    let op = Dropout { probability: 0.4, key: 99, step: None };
    let in_blocks = |x: &Tensor| forward(&ToBlocks, [x]).unwrap();
    let images = |x: &Tensor| flat(&forward(&FromBlocks, [x]).unwrap());
    // The last one is cut into pieces within blocks.
    for shape in [[16, 1, 1, 1], [32, 5, 3, 2], [48, 40, 6, 6]] {
        for dtype in [DType::F64, DType::F32] {
            let [x, dy] = [(); 2].map(|()| random(rng, &shape).to_dtype(dtype).unwrap());
            let (plain, blocked) = (forward(&op, [&x]).unwrap(), forward(&op, [&in_blocks(&x)]).unwrap());
            assert_eq!(images(&blocked), flat(&plain), "{shape:?} {dtype:?}");
            let [expected, ..] = backward(&op, [&x], &plain, &dy).unwrap();
            let [ours, ..] = backward(&op, [&in_blocks(&x)], &blocked, &in_blocks(&dy)).unwrap();
            assert_eq!(images(&ours.unwrap()), flat(&expected.unwrap()), "gradient, {shape:?} {dtype:?}");
        }
    }
}

#[test]
fn losses() {
    let rng = &mut generator(6);
    for (rows, classes) in [(1, 2), (7, 10), (3, 100)] {
        let drawn: Vec<u8> = (0..rows).map(|_| rng.random_range(0..classes as u8)).collect();
        let targets: Vec<f32> = (0..rows).map(|k| (k % 2) as f32).collect();
        let targets = Tensor::new(targets, &Device::Cpu).unwrap();
        let x = random(rng, &[rows, 1]);
        let cases = [
            (Kind::CrossEntropy, random(rng, &[rows, classes]), labels(&drawn)),
            (Kind::BinaryCrossEntropy, x.clone(), targets.clone()),
            (Kind::MeanSquaredError, x, targets),
        ];
        for ((kind, x, targets), margin) in cases.into_iter().zip([0.7, 0.0, 0.0]) {
            check_gradients(&format!("{kind:?}"), &[x], |tape, v| {
                let targets = tape.constant(&targets);
                tape.apply(Loss { margin, ..Loss::from(kind) }, [&v[0], &targets])
            });
        }
    }
}

/// The logit of the right class is reduced by it, and predictions are counted without it.
#[test]
fn a_margin_is_taken_from_the_logit_of_the_right_class() {
    let mut graph = CandleGraph;
    let (x, reduced) = (Tensor::new(&[[1f32, 0.5, -2.0]], &Device::Cpu).unwrap(), [0.2f64, 0.5, -2.0]);
    let totals = Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap();
    let loss = Loss { margin: 0.8, totals: Some(totals.clone()), ..Loss::from(Kind::CrossEntropy) };
    let value = flat(&graph.apply(loss, [&x, &labels(&[0])]).unwrap())[0];
    let expected = reduced.iter().map(|v| v.exp()).sum::<f64>().ln() - reduced[0];
    assert!((value - expected).abs() < 1e-6, "{value}, expected {expected}");
    assert_eq!(flat(&totals)[1], 1.0);
}

#[test]
fn huge_logits_do_not_overflow() {
    let mut graph = CandleGraph;
    let x = Tensor::new(&[[1e4f32, -1e4], [-1e4, 1e4]], &Device::Cpu).unwrap();
    let loss = graph.apply(Loss::from(Kind::CrossEntropy), [&x, &labels(&[0, 0])]).unwrap();
    assert_eq!(flat(&loss), [1e4]);
    let x = Tensor::new(&[[1e4f32], [-1e4]], &Device::Cpu).unwrap();
    let loss = graph
        .apply(Loss::from(Kind::BinaryCrossEntropy), [&x, &Tensor::new(&[1f32, 1.0], &Device::Cpu).unwrap()])
        .unwrap();
    assert_eq!(flat(&loss), [5e3]);
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_op() {
    let mut graph = CandleGraph;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let conv = |kernel, stride, padding| Conv2d::new(Window { kernel, stride, padding });
    let (x, w) = (zeros(&[2, 3, 8, 8]), zeros(&[4, 3, 3, 3]));
    let cases = [
        ("conv2d", graph.apply(conv(3, 1, 1), [&zeros(&[2, 4, 8, 8]), &w])),
        ("conv2d", graph.apply(conv(3, 0, 1), [&x, &w])),
        ("conv2d", graph.apply(conv(3, 1, 0), [&zeros(&[2, 3, 2, 2]), &w])),
        ("conv2d", graph.apply(conv(5, 1, 2), [&x, &w])),
        ("conv2d", graph.apply(conv(3, 1, 1), [&zeros(&[3, 8]), &w])),
        ("conv2d", graph.apply(conv(3, 1, 1), [&x, &w, &zeros(&[5])])),
        ("max-pool", graph.apply(MaxPool(Window { kernel: 2, stride: 2, padding: 2 }), [&x])),
        ("average-pool", graph.apply(AveragePool(Window { kernel: 9, stride: 1, padding: 0 }), [&x])),
        ("average-pool", graph.apply(AveragePool(Window { kernel: 2, stride: 1, padding: 3 }), [&x])),
        ("dense", graph.apply(Dense { input_gradient: true }, [&zeros(&[2, 3]), &zeros(&[4, 5])])),
        ("dense: a layer of 0", graph.apply(Dense { input_gradient: true }, [&zeros(&[2, 0]), &zeros(&[4, 0])])),
        ("dense: a layer of 3", graph.apply(Dense { input_gradient: true }, [&zeros(&[2, 3]), &zeros(&[0, 3])])),
        ("sum", graph.apply(Sum, [&x, &zeros(&[2, 3, 8, 7])])),
        ("loss: label 3", graph.apply(Loss::from(Kind::CrossEntropy), [&zeros(&[1, 3]), &labels(&[3])])),
        ("CrossEntropy", graph.apply(Loss::from(Kind::CrossEntropy), [&zeros(&[0, 3]), &labels(&[])])),
        ("BinaryCrossEntropy", graph.apply(Loss::from(Kind::BinaryCrossEntropy), [&zeros(&[2, 1]), &zeros(&[1])])),
    ];
    for (name, result) in cases {
        let error = result.expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
    // An empty batch of a convolution is empty, not a panic.
    assert_eq!(graph.apply(conv(3, 1, 1), [&zeros(&[0, 3, 8, 8]), &w]).unwrap().dims(), [0, 4, 8, 8]);
}
