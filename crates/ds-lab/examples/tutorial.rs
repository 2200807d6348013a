//! Tutorial: from a network of `candle_nn` layers to a deep spline network.
//!
//! A small convolutional network for CIFAR-10, written with `candle_nn`, gets activations that it learns itself. The steps are
//! numbered in the code:
//!
//! 1. each ReLU becomes a layer of splines with one function per channel or unit, beside the weights in the `VarMap`;
//! 2. the splines have an optimiser of their own;
//! 3. λ·TV² is added between the backward pass and the optimisers' steps;
//! 4. after training, the knots that the functions can do without are removed;
//! 5. the network is saved, and read again with the same outputs to the last bit;
//! 6. its Lipschitz constant is bounded from above and from below;
//! 7. the learned functions are drawn.
//!
//! `cargo run --release -p ds-lab --example tutorial -- [EPOCHS] [--relu] [--out FOLDER]`; with `--relu` the same network, from the
//! same weights and with the same batches, keeps its ReLUs. The network and the picture go to a new folder below the system's
//! folder of temporary files, or to FOLDER, where no file is replaced.

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, ParamsAdamW, loss::cross_entropy, ops::log_softmax};
use candle_nn::{Conv2d, Linear, Module, Optimizer, VarBuilder, VarMap, conv2d, linear};
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, Groups, Spline, activation};
use ds_core::graph::{CandleGraph, Graph};
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use ds_core::lipschitz::{certified, empirical};
use ds_core::regularization::{Norm, active_knots};
use ds_core::sparsify::{Cost, Histogram, KeptKnots, Pruning};
use ds_lab::data::{ImageDataset, ImageSet, Source, load_images};
use ds_lab::results::plot::{activations::Activations, functions::Layer, palette, to_svg};
use ds_nn::ops::{Window, conv2d as convolution, pool::MaxPool};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
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
/// Points of training accuracy that the removal of knots may cost.
const TOLERANCE: f64 = 0.25;
const POOL: Window = Window { kernel: 2, stride: 2, padding: 0 };

/// Two convolutions and three dense layers, with an activation after each but the last.
struct Network {
    conv1: Conv2d,
    conv2: Conv2d,
    dense1: Linear,
    dense2: Linear,
    dense3: Linear,
    activations: [Activation; 4],
}

/// 1. Linear splines with 21 knots on [-3, 3], LeakyReLU before training, or ReLUs to compare with.
///
/// Other kinds of [`ActivationKind`] can take the place of B-splines; nothing else here would change.
fn activation_config(relu: bool) -> ActivationConfig {
    let kind = if relu { ActivationKind::Relu } else { ActivationKind::BSpline };
    ActivationConfig { kind, size: 21, range: 3.0, ..Default::default() }
}

impl Network {
    /// All parameters are behind the `VarBuilder`: in a `VarMap`, or in a file that is read.
    fn new(config: ActivationConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        // 1. A network of nothing but splines would call `ds_core::activation::spline` here.
        let act = |channels, name| activation(channels, config, vb.pp(name));
        Ok(Self {
            conv1: conv2d(3, 6, 5, Default::default(), vb.pp("conv1"))?,
            conv2: conv2d(6, 16, 5, Default::default(), vb.pp("conv2"))?,
            dense1: linear(16 * 5 * 5, 120, vb.pp("dense1"))?,
            dense2: linear(120, 84, vb.pp("dense2"))?,
            dense3: linear(84, 10, vb.pp("dense3"))?,
            activations: [act(6, "act1")?, act(16, "act2")?, act(120, "act3")?, act(84, "act4")?],
        })
    }

    /// The network of a file, in f32 or f64.
    fn read(path: &Path, config: ActivationConfig, dtype: DType) -> Result<Self> {
        Self::new(config, &VarBuilder::from_buffered_safetensors(std::fs::read(path)?, dtype, &Device::Cpu)?)
    }

    fn splines(&self) -> impl Iterator<Item = &Spline> {
        self.activations.iter().filter_map(Activation::spline)
    }

