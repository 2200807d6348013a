//! The GPU's ops and networks against the CPU's, on a GPU: `just gpu-test`. Without one it says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "cuda")]

use candle_core::{CustomOp2, CustomOp3, DType, Device, Tensor};
use ds_core::Grid;
use ds_core::activation::Init;
use ds_core::graph::{Gradients, Graph};
use ds_nn::layers::Mode;
use ds_nn::networks::{ActivationKind, AreaNet, ConvNet, Network, NetworkInNetwork, ResNet32};
use ds_nn::ops::Window;
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::dense::Dense;
use ds_nn::ops::gpu::{Options, set_options};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::ops::target_loss::TargetLoss;
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The device, for comparisons in f32.
fn device() -> Option<Device> {
    set_options(Options { tf32: false, deterministic: true });
    match ds_core::ops::gpu::cuda::open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("no CUDA device, nothing was tested: {}", error.to_string().lines().next().unwrap());
            None
        }
    }
}

fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f64> {
    let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖difference‖ / ‖expected‖.
fn error(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.shape(), expected.shape());
    let (ours, expected) = (flat(ours), flat(expected));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    square(&mut ours.iter().zip(&expected).map(|(a, b)| a - b)) / square(&mut expected.iter().copied()).max(1e-12)
}

fn assert_close(what: &str, ours: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = error(ours, expected);
    assert!(error <= tolerance, "{what}: off by {error:e}");
}

#[test]
fn convolutions_and_dense_layers_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let on = |t: &Tensor| t.to_device(&gpu).unwrap();
    for round in 0..40 {
        let kernel = [1, 3, 5, 2][round % 4];
        let window = Window { kernel, stride: rng.random_range(1..3), padding: rng.random_range(0..=kernel / 2) };
        let (inputs, outputs) = (rng.random_range(1..40), rng.random_range(1..40));
        let shape = [rng.random_range(1..20), inputs, rng.random_range(5..33), rng.random_range(5..33)];
        let (x, w, b) = (random(rng, &shape), random(rng, &[outputs, inputs, kernel, kernel]), random(rng, &[outputs]));
        let what = format!("round {round}, {shape:?} to {outputs}, {window:?}");
        let op = Conv2d { window, input_gradient: true, weight_gradient: true };
        let y = x.apply_op3_no_bwd(&w, &b, &op).unwrap();
        let ours = on(&x).apply_op3_no_bwd(&on(&w), &on(&b), &op).unwrap();
        assert_close(&what, &ours, &y, 1e-5);
        let dy = random(rng, y.dims());
        let expected = CustomOp3::bwd(&op, &x, &w, &b, &y, &dy).unwrap();
        let got = CustomOp3::bwd(&op, &on(&x), &on(&w), &on(&b), &ours, &on(&dy)).unwrap();
        assert_close(&format!("{what}: ∂x"), &got.0.unwrap(), &expected.0.unwrap(), 1e-5);
        assert_close(&format!("{what}: ∂W"), &got.1.unwrap(), &expected.1.unwrap(), 1e-5);
        assert_close(&format!("{what}: ∂b"), &got.2.unwrap(), &expected.2.unwrap(), 1e-5);

        let (rows, op) = (rng.random_range(1..300), Dense { input_gradient: true });
        let (x, w, b) = (random(rng, &[rows, inputs]), random(rng, &[outputs, inputs]), random(rng, &[outputs]));
        let y = x.apply_op3_no_bwd(&w, &b, &op).unwrap();
        let ours = on(&x).apply_op3_no_bwd(&on(&w), &on(&b), &op).unwrap();
        assert_close(&format!("{what}: dense"), &ours, &y, 1e-5);
        let dy = random(rng, y.dims());
        let expected = CustomOp2::bwd(&op, &x, &w, &y, &dy).unwrap();
        let got = CustomOp2::bwd(&op, &on(&x), &on(&w), &ours, &on(&dy)).unwrap();
        assert_close(&format!("{what}: dense ∂x"), &got.0.unwrap(), &expected.0.unwrap(), 1e-5);
        assert_close(&format!("{what}: dense ∂W"), &got.1.unwrap(), &expected.1.unwrap(), 1e-5);
    }
}

#[test]
fn pools_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for round in 0..20 {
        let kernel = rng.random_range(1..5);
        let window = Window { kernel, stride: rng.random_range(1..4), padding: rng.random_range(0..=kernel / 2) };
        let shape = [4, 6, rng.random_range(5..33), rng.random_range(5..33)];
        let x = random(rng, &shape);
        let (there, what) = (x.to_device(&gpu).unwrap(), format!("round {round}, {shape:?}, {window:?}"));
        let max = (there.apply_op1_no_bwd(&MaxPool(window)).unwrap(), x.apply_op1_no_bwd(&MaxPool(window)).unwrap());
        assert_close(&format!("{what}: max"), &max.0, &max.1, 1e-6);
        let (ours, expected) =
            (there.apply_op1_no_bwd(&AveragePool(window)).unwrap(), x.apply_op1_no_bwd(&AveragePool(window)).unwrap());
        assert_close(&format!("{what}: mean"), &ours, &expected, 1e-6);
    }
}

