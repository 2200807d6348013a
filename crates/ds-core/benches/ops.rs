//! Times of every op of this crate: `cargo bench -p ds-core`, or `-- NAME` for some of them. Beside PyTorch:
//! `benches/compare_pytorch.py`.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{DType, Device, Tensor};
use divan::{Bencher, black_box};
use ds_core::Grid;
use ds_core::activation::{Init, Spline};
use ds_core::backend::op::{backward, forward};
use ds_core::graph::{CandleGraph, Gradients};
use ds_core::ops::hinges::Hinges;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::rectifier::{ChannelRectifier, Rectifier};
use ds_core::regularization::Norm;
use ds_core::sparsify::eliminate_knots;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Inputs of the activations of ResNet32's three stages, as plain images, and of a dense layer.
const SHAPES: [[usize; 4]; 4] = [[128, 16, 32, 32], [128, 32, 16, 16], [128, 64, 8, 8], [4096, 512, 1, 1]];

fn main() {
    divan::main();
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn grid(size: usize) -> Grid {
    Grid::from_range(size, 4.0).unwrap()
}

/// 201 knots are more than the tables in registers hold.
#[divan::bench(args = [(0, 51), (1, 51), (2, 51), (3, 51), (0, 201)])]
fn linear_spline_forward(bencher: Bencher, (shape, size): (usize, usize)) {
    let (op, x, c) = (LinearSpline::new(grid(size)), random(&SHAPES[shape]), random(&[SHAPES[shape][1], size]));
    bencher.bench_local(|| op.forward(&x, &c).unwrap());
}

#[divan::bench(args = [(0, 51), (1, 51), (2, 51), (3, 51), (0, 201)])]
fn linear_spline_backward(bencher: Bencher, (shape, size): (usize, usize)) {
    let (op, x, c) = (LinearSpline::new(grid(size)), random(&SHAPES[shape]), random(&[SHAPES[shape][1], size]));
    let dy = random(&SHAPES[shape]);
    bencher.bench_local(|| op.backward(&x, &c, &dy).unwrap());
}

#[divan::bench(args = 0..4)]
fn relu_forward(bencher: Bencher, shape: usize) {
    let x = random(&SHAPES[shape]);
    bencher.bench_local(|| forward(&Rectifier { slope: 0.0 }, [&x]).unwrap());
}

#[divan::bench(args = 0..4)]
fn relu_backward(bencher: Bencher, shape: usize) {
    let (x, dy) = (random(&SHAPES[shape]), random(&SHAPES[shape]));
    bencher.bench_local(|| backward(&Rectifier { slope: 0.0 }, [&x], &x, &dy).unwrap());
}

#[divan::bench(args = 0..3)]
fn prelu_backward(bencher: Bencher, shape: usize) {
    let (x, dy, slopes) = (random(&SHAPES[shape]), random(&SHAPES[shape]), random(&[SHAPES[shape][1]]));
    bencher.bench_local(|| backward(&ChannelRectifier, [&x, &slopes], &x, &dy).unwrap());
}

#[divan::bench(args = 0..3)]
fn hinges_backward(bencher: Bencher, shape: usize) {
    let (x, dy) = (random(&SHAPES[shape]), random(&SHAPES[shape]));
    let (a, b) = (random(&[SHAPES[shape][1], 1]), random(&[SHAPES[shape][1], 1]));
    bencher.bench_local(|| backward(&Hinges, [&x, &a, &b], &x, &dy).unwrap());
}

fn spline(kind: &str) -> Spline {
    let (grid, init, dtype, device) = (grid(51), Init::LeakyRelu, DType::F32, &Device::Cpu);
    match kind {
        "bspline" => Spline::bspline(64, grid, init, dtype, device),
        "explicit_linear" => Spline::explicit_linear(64, grid, init, false, dtype, device),
        _ => Spline::relu_spline(64, grid, init, false, dtype, device),
    }
    .unwrap()
}

/// From the parameters of 64 splines to their coefficients.
#[divan::bench(args = ["explicit_linear", "relu_spline"])]
fn coefficients(bencher: Bencher, kind: &str) {
    let spline = spline(kind);
    bencher.bench_local(|| spline.coefficients_in(&mut CandleGraph).unwrap());
}

struct One(Tensor);

impl Gradients for One {
    fn gradient(&self, _: &Tensor) -> Option<&Tensor> {
        Some(&self.0)
    }
    fn set_gradient(&mut self, _: &Tensor, gradient: Tensor) {
        self.0 = gradient;
    }
}

/// The gradient of 64 splines' norm.
#[divan::bench(args = [Norm::Tv2, Norm::Bv2])]
fn norm_gradient(bencher: Bencher, norm: Norm) {
    let spline = spline("bspline");
    let mut gradients = One(spline.knot_parameters().zeros_like().unwrap());
    bencher.bench_local(|| norm.add_gradient(&spline, black_box(1e-4), &mut gradients).unwrap());
}

#[divan::bench]
fn knot_elimination(bencher: Bencher) {
    let spline = spline("bspline");
    bencher.bench_local(|| eliminate_knots(&spline, black_box(0.1)).unwrap());
}