    /// Logits (N, 10) of images (N, 3, 32, 32); `see` is shown the input of each activation.
    fn logits(&self, x: &Tensor, mut see: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<Tensor> {
        // 1. This was `self.conv1.forward(x)?.relu()?`, and so on. A spline reads its channels from dimension 1.
        let mut act = |k: usize, x: Tensor| -> Result<Tensor> {
            see(k, &x)?;
            Ok(self.activations[k].forward(&x)?)
        };
        let x = max_pool(&act(0, convolve(&self.conv1, x)?)?)?; // (N, 6, 14, 14)
        let x = max_pool(&act(1, convolve(&self.conv2, &x)?)?)?; // (N, 16, 5, 5)
        let x = act(2, self.dense1.forward(&x.flatten_from(1)?)?)?; // (N, 120)
        let x = act(3, self.dense2.forward(&x)?)?; // (N, 84)
        Ok(self.dense3.forward(&x)?)
    }

    /// 6. The network as Lipschitz bounds see it.
    fn architecture(&self) -> Architecture {
        // Biases decide which linear pieces the network has.
        let with_bias = |operator: Operator, bias: Option<&Tensor>| {
            [operator].into_iter().chain(bias.map(|bias| Operator::Bias(bias.detach()))).collect::<Vec<_>>()
        };
        let conv = |conv: &Conv2d| {
            let weight = conv.weight().detach();
            with_bias(Operator::Convolution { weight, stride: 1, padding: 0 }, conv.bias())
        };
        let dense = |linear: &Linear| with_bias(Operator::Dense(linear.weight().detach()), linear.bias());
        let act = |k: usize| vec![Operator::Activation(self.activations[k].clone())];
        let pool = || vec![Operator::MaxPool(PoolWindow { kernel: 2, stride: 2, padding: 0 })];
        let operators = [
            conv(&self.conv1),
            act(0),
            pool(),
            conv(&self.conv2),
            act(1),
            pool(),
            dense(&self.dense1),
            act(2),
            dense(&self.dense2),
            act(3),
            dense(&self.dense3),
        ];
        Architecture { input: Signal { channels: 3, plane: (32, 32) }, operators: operators.concat() }
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.logits(x, |_, _| Ok(())).map_err(candle_core::Error::wrap)
    }
}

/// The max-pool of `ds_nn`, since the gradient of Candle's `max_pool2d(2)` is a quarter of what it should be: λ·TV² would weigh 16
/// times as much against the loss in the first layer as in the dense ones.
fn max_pool(x: &Tensor) -> Result<Tensor> {
    Ok(CandleGraph.apply(MaxPool(POOL), [x])?)
}

/// The convolution of `ds_nn` with the parameters of a `candle_nn` layer, since Candle's takes most of the time of a step.
fn convolve(conv: &Conv2d, x: &Tensor) -> Result<Tensor> {
    let (weight, bias) = (conv.weight(), conv.bias().context("a convolution without a bias")?);
    let op = convolution::Conv2d {
        input_gradient: x.track_op(),
        weight_gradient: weight.track_op(),
        ..convolution::Conv2d::new(Window { kernel: weight.dim(3)?, stride: 1, padding: 0 })
    };
    Ok(CandleGraph.apply(op, [x, weight, bias])?)
}

/// Draws the weights anew, since Candle's own random numbers cannot be seeded on the CPU: uniform in ±1/√(inputs).
fn seed_weights(weights: &VarMap, rng: &mut ChaCha8Rng) -> Result<()> {
    let data = weights.data().lock().map_err(|_| anyhow::anyhow!("the weights are locked"))?;
    let is_of_layer = |name: &str| name.ends_with(".weight") || name.ends_with(".bias");
    let mut named: Vec<_> = data.iter().filter(|(name, _)| is_of_layer(name)).collect();
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

    fn chunks(&self) -> impl Iterator<Item = Result<Self>> + '_ {
        (0..self.len()).step_by(256).map(|start| {
            let count = 256.min(self.len() - start);
            Ok(Self { images: self.images.narrow(0, start, count)?, labels: self.labels.narrow(0, start, count)? })
        })
    }
}

/// The network and what trains it.
struct Training {
    map: VarMap,
    network: Network,
    optimizers: [AdamW; 2],
}

