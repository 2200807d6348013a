//! Times one case per line of its input and answers each line with a number: milliseconds, or MB for `memory`.
//! `benches/compare_pytorch.py` drives it in turn with its counterpart for PyTorch, which takes the same lines:
//!
//! ```text
//! activation KIND N C H W        forward and backward; KIND: bspline, explicit_linear, relu_spline, relu
//! convolution DIRECTION N C H    3×3, C to C channels; DIRECTION: forward, input (gradient), weight (gradient)
//! step NETWORK KIND              a training step; NETWORK: resnet32, nin, convnet, area
//! evaluate NETWORK KIND          1000 images or points in evaluation mode
//! epoch NETWORK KIND             as many training images as the data set has (convnet: MNIST, resnet32: CIFAR-10) in steps,
//!                                and 10 000 evaluated; measured once, unprepared
//! copy N                         N floats to another place, by all threads
//! multiply_add N                 N operations (two for each fused multiplication and addition) on every thread
//! memory                         the peak resident memory of the process so far
//! ```

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use ds_core::Grid;
use ds_core::activation::{Init, Spline};
use ds_core::backend::op::{backward, forward};
use ds_core::backend::simd::{Instructions, instructions};
use ds_core::graph::CandleGraph;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::rectifier::Rectifier;
use ds_lab::cli::in_thread_pool;
use ds_lab::config::Config;
use ds_lab::data::{Epoch, ImageSet, Normalization, Samples};
use ds_lab::run::penalty::SplinePenalty;
use ds_lab::run::{At, Model, Optimizers, evaluate, execution, network};
use ds_nn::Network;
use ds_nn::memory::Recycling;
use ds_nn::ops::Window;
use ds_nn::ops::blocks::LANES;
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::loss::take_totals;
use ds_nn::rng::Seed;
use mimalloc::MiMalloc;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: Recycling<MiMalloc> = Recycling::new(MiMalloc);

/// Something to time, with what it needs prepared.
type Case = Box<dyn FnMut() -> Result<()>>;

/// A case runs at least this often for one answer, which is the median, and for this long: threads that slept take some
/// milliseconds until each has a core of its own.
const REPETITIONS: usize = 3;
const SECONDS: f64 = 0.3;

/// Forward and backward with a given output gradient, down to the layer's parameters.
fn activation(kind: &str, shape: &[usize]) -> Result<Case> {
    let (grid, init, dtype, device) = (Grid::from_range(51, 4.0)?, Init::LeakyRelu, DType::F32, &Device::Cpu);
    let &[_, channels, ..] = shape else { bail!("activation: no channels in shape {shape:?}") };
    let x = Tensor::randn(0f32, 1.0, shape, device)?;
    let dy = Tensor::randn(0f32, 1.0, shape, device)?;
    let spline = match kind {
        "bspline" => Spline::bspline(channels, grid, init, dtype, device)?,
        "explicit_linear" => Spline::explicit_linear(channels, grid, init, false, dtype, device)?,
        "relu_spline" => Spline::relu_spline(channels, grid, init, false, dtype, device)?,
        "relu" => {
            return Ok(Box::new(move || {
                let op = Rectifier { slope: 0.0 };
                let y = forward(&op, [&x])?;
                backward(&op, [&x], &y, &dy)?;
                Ok(())
            }));
        }
        other => bail!("unknown activation {other}"),
    };
    Ok(Box::new(move || {
        let coefficients = spline.coefficients_in(&mut CandleGraph)?;
        let op = LinearSpline::new(spline.grid());
        op.forward(&x, &coefficients)?;
        let (_, dc) = op.backward(&x, &coefficients, &dy)?;
        // The rest of the way, to the parameters: C·K numbers.
        (&coefficients * &dc)?.sum_all()?.backward()?;
        Ok(())
    }))
}

fn convolution(direction: &str, shape: &[usize]) -> Result<Case> {
    let &[images, channels, side] = shape else { bail!("convolution: expected N C H, got {shape:?}") };
    let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    // In blocks, as they are between the layers of a network.
    let shape = [images / LANES, channels, side, side, LANES];
    let (x, dy, w) = (random(&shape)?, random(&shape)?, random(&[channels, channels, 3, 3])?);
    let window = Window { kernel: 3, stride: 1, padding: 1 };
    let op =
        Conv2d { input_gradient: direction == "input", weight_gradient: direction == "weight", ..Conv2d::new(window) };
    Ok(match direction {
        "forward" => Box::new(move || {
            forward(&op, [&x, &w])?;
            Ok(())
        }),
        "input" | "weight" => Box::new(move || {
            backward(&op, [&x, &w], &dy, &dy)?;
            Ok(())
        }),
        other => bail!("unknown direction {other}"),
    })
}

