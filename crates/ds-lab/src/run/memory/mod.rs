//! How much memory a run needs, from its config alone, and how much there is: what does not fit is refused before anything is
//! allocated, and a sweep makes no more runs at once than fit.

mod available;
mod layers;

pub use available::available;

use self::layers::{Layer, input_size, layers};
use crate::config::{Config, Dataset, Experiment, NetworkKind, OptimizerConfig, OptimizerKind};
use crate::device::Context;
use ds_core::activation::ActivationKind;

/// The part of the available memory that the runs of a sweep may take together.
const USABLE: f64 = 0.8;
/// What is added for threads, blocks that are rounded up, and all that is not counted.
const SLACK: f64 = 1.1;
/// Of a process that has not loaded anything.
const PROCESS: f64 = 25e6;
/// A data set of images while its files are read and unpacked.
const IMAGES: f64 = 220e6;
/// The host's part of a process that computes on a GPU: the driver's libraries and pinned buffers.
const HOST_OF_GPU: f64 = 1e9;
/// Batches that are prepared while a step runs, and the one of the step.
const BATCHES: f64 = 4.0;
/// Samples of an evaluation's batches: images, and points or function arguments.
const EVALUATED: [f64; 2] = [256.0, 4096.0];
/// Points that the lower bound is searched from at once, for large networks and for small ones, which have fewer parameters.
const POINTS: [f64; 2] = [8.0, 64.0];
const SMALL: f64 = 10_000.0;

/// What keeps a run from starting: it needs more memory than there is.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} needs about {} of memory ({most}), and {} are available: lower {}",
    gigabytes(*needed),
    gigabytes(*available),
    keys.join(" or ")
)]
pub struct MemoryError {
    /// The run.
    pub name: String,
    /// Bytes that it needs.
    pub needed: u64,
    /// Bytes that are available.
    pub available: u64,
    /// What takes the most.
    most: &'static str,
    /// The keys to lower.
    keys: Vec<&'static str>,
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Bytes that a run needs in the memory of the host.
pub fn needed(config: &Config, context: &Context) -> u64 {
    Need::of(config, context).total() as u64
}

/// Refuses a run that needs more memory than is available. Where the system does not tell, every run passes.
///
/// # Errors
/// If that is so, with the keys to lower.
pub fn check(config: &Config, context: &Context) -> Result<(), MemoryError> {
    available().map_or(Ok(()), |available| check_in(config, context, available))
}

fn check_in(config: &Config, context: &Context, available: u64) -> Result<(), MemoryError> {
    let need = Need::of(config, context);
    if need.total() <= available as f64 {
        return Ok(());
    }
    let (most, keys) = need.causes(config);
    Err(MemoryError { name: config.name.clone(), needed: need.total() as u64, available, most, keys })
}

/// How many of these runs can be made at once, at most `jobs` and at least one, so that any of them fit into the available memory
/// together.
pub fn jobs<'a>(configs: impl IntoIterator<Item = &'a Config>, jobs: usize, context: &Context) -> usize {
    available().map_or(jobs, |available| jobs_in(configs, jobs, context, available))
}

fn jobs_in<'a>(configs: impl IntoIterator<Item = &'a Config>, jobs: usize, context: &Context, available: u64) -> usize {
    let needs: Vec<Need> = configs.into_iter().map(|config| Need::of(config, context)).collect();
    let shared = needs.iter().map(Need::shared).fold(0.0, f64::max);
    let mut own: Vec<f64> = needs.iter().map(|need| need.total() - need.shared()).collect();
    own.sort_by(|a, b| b.total_cmp(a));
    let mut left = USABLE * available as f64 - shared;
    let fits = |own: &&f64| {
        left -= **own;
        left >= 0.0
    };
    // With fewer runs than jobs all of them may fit.
    let count = own.len();
    let fitting = own.iter().take_while(fits).count();
    if fitting == count { jobs } else { fitting.clamp(1, jobs.max(1)) }
}

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, Default)]
struct Need {
    process: f64,
    /// Weights and splines with gradients, optimiser states, the copies of checkpoints and those of bounds in f64.
    weights: f64,
    splines: f64,
    /// All activations of a training step.
    batch: f64,
    /// Those of an evaluation and of the search for a lower bound, that are there at once.
    evaluation: f64,
    /// Images, which all runs of a process share.
    images: f64,
    /// Generated data.
    points: f64,
}

