//! Ops against plain loops in f64, and results that do not depend on the number of threads.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Set, assert_close, flat, generator, labels, random, statistics, uniform};
use ds_core::Grid;
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::backend::op::{backward, forward};
use ds_core::graph::{CandleGraph, Gradients, Graph};
use ds_nn::layers::{self, BatchNorm, Mode, WeightInit};
use ds_nn::networks;
use ds_nn::ops::Window;
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::norm_activation::{ChannelParameters, Function, NormActivation};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use rand::Rng;

/// Calls `f(n, channel, oy, ox, [(iy, ix)])` for every output, with the inputs of its window that are inside.
fn windows(shape: &[usize], window: Window, mut f: impl FnMut(usize, usize, Vec<(usize, usize, usize, usize)>)) {
    let &[images, channels, height, width] = shape else { panic!("{shape:?}") };
    let side = |n: usize| (n + 2 * window.padding - window.kernel) / window.stride + 1;
    for plane in 0..images * channels {
        for oy in 0..side(height) {
            for ox in 0..side(width) {
                let mut inside = Vec::new();
                for ky in 0..window.kernel {
                    for kx in 0..window.kernel {
                        let y = (oy * window.stride + ky).wrapping_sub(window.padding);
                        let x = (ox * window.stride + kx).wrapping_sub(window.padding);
                        if y < height && x < width {
                            inside.push((y, x, ky, kx));
                        }
                    }
                }
                f(plane / channels, plane % channels, inside);
            }
        }
    }
}

#[test]
fn convolution_and_pools() {
    let rng = &mut generator(1);
    let graph = &mut CandleGraph;
    for round in 0..60 {
        let kernel = [1, 2, 3, 5][round % 4];
        let window = Window { kernel, stride: rng.random_range(1..=2), padding: rng.random_range(0..=(kernel / 2)) };
        let shape: [usize; 4] = [
            rng.random_range(1..4),
            rng.random_range(1..9),
            rng.random_range(kernel..18),
            rng.random_range(kernel..18),
        ];
        let outputs = rng.random_range(1..9);
        let (x, w) = (random(rng, &shape), random(rng, &[outputs, shape[1], kernel, kernel]));
        let (xs, ws) = (flat(&x), flat(&w));
        let at = |n: usize, c: usize, y: usize, x: usize| xs[((n * shape[1] + c) * shape[2] + y) * shape[3] + x];
        let (mut conv, mut largest, mut mean) = (Vec::new(), Vec::new(), Vec::new());
        windows(&shape, window, |n, c, inside| {
            largest.push(inside.iter().map(|&(y, x, ..)| at(n, c, y, x)).fold(f64::NEG_INFINITY, f64::max));
            mean.push(inside.iter().map(|&(y, x, ..)| at(n, c, y, x)).sum::<f64>() / (kernel * kernel) as f64);
        });
        windows(&[shape[0], outputs, shape[2], shape[3]], window, |n, o, inside| {
            let terms = (0..shape[1]).flat_map(|c| inside.iter().map(move |&(y, x, ky, kx)| (c, y, x, ky, kx)));
            let weight = |c: usize, ky: usize, kx: usize| ws[((o * shape[1] + c) * kernel + ky) * kernel + kx];
            conv.push(terms.map(|(c, y, x, ky, kx)| at(n, c, y, x) * weight(c, ky, kx)).sum());
        });
        let what = format!("{window:?} {shape:?}");
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let (x, w) = (x.to_dtype(dtype).unwrap(), w.to_dtype(dtype).unwrap());
            let op = Conv2d::new(window);
            assert_close(&what, &flat(&graph.apply(op, [&x, &w]).unwrap()), &conv, tolerance);
            assert_close(&what, &flat(&graph.apply(MaxPool(window), [&x]).unwrap()), &largest, tolerance);
            assert_close(&what, &flat(&graph.apply(AveragePool(window), [&x]).unwrap()), &mean, tolerance);
        }
    }
}

#[test]
fn a_folded_norm_is_the_norm() {
    let rng = &mut generator(8);
    let window = Window { kernel: 3, stride: 2, padding: 1 };
    for bias in [false, true] {
        let conv = layers::Conv2d::new(rng, 3, 5, window, bias, WeightInit::Uniform).unwrap();
        let norm = BatchNorm::new(5).unwrap();
        for (var, low) in
            [(&norm.scale, -1.0), (&norm.shift, -1.0), (&norm.running_mean, -1.0), (&norm.running_variance, 0.1)]
        {
            let values = Tensor::new(uniform(rng, 5, low, 2.0), &Device::Cpu).unwrap();
            var.set(&values.to_dtype(DType::F32).unwrap()).unwrap();
        }
        let x = random(rng, &[16, 3, 7, 8]).to_dtype(DType::F32).unwrap();
        let graph = &mut CandleGraph;
        let plain = conv.forward_in(graph, &x).unwrap();
        let plain = norm.forward_in(graph, &plain, Mode::Evaluation).unwrap();
        let folded = norm.folded_into(&conv).unwrap().forward_in(graph, &x).unwrap();
        assert_close("folded", &flat(&folded), &flat(&plain), 1e-5);
    }
}

