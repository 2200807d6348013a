//! Times of every op of this crate: `cargo bench -p ds-nn`, or `-- NAME` for some of them. Beside PyTorch:
//! `benches/compare_pytorch.py`.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{DType, Device, Tensor, Var};
use divan::{Bencher, black_box};
use ds_core::backend::op::{backward, forward};
use ds_core::graph::Gradients;
use ds_core::{Grid, Group, L2, Parameter};
use ds_nn::memory::Recycling;
use ds_nn::ops::Window;
use ds_nn::ops::blocks::{FromBlocks, LANES, ToBlocks};
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::dense::Dense;
use ds_nn::ops::dropout::Dropout;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::norm_activation::{Function, NormActivation, Statistics};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::ops::sum::Sum;
use ds_nn::optim::{Decay, Optimizer, Rule};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Recycling<MiMalloc> = Recycling::new(MiMalloc);

const BATCH: usize = 128;

fn main() {
    divan::main();
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

/// A batch in blocks.
fn images(channels: usize, side: usize) -> Tensor {
    random(&[BATCH / LANES, channels, side, side, LANES])
}

/// (inputs, outputs, side, kernel, stride): ResNet32's and NiN's.
const CONVOLUTIONS: [(usize, usize, usize, usize, usize); 9] = [
    (3, 16, 32, 3, 1),
    (16, 16, 32, 3, 1),
    (32, 32, 16, 3, 1),
    (64, 64, 8, 3, 1),
    (16, 32, 32, 3, 2),
    (16, 32, 32, 1, 2),
    (3, 192, 32, 5, 1),
    (192, 160, 32, 1, 1),
    (96, 192, 16, 5, 1),
];

fn convolution(k: usize, input_gradient: bool) -> (Conv2d, Tensor, Tensor, Tensor) {
    let (inputs, outputs, side, kernel, stride) = CONVOLUTIONS[k];
    let window = Window { kernel, stride, padding: kernel / 2 };
    let (x, w) = (images(inputs, side), random(&[outputs, inputs, kernel, kernel]));
    let op = Conv2d { input_gradient, weight_gradient: !input_gradient, ..Conv2d::new(window) };
    (op, x, w, images(outputs, side.div_ceil(stride)))
}

#[divan::bench(args = 0..9)]
fn convolution_forward(bencher: Bencher, k: usize) {
    let (op, x, w, _) = convolution(k, false);
    bencher.bench_local(|| forward(&op, [&x, &w]).unwrap());
}

#[divan::bench(args = 0..9)]
fn convolution_input_gradient(bencher: Bencher, k: usize) {
    let (op, x, w, dy) = convolution(k, true);
    bencher.bench_local(|| backward(&op, [&x, &w], &dy, &dy).unwrap());
}

#[divan::bench(args = 0..9)]
fn convolution_weight_gradient(bencher: Bencher, k: usize) {
    let (op, x, w, dy) = convolution(k, false);
    bencher.bench_local(|| backward(&op, [&x, &w], &dy, &dy).unwrap());
}

fn fused(function: &str) -> (NormActivation, Tensor) {
    let (function, width) = match function {
        "identity" => (Function::Identity, 2),
        "relu" => (Function::Rectifier { slope: 0.0 }, 2),
        _ => (Function::Spline(Grid::from_range(51, 4.0).unwrap()), 53),
    };
    let var = || Var::zeros(16, DType::F32, &Device::Cpu).unwrap().into_inner();
    let statistics = Statistics::new(var(), var(), 0.1, true);
    (NormActivation { statistics, epsilon: 1e-5, function, sums: None }, random(&[16, width]))
}

#[divan::bench(args = ["identity", "relu", "spline"])]
fn norm_activation_forward(bencher: Bencher, function: &str) {
    let ((op, parameters), x) = (fused(function), images(16, 32));
    bencher.bench_local(|| forward(&op, [&x, &parameters]).unwrap());
}

#[divan::bench(args = ["identity", "relu", "spline"])]
fn norm_activation_backward(bencher: Bencher, function: &str) {
    let ((op, parameters), x, dy) = (fused(function), images(16, 32), images(16, 32));
    forward(&op, [&x, &parameters]).unwrap();
    bencher.bench_local(|| backward(&op, [&x, &parameters], &x, &dy).unwrap());
}

#[divan::bench(args = ["relu", "spline"])]
fn norm_residual_activation_backward(bencher: Bencher, function: &str) {
    let ((op, parameters), x, residual, dy) = (fused(function), images(16, 32), images(16, 32), images(16, 32));
    forward(&op, [&x, &residual, &parameters]).unwrap();
    bencher.bench_local(|| backward(&op, [&x, &residual, &parameters], &x, &dy).unwrap());
}

const POOL: Window = Window { kernel: 3, stride: 2, padding: 1 };

#[divan::bench]
fn max_pool_forward(bencher: Bencher) {
    let x = images(96, 32);
    bencher.bench_local(|| forward(&MaxPool(POOL), [&x]).unwrap());
}

#[divan::bench]
fn max_pool_backward(bencher: Bencher) {
    let (x, dy) = (images(96, 32), images(96, 16));
    let y = forward(&MaxPool(POOL), [&x]).unwrap();
    bencher.bench_local(|| backward(&MaxPool(POOL), [&x], &y, &dy).unwrap());
}

#[divan::bench]
fn average_pool_forward(bencher: Bencher) {
    let x = images(192, 16);
    bencher.bench_local(|| forward(&AveragePool(POOL), [&x]).unwrap());
}

#[divan::bench]
fn average_pool_backward(bencher: Bencher) {
    let (x, dy) = (images(192, 16), images(192, 8));
    bencher.bench_local(|| backward(&AveragePool(POOL), [&x], &dy, &dy).unwrap());
}

#[divan::bench]
fn dropout(bencher: Bencher) {
    let x = images(96, 16);
    bencher.bench_local(|| forward(&Dropout { probability: 0.5, key: black_box(7), step: None }, [&x]).unwrap());
}

#[divan::bench]
fn sum(bencher: Bencher) {
    let (a, b) = (images(16, 32), images(16, 32));
    bencher.bench_local(|| forward(&Sum, [&a, &b]).unwrap());
}

#[divan::bench]
fn to_blocks(bencher: Bencher) {
    let x = random(&[BATCH, 3, 32, 32]);
    bencher.bench_local(|| forward(&ToBlocks, [&x]).unwrap());
}

#[divan::bench]
fn from_blocks(bencher: Bencher) {
    let x = images(64, 8);
    bencher.bench_local(|| forward(&FromBlocks, [&x]).unwrap());
}

/// (rows, inputs, outputs): the area network's and ResNet32's last layer.
#[divan::bench(args = [(10, 4, 4), (BATCH, 64, 10)])]
fn dense_forward(bencher: Bencher, (rows, inputs, outputs): (usize, usize, usize)) {
    let (x, w, b) = (random(&[rows, inputs]), random(&[outputs, inputs]), random(&[outputs]));
    bencher.bench_local(|| forward(&Dense { input_gradient: true }, [&x, &w, &b]).unwrap());
}

#[divan::bench(args = [(10, 4, 4), (BATCH, 64, 10)])]
fn dense_backward(bencher: Bencher, (rows, inputs, outputs): (usize, usize, usize)) {
    let (x, w, dy) = (random(&[rows, inputs]), random(&[outputs, inputs]), random(&[rows, outputs]));
    bencher.bench_local(|| backward(&Dense { input_gradient: true }, [&x, &w], &dy, &dy).unwrap());
}

#[divan::bench]
fn cross_entropy_backward(bencher: Bencher) {
    let labels: Vec<u8> = (0..BATCH).map(|k| (k % 10) as u8).collect();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let (x, dy, op) = (random(&[BATCH, 10]), random(&[1]).squeeze(0).unwrap(), Loss::from(Kind::CrossEntropy));
    let loss = forward(&op, [&x, &labels]).unwrap();
    bencher.bench_local(|| backward(&op, [&x, &labels], &loss, &dy).unwrap());
}

struct Same(Tensor);

impl Gradients for Same {
    fn gradient(&self, _: &Tensor) -> Option<&Tensor> {
        Some(&self.0)
    }
    fn set_gradient(&mut self, _: &Tensor, gradient: Tensor) {
        self.0 = gradient;
    }
}

/// A step for as many parameters as the largest layer of NiN has.
#[divan::bench(args = ["sgd", "adam"])]
fn optimiser_step(bencher: Bencher, rule: &str) {
    let rule = if rule == "sgd" { Rule::Sgd { momentum: 0.9 } } else { Rule::Adam };
    let var = Var::from_tensor(&random(&[460_800])).unwrap();
    let parameter = Parameter::new("weights".to_owned(), &var, Group::Weights, L2::WeightDecay);
    let mut optimizer = Optimizer::new(rule, Decay { weights: 1e-4, hinges: 0.0 }, [parameter]).unwrap();
    let gradient = Same(random(&[460_800]));
    bencher.bench_local(|| optimizer.step(&gradient, 1e-3).unwrap());
}