impl Need {
    fn of(config: &Config, context: &Context) -> Self {
        let (images, points) = (image_bytes(config), point_bytes(config));
        if context.device.is_cuda() {
            return Self { process: PROCESS + HOST_OF_GPU, images, points, ..Self::default() };
        }
        let layers = layers(config);
        let weights: f64 = layers.iter().map(|layer| layer.weights).sum();
        let channels: f64 = layers.iter().filter(|layer| layer.activated).map(|layer| layer.channels).sum();
        let splines = channels * parameters_of_activation(config);
        let outputs: f64 = layers.iter().map(Layer::outputs).sum();
        let largest = layers.iter().map(Layer::outputs).fold(input_size(config), f64::max);
        let (train, held_out) = sample_counts(config);
        let batch = (config.train.batch_size as f64).min(train);
        let evaluated = EVALUATED[usize::from(images == 0.0)].min(train.max(held_out));
        let searched = POINTS[usize::from(weights + splines < SMALL)];
        let factors = Factors::of(config.network.kind);
        Self {
            process: PROCESS,
            weights: weights * bytes_per_parameter(config, &config.optimizer.weights),
            splines: splines * bytes_per_parameter(config, &config.optimizer.splines),
            batch: 4.0 * batch * (BATCHES * input_size(config) + factors.training * outputs),
            evaluation: 4.0 * evaluated * (input_size(config) + factors.evaluation * largest)
                + 8.0 * searched * factors.search * outputs,
            images,
            points,
        }
    }

    fn total(&self) -> f64 {
        let parts = [self.process, self.weights, self.splines, self.batch, self.evaluation, self.images, self.points];
        SLACK * parts.iter().sum::<f64>()
    }

    /// What several runs of a process need once.
    fn shared(&self) -> f64 {
        SLACK * (self.process + self.images)
    }