/// Batch norm, residual sum and activation, one number after the other in f64.
#[test]
fn normalised_activations() {
    let rng = &mut generator(9);
    let grid = Grid::from_range(51, 4.0).unwrap();
    for shape in [&[3, 2, 5, 7][..], &[32, 5, 3, 3], &[1, 1, 1, 2], &[2, 3, 8, 8, 16], &[9, 4]] {
        let (channels, inner) = (shape[1], shape[2..].iter().product::<usize>());
        let (x, r) = (random(rng, shape), random(rng, shape));
        let (scale, shift) = (uniform(rng, channels, 0.5, 4.0), uniform(rng, channels, -1.0, 1.0));
        let coefficients = random(rng, &[channels, grid.size()]);
        let (xs, rs, cs) = (flat(&x), flat(&r), flat(&coefficients));
        for function in [Function::Identity, Function::Rectifier { slope: 0.25 }, Function::Spline(grid)] {
            for with_residual in [false, true] {
                let mut expected = vec![0.0; xs.len()];
                for c in 0..channels {
                    let of_channel: Vec<usize> = (0..xs.len()).filter(|k| k / inner % channels == c).collect();
                    let n = of_channel.len() as f64;
                    let mean = of_channel.iter().map(|&k| xs[k]).sum::<f64>() / n;
                    let variance = of_channel.iter().map(|&k| (xs[k] - mean).powi(2)).sum::<f64>() / n;
                    for k in of_channel {
                        let z = (xs[k] - mean) / (variance + 1e-5).sqrt() * scale[c] + shift[c];
                        let z = if with_residual { z + rs[k] } else { z };
                        expected[k] = match function {
                            Function::Identity => z,
                            Function::Rectifier { slope } => {
                                if z > 0.0 {
                                    z
                                } else {
                                    slope * z
                                }
                            }
                            Function::Spline(grid) => {
                                let (i, t) = grid.locate(z);
                                let c = &cs[c * grid.size()..][i..i + 2];
                                c[0] + t * (c[1] - c[0])
                            }
                        };
                    }
                }
                for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-4)] {
                    let graph = &mut CandleGraph;
                    let tensor = |v: &[f64]| Tensor::new(v, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                    let (scale, shift) = (tensor(&scale), tensor(&shift));
                    let parameters = match function {
                        Function::Spline(_) => graph
                            .apply(ChannelParameters, [&scale, &shift, &coefficients.to_dtype(dtype).unwrap()])
                            .unwrap(),
                        _ => graph.apply(ChannelParameters, [&scale, &shift]).unwrap(),
                    };
                    let statistics = statistics(channels, true);
                    let op = NormActivation { statistics, epsilon: 1e-5, function, sums: None };
                    let (x, r) = (x.to_dtype(dtype).unwrap(), r.to_dtype(dtype).unwrap());
                    let y = if with_residual {
                        graph.apply(op, [&x, &r, &parameters]).unwrap()
                    } else {
                        graph.apply(op, [&x, &parameters]).unwrap()
                    };
                    let what = format!("{function:?} {shape:?} {dtype:?}, residual: {with_residual}");
                    assert_close(&what, &flat(&y), &expected, tolerance);
                }
            }
        }
    }
}

