//! Training steps that are replayed as CUDA graphs against those that are launched one by one, on a GPU: `just gpu-test`. Without
//! one it says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "cuda")]

#[path = "../../ds-core/tests/cuda/on_card.rs"]
mod on_card;

use candle_core::{DType, Device, Tensor};
use ds_lab::config::{Config, Precision};
use ds_lab::data::ImageSet;
use ds_lab::experiment::network;
use ds_lab::penalty::SplinePenalty;
use ds_lab::samples::{Normalization, Samples};
use ds_lab::samples_on_device::SamplesOnDevice;
use ds_lab::train::{Optimizers, StepsOnDevice};
use ds_nn::networks::Network;
use ds_nn::ops::gpu::{Options, set_options};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

fn device() -> Option<Device> {
    set_options(Options { tf32: true, deterministic: true });
    on_card::device()
}

fn images() -> Samples {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let set = ImageSet {
        images: (0..96 * 3 * 32 * 32).map(|_| rng.random()).collect(),
        labels: (0..96).map(|k| (k % 10) as u8).collect(),
        channels: 3,
        height: 32,
        width: 32,
        classes: 10,
    };
    Samples::images(set, &Normalization { mean: vec![0.5; 3], deviation: vec![0.25; 3] })
}

/// Samples of a full batch.
const FULL: usize = 32;

/// The samples and the epoch of each step: the fourth full batch is recorded, the learning rate falls and smaller batches come
/// among those that are replayed.
const STEPS: [(usize, usize); 12] = [
    (FULL, 0),
    (FULL, 0),
    (FULL, 0),
    (20, 0),
    (FULL, 0),
    (FULL, 0),
    (FULL, 1),
    (FULL, 1),
    (20, 1),
    (FULL, 2),
    (FULL, 2),
    (FULL, 2),
];

/// Everything that steps leave, as bits, by name.
type Left = Vec<(String, Vec<u64>)>;

fn bits(tensor: &Tensor) -> Vec<u64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
    match tensor.dtype() {
        DType::F64 => tensor.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect(),
        _ => tensor.to_vec1::<f32>().unwrap().into_iter().map(|v| u64::from(v.to_bits())).collect(),
    }
}

fn trained(config: &Config, start: &Network, gpu: &Device, graphs: bool) -> Left {
    let there = start.copied(DType::F32, gpu).unwrap();
    let mut optimizers = Optimizers::new(config, &there).unwrap();
    let penalty = SplinePenalty::new(config, &there).unwrap();
    let samples = SamplesOnDevice::new(&images(), config.train.precision.dtype(), gpu).unwrap();
    let mut steps = StepsOnDevice::new(&there, penalty, graphs.then_some(FULL)).unwrap();
    let mut left = Vec::new();
    for (k, (count, epoch)) in STEPS.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(k as u64);
        let indices: Vec<usize> = (0..count).map(|i| (7 * k + 5 * i) % samples.len()).collect();
        let batch = samples.batch(&indices, Some(&mut rng)).unwrap();
        steps.step(batch, &mut optimizers, (epoch, 1000 + k as u64)).unwrap();
        if k == 7 {
            assert_eq!(steps.is_recorded(), graphs, "a graph was recorded");
            // What a row of the metrics does, and what a resumption does.
            left.push(("totals until then".to_owned(), bits(steps.totals())));
            steps.totals().zero_set().unwrap();
            for optimizer in [&mut optimizers.weights, &mut optimizers.splines] {
                let state: HashMap<String, Tensor> = optimizer.state().unwrap().into_iter().collect();
                optimizer.restore(optimizer.steps(), |name| state.get(name).cloned()).unwrap();
            }
        }
    }
    assert_eq!(steps.is_recorded(), graphs);
    let totals = steps.totals().to_vec1::<f64>().unwrap();
    assert!(totals[0].is_finite() && totals[0] > 0.0, "{totals:?}");
    left.push(("totals".to_owned(), bits(steps.totals())));
    if graphs {
        // What a graph updates is not what other optimisers have.
        let mut others = Optimizers::new(config, &there).unwrap();
        let batch = samples.batch(&(0..FULL).map(|k| k % samples.len()).collect::<Vec<_>>(), None).unwrap();
        let error = steps.step(batch, &mut others, (2, 0)).unwrap_err().to_string();
        assert!(error.contains("other optimisers"), "{error}");
    }
    left.extend(there.parameters().iter().map(|p| (p.name.clone(), bits(&p.var))));
    left.extend(there.buffers().iter().map(|(name, var)| (name.clone(), bits(var))));
    for (group, optimizer) in [("weights", &optimizers.weights), ("splines", &optimizers.splines)] {
        assert_eq!(optimizer.steps(), STEPS.len() as u64, "{group}");
        left.extend(optimizer.state().unwrap().iter().map(|(name, t)| (format!("{group} of {name}"), bits(t))));
    }
    left
}

