//! The times of steps, evaluations and bounds, measured.

use super::rates::Rates;
use super::schedule::{Sizes, seconds};
use crate::config::{Config, Dataset, NetworkKind};
use crate::data::{Epoch, Samples};
use crate::run::penalty::SplinePenalty;
use crate::run::{At, Model, Optimizers, Setup, bounds, count_active_knots, evaluate, execution, network_on_device};
use anyhow::{Result, anyhow};
use candle_core::{DType, Device, Var};
use ds_core::backend::sync::lock;
use ds_core::graph::InputGraph;
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::rng::Seed;
use rayon::ThreadPool;
use std::sync::{Barrier, Mutex};
use std::time::Instant;

/// Seconds that the steps of a measurement may take, and its evaluations.
const BUDGET: f64 = 0.15;
/// Seconds that one step may take for full batches to be timed.
const SLOW: f64 = 3.0;
/// Measurements of one thing.
const WINDOWS: usize = 5;
/// Steps on a GPU before it is in its stride: kernels are loaded, algorithms chosen, a step is recorded.
const FIRST_STEPS: usize = 6;
/// Seconds of a run from which on its bounds are a small part of it.
const LONG: f64 = 1000.0;

/// Measures a run on so many threads (0: one a core) beside `jobs` − 1 others like it, which share caches and memory with it.
pub(super) fn measure(config: &Config, setup: &Setup, jobs: usize, threads: usize) -> Result<Rates> {
    // The jobs of a GPU take turns.
    let (copies, turns) = if setup.context.device.is_cuda() { (1, jobs as f64) } else { (jobs.max(1), 1.0) };
    let prepare = |_| -> Result<(ThreadPool, Setup)> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok((pool, setup_like(config, setup)?))
    };
    let prepared = (0..copies).map(prepare).collect::<Result<Vec<_>>>()?;
    let barrier = Barrier::new(copies);
    let all = std::thread::scope(|scope| {
        let work = |(pool, setup): &(ThreadPool, Setup)| {
            barrier.wait();
            pool.install(|| measure_alone(config, setup))
        };
        let workers: Vec<_> = prepared.iter().map(|copy| scope.spawn(move || work(copy))).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Rates>>| {
            worker.join().map_err(|_| anyhow!("a thread of the estimate panicked"))?
        };
        workers.into_iter().map(join).collect::<Result<Vec<Rates>>>()
    })?;
    let mean = |part: fn(&Rates) -> f64| turns * all.iter().map(part).sum::<f64>() / all.len() as f64;
    let mut rates = Rates {
        step: mean(|rates| rates.step),
        row: mean(|rates| rates.row),
        sample: mean(|rates| rates.sample),
        first_steps: mean(|rates| rates.first_steps),
        ..Rates::default()
    };
    let is_lipschitz = config.network.kind.is_lipschitz();
    let is_short = seconds(config, &Sizes::of(config, setup), &rates) < LONG;
    if let Some((pool, setup)) = prepared.first().filter(|_| is_lipschitz || is_short) {
        (rates.certified, rates.norms) = pool.install(|| bound_seconds(config, &setup.network))?;
        rates.lower = pool.install(|| lower_seconds(&setup.network, &setup.test))?;
    }
    Ok(rates)
}