/// The gradients of the f32 loops against those of the f64 ones, which agree with finite differences. A few inputs lie so close
/// to a kink that the two see them on different sides of it.
#[test]
fn normalised_gradients_in_single_precision() {
    let rng = &mut generator(10);
    let functions = [
        Function::Identity,
        Function::Rectifier { slope: 0.25 },
        Function::Spline(Grid::from_range(51, 4.0).unwrap()),
        Function::Spline(Grid::from_range(151, 4.0).unwrap()),
    ];
    // Odd sizes, one channel, one image, images in blocks; the last is long enough for sums by pair of segments.
    for shape in [&[3, 2, 5, 7][..], &[1, 1, 31, 33], &[5, 3, 1, 1], &[2, 3, 8, 8, 16], &[3, 2, 61, 100]] {
        let channels = shape[1];
        let (x, r, dy) = (random(rng, shape), random(rng, shape), random(rng, shape));
        for function in functions {
            let width = if let Function::Spline(grid) = function { 2 + grid.size() } else { 2 };
            let parameters = random(rng, &[channels, width]);
            for with_residual in [false, true] {
                let gradients = |dtype| {
                    let cast = |t: &Tensor| t.to_dtype(dtype).unwrap();
                    let (x, r, dy, parameters) = (cast(&x), cast(&r), cast(&dy), cast(&parameters));
                    let statistics = statistics(channels, true);
                    let op = NormActivation { statistics, epsilon: 1e-5, function, sums: None };
                    if with_residual {
                        let y = forward(&op, [&x, &r, &parameters]).unwrap();
                        let [dx, dr, dp] = backward(&op, [&x, &r, &parameters], &y, &dy).unwrap();
                        [dx, dr, dp].map(|gradient| flat(&gradient.unwrap()))
                    } else {
                        let y = forward(&op, [&x, &parameters]).unwrap();
                        let [dx, dp, _] = backward(&op, [&x, &parameters], &y, &dy).unwrap();
                        [flat(&dx.unwrap()), Vec::new(), flat(&dp.unwrap())]
                    }
                };
                let (single, double) = (gradients(DType::F32), gradients(DType::F64));
                for (name, (ours, expected)) in ["∂x", "∂r", "∂parameters"].iter().zip(single.iter().zip(&double))
                {
                    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
                    let off = |(a, b): &(&f64, &f64)| (*a - *b).abs() > 1e-4 * scale;
                    let count = ours.iter().zip(expected).filter(off).count();
                    let what = format!("{function:?} {shape:?}, residual: {with_residual}: {name}");
                    assert_eq!(ours.len(), expected.len(), "{what}");
                    assert!(count <= expected.len() / 1000, "{what}: {count} of {} are off", expected.len());
                }
            }
        }
    }
}

#[test]
fn a_training_step_does_not_depend_on_the_number_of_threads() {
    let kind = ActivationConfig::spline(ActivationKind::ExplicitLinear, 51, 4.0, Init::LeakyRelu);
    // Plain images, and images in blocks.
    for images in [20, 32] {
        thread_count(kind, images);
    }
}

fn thread_count(kind: ActivationConfig, images: usize) {
    let step = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let rng = &mut Seed(3).generator(Purpose::Weights, 0);
            let network = networks::resnet32(rng, 10, kind).unwrap();
            let x = random(rng, &[images, 3, 32, 32]).to_dtype(DType::F32).unwrap();
            let classes = labels(&(0..images).map(|k| (k % 10) as u8).collect::<Vec<_>>());
            let mut tape = Tape::recording();
            let (x, classes) = (tape.constant(&x), tape.constant(&classes));
            let logits = network.forward_in(&mut tape, &x, Mode::training(1)).unwrap();
            let loss = tape.apply(Loss::from(Kind::CrossEntropy), [&logits, &classes]).unwrap();
            let value = flat(tape.tensor(&loss));
            let gradients = tape.backward(&loss).unwrap();
            let all = network.parameters().into_iter().map(|p| flat(gradients.gradient(&p.var).unwrap())).collect();
            let state: Vec<Vec<f64>> = network.buffers().iter().map(|(_, var)| flat(var)).collect();
            (value, all, state)
        })
    };
    let one: (Vec<f64>, Vec<Vec<f64>>, Vec<Vec<f64>>) = step(1);
    assert!(one.0[0].is_finite());
    assert_eq!(one, step(2));
    // More threads than channels, too: then a channel's pieces have threads of their own.
    assert_eq!(one, step(3));
    assert_eq!(one, step(24));
}

/// NiN has no batch norm, so that the result for an image depends on its own masks only. Seventeen images are not in blocks.
#[test]
fn a_network_draws_the_same_masks_for_images_in_blocks() {
    let network = networks::nin(&mut generator(11), 10, 0.5, ActivationKind::BSpline).unwrap();
    let x = random(&mut generator(12), &[17, 3, 32, 32]).to_dtype(DType::F32).unwrap();
    let output = |x: &Tensor| network.forward_in(&mut CandleGraph, x, Mode::training(1)).unwrap();
    let sixteen = |x: &Tensor| x.narrow(0, 0, 16).unwrap();
    assert_close("in blocks", &flat(&output(&sixteen(&x))), &flat(&sixteen(&output(&x))), 1e-4);
}

#[test]
fn an_average_counts_padding_as_zeros() {
    let ones = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let window = Window { kernel: 3, stride: 2, padding: 1 };
    let y = CandleGraph.apply(AveragePool(window), [&ones]).unwrap();
    assert_close("average", &flat(&y), &[4.0 / 9.0], 1e-6);
}
