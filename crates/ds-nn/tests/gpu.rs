//! The GPU's ops and networks against the CPU's, on a GPU: `just gpu-test`. Without one it says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "cuda")]

#[path = "../../ds-core/tests/cuda/on_card.rs"]
mod on_card;
#[path = "common/papers.rs"]
mod papers;

use candle_core::{DType, Device, Tensor};
use ds_core::activation::ActivationKind;
use ds_core::backend::op::{backward, forward};
use ds_core::graph::{Gradients, Graph};
use ds_core::lipschitz::certified;
use ds_nn::Network;
use ds_nn::layers::{Constraint, Mode};
use ds_nn::networks::{self, Images, LipschitzConv};
use ds_nn::ops::Window;
use ds_nn::ops::conv2d::{Conv2d, Options};
use ds_nn::ops::dense::Dense;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::tape::{Tape, Value};
use papers::{networks as of_papers, targets};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// For comparisons in f32.
const IN_F32: Options = Options { tf32: false, deterministic: true };

/// A network on the GPU that convolves in f32.
fn put(network: &Network, gpu: &Device) -> Network {
    let mut there = network.to(DType::F32, gpu).unwrap();
    there.set_convolution_options(IN_F32);
    there
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
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let rounds = [DType::F32, DType::BF16].into_iter().flat_map(|dtype| (0..40).map(move |k| (k, dtype)));
    on_card::each(rounds, |(round, dtype)| {
        // Results are rounded once, and again with a bias; sums are f32.
        let [once, twice] = if dtype == DType::F32 { [1e-5; 2] } else { [1.0 / 256.0, 2.0 / 256.0] };
        let sums = 1e-5;
        let mut data = |shape: &[usize]| random(rng, shape).to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        let on = |t: &Tensor| t.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
        let kernel = [1, 3, 5, 2][round % 4];
        let draws = &mut ChaCha8Rng::seed_from_u64(round as u64);
        let window = Window { kernel, stride: draws.random_range(1..3), padding: draws.random_range(0..=kernel / 2) };
        let (inputs, outputs) = (draws.random_range(1..40), draws.random_range(1..40));
        let shape = [draws.random_range(1..20), inputs, draws.random_range(5..33), draws.random_range(5..33)];
        let (x, w, b) = (data(&shape), data(&[outputs, inputs, kernel, kernel]), data(&[outputs]));
        let on_b = b.to_device(&gpu).unwrap();
        let what = format!("round {round}, {dtype:?}, {shape:?} to {outputs}, {window:?}");
        let op = Conv2d { options: IN_F32, ..Conv2d::new(window) };
        let y = forward(&op, [&x, &w, &b]).unwrap();
        let ours = forward(&op, [&on(&x), &on(&w), &on_b]).unwrap();
        assert_close(&what, &ours, &y, twice);
        let dy = data(y.dims());
        let expected = backward(&op, [&x, &w, &b], &y, &dy).unwrap();
        let got = backward(&op, [&on(&x), &on(&w), &on_b], &ours, &on(&dy)).unwrap();
        assert_close(&format!("{what}: ∂x"), got[0].as_ref().unwrap(), expected[0].as_ref().unwrap(), once);
        assert_close(&format!("{what}: ∂W"), got[1].as_ref().unwrap(), expected[1].as_ref().unwrap(), once);
        assert_close(&format!("{what}: ∂b"), got[2].as_ref().unwrap(), expected[2].as_ref().unwrap(), sums);

        let (rows, op) = (draws.random_range(1..300), Dense { input_gradient: true });
        let (x, w, b) = (data(&[rows, inputs]), data(&[outputs, inputs]), data(&[outputs]));
        let on_b = b.to_device(&gpu).unwrap();
        let y = forward(&op, [&x, &w, &b]).unwrap();
        let ours = forward(&op, [&on(&x), &on(&w), &on_b]).unwrap();
        assert_close(&format!("{what}: dense"), &ours, &y, twice);
        let dy = data(y.dims());
        let expected = backward(&op, [&x, &w, &b], &y, &dy).unwrap();
        let got = backward(&op, [&on(&x), &on(&w), &on_b], &ours, &on(&dy)).unwrap();
        assert_close(&format!("{what}: dense ∂x"), got[0].as_ref().unwrap(), expected[0].as_ref().unwrap(), once);
        assert_close(&format!("{what}: dense ∂W"), got[1].as_ref().unwrap(), expected[1].as_ref().unwrap(), once);
        assert_close(&format!("{what}: dense ∂b"), got[2].as_ref().unwrap(), expected[2].as_ref().unwrap(), sums);
    });
}