#[test]
fn graphs_leave_the_bits_that_single_launches_leave() {
    let Some(gpu) = device() else { return };
    let all = [("resnet32", "bspline"), ("nin", "relu"), ("resnet32", "explicit_linear")];
    let all = all.into_iter().flat_map(|of| [(of, Precision::F32), (of, Precision::Bf16)]);
    on_card::each(all, |((name, activation), precision)| {
        let text = format!(
            "experiment = \"cifar10\"\nnetwork.kind = \"{name}\"\nactivation.kind = \"{activation}\"\n\
             optimizer.weights.lr = 0.01\ntrain.milestones = [1, 2]\n"
        );
        let mut config = Config::from_toml(&text).unwrap();
        config.train.precision = precision;
        let start = network(&config, 10).unwrap();
        let what = format!("{name}, {activation}, {precision:?}");
        let (single, replayed) = (trained(&config, &start, &gpu, false), trained(&config, &start, &gpu, true));
        assert_eq!(single.len(), replayed.len(), "{what}");
        for ((of, single), (_, replayed)) in single.iter().zip(&replayed) {
            let wrong = single.iter().zip(replayed).filter(|(a, b)| a != b).count();
            assert_eq!(wrong, 0, "{what}: {of}, of {} numbers", single.len());
        }
        println!("{what}: the same {} arrays", single.len());
    });
}

/// A step that fetches something cannot be recorded; the device must work after that.
#[test]
fn what_cannot_be_recorded_is_said_and_does_no_harm() {
    use ds_core::ops::gpu::cuda::Graph;
    let Some(gpu) = device() else { return };
    let x = Tensor::new(&[1f32, 2.0, 3.0], &gpu).unwrap();
    let cuda = gpu.as_cuda_device().unwrap();
    // SAFETY: this test has the device for itself.
    let record = |launches: &dyn Fn() -> candle_core::Result<()>| unsafe { Graph::record(cuda, launches) };
    let fetched = record(&|| x.affine(2.0, 0.0)?.to_vec1::<f32>().map(drop));
    assert!(fetched.is_err(), "a fetch was recorded");
    let uploaded = record(&|| Tensor::new(&[4f32, 5.0], &gpu)?.affine(2.0, 0.0).map(drop));
    assert!(uploaded.is_err(), "an upload was recorded");
    assert_eq!(x.affine(2.0, 1.0).unwrap().to_vec1::<f32>().unwrap(), [3.0, 5.0, 7.0]);
    // What can be is launched as often as it is asked for, on what is there then.
    let y = x.zeros_like().unwrap();
    let add = || -> candle_core::Result<()> { y.slice_set(&y.add(&x)?, 0, 0) };
    add().unwrap();
    let graph = record(&add).unwrap();
    for _ in 0..3 {
        // SAFETY: both tensors are there and where they were.
        unsafe { graph.launch().unwrap() };
    }
    assert_eq!(y.to_vec1::<f32>().unwrap(), [4.0, 8.0, 12.0]);
}
