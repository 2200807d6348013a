//! Ops against plain loops in f64, and results that do not depend on the number of threads.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, flat, generator, random};
use ds_core::Grid;
use ds_core::activation::Init;
use ds_core::graph::{CandleGraph, Gradients, Graph};
use ds_nn::layers::Mode;
use ds_nn::networks::{ActivationKind, Network, ResNet32};
use ds_nn::ops::Window;
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::loss::CrossEntropy;
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
            let op = Conv2d { window, input_gradient: true, weight_gradient: true };
            assert_close(&what, &flat(&graph.apply2(op, &x, &w).unwrap()), &conv, tolerance);
            assert_close(&what, &flat(&graph.apply1(MaxPool(window), &x).unwrap()), &largest, tolerance);
            assert_close(&what, &flat(&graph.apply1(AveragePool(window), &x).unwrap()), &mean, tolerance);
        }
    }
}

#[test]
fn a_training_step_does_not_depend_on_the_number_of_threads() {
    let kind = ActivationKind::ExplicitLinear {
        grid: Grid::from_range(51, 4.0).unwrap(),
        init: Init::LeakyRelu,
        fixed_bias: None,
    };
    let step = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let rng = &mut Seed(3).generator(Purpose::Weights, 0);
            let network = Network::ResNet32(ResNet32::new(rng, 10, kind).unwrap());
            let x = random(rng, &[20, 3, 32, 32]).to_dtype(DType::F32).unwrap();
            let labels = (0..20).map(|k| k % 10).collect();
            let mut tape = Tape::recording();
            let x = tape.constant(&x);
            let logits = network.forward_in(&mut tape, &x, Mode::Training { dropout: 1 }).unwrap();
            let loss = tape.apply1(CrossEntropy { labels }, &logits).unwrap();
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
    assert_eq!(one, step(3));
}

#[test]
fn an_average_counts_padding_as_zeros() {
    let ones = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let window = Window { kernel: 3, stride: 2, padding: 1 };
    let y = CandleGraph.apply1(AveragePool(window), &ones).unwrap();
    assert_close("average", &flat(&y), &[4.0 / 9.0], 1e-6);
}