    /// What takes the most, and the keys that lower what takes much.
    fn causes(&self, config: &Config) -> (&'static str, Vec<&'static str>) {
        let has_widths = !config.network.hidden.is_empty();
        let mut parts = vec![
            (self.weights, "most of it for weights, gradients and optimiser states", "network.hidden", has_widths),
            (self.splines, "most of it for spline coefficients and their optimiser states", "activation.size", true),
            (self.batch, "most of it for the activations of a batch", "train.batch_size", true),
            (self.evaluation, "most of it for evaluations", "network.hidden", has_widths),
            (self.images, "most of it for images", "train.max_train_images", true),
        ];
        let (train, held_out) = sample_counts(config);
        let key = if held_out > train && config.experiment == Experiment::Area2d {
            "data.test_grid"
        } else {
            "data.train_points"
        };
        parts.push((self.points, "most of it for generated data", key, true));
        parts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let is_much = |bytes: f64| bytes > 0.2 * self.total();
        let mut keys: Vec<&'static str> = Vec::new();
        for (_, _, key, _) in parts.iter().filter(|(bytes, _, _, has_key)| *has_key && is_much(*bytes)) {
            if !keys.contains(key) {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            keys.push("train.batch_size");
        }
        (parts[0].1, keys)
    }
}

/// How many numbers of a sample are there at once, for each output of a layer in training, for each of the largest layer in an
/// evaluation, and for each output in the search for a lower bound, which uses Candle's own graph.
struct Factors {
    training: f64,
    evaluation: f64,
    search: f64,
}

impl Factors {
    /// Fitted to the peak memory of runs, which the tests below list.
    fn of(kind: NetworkKind) -> Self {
        let (training, evaluation, search) = match kind {
            NetworkKind::Resnet32 => (2.5, 12.0, 3.0),
            NetworkKind::Nin => (2.5, 6.0, 13.0),
            NetworkKind::Convnet => (4.5, 4.0, 8.0),
            NetworkKind::LipschitzConv => (5.0, 4.0, 10.0),
            NetworkKind::Area | NetworkKind::Scalar | NetworkKind::Lipschitz => (3.7, 3.0, 6.0),
        };
        Self { training, evaluation, search }
    }
}

/// Value, gradient and states, the copy of value and states for checkpoints, and five copies in f64: for the draw, for the search of
/// the lower bound with its gradient, and for the certified bound. Constrained weights have more copies.
fn bytes_per_parameter(config: &Config, optimizer: &OptimizerConfig) -> f64 {
    let states = match optimizer.kind {
        OptimizerKind::Adam | OptimizerKind::ProxAdam => 2.0,
        OptimizerKind::Sgd => 1.0,
    };
    let constraint = if config.network.kind.is_lipschitz() { 32.0 } else { 0.0 };
    4.0 * (2.0 + states) + 4.0 * (1.0 + states) + 40.0 + constraint
}

/// For each channel.
fn parameters_of_activation(config: &Config) -> f64 {
    let activation = &config.activation;
    match activation.kind {
        ActivationKind::BSpline => activation.size as f64,
        ActivationKind::ExplicitLinear => activation.size as f64 + 2.0,
        ActivationKind::ReluSpline => activation.size as f64,
        ActivationKind::LipschitzSpline => activation.size as f64 + 1.0,
        ActivationKind::Apl => 2.0 * activation.hinges as f64,
        ActivationKind::PRelu | ActivationKind::ClippedPRelu | ActivationKind::Householder => 1.0,
        ActivationKind::Relu | ActivationKind::LeakyRelu | ActivationKind::Absolute | ActivationKind::MaxMin => 0.0,
    }
}

/// Multiplications of a network, each with an addition, for one sample, forward.
pub fn multiplications(config: &Config) -> f64 {
    layers(config).iter().map(|layer| layer.weights * layer.plane + layer.outputs()).sum()
}

/// Numbers of the outputs of all layers of a network for one sample.
pub fn outputs(config: &Config) -> f64 {
    layers(config).iter().map(Layer::outputs).sum()
}

/// (samples to train on, samples of the largest set that is evaluated beside).
pub(crate) fn sample_counts(config: &Config) -> (f64, f64) {
    let data = &config.data;
    let limited = |count: f64, limit: usize| if limit == 0 { count } else { count.min(limit as f64) };
    let (train, test) = match (data.dataset.image_counts(), data.dataset) {
        (Some((train, test)), _) => (train as f64, test as f64),
        (_, Dataset::Circle | Dataset::SShape) => (data.train_points as f64, (data.test_grid as f64).powi(2)),
        _ => (data.train_points as f64, 4.0 * data.train_points as f64 + 1.0),
    };
    let (train, test) = (limited(train, config.train.max_train_images), limited(test, config.train.max_test_images));
    ((1.0 - data.validation) * train, test.max(data.validation * train))
}

/// Bytes of a data set of images with the copies that a part of it takes.
fn image_bytes(config: &Config) -> f64 {
    if !matches!(config.experiment, Experiment::Cifar10 | Experiment::Mnist) {
        return 0.0;
    }
    let (train, held_out) = sample_counts(config);
    let is_part = config.data.validation > 0.0 || config.train.max_train_images > 0 || config.train.max_test_images > 0;
    IMAGES + if is_part { (train + held_out) * (input_size(config) + 1.0) } else { 0.0 }
}

/// Bytes of generated data, with the orders in which it is gone through.
fn point_bytes(config: &Config) -> f64 {
    let (train, held_out) = sample_counts(config);
    let bytes = match config.experiment {
        Experiment::Area2d => 20.0,
        Experiment::Fit1d => 18.0,
        Experiment::Cifar10 | Experiment::Mnist => return 0.0,
    };
    let copies = if config.data.validation > 0.0 { 2.0 } else { 1.0 };
    bytes * (copies * train + held_out)
}

#[cfg(test)]
mod tests;