#[test]
fn convolutions_with_few_channels_agree_with_the_cpu() {
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let windows = [(3, 1, 1), (3, 2, 1), (1, 2, 0)].map(|(kernel, stride, padding)| Window { kernel, stride, padding });
    let [same, strided, shortcut] = windows;
    // Images, inputs, height and width of outputs, outputs: those of ResNet32 and others.
    let mut shapes = vec![
        (same, (128, 3, 32, 32, 16)),
        (same, (128, 16, 32, 32, 16)),
        (same, (128, 32, 16, 16, 32)),
        (same, (128, 64, 8, 8, 64)),
        (strided, (128, 16, 16, 16, 32)),
        (shortcut, (128, 32, 8, 8, 64)),
    ];
    for round in 0..30 {
        let mut side = |most| rng.random_range(1..=most);
        let window = windows[round % 3];
        shapes.push((window, (side(9), side(64), side(40), 8 * side(8 / window.stride), side(64))));
    }
    let both = shapes.into_iter().flat_map(|shape| [DType::F32, DType::BF16].map(|dtype| (shape, dtype)));
    on_card::each(both, |((window, (n, inputs, height, width, outputs)), dtype)| {
        let what = format!("({n}, {inputs}) to ({n}, {outputs}, {height}, {width}), {window:?}, {dtype:?}");
        // Numbers that TF32 holds, so that products are exact.
        let mut data =
            |shape: &[usize]| random(rng, shape).to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        let x = data(&[n, inputs, height * window.stride, width * window.stride]);
        let (w, dy) = (data(&[outputs, inputs, window.kernel, window.kernel]), data(&[n, outputs, height, width]));
        let b = Tensor::zeros(outputs, DType::F32, &Device::Cpu).unwrap();
        let op = Conv2d { options: Options { tf32: true, deterministic: true }, ..Conv2d::new(window) };
        let y = forward(&op, [&x, &w, &b]).unwrap();
        let [dx, dw, _] = backward(&op, [&x, &w, &b], &y, &dy).unwrap();
        let on = |t: &Tensor| t.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
        // Weights are f32 whatever the type of the data is.
        let [on_w, on_b] = [&w, &b].map(|t| t.to_device(&gpu).unwrap());
        let (on_x, on_dy) = (on(&x), on(&dy));
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 1.0 / 256.0 };
        let ours = forward(&op, [&on_x, &on_w, &on_b]).unwrap();
        assert_close(&what, &ours, &y, tolerance);
        let gradients = || backward(&op, [&on_x, &on_w, &on_b], &ours, &on_dy).unwrap();
        let (ours, again) = (gradients(), gradients());
        assert_close(&format!("{what}: ∂x"), ours[0].as_ref().unwrap(), &dx.unwrap(), tolerance);
        assert_close(&format!("{what}: ∂W"), ours[1].as_ref().unwrap(), &dw.unwrap(), tolerance);
        assert_eq!(flat(ours[1].as_ref().unwrap()), flat(again[1].as_ref().unwrap()), "{what}: another ∂W");
    });
}

#[test]
fn pools_agree_with_the_cpu() {
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    on_card::each(0..20, |round| {
        let kernel = rng.random_range(1..5);
        let window = Window { kernel, stride: rng.random_range(1..4), padding: rng.random_range(0..=kernel / 2) };
        let shape = [4, 6, rng.random_range(5..33), rng.random_range(5..33)];
        let x = random(rng, &shape);
        let (there, what) = (x.to_device(&gpu).unwrap(), format!("round {round}, {shape:?}, {window:?}"));
        let max = (forward(&MaxPool(window), [&there]).unwrap(), forward(&MaxPool(window), [&x]).unwrap());
        assert_close(&format!("{what}: max"), &max.0, &max.1, 1e-6);
        let (ours, expected) =
            (forward(&AveragePool(window), [&there]).unwrap(), forward(&AveragePool(window), [&x]).unwrap());
        assert_close(&format!("{what}: mean"), &ours, &expected, 1e-6);
    });
}

/// The loss of a training step in the type of x.
fn loss_of(tape: &mut Tape, network: &Network, x: &Tensor, t: &Tensor, loss: Kind) -> Value {
    let (x, t) = (tape.constant(x), tape.constant(t));
    let output = network.forward_in(tape, &x, Mode::training(7)).unwrap();
    let output = tape.to_dtype(&output, DType::F32).unwrap();
    tape.apply(Loss::from(loss), [&output, &t]).unwrap()
}