impl Training {
    fn new(relu: bool, seed: u64) -> Result<Self> {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let network = Network::new(activation_config(relu), &vb)?;
        seed_weights(&map, &mut ChaCha8Rng::seed_from_u64(seed))?;
        // 2. Weight decay is for the weights; what keeps the splines simple is TV². The parameters of a spline are plain
        // `Var`s, so any optimiser can take them, with a learning rate that is theirs.
        let groups = Groups::of(&map, &network.splines().flat_map(|s| s.parameters("")).collect::<Vec<_>>());
        let config = |weight_decay| ParamsAdamW { lr: LEARNING_RATE, weight_decay, ..Default::default() };
        let optimizers = [AdamW::new(groups.weights, config(WEIGHT_DECAY))?, AdamW::new(groups.splines, config(0.0))?];
        Ok(Self { map, network, optimizers })
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
    for chunk in samples.chunks() {
        let Samples { images, labels } = chunk?;
        let logits = network.forward(&images)?.detach();
        let right = logits.argmax(D::Minus1)?.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        let likelihoods = log_softmax(&logits, D::Minus1)?.gather(&labels.unsqueeze(1)?, 1)?.sum_all()?;
        loss -= f64::from(likelihoods.to_scalar::<f32>()?);
        correct += f64::from(right);
    }
    Ok((loss / samples.len() as f64, 100.0 * correct / samples.len() as f64))
}

/// 4. Removes as many knots as it can at `tolerance` points of accuracy on `samples`; the others, if any could go.
///
/// The cheapest knots go first. Each function is fitted again to what it was, weighted with where its inputs lie.
fn sparsify(network: &Network, samples: &Samples, tolerance: f64) -> Result<Option<KeptKnots>> {
    let histograms = network.activations.iter().map(Histogram::of).collect::<ds_core::Result<Option<Vec<_>>>>()?;
    let mut histograms = histograms.context("an activation without knots")?;
    for chunk in samples.chunks() {
        network.logits(&chunk?.images, |k, x| Ok(histograms[k].add(&x.detach(), None)?))?;
    }
    let pruning = Pruning::new(network.activations.iter().zip(&histograms), Cost::MeanSquare)?;
    let (_, unchanged) = evaluate(network, samples)?;
    let (mut count, mut fewest) = (pruning.knots(), None);
    while count > 0 {
        count = count * 9 / 10;
        pruning.prune(count)?;
        if evaluate(network, samples)?.1 < unchanged - tolerance {
            break;
        }
        fewest = Some(count);
    }
    match fewest {
        Some(count) => Ok(Some(pruning.prune(count)?)),
        None => pruning.restore().map(|()| None).map_err(Into::into),
    }
}

/// 6. (largest quotient that is found, certified bound) of the Lipschitz constant in ℓ2, for pixels in [-1, 1].
///
/// The quotients are of a copy in f64, whose rounding does not matter.
fn lipschitz_bounds(network: &Network, copy: &Network, samples: &Samples) -> Result<(f64, f64)> {
    let points = samples.images.narrow(0, 0, samples.len().min(8))?.to_dtype(DType::F64)?;
    let search = empirical::Search { climbers: 4, steps: 20, ..Default::default() };
    let lower = empirical::lower_bound(|x| copy.forward(x), &points, search)?;
    Ok((lower.quotient, certified::bound(&network.architecture())?))
}

/// 7. The functions of all layers.
fn functions(network: &Network) -> Result<Vec<Layer>> {
    network.splines().map(Layer::of).collect()
}

/// The files of a run, none of which is there.
struct Files {
    network: PathBuf,
    picture: PathBuf,
}

impl Files {
    fn new(folder: Option<PathBuf>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder,
            None => tempfile::Builder::new().prefix("spline-tutorial-").tempdir()?.keep(),
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let files = Self { network: folder.join("network.safetensors"), picture: folder.join("activations.svg") };
        for file in [&files.network, &files.picture] {
            if std::fs::symlink_metadata(file).is_ok() {
                bail!("{} is there and is not replaced; move it away, or name another folder", file.display());
            }
        }
        Ok(files)
    }
}

fn run(epochs: usize, relu: bool, folder: Option<PathBuf>) -> Result<()> {
    let data = load_images(ImageDataset::Cifar10, &Source::Sample)?;
    let (train, test) = (Samples::new(&data.train)?, Samples::new(&data.test)?);
    let files = Files::new(folder)?;
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
    let learned = functions(network)?;
    if !relu {
        remove_knots(network, &train, &test)?;
    }

    // 5. The splines are in the map, so that this saves them as well.
    training.map.save(&files.network)?;
    let copy = Network::read(&files.network, activation_config(relu), DType::F32)?;
    let (before, after) = (evaluate(network, &test)?, evaluate(&copy, &test)?);
    println!("\n{}: test accuracy {:.2} % as it was, {:.2} % read again", files.network.display(), before.1, after.1);
    if before != after {
        bail!("the network that was read differs from the one that was saved");
    }

    let (lower, upper) =
        lipschitz_bounds(network, &Network::read(&files.network, activation_config(relu), DType::F64)?, &test)?;
    println!("Lipschitz constant: at least {lower:.1}, at most {upper:.1}");

    if !relu {
        let sparsified = Some(functions(network)?);
        let (title, colour) = ("Tutorial: the learned functions".to_owned(), palette::activation("bspline"));
        std::fs::write(&files.picture, to_svg(&Activations { title, colour, layers: learned, sparsified })?)?;
        println!("{}: the learned functions", files.picture.display());
    }
    Ok(())
}

fn remove_knots(network: &Network, train: &Samples, test: &Samples) -> Result<()> {
    let accuracies = || -> Result<_> { Ok((evaluate(network, train)?.1, evaluate(network, test)?.1)) };
    let (mut knots, functions) = (0, network.splines().map(Spline::channels).sum::<usize>());
    for spline in network.splines() {
        knots += active_knots(spline, 0.0)?.iter().sum::<usize>();
    }
    let before = accuracies()?;
    let Some(kept) = sparsify(network, train, TOLERANCE)? else {
        println!("no knot can go at a cost of {TOLERANCE} points");
        return Ok(());
    };
    println!("\n{functions} functions:");
    for (when, knots, (on_train, on_test)) in [("learned", knots, before), ("sparse", kept.count(), accuracies()?)] {
        println!("{when:>8}: {knots:5} knots, training accuracy {on_train:.2} %, test accuracy {on_test:.2} %");
    }
    Ok(())
}

fn main() -> Result<()> {
    let (mut epochs, mut relu, mut folder) = (EPOCHS, false, None);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str().map(|text| (text, text.parse())) {
            Some(("--relu", _)) => relu = true,
            Some(("--out", _)) => folder = Some(PathBuf::from(arguments.next().context("--out needs a folder")?)),
            Some((_, Ok(number))) if number > 0 => epochs = number,
            _ => bail!("{argument:?} is neither a number of epochs, nor --relu, nor --out FOLDER"),
        }
    }
    // On a thread of rayon's pool, where each op starts at once.
    rayon::scope(|_| run(epochs, relu, folder))
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
    fn splines_learn_lose_knots_and_are_read_again() -> Result<()> {
        let (training, samples, losses) = trained(false, 20)?;
        assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
        let network = &training.network;
        let (_, accuracy) = evaluate(network, &samples)?;
        let kept = sparsify(network, &samples, 1.0)?.context("some knots can go")?;
        assert!(evaluate(network, &samples)?.1 >= accuracy - 1.0);
        assert!(kept.count() < 226 * 19 / 2, "{} knots", kept.count());

        let folder = tempfile::tempdir()?;
        let files = Files::new(Some(folder.path().to_owned()))?;
        training.map.save(&files.network)?;
        let copy = Network::read(&files.network, activation_config(false), DType::F32)?;
        assert_eq!(evaluate(network, &samples)?, evaluate(&copy, &samples)?);
        assert!(Files::new(Some(folder.path().to_owned())).is_err(), "a file would be replaced");

        let copy = Network::read(&files.network, activation_config(false), DType::F64)?;
        let (lower, upper) = lipschitz_bounds(network, &copy, &samples)?;
        assert!(0.0 < lower && lower <= upper, "{lower} and {upper}");
        Ok(())
    }

    /// Candle's max-pool would make it a sixteenth.
    #[test]
    fn the_gradient_of_the_first_layer_is_right() -> Result<()> {
        let (training, samples, _) = trained(false, 3)?;
        let loss = || cross_entropy(&training.network.forward(&samples.images)?, &samples.labels);
        let data = training.map.data().lock().map_err(|_| anyhow::anyhow!("the weights are locked"))?;
        let weight = &data["conv1.weight"];
        let gradient = loss()?.backward()?.get(weight).context("no gradient")?.clone();
        let (start, square) = (weight.as_tensor().copy()?, gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        let moved = |by: f32| -> Result<f32> {
            weight.set(&(&start + (&gradient * f64::from(by / square.sqrt()))?)?)?;
            Ok(loss()?.to_scalar::<f32>()?)
        };
        let slope = (moved(0.01)? - moved(-0.01)?) / 0.02;
        assert!((slope / square.sqrt() - 1.0).abs() < 0.1, "{slope}, expected {}", square.sqrt());
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