/// The same samples with a network of its own.
fn setup_like(config: &Config, setup: &Setup) -> Result<Setup> {
    Ok(Setup {
        network: network_on_device(config, setup.train.outputs(), &setup.context)?,
        train: setup.train.clone(),
        validation: None,
        test: setup.test.clone(),
        origin: String::new(),
        is_sample: setup.is_sample,
        context: setup.context.clone(),
    })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The median of several measurements: other programs interrupt some of them.
fn median(mut time: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut all = (0..WINDOWS).map(|_| time()).collect::<Result<Vec<_>>>()?;
    all.sort_by(f64::total_cmp);
    Ok(all[WINDOWS / 2])
}

fn measure_alone(config: &Config, setup: &Setup) -> Result<Rates> {
    let (step, first_steps) =
        if setup.network.device().is_cuda() { steps_on_gpu(config, setup)? } else { (steps(config, setup)?, 0.0) };
    let (network, penalty) = (&setup.network, SplinePenalty::new(config, &setup.network)?);
    let row = || {
        timed(|| {
            penalty.as_ref().map_or(Ok(0.0), |penalty| penalty.value(network))?;
            count_active_knots(network)?;
            Ok(network.lipschitz_bound_l1()?)
        })
    };
    let first = row()?;
    let row = if first < BUDGET / WINDOWS as f64 { median(row)? } else { first };
    Ok(Rates { step, first_steps, row, sample: evaluation(network, &setup.test)?, ..Rates::default() })
}

/// Seconds of a step of a full batch. Where that takes long, smaller batches are timed: then the time is that of the samples.
fn steps(config: &Config, setup: &Setup) -> Result<f64> {
    let size = config.train.batch_size.min(setup.train.len());
    let (penalty, totals) = (SplinePenalty::new(config, &setup.network)?, Model::totals_on(&setup.network.device())?);
    let mut optimizers = Optimizers::new(config, &setup.network, penalty.as_ref())?;
    let model = Model { network: &setup.network, penalty: penalty.as_ref(), totals: &totals };
    let mut execution = execution(&setup.network, None, None)?;
    let mut time = |size: usize, count: usize| {
        let order: Vec<usize> = (0..size * count).map(|k| k % setup.train.len()).collect();
        let (samples, order) = (&setup.train, order.as_slice());
        let (augment, seed) = (config.data.augment, Seed(config.seed));
        let epoch = Epoch { samples, order, size, taken: 0, step: 0, augment, seed, replica: (0, 1) };
        let all = timed(|| {
            epoch.for_each(|batch, count| {
                Ok(execution.step(&model, batch, count, &mut optimizers, At { epoch: 0, dropout: 0 })?)
            })
        })?;
        Ok::<f64, anyhow::Error>(all / count as f64)
    };
    let small = size.div_ceil(8);
    time(small, 1)?;
    let of_small = time(small, 1)?;
    let of_samples = of_small * size as f64 / small as f64;
    if of_samples > SLOW {
        return Ok(of_samples);
    }
    let first = time(size, 1)?;
    if first > BUDGET {
        // Memory that the first one was given for the first time is there for the second.
        return Ok(first.min(time(size, 1)?));
    }
    let count = (BUDGET / WINDOWS as f64 / first) as usize;
    median(|| time(size, count.clamp(1, 2000)))
}

/// (seconds of a step, seconds that the first steps take beside that), on a GPU.
fn steps_on_gpu(config: &Config, setup: &Setup) -> Result<(f64, f64)> {
    let size = config.train.batch_size.min(setup.train.len());
    let indices: Vec<usize> = (0..size).collect();
    let device = setup.network.device();
    let samples = setup.train.subset(&indices)?.to(config.train.precision.dtype(), &device)?;
    let (penalty, totals) = (SplinePenalty::new(config, &setup.network)?, Model::totals_on(&setup.network.device())?);
    let mut optimizers = Optimizers::new(config, &setup.network, penalty.as_ref())?;
    let model = Model { network: &setup.network, penalty: penalty.as_ref(), totals: &totals };
    let graphs = setup.context.cuda_graphs.then_some(config.train.batch_size);
    let mut execution = execution(&setup.network, None, graphs)?;
    let mut time = |count: usize| {
        timed(|| {
            for dropout in 0..count as u64 {
                let batch = samples.batch(&indices, None)?;
                execution.step(&model, batch, size, &mut optimizers, At { epoch: 0, dropout })?;
            }
            // The host waits here.
            Ok(model.totals.to_vec1::<f64>()?)
        })
    };
    let first = time(FIRST_STEPS)?;
    let step = time(20)? / 20.0;
    Ok((step, (first - FIRST_STEPS as f64 * step).max(0.0)))
}

/// Seconds of the evaluation of a sample.
fn evaluation(network: &Network, samples: &Samples) -> Result<f64> {
    let time = |count: usize| {
        let few = samples.subset(&(0..samples.len().min(count)).collect::<Vec<_>>())?;
        let all = timed(|| Ok(evaluate(network, &few)?))?;
        Ok::<f64, anyhow::Error>(all / few.len().max(1) as f64)
    };
    time(16)?;
    let of_few = time(16)?;
    // One whole batch, as far as that is quick.
    let batch = if samples.are_images() { 256 } else { 4096 };
    let count = (BUDGET / WINDOWS as f64 / of_few.max(1e-9)).min(batch as f64) as usize;
    if count <= 16 { Ok(of_few) } else { median(|| time(count)) }
}

/// Seconds of the search for the lower bound, from one of its passes.
fn lower_seconds(network: &Network, samples: &Samples) -> Result<f64> {
    let points = samples.len().min(bounds::points_after_training(network));
    let search = bounds::search(network, points);
    let indices: Vec<usize> = (0..points.min(search.climbers)).collect();
    let inputs = samples.batch(&indices, None)?.inputs.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let network = network.to(DType::F64, &Device::Cpu)?;
    let inputs = Var::from_tensor(&inputs)?;
    let forward = || network.forward_in(&mut InputGraph, inputs.as_tensor(), Mode::Evaluation);
    let outputs = forward()?;
    let of_forward = median(|| timed(|| Ok(forward()?)))?;
    let of_backward = median(|| timed(|| Ok(outputs.sum_all()?.backward()?)))?;
    // A point takes a pass forward and one back for each output, and two for its quotient; a step of a climber four and one.
    let points = points as f64 / indices.len().max(1) as f64;
    let steps = search.steps as f64;
    let outputs = outputs.dims().last().copied().unwrap_or(1) as f64;
    Ok((3.0 * points + 4.0 * steps) * of_forward + (outputs * points + steps) * of_backward)
}

/// All that the time of a certified bound depends on.
type BoundKey = (NetworkKind, Vec<usize>, Dataset);

/// The seconds of bounds that were timed.
static BOUNDS: Mutex<Vec<(BoundKey, (f64, f64))>> = Mutex::new(Vec::new());

/// Seconds of the certified bound and of the product of norms, measured once for networks of one size.
fn bound_seconds(config: &Config, network: &Network) -> Result<(f64, f64)> {
    let key = (config.network.kind, config.network.hidden.clone(), config.data.dataset);
    if let Some((_, seconds)) = lock(&BOUNDS).iter().find(|(of, _)| *of == key) {
        return Ok(*seconds);
    }
    let norms = timed(|| Ok(bounds::product_of_norms(network)?))?;
    let seconds = (timed(|| Ok(bounds::certified(network)?))?, norms);
    lock(&BOUNDS).push((key, seconds));
    Ok(seconds)
}