/// Loss and gradients by name of a training step.
fn step(network: &Network, x: &Tensor, t: &Tensor, loss: Kind) -> (Tensor, Vec<(String, Tensor)>) {
    let mut tape = Tape::recording();
    let loss = loss_of(&mut tape, network, x, t, loss);
    let value = tape.tensor(&loss).clone();
    let gradients = tape.backward(&loss).unwrap();
    let of = |p: ds_core::Parameter| (p.name, gradients.gradient(&p.var).unwrap().clone());
    (value, network.parameters().into_iter().map(of).collect())
}

#[test]
fn networks_agree_with_the_cpu_and_with_themselves() {
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    on_card::each(of_papers(), |(name, network, shape)| {
        let there = put(&network, &gpu);
        let x = random(rng, &shape);
        let (t, loss) = targets(&shape);
        let (on_x, on_t) = (x.to_device(&gpu).unwrap(), t.to_device(&gpu).unwrap());
        let (expected_loss, expected) = step(&network, &x, &t, loss);
        let (ours_loss, ours) = step(&there, &on_x, &on_t, loss);
        assert_close(&format!("{name}: loss"), &ours_loss, &expected_loss, 1e-4);
        // An activation's input next to a knot or to 0 falls to either side, and takes what is before it along: thirty layers of it
        // in ResNet32.
        let tolerance = if name.starts_with("ResNet32") { 3e-2 } else { 5e-3 };
        for ((of, ours), (_, expected)) in ours.iter().zip(&expected) {
            assert_close(&format!("{name}: gradient of {of}"), ours, expected, tolerance);
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
    });
}

/// Those whose weights are constrained, with all activations that are 1-Lipschitz.
fn lipschitz_networks() -> Vec<(String, Network, Vec<usize>)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(11);
    let mut all = Vec::new();
    let kinds = ActivationKind::NAMES.iter().map(|name| name.parse::<ActivationKind>().unwrap());
    for kind in kinds.filter(|kind| kind.is_lipschitz()) {
        for weights in [Constraint::Orthonormal, Constraint::Spectral] {
            let config = LipschitzConv { hidden: &[16], weights, depth: 2, ..LipschitzConv::new(8) };
            let conv = networks::lipschitz_conv(rng, Images::CIFAR, 10, config, kind).unwrap();
            let dense = networks::lipschitz(rng, (48, &[32, 16], 10), weights, kind, 2.0).unwrap();
            for (name, network, shape) in [("conv", conv, vec![16, 3, 32, 32]), ("dense", dense, vec![16, 48])] {
                // As a step of an optimiser leaves them.
                for parameter in network.parameters() {
                    let moved = (&*parameter.var + (random(rng, parameter.var.dims()) * 0.01).unwrap()).unwrap();
                    parameter.var.set(&moved).unwrap();
                }
                all.push((format!("{name}, {kind}, {weights}"), network, shape));
            }
        }
    }
    all
}

#[test]
fn lipschitz_networks_agree_with_the_cpu() {
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(12);
    on_card::each(lipschitz_networks(), |(name, network, shape)| {
        let there = put(&network, &gpu);
        let x = random(rng, &shape);
        let (t, loss) = targets(&[shape[0], 1, 1]);
        let (on_x, on_t) = (x.to_device(&gpu).unwrap(), t.to_device(&gpu).unwrap());
        let (_, bits) = step(&put(&network, &gpu), &on_x, &on_t, loss);
        let (expected_loss, expected) = step(&network, &x, &t, loss);
        let (ours_loss, ours) = step(&there, &on_x, &on_t, loss);
        assert_close(&format!("{name}: loss"), &ours_loss, &expected_loss, 2e-3);
        // A bound of the spectral norm is a little larger here, and inputs next to a knot fall to either side.
        let tolerance = if name.ends_with("spectral") { 5e-2 } else { 2e-2 };
        for (((of, ours), (_, expected)), (_, again)) in ours.iter().zip(&expected).zip(&bits) {
            assert_close(&format!("{name}: gradient of {of}"), ours, expected, tolerance);
            assert_eq!(flat(ours), flat(again), "{name}: {of} does not repeat itself");
        }
        for (ours, expected) in there.parameters().iter().zip(network.parameters()) {
            assert_close(&format!("{name}: {}", ours.name), &ours.var, &expected.var, 1e-5);
        }
        let bound = |network: &Network| certified::product_of_norms(&network.architecture().unwrap()).unwrap();
        let (ours, expected) = (bound(&there), bound(&network));
        assert!((ours / expected - 1.0).abs() < 5e-3, "{name}: constant {ours}, on the CPU {expected}");
        // Steps in bf16 go the same way.
        let narrow = on_x.to_dtype(DType::BF16).unwrap();
        let (loss_in_bf16, in_bf16) = step(&put(&network, &gpu), &narrow, &on_t, loss);
        assert_close(&format!("{name}: loss in bf16"), &loss_in_bf16, &expected_loss, 2e-2);
        assert!(in_bf16.iter().all(|(_, gradient)| gradient.dtype() == DType::F32), "{name}");
    });
}