/// The networks of the papers with all activations, small ones of their kinds.
fn networks() -> Vec<(String, Network, Vec<usize>)> {
    let grid = Grid::from_range(51, 4.0).unwrap();
    let (init, fixed_bias) = (Init::LeakyRelu, None);
    let kinds = [
        ActivationKind::Relu,
        ActivationKind::LeakyRelu,
        ActivationKind::PRelu,
        ActivationKind::Apl { hinges: 3 },
        ActivationKind::BSpline { grid, init },
        ActivationKind::ExplicitLinear { grid, init, fixed_bias },
        ActivationKind::ReluSpline { grid, init, fixed_bias },
    ];
    let rng = &mut Seed(1).generator(Purpose::Weights, 0);
    let mut all = Vec::new();
    for kind in kinds {
        let mut add = |name: &str, network: Network, shape: &[usize]| {
            all.push((format!("{name} with {kind:?}"), network, shape.to_vec()));
        };
        add("ResNet32", Network::ResNet32(ResNet32::new(rng, 10, kind).unwrap()), &[16, 3, 32, 32]);
        add("NiN", Network::Nin(NetworkInNetwork::new(rng, 10, 0.5, kind).unwrap()), &[4, 3, 32, 32]);
        add("ConvNet", Network::ConvNet(ConvNet::new(rng, 10, kind).unwrap()), &[16, 1, 28, 28]);
        add("AreaNet", Network::Area(AreaNet::new(rng, &[8, 8], kind).unwrap()), &[50, 2]);
    }
    all
}

/// Loss and gradients by name of a training step.
fn step(network: &Network, x: &Tensor, t: &Tensor, loss: TargetLoss) -> (Tensor, Vec<(String, Tensor)>) {
    let mut tape = Tape::recording();
    let (x, t) = (tape.constant(x), tape.constant(t));
    let output = network.forward_in(&mut tape, &x, Mode::Training { dropout: 7 }).unwrap();
    let loss = tape.apply2(loss, &output, &t).unwrap();
    let value = tape.tensor(&loss).clone();
    let gradients = tape.backward(&loss).unwrap();
    let of = |p: ds_core::Parameter| (p.name, gradients.gradient(&p.var).unwrap().clone());
    (value, network.parameters().into_iter().map(of).collect())
}

#[test]
fn networks_agree_with_the_cpu_and_with_themselves() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for (name, network, shape) in networks() {
        let there = network.copied(DType::F32, &gpu).unwrap();
        let x = random(rng, &shape);
        let (t, loss) = if shape.len() == 2 {
            let targets: Vec<f32> = (0..shape[0]).map(|k| (k % 2) as f32).collect();
            (Tensor::from_vec(targets, shape[0], &Device::Cpu).unwrap(), TargetLoss::Binary)
        } else {
            let labels: Vec<u8> = (0..shape[0]).map(|k| (k % 10) as u8).collect();
            (Tensor::from_vec(labels, shape[0], &Device::Cpu).unwrap(), TargetLoss::CrossEntropy)
        };
        let (on_x, on_t) = (x.to_device(&gpu).unwrap(), t.to_device(&gpu).unwrap());
        let (expected_loss, expected) = step(&network, &x, &t, loss);
        let (ours_loss, ours) = step(&there, &on_x, &on_t, loss);
        assert_close(&format!("{name}: loss"), &ours_loss, &expected_loss, 1e-4);
        // An activation's input next to a knot or to 0 falls to either side, and takes what is before it along.
        for ((of, ours), (_, expected)) in ours.iter().zip(&expected) {
            assert_close(&format!("{name}: gradient of {of}"), ours, expected, 5e-3);
        }
        for ((of, ours), (_, expected)) in there.buffers().iter().zip(network.buffers()) {
            assert_close(&format!("{name}: {of}"), ours, &expected, 1e-4);
        }
        let mut tape = Tape::inference();
        let evaluated = |network: &Network, x: &Tensor, tape: &mut Tape| {
            let x = tape.constant(x);
            let y = network.forward_in(tape, &x, Mode::Evaluation).unwrap();
            tape.tensor(&y).clone()
        };
        let (ours, expected) = (evaluated(&there, &on_x, &mut tape), evaluated(&network, &x, &mut tape));
        assert_close(&format!("{name}: evaluation"), &ours, &expected, 1e-4);
        // The same bits from the same weights.
        let (first, second) = (step(&there, &on_x, &on_t, loss).1, step(&there, &on_x, &on_t, loss).1);
        for ((of, first), (_, second)) in first.iter().zip(&second) {
            assert_eq!(flat(first), flat(second), "{name}: {of} does not repeat itself");
        }
    }
}

#[test]
fn optimisers_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    for rule in [Rule::Sgd { momentum: 0.9 }, Rule::Adam] {
        let (_, network, shape) = networks().swap_remove(2);
        let there = network.copied(DType::F32, &gpu).unwrap();
        let of = |network: &Network| {
            let decay = Decay { weights: 1e-3, hinges: 0.0 };
            Optimizer::new(rule, decay, network.parameters()).unwrap()
        };
        let (mut on_cpu, mut on_gpu) = (of(&network), of(&there));
        let t = Tensor::from_vec((0..shape[0]).map(|k| (k % 10) as u8).collect(), shape[0], &Device::Cpu).unwrap();
        for _ in 0..3 {
            let x = random(rng, &shape);
            let gradients = |network: &Network, x: &Tensor, t: &Tensor| {
                let mut tape = Tape::recording();
                let (x, t) = (tape.constant(x), tape.constant(t));
                let output = network.forward_in(&mut tape, &x, Mode::Training { dropout: 7 }).unwrap();
                let loss = tape.apply2(TargetLoss::CrossEntropy, &output, &t).unwrap();
                tape.backward(&loss).unwrap()
            };
            on_cpu.step(&gradients(&network, &x, &t), 0.01).unwrap();
            let (x, t) = (x.to_device(&gpu).unwrap(), t.to_device(&gpu).unwrap());
            on_gpu.step(&gradients(&there, &x, &t), 0.01).unwrap();
        }
        for (ours, expected) in there.parameters().iter().zip(network.parameters()) {
            assert_close(&format!("{rule:?}: {}", ours.name), &ours.var, &expected.var, 1e-3);
        }
    }
}
