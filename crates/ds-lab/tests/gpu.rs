//! Training steps that are replayed as CUDA graphs against those that are launched one by one, on a GPU: `just gpu-test`. Without
//! one it says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "cuda")]

#[path = "../../ds-core/tests/cuda/on_card.rs"]
mod on_card;

use candle_core::{DType, Device, Tensor};
use ds_lab::config::{Config, Precision};
use ds_lab::data::{ImageSet, Normalization, Samples, Source};
use ds_lab::device::Context;
use ds_lab::results::metrics::SummaryRow;
use ds_lab::run::penalty::SplinePenalty;
use ds_lab::run::{At, Model, Optimizers, execution, network};
use ds_lab::sweep::{Sweep, SweepOptions, run_sweep};
use ds_nn::Network;
use ds_nn::ops::conv2d;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

fn images() -> Samples {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let pixels = (0..96 * 3 * 32 * 32).map(|_| rng.random()).collect();
    let set = ImageSet::new(pixels, (0..96).map(|k| (k % 10) as u8).collect(), (3, 32, 32), 10).unwrap();
    Samples::images(&set, &Normalization { mean: vec![0.5; 3], deviation: vec![0.25; 3] }).unwrap()
}

/// Samples of a full batch.
const FULL: usize = 32;

/// The samples and the epoch of each step: the fourth full batch is captured, the learning rate falls and smaller batches come
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
    let mut there = start.to(DType::F32, gpu).unwrap();
    there.set_convolution_options(conv2d::Options { tf32: true, deterministic: true });
    let penalty = SplinePenalty::new(config, &there).unwrap();
    let mut optimizers = Optimizers::new(config, &there, penalty.as_ref()).unwrap();
    let samples = images().to(config.train.precision.dtype(), gpu).unwrap();
    let totals = Model::totals_on(gpu).unwrap();
    let model = Model { network: &there, penalty: penalty.as_ref(), totals: &totals };
    let mut execution = execution(&there, None, graphs.then_some(FULL)).unwrap();
    let mut left = Vec::new();
    for (k, (count, epoch)) in STEPS.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(k as u64);
        let indices: Vec<usize> = (0..count).map(|i| (7 * k + 5 * i) % samples.len()).collect();
        let batch = samples.batch(&indices, Some(&mut rng)).unwrap();
        let at = At { epoch, dropout: 1000 + k as u64 };
        execution.step(&model, batch, count, &mut optimizers, at).unwrap();
        if k == 7 {
            assert_eq!(execution.is_captured(), graphs, "a graph was captured");
            // What a row of the metrics does, and what a resumption does.
            left.push(("totals until then".to_owned(), bits(&totals)));
            totals.zero_set().unwrap();
            for optimizer in [&mut optimizers.weights, &mut optimizers.splines] {
                let state: HashMap<String, Tensor> = optimizer.state().unwrap().into_iter().collect();
                optimizer.restore(optimizer.steps(), |name| state.get(name).cloned()).unwrap();
            }
        }
    }
    assert_eq!(execution.is_captured(), graphs);
    let loss = totals.to_vec1::<f64>().unwrap()[0];
    assert!(loss.is_finite() && loss > 0.0, "{loss}");
    left.push(("totals".to_owned(), bits(&totals)));
    if graphs {
        // What a graph updates is not what other optimisers have.
        let mut others = Optimizers::new(config, &there, penalty.as_ref()).unwrap();
        let batch = samples.batch(&(0..FULL).map(|k| k % samples.len()).collect::<Vec<_>>(), None).unwrap();
        let at = At { epoch: 2, dropout: 0 };
        let error = execution.step(&model, batch, FULL, &mut others, at).unwrap_err().to_string();
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
    let Some(gpu) = on_card::device() else { return };
    let all = [
        ("resnet32", "bspline", "adam"),
        ("nin", "relu", "adam"),
        ("resnet32", "explicit_linear", "adam"),
        ("resnet32", "bspline", "prox_adam"),
        ("lipschitz_conv", "lipschitz_spline", "adam"),
        ("lipschitz_conv", "householder", "adam"),
    ];
    let all = all.into_iter().flat_map(|of| [(of, Precision::F32), (of, Precision::Bf16)]);
    on_card::each(all, |((name, activation, optimizer), precision)| {
        let more = if name == "lipschitz_conv" { "network.hidden = [8, 16]\n" } else { "" };
        let text = format!(
            "experiment = \"cifar10\"\nnetwork.kind = \"{name}\"\nactivation.kind = \"{activation}\"\n\
             optimizer.weights.lr = 0.01\noptimizer.splines.kind = \"{optimizer}\"\ntrain.milestones = [1, 2]\n{more}"
        );
        let mut config = Config::from_toml(&text).unwrap();
        config.train.precision = precision;
        let start = network(&config, 10).unwrap();
        let what = format!("{name}, {activation}, {optimizer}, {precision:?}");
        let (single, replayed) = (trained(&config, &start, &gpu, false), trained(&config, &start, &gpu, true));
        assert_eq!(single.len(), replayed.len(), "{what}");
        for ((of, single), (_, replayed)) in single.iter().zip(&replayed) {
            let wrong = single.iter().zip(replayed).filter(|(a, b)| a != b).count();
            assert_eq!(wrong, 0, "{what}: {of}, of {} numbers", single.len());
        }
        println!("{what}: the same {} arrays", single.len());
    });
}