#[test]
fn networks_in_bf16_are_near_those_in_f32() {
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    on_card::each(of_papers(), |(name, network, shape)| {
        let there = put(&network, &gpu);
        let (x, (t, loss)) = (random(rng, &shape), targets(&shape));
        let narrow = x.to_dtype(DType::BF16).unwrap().to_device(&gpu).unwrap();
        let on_t = t.to_device(&gpu).unwrap();
        let (expected_loss, expected) = step(&network, &x, &t, loss);
        let (ours_loss, ours) = step(&there, &narrow, &on_t, loss);
        assert_close(&format!("{name} in bf16: loss"), &ours_loss, &expected_loss, 5e-3);
        assert!(ours.iter().all(|(_, gradient)| gradient.dtype() == DType::F32), "{name}");
        let of = |all: &[(String, Tensor)]| all.iter().map(|(_, gradient)| gradient.clone()).collect::<Vec<_>>();
        let cosine = papers::cosine(&of(&ours), &of(&expected));
        assert!(cosine > papers::least_cosine(&name), "{name} in bf16: gradients at a cosine of {cosine}");
        papers::assert_statistics_alike(&name, &there, &network);
        for ((of, first), (_, second)) in ours.iter().zip(&step(&there, &narrow, &on_t, loss).1) {
            assert_eq!(flat(first), flat(second), "{name} in bf16: {of} does not repeat itself");
        }
    });
}

#[test]
fn training_in_bf16_learns_as_much_as_in_f32() {
    let Some(gpu) = on_card::device() else { return };
    on_card::each(papers::networks_to_train(), |(name, network, shape)| {
        let (x, (t, loss)) = (random(&mut ChaCha8Rng::seed_from_u64(6), &shape), targets(&shape));
        let t = t.to_device(&gpu).unwrap();
        let losses = [DType::F32, DType::BF16].map(|dtype| {
            let network = put(&network, &gpu);
            let x = x.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
            let decay = Decay { weights: 0.0, hinges: 0.0 };
            let mut optimizer = Optimizer::new(Rule::Adam, decay, network.parameters()).unwrap();
            let steps = (0..papers::STEPS).map(|_| {
                let mut tape = Tape::recording();
                let loss = loss_of(&mut tape, &network, &x, &t, loss);
                let value = tape.tensor(&loss).to_scalar().unwrap();
                optimizer.step(&tape.backward(&loss).unwrap(), papers::RATE).unwrap();
                value
            });
            steps.collect::<Vec<f32>>()
        });
        papers::assert_learned_alike(&name, &losses[0], &losses[1]);
    });
}

/// Distances of knots are on the CPU, and there are no variables.
#[test]
fn a_network_of_constants_knows_its_device() {
    let Some(gpu) = on_card::device() else { return };
    on_card::each(of_papers(), |(name, network, _)| {
        let constants = network.map_tensors(|name, tensor| {
            let constant = tensor.detach();
            if name.ends_with("grid_step") { Ok(constant) } else { constant.to_device(&gpu) }
        });
        let constants = constants.unwrap();
        assert!(constants.parameters().is_empty(), "{name}");
        assert!(constants.device().is_cuda(), "{name}");
    });
}

#[test]
fn optimisers_agree_with_the_cpu() {
    let Some(gpu) = on_card::device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    for rule in [Rule::Sgd { momentum: 0.9 }, Rule::Adam] {
        let (_, network, shape) = of_papers().swap_remove(2);
        let there = put(&network, &gpu);
        let of = |network: &Network| {
            let decay = Decay { weights: 1e-3, hinges: 0.0 };
            Optimizer::new(rule, decay, network.parameters()).unwrap()
        };
        let (mut on_cpu, mut on_gpu) = (of(&network), of(&there));
        let (t, loss) = targets(&shape);
        for _ in 0..3 {
            let x = random(rng, &shape);
            let gradients = |network: &Network, x: &Tensor, t: &Tensor| {
                let mut tape = Tape::recording();
                let loss = loss_of(&mut tape, network, x, t, loss);
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
