//! Tutorial: from a network of `candle_nn` layers to a deep spline network.
//!
//! A small convolutional network for CIFAR-10, written with nothing but `candle_nn`, gets activations that it learns itself.
//! The places where the two differ are numbered:
//!
//! 1. each ReLU becomes a [`Spline`] with one function per channel or unit;
//! 2. the splines have an optimiser of their own;
//! 3. λ·TV² is added between the backward pass and the optimisers' steps;
//! 4. after training, the knots that do not matter are eliminated.
//!
//! `cargo run --release -p ds-lab --example tutorial -- [EPOCHS] [--relu]`; with `--relu` the same network, from the same
//! weights and with the same batches, keeps its ReLUs.

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{AdamW, ParamsAdamW, loss::cross_entropy, ops::log_softmax};
use candle_nn::{Conv2d, Linear, Module, Optimizer, VarBuilder, VarMap, conv2d, linear};
use ds_core::activation::{Activation, Init, Spline};
use ds_core::regularization::{Norm, active_knots, slope_changes};
use ds_core::sparsify::{eliminate_knots, largest_threshold, papers_thresholds};
use ds_core::{Grid, variable};
use ds_lab::data::{ImageDataset, ImageSet, Source, load_images};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

// A training step allocates and frees the same large tensors again and again; the system's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEED: u64 = 1;
const EPOCHS: usize = 10;
const BATCH: usize = 16;
const LEARNING_RATE: f64 = 1e-3;
const WEIGHT_DECAY: f64 = 1e-2;
/// λ, the weight of TV²: the larger, the fewer knots.
const LAMBDA: f64 = 1e-3;
/// Points of training accuracy that the elimination of knots may cost.
const TOLERANCE: f64 = 0.25;

/// Two convolutions and three dense layers, with an activation after each but the last.
struct Network {
    conv1: Conv2d,
    conv2: Conv2d,
    dense1: Linear,
    dense2: Linear,
    dense3: Linear,
    activations: [Activation; 4],
}

impl Network {
    /// The weights go into `vb`'s `VarMap`, as in any Candle network; the activations keep their parameters themselves.
    fn new(vb: &VarBuilder, activation: impl Fn(usize) -> Result<Activation>) -> Result<Self> {
        let config = Default::default();
        Ok(Self {
            conv1: conv2d(3, 6, 5, config, vb.pp("conv1"))?,
            conv2: conv2d(6, 16, 5, config, vb.pp("conv2"))?,
            dense1: linear(16 * 5 * 5, 120, vb.pp("dense1"))?,
            dense2: linear(120, 84, vb.pp("dense2"))?,
            dense3: linear(84, 10, vb.pp("dense3"))?,
            activations: [activation(6)?, activation(16)?, activation(120)?, activation(84)?],
        })
    }

    fn splines(&self) -> impl Iterator<Item = &Spline> {
        self.activations.iter().filter_map(Activation::spline)
    }
}

impl Module for Network {
    /// Logits (N, 10) of images (N, 3, 32, 32).
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [a1, a2, a3, a4] = &self.activations;
        // 1. This was `self.conv1.forward(x)?.relu()?`, and so on. A spline reads its channels from dimension 1.
        let x = a1.forward(&self.conv1.forward(x)?)?.max_pool2d(2)?; // (N, 6, 14, 14)
        let x = a2.forward(&self.conv2.forward(&x)?)?.max_pool2d(2)?; // (N, 16, 5, 5)
        let x = a3.forward(&self.dense1.forward(&x.flatten_from(1)?)?)?; // (N, 120)
        let x = a4.forward(&self.dense2.forward(&x)?)?; // (N, 84)
        self.dense3.forward(&x)
    }
}

/// 1. One linear spline for each of `channels` channels: 21 knots on [-3, 3], LeakyReLU before training.
///
/// `Spline::explicit_linear` and `Spline::relu_spline` can take the place of `bspline`; nothing else here would change.
fn spline(channels: usize) -> Result<Activation> {
    let grid = Grid::from_range(21, 3.0)?;
    Ok(Activation::Spline(Spline::bspline(channels, grid, Init::LeakyRelu, DType::F32, &Device::Cpu)?))
}