/// Random samples of the kind that a network takes.
fn samples(name: &str, count: usize) -> Result<Samples> {
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let (channels, side) = match name {
        "resnet32" | "nin" => (3, 32),
        "convnet" => (1, 28),
        _ => {
            let points: Vec<_> =
                (0..count).map(|_| [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)]).collect();
            let targets = (0..count).map(|k| (k % 2) as f32).collect();
            return Ok(Samples::points(&points, targets)?);
        }
    };
    let (images, labels) = (
        (0..count * channels * side * side).map(|_| rng.random()).collect(),
        (0..count).map(|k| (k % 10) as u8).collect(),
    );
    let set = ImageSet::new(images, labels, (channels, side, side), 10)?;
    Ok(Samples::images(&set, &Normalization { mean: vec![0.5; channels], deviation: vec![0.25; channels] })?)
}

fn config_of(name: &str, kind: &str) -> Result<Config> {
    let experiment = match name {
        "resnet32" | "nin" => "cifar10",
        "convnet" => "mnist",
        "area" => "area2d",
        other => bail!("unknown network {other}"),
    };
    // The optimiser of the splines may be named after the activation.
    let (kind, optimizer) = kind.split_once('/').unwrap_or((kind, "adam"));
    let text = format!(
        "experiment = \"{experiment}\"\nnetwork.kind = \"{name}\"\nactivation.kind = \"{kind}\"\n\
         optimizer.splines.kind = \"{optimizer}\"\n"
    );
    Ok(Config::from_toml(&text)?)
}

struct Prepared {
    config: Config,
    network: Network,
    optimizers: Optimizers,
    penalty: Option<SplinePenalty>,
}

fn prepared(name: &str, kind: &str) -> Result<Prepared> {
    let config = config_of(name, kind)?;
    let network = network(&config, if name == "area" { 1 } else { 10 })?;
    let penalty = SplinePenalty::new(&config, &network)?;
    let optimizers = Optimizers::new(&config, &network, penalty.as_ref())?;
    Ok(Prepared { config, network, optimizers, penalty })
}

fn training_step(name: &str, kind: &str) -> Result<Case> {
    let Prepared { config, network, mut optimizers, penalty } = prepared(name, kind)?;
    let size = config.train.batch_size;
    let batch = samples(name, size)?.batch(&(0..size).collect::<Vec<_>>(), None)?;
    let totals = Model::totals_on(&Device::Cpu)?;
    let mut execution = execution(&network, None, None)?;
    let mut dropout = 0;
    Ok(Box::new(move || {
        dropout += 1;
        let model = Model { network: &network, penalty: penalty.as_ref(), totals: &totals };
        // Far beyond the last milestone: random images shall not make the loss diverge.
        execution.step(&model, batch.clone(), size, &mut optimizers, At { epoch: 100_000, dropout })?;
        // As training does after a step on the CPU.
        take_totals(&totals)?;
        Ok(())
    }))
}

fn evaluation(name: &str, kind: &str) -> Result<Case> {
    let network = prepared(name, kind)?.network;
    let samples = samples(name, 1000)?;
    Ok(Box::new(move || {
        evaluate(&network, &samples)?;
        Ok(())
    }))
}

/// As a training run does it: batches prepared on a thread ahead, cropped and flipped for CIFAR-10.
fn epoch(name: &str, kind: &str) -> Result<Case> {
    let Prepared { config, network, mut optimizers, penalty } = prepared(name, kind)?;
    let (train, augment) = if name == "convnet" { (60_000, false) } else { (50_000, true) };
    let (train, test) = (samples(name, train)?, samples(name, 10_000)?);
    let totals = Model::totals_on(&Device::Cpu)?;
    let mut execution = execution(&network, None, None)?;
    Ok(Box::new(move || {
        let order: Vec<usize> = (0..train.len()).collect();
        let (size, seed) = (config.train.batch_size, Seed(0));
        let batches = Epoch { samples: &train, order: &order, size, taken: 0, step: 0, augment, seed, replica: (0, 1) };
        let model = Model { network: &network, penalty: penalty.as_ref(), totals: &totals };
        let mut dropout = 0;
        batches.for_each(|batch, count| {
            dropout += 1;
            Ok(execution.step(&model, batch, count, &mut optimizers, At { epoch: 100_000, dropout })?)
        })?;
        evaluate(&network, &test)?;
        Ok(())
    }))
}