/// Each has a stream and graphs of its own.
#[test]
fn runs_at_once_have_the_rows_of_runs_alone() {
    let Some(gpu) = on_card::device() else { return };
    let text = "experiment = \"area2d\"\ndata.train_points = 200\ndata.test_grid = 40\ntrain.epochs = 5\ntrain.milestones = [3]";
    let sweep = Sweep::of_seeds(&Config::from_toml(text).unwrap(), "0..4").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [alone, at_once] = [1, 4].map(|jobs| {
        let directory = directory.path().join(jobs.to_string());
        let options = SweepOptions { directory, jobs, overwrite: false, quiet: true, shard: None };
        run_sweep(&sweep, &Source::Auto { dir: None }, &options, &Context::on(gpu.clone())).unwrap()
    });
    assert_eq!((alone.rows.len(), at_once.rows.len()), (4, 4), "{:?} {:?}", alone.failures, at_once.failures);
    for (alone, at_once) in alone.rows.iter().zip(&at_once.rows) {
        let row = |row: &SummaryRow| (row.seed, row.train_loss, row.test_loss, row.test_accuracy, row.active_knots);
        assert_eq!(row(alone), row(at_once));
    }
}

/// A step that fetches something cannot be captured; the device must work after that.
#[test]
fn what_cannot_be_captured_is_said_and_does_no_harm() {
    use ds_core::backend::gpu::cuda::Graph;
    let Some(gpu) = on_card::device() else { return };
    let x = Tensor::new(&[1f32, 2.0, 3.0], &gpu).unwrap();
    let cuda = gpu.as_cuda_device().unwrap();
    // SAFETY: this test has the device for itself.
    let capture = |launches: &dyn Fn() -> candle_core::Result<()>| unsafe { Graph::capture(cuda, launches) };
    let fetched = capture(&|| x.affine(2.0, 0.0)?.to_vec1::<f32>().map(drop));
    assert!(fetched.is_err(), "a fetch was captured");
    let uploaded = capture(&|| Tensor::new(&[4f32, 5.0], &gpu)?.affine(2.0, 0.0).map(drop));
    assert!(uploaded.is_err(), "an upload was captured");
    assert_eq!(x.affine(2.0, 1.0).unwrap().to_vec1::<f32>().unwrap(), [3.0, 5.0, 7.0]);
    // What can be is launched as often as it is asked for, on what is there then.
    let y = x.zeros_like().unwrap();
    let add = || -> candle_core::Result<()> { y.slice_set(&y.add(&x)?, 0, 0) };
    add().unwrap();
    let graph = capture(&add).unwrap();
    for _ in 0..3 {
        // SAFETY: both tensors are there and where they were.
        unsafe { graph.launch().unwrap() };
    }
    assert_eq!(y.to_vec1::<f32>().unwrap(), [4.0, 8.0, 12.0]);
}