/// Draws the weights anew, since Candle's own random numbers cannot be seeded on the CPU: uniform in ±1/√(inputs).
fn seed_weights(weights: &VarMap, rng: &mut ChaCha8Rng) -> Result<()> {
    let data = weights.data().lock().map_err(|_| anyhow::anyhow!("the weights are locked"))?;
    let mut named: Vec<_> = data.iter().collect();
    named.sort_by_key(|(name, _)| *name); // a map's order is another one in each run
    for (name, var) in named {
        let of_weight = data.get(&name.replace("bias", "weight")).context("a bias without a weight")?;
        let inputs = of_weight.dims()[1..].iter().product::<usize>();
        let bound = (inputs as f32).sqrt().recip();
        let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(-bound..bound)).collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// Pixels (N, C, H, W) in [-1, 1] and labels (N).
struct Samples {
    images: Tensor,
    labels: Tensor,
}

impl Samples {
    fn new(set: &ImageSet) -> Result<Self> {
        let pixels: Vec<f32> = set.pixels()?.into_iter().map(|p| f32::from(p) / 127.5 - 1.0).collect();
        let labels: Vec<u32> = set.label_bytes()?.into_iter().map(u32::from).collect();
        let labels = Tensor::from_vec(labels, set.len(), &Device::Cpu)?;
        Ok(Self { images: Tensor::from_vec(pixels, set.images.shape(), &Device::Cpu)?, labels })
    }

    fn len(&self) -> usize {
        self.labels.elem_count()
    }

    fn batch(&self, indices: &[u32]) -> Result<Self> {
        let indices = Tensor::new(indices, &Device::Cpu)?;
        Ok(Self { images: self.images.index_select(&indices, 0)?, labels: self.labels.index_select(&indices, 0)? })
    }
}

/// The network and what trains it.
struct Training {
    network: Network,
    optimizers: [AdamW; 2],
}

impl Training {
    fn new(relu: bool, seed: u64) -> Result<Self> {
        let weights = VarMap::new();
        let vb = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
        let network = Network::new(&vb, |channels| if relu { Ok(Activation::Relu) } else { spline(channels) })?;
        seed_weights(&weights, &mut ChaCha8Rng::seed_from_u64(seed))?;
        // 2. Weight decay is for the weights; what keeps the splines simple is TV². The parameters of a spline are plain
        // `Var`s, so any optimiser can take them, with a learning rate that is theirs.
        let parameters: Vec<Var> = network.splines().flat_map(|s| s.parameters("")).map(|p| p.var).collect();
        let config = |weight_decay| ParamsAdamW { lr: LEARNING_RATE, weight_decay, ..Default::default() };
        let optimizers = [AdamW::new(weights.all_vars(), config(WEIGHT_DECAY))?, AdamW::new(parameters, config(0.0))?];
        Ok(Self { network, optimizers })
    }

    fn set_learning_rate(&mut self, rate: f64) {
        self.optimizers.iter_mut().for_each(|optimizer| optimizer.set_learning_rate(rate));
    }

    /// One step on a batch; the cross-entropy before it.
    fn step(&mut self, batch: &Samples) -> Result<f64> {
        let loss = cross_entropy(&self.network.forward(&batch.images)?, &batch.labels)?;
        let mut gradients = loss.backward()?;
        // 3. λ·TV² needs no graph: its gradient is known and goes on top of what the backward pass left. `Norm::Bv2` in its
        // place bounds the network's Lipschitz constant as well; see `ds_core::lipschitz`.
        for spline in self.network.splines() {
            Norm::Tv2.add_gradient(spline, LAMBDA, &mut gradients)?;
        }
        for optimizer in &mut self.optimizers {
            optimizer.step(&gradients)?;
        }
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }
}

/// (mean cross-entropy, accuracy in %).
fn evaluate(network: &Network, samples: &Samples) -> Result<(f64, f64)> {
    let (mut loss, mut correct) = (0.0, 0.0);
    for start in (0..samples.len()).step_by(256) {
        let count = 256.min(samples.len() - start);
        let labels = samples.labels.narrow(0, start, count)?;
        let logits = network.forward(&samples.images.narrow(0, start, count)?)?.detach();
        let right = logits.argmax(D::Minus1)?.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        let likelihoods = log_softmax(&logits, D::Minus1)?.gather(&labels.unsqueeze(1)?, 1)?.sum_all()?;
        loss -= f64::from(likelihoods.to_scalar::<f32>()?);
        correct += f64::from(right);
    }
    Ok((loss / samples.len() as f64, 100.0 * correct / samples.len() as f64))
}

/// Knots with a slope change above `threshold`, in all functions of the network.
fn knots(network: &Network, threshold: f64) -> Result<usize> {
    let mut sum = 0;
    for spline in network.splines() {
        sum += active_knots(spline, threshold)?.iter().sum::<usize>();
    }
    Ok(sum)
}

/// 4. Eliminates as many knots as it can at `tolerance` points of accuracy on `samples`; the threshold, if there is one.
fn sparsify(network: &Network, samples: &Samples, tolerance: f64) -> Result<Option<f64>> {
    let learned = |spline: &Spline| -> Result<(Var, Tensor)> {
        let var = variable("coefficients", spline.knot_parameters())?;
        let copy = var.as_detached_tensor().copy()?;
        Ok((var, copy))
    };
    let learned: Vec<(Var, Tensor)> = network.splines().map(learned).collect::<Result<_>>()?;
    // Every threshold is tried on the splines as they were learned.
    let eliminate = |threshold| -> Result<()> {
        for (spline, (var, learned)) in network.splines().zip(&learned) {
            var.set(learned)?;
            eliminate_knots(spline, threshold)?;
        }
        Ok(())
    };
    let (_, unchanged) = evaluate(network, samples)?;
    let best = largest_threshold(&papers_thresholds(), unchanged, tolerance, |threshold| -> Result<f64> {
        eliminate(threshold)?;
        Ok(evaluate(network, samples)?.1)
    })?;
    match best {
        Some((threshold, _)) => eliminate(threshold)?,
        None => learned.iter().try_for_each(|(var, learned)| var.set(learned))?,
    }
    Ok(best.map(|(threshold, _)| threshold))
}

/// What is left of the function with the most knots: where they are, its values and slope changes there, and its ends.
fn print_richest(network: &Network, threshold: f64) -> Result<()> {
    let mut richest: Option<(usize, usize, usize, &Spline)> = None;
    for (layer, spline) in network.splines().enumerate() {
        for (channel, count) in active_knots(spline, threshold)?.into_iter().enumerate() {
            if richest.is_none_or(|(most, ..)| count > most) {
                richest = Some((count, layer, channel, spline));
            }
        }
    }
    let Some((_, layer, channel, spline)) = richest else { return Ok(()) };
    let values = spline.coefficients()?.get(channel)?.to_vec1::<f32>()?;
    let changes = slope_changes(spline)?.get(channel)?.to_vec1::<f32>()?;
    let last = values.len() - 1;
    println!("\nthe function with the most knots, activation {}, channel {channel}:", layer + 1);
    println!("{:>8} {:>8} {:>13}", "x", "σ(x)", "slope change");
    for (k, (x, value)) in spline.grid().knots().zip(&values).enumerate() {
        if k == 0 || k == last {
            println!("{x:8.2} {value:8.3} {:>13}", "(end)");
        } else if f64::from(changes[k - 1].abs()) > threshold {
            println!("{x:8.2} {value:8.3} {:13.3}", changes[k - 1]);
        }
    }
    Ok(())
}

fn run(epochs: usize, relu: bool) -> Result<()> {
    let data = load_images(ImageDataset::Cifar10, &Source::Sample)?;
    let (train, test) = (Samples::new(&data.train)?, Samples::new(&data.test)?);
    let mut training = Training::new(relu, SEED)?;
    let mut rng = ChaCha8Rng::seed_from_u64(SEED + 1);
    let mut order: Vec<u32> = (0..train.len() as u32).collect();
    let steps = epochs * train.len().div_ceil(BATCH);
    let mut done = 0;
    println!("{}; {}", data.origin, if relu { "ReLU" } else { "splines" });
    println!("epoch  loss  train: loss, accuracy  test: loss, accuracy  seconds");
    for epoch in 1..=epochs {
        let start = Instant::now();
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for indices in order.chunks(BATCH) {
            // Down to 0 in a straight line. Small steps at the end let the knots come to rest.
            training.set_learning_rate(LEARNING_RATE * (1.0 - done as f64 / steps as f64));
            sum += training.step(&train.batch(indices)?)? * indices.len() as f64;
            done += 1;
        }
        let loss = sum / train.len() as f64;
        let ((train_loss, on_train), (test_loss, on_test)) =
            (evaluate(&training.network, &train)?, evaluate(&training.network, &test)?);
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{epoch:5} {loss:5.3} {train_loss:12.3} {on_train:8.2} % {test_loss:11.3} {on_test:8.2} % {seconds:8.1}"
        );
    }
    let network = &training.network;
    if relu {
        return Ok(());
    }
    let before = (knots(network, 0.0)?, evaluate(network, &train)?.1, evaluate(network, &test)?.1);
    let Some(threshold) = sparsify(network, &train, TOLERANCE)? else {
        println!("no knot can go at a cost of {TOLERANCE} points");
        return Ok(());
    };
    let after = (knots(network, threshold)?, evaluate(network, &train)?.1, evaluate(network, &test)?.1);
    let functions: usize = network.splines().map(Spline::channels).sum();
    println!("\nknots with slope changes up to {threshold} eliminated, in {functions} functions:");
    for (when, (knots, on_train, on_test)) in [("before", before), ("after", after)] {
        println!("{when:>8}: {knots:5} knots, training accuracy {on_train:.2} %, test accuracy {on_test:.2} %");
    }
    print_richest(network, threshold)
}