/// Reads and writes 4·N bytes each: what a pass over memory costs at least.
fn copy(count: usize) -> Case {
    let (from, mut to) = (vec![1f32; count], vec![0f32; count]);
    Box::new(move || {
        to.par_chunks_mut(16 * 1024).zip(from.par_chunks(16 * 1024)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&mut to);
        Ok(())
    })
}

/// Independent chains, more than a multiply-add takes cycles on two units, of as many lanes as keep them in registers.
macro_rules! multiply_add {
    ($name:ident, $lanes:literal) => {
        ds_core::vectorized! {
            fn $name<T>(rounds: usize, factor: T) -> T {
                let step = |chain: [T; $lanes]| chain.map(|lane| lane.mul_add(factor, factor));
                let [mut a, mut b, mut c, mut d, mut e, mut f] = [[T::ONE; $lanes]; 6];
                let [mut g, mut h, mut i, mut j, mut k, mut l] = [[T::ONE; $lanes]; 6];
                for _ in 0..rounds {
                    (a, b, c, d) = (step(a), step(b), step(c), step(d));
                    (e, f, g, h) = (step(e), step(f), step(g), step(h));
                    (i, j, k, l) = (step(i), step(j), step(k), step(l));
                }
                let mut sum = T::ZERO;
                for lane in [a, b, c, d, e, f, g, h, i, j, k, l].into_iter().flatten() {
                    sum += lane;
                }
                sum
            }
        }
    };
}
const CHAINS: usize = 12;
multiply_add!(multiply_add_16, 16);
multiply_add!(multiply_add_8, 8);

/// What arithmetic costs at least.
fn arithmetic(operations: usize) -> Case {
    let wide = instructions() == Instructions::Avx512;
    let rounds = operations / (2 * CHAINS * if wide { 16 } else { 8 });
    Box::new(move || {
        let run = if wide { multiply_add_16 } else { multiply_add_8 };
        rayon::broadcast(|_| black_box(run(rounds, black_box(0.5f32))));
        Ok(())
    })
}

fn case(line: &str) -> Result<Case> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers = |words: &[&str]| -> Result<Vec<usize>> {
        words.iter().map(|w| w.parse().with_context(|| format!("`{w}` is no number"))).collect()
    };
    match words.as_slice() {
        ["activation", kind, shape @ ..] => activation(kind, &numbers(shape)?),
        ["convolution", direction, shape @ ..] => convolution(direction, &numbers(shape)?),
        ["step", network, kind] => training_step(network, kind),
        ["evaluate", network, kind] => evaluation(network, kind),
        ["epoch", network, kind] => epoch(network, kind),
        ["copy", count] => Ok(copy(numbers(&[count])?[0])),
        ["multiply_add", count] => Ok(arithmetic(numbers(&[count])?[0])),
        _ => bail!("unknown case `{line}`; see the head of this file"),
    }
}

/// VmHWM of this process in MB.
fn peak_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("peak memory is only known on Linux")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("VmHWM has no value")?.parse()?;
    Ok(kilobytes / 1e3)
}

fn main() -> Result<()> {
    in_thread_pool(answer)
}

fn answer() -> Result<()> {
    let mut current: Option<(String, Case)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim() == "memory" {
            println!("{}", peak_memory()?);
            std::io::stdout().flush()?;
            continue;
        }
        let run = match &mut current {
            Some((known, run)) if *known == line => run,
            _ => {
                // The last case is dropped before the next takes memory.
                current = None;
                let mut run = case(&line)?;
                if !line.starts_with("epoch") {
                    run()?;
                }
                &mut current.insert((line.clone(), run)).1
            }
        };
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.is_empty()
            || !line.starts_with("epoch") && (times.len() < REPETITIONS || begin.elapsed().as_secs_f64() < SECONDS)
        {
            let start = Instant::now();
            run()?;
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!("{}", times[times.len() / 2]);
        std::io::stdout().flush()?;
    }
    Ok(())
}
