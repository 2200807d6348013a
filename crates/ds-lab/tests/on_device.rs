//! Steps whose samples, losses and right answers stay on a device, here the CPU: the same weights and sums as those of the
//! usual steps.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use ds_lab::config::Config;
use ds_lab::data::ImageSet;
use ds_lab::experiment::network;
use ds_lab::penalty::SplinePenalty;
use ds_lab::samples::{Normalization, Samples};
use ds_lab::samples_on_device::SamplesOnDevice;
use ds_lab::train::{Optimizers, StepsOnDevice, step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn images(side: usize, channels: usize) -> Samples {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let set = ImageSet {
        images: (0..64 * channels * side * side).map(|_| rng.random()).collect(),
        labels: (0..64).map(|k| (k % 10) as u8).collect(),
        channels,
        height: side,
        width: side,
        classes: 10,
    };
    Samples::images(set, &Normalization { mean: vec![0.5; channels], deviation: vec![0.25; channels] })
}

fn points() -> Samples {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let points = (0..64).map(|_| [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)]).collect();
    Samples::Points { points: Arc::new(points), targets: Arc::new((0..64).map(|k| (k % 2) as f32).collect()) }
}

fn numbers() -> Samples {
    let arguments: Vec<f32> = (0..64).map(|k| k as f32 / 32.0 - 1.0).collect();
    Samples::Function { values: Arc::new(arguments.iter().map(|x| x * x).collect()), arguments: Arc::new(arguments) }
}

#[test]
fn the_same_weights_and_sums() {
    for (experiment, samples) in [
        ("experiment = \"mnist\"", images(28, 1)),
        ("experiment = \"cifar10\"\nnetwork.kind = \"nin\"", images(32, 3)),
        ("experiment = \"area2d\"", points()),
        ("experiment = \"fit1d\"", numbers()),
    ] {
        let config = Config::from_toml(&format!("{experiment}\nactivation.kind = \"explicit_linear\"")).unwrap();
        let classes = if samples.has_accuracy() && !matches!(samples, Samples::Points { .. }) { 10 } else { 1 };
        let usual = network(&config, classes).unwrap();
        let other = usual.copied(DType::F32, &Device::Cpu).unwrap();
        let penalty = SplinePenalty::new(&config, &usual).unwrap();
        let (mut of_usual, mut of_other) =
            (Optimizers::new(&config, &usual).unwrap(), Optimizers::new(&config, &other).unwrap());
        let there = SamplesOnDevice::new(&samples, DType::F32, &Device::Cpu).unwrap();
        let mut steps = StepsOnDevice::new(&other, penalty.clone(), Some(16)).unwrap();
        let (mut loss_sum, mut right) = (0.0, 0);
        for (k, indices) in (0..64).collect::<Vec<usize>>().chunks(16).enumerate() {
            let rng = || ChaCha8Rng::seed_from_u64(k as u64);
            let batch = samples.augmented_batch(indices, &mut rng()).unwrap();
            let (loss, correct) = step(&usual, &batch, penalty.as_ref(), &mut of_usual, 0, k as u64).unwrap();
            loss_sum += loss * indices.len() as f64;
            right += correct;
            let batch = there.batch(indices, Some(&mut rng())).unwrap();
            steps.step(batch, &mut of_other, (0, k as u64)).unwrap();
        }
        for (ours, expected) in other.parameters().iter().zip(usual.parameters()) {
            let flat = |var: &Tensor| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&ours.var), flat(&expected.var), "{experiment}: {}", ours.name);
        }
        let totals = steps.totals().to_vec1::<f64>().unwrap();
        assert!((totals[0] / loss_sum - 1.0).abs() < 1e-6, "{experiment}: {totals:?}, {loss_sum}");
        assert_eq!(totals[1], right as f64, "{experiment}");
    }
}