fn main() -> Result<()> {
    let (mut epochs, mut relu) = (EPOCHS, false);
    for argument in std::env::args().skip(1) {
        match (argument.as_str(), argument.parse()) {
            ("--relu", _) => relu = true,
            (_, Ok(number)) if number > 0 => epochs = number,
            _ => bail!("{argument:?} is neither a number of epochs nor --relu"),
        }
    }
    // On a thread of rayon's pool, where each op starts at once.
    rayon::scope(|_| run(epochs, relu))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise, with one of three colours brighter: three classes.
    fn colours(count: usize) -> Result<Samples> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut images = Vec::new();
        for i in 0..count {
            images.extend((0..3).flat_map(|c| vec![if c == i % 3 { 170 } else { 90 }; 32 * 32]));
        }
        images.iter_mut().for_each(|p| *p += rng.random_range(0..80));
        let labels = (0..count).map(|i| (i % 3) as u8).collect();
        Samples::new(&ImageSet::new(images, labels, (3, 32, 32), 10)?)
    }

    fn trained(relu: bool, steps: usize) -> Result<(Training, Samples, Vec<f64>)> {
        let samples = colours(12)?;
        let mut training = Training::new(relu, 7)?;
        let losses = (0..steps).map(|_| training.step(&samples)).collect::<Result<Vec<f64>>>()?;
        Ok((training, samples, losses))
    }

    #[test]
    fn splines_learn_and_lose_knots() -> Result<()> {
        let (training, samples, losses) = trained(false, 20)?;
        assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
        let network = &training.network;
        let (before, (_, accuracy)) = (knots(network, 0.0)?, evaluate(network, &samples)?);
        let threshold = sparsify(network, &samples, 1.0)?.context("some threshold is small enough")?;
        assert!(evaluate(network, &samples)?.1 >= accuracy - 1.0);
        let after = knots(network, threshold)?;
        assert!(after < before, "{before} knots, then {after}");
        Ok(())
    }

    #[test]
    fn relu_learns_and_runs_repeat() -> Result<()> {
        let (training, _, losses) = trained(true, 8)?;
        assert_eq!(training.network.splines().count(), 0);
        assert!(losses[7] < losses[0], "{losses:?}");
        assert_eq!(losses, trained(true, 8)?.2);
        Ok(())
    }
}
