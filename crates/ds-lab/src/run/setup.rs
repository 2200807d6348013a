//! From a config to its data and its network.

use crate::config::{self, Config, Dataset, NetworkKind};
use crate::data::{self, AreaShape, ImageDataset, Normalization, Samples, Source, Target, shuffled};
use crate::device;
use crate::results::metrics::Split;
use crate::run::memory;
use anyhow::{Context, Result, bail};
use candle_core::DType;
use ds_nn::Network;
use ds_nn::layers::Constraint;
use ds_nn::networks::{self, Images};
use ds_nn::rng::{Purpose, Seed};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The data of a run, as far as it must be the same when the run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedOn {
    /// Whether it is the shipped sample and not the data set.
    pub is_sample: bool,
    /// Training samples.
    pub samples: usize,
}

impl fmt::Display for TrainedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_sample = if self.is_sample { " of the shipped sample" } else { "" };
        write!(f, "{} training samples{of_sample}", self.samples)
    }
}

/// Everything a run works on.
pub struct Setup {
    /// The network, with initial weights.
    pub network: Network,
    /// The training samples.
    pub train: Samples,
    /// The samples held out of the training set, if the config wants some.
    pub validation: Option<Samples>,
    /// The test samples.
    pub test: Samples,
    /// Where the data came from.
    pub origin: String,
    /// Whether it is the shipped sample and not the data set.
    pub is_sample: bool,
    /// The device of the process, and how it computes.
    pub context: device::Context,
}

impl Setup {
    /// Loads the data and draws the network's weights, which go to the device of the context.
    ///
    /// # Errors
    /// If data is missing or wrong, or more memory is needed than is available.
    pub fn new(config: &Config, source: &Source, context: &device::Context) -> Result<Self> {
        memory::check(config, context)?;
        let (train, test, origin, is_sample) = samples(config, source)?;
        let (train, validation) = split(config, train)?;
        let train = train.with_margin(config.train.margin());
        let network = network_on_device(config, train.outputs(), context)?;
        Ok(Self { network, train, validation, test, origin, is_sample, context: context.clone() })
    }

    /// The data, as far as a run that goes on must have the same.
    pub fn trained_on(&self) -> TrainedOn {
        TrainedOn { is_sample: self.is_sample, samples: self.train.len() }
    }

    /// What is evaluated after an epoch.
    pub fn held_out(&self) -> Vec<(Split, &Samples)> {
        let mut all = Vec::new();
        all.extend(self.validation.iter().map(|samples| (Split::Validation, samples)));
        all.push((Split::Test, &self.test));
        all
    }
}

/// The [`network`] of a config, on the device of the context.
///
/// # Errors
/// As for [`network`], or if the device is out of memory.
pub fn network_on_device(config: &Config, outputs: usize, context: &device::Context) -> Result<Network> {
    let network = network(config, outputs)?;
    if context.device.is_cpu() {
        return Ok(network);
    }
    let mut network = network.to(DType::F32, &context.device)?;
    network.set_convolution_options(context.convolutions);
    Ok(network)
}

/// The network that a config describes, with weights drawn from its seed.
///
/// # Errors
/// If the activation cannot be built.
pub fn network(config: &Config, outputs: usize) -> Result<Network> {
    let rng = &mut Seed(config.seed).generator(Purpose::Weights, 0);
    let activation = config.activation.layer();
    let hidden = config.network.hidden.as_slice();
    let constant = config.network.lipschitz.unwrap_or(1.0);
    let weights = config.network.weights.unwrap_or(Constraint::Orthonormal);
    let images = match config.data.dataset {
        Dataset::Mnist | Dataset::FashionMnist => Some(Images::MNIST),
        Dataset::Cifar10 | Dataset::Cifar100 => Some(Images::CIFAR),
        _ => None,
    };
    Ok(match config.network.kind {
        NetworkKind::Lipschitz => {
            let inputs = images.map_or(1, |images| images.channels * images.side * images.side);
            networks::lipschitz(rng, (inputs, hidden, outputs), weights, activation, constant)?
        }
        NetworkKind::LipschitzConv => {
            let images = images.context("lipschitz_conv is a network for images")?;
            let &[channels, ref hidden @ ..] = hidden else { bail!("lipschitz_conv needs network.hidden") };
            let (stages, depth) = (config.network.stages(), config.network.depth());
            let layers = networks::LipschitzConv { channels, stages, depth, hidden, weights, constant };
            networks::lipschitz_conv(rng, images, outputs, layers, activation)?
        }
        NetworkKind::Area => networks::area(rng, hidden, activation)?,
        NetworkKind::Scalar => networks::scalar(activation)?,
        NetworkKind::Convnet => networks::convnet(rng, outputs, activation)?,
        NetworkKind::Resnet32 => networks::resnet32(rng, outputs, activation)?,
        NetworkKind::Nin => networks::nin(rng, outputs, config.network.dropout, activation)?,
    })
}

/// The radii in ℓ2 that certified accuracies are given for, for pixels in [0, 1]: those of published results.
pub fn radii(dataset: Dataset) -> Option<&'static [f64]> {
    const OF_CIFAR: [f64; 4] = [36.0 / 255.0, 72.0 / 255.0, 108.0 / 255.0, 1.0];
    match dataset {
        Dataset::Mnist | Dataset::FashionMnist => Some(&[0.1, 0.3, 0.5, 1.0, 1.58]),
        Dataset::Cifar10 | Dataset::Cifar100 => Some(&OF_CIFAR),
        _ => None,
    }
}

/// Channel statistics of the training sets, as everyone uses them.
fn normalization(dataset: ImageDataset) -> Normalization {
    let (mean, deviation): (&[f64], &[f64]) = match dataset {
        ImageDataset::Cifar10 => {
            (&[0.491_399_68, 0.482_158_41, 0.446_530_91], &[0.247_032_23, 0.243_485_13, 0.261_587_84])
        }
        ImageDataset::Cifar100 => (&[0.507_075_2, 0.486_548_8, 0.440_917_8], &[0.267_334_3, 0.256_438_5, 0.276_150_5]),
        ImageDataset::Mnist => (&[0.1307], &[0.3081]),
        ImageDataset::FashionMnist => (&[0.2860], &[0.3530]),
    };
    Normalization { mean: mean.to_vec(), deviation: deviation.to_vec() }
}

/// (training set, test set, origin, whether it is the sample).
fn samples(config: &Config, source: &Source) -> Result<(Samples, Samples, String, bool)> {
    let data = &config.data;
    if let Some(dataset) = ImageDataset::of(data.dataset) {
        let images = data::load_images(dataset, source)?;
        let mut normalization = normalization(dataset);
        if data.normalize == Some(false) {
            normalization.mean.fill(0.0);
            normalization.deviation.fill(1.0);
        }
        let limited = |set: &data::ImageSet, limit: usize| {
            let all = Samples::images(set, &normalization)?;
            if limit == 0 || limit >= set.len() { Ok(all) } else { all.subset(&(0..limit).collect::<Vec<_>>()) }
        };
        let train = limited(&images.train, config.train.max_train_images)?;
        let test = limited(&images.test, config.train.max_test_images)?;
        return Ok((train, test, images.origin, images.is_sample));
    }
    if matches!(source, Source::Sample) {
        bail!("--data sample is for the image experiments; the data of `{}` is generated", config.experiment);
    }
    let shape = match data.dataset {
        Dataset::Circle => AreaShape::Circle,
        Dataset::SShape => AreaShape::SShape,
        _ => return function_samples(config),
    };
    let (train, origin) = match data.points {
        config::Points::Generated => {
            let seed = Seed(config.seed).key(Purpose::Data, 0);
            (data::area_random(shape, data.train_points, seed), "generated".to_owned())
        }
        config::Points::Original => match data::area_points(shape, source)? {
            Some((points, path)) if points.points.len() < data.train_points => bail!(
                "data.train_points = {}: {} has {} points; data.points = \"generated\" draws any number",
                data.train_points,
                path.display(),
                points.points.len()
            ),
            Some((mut points, path)) => {
                points.points.truncate(data.train_points);
                points.labels.truncate(data.train_points);
                (points, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            }
            None => bail!(
                "data.points = \"original\" needs the files area2d/{{circle,s_shape}}_train.csv (columns x1,x2,label) in --data-dir, \
                 DS_DATA_DIR or ./data; data.points = \"generated\" needs none"
            ),
        },
    };
    let samples = |set: data::PointSet| Samples::points(&set.points, set.labels);
    Ok((samples(train)?, samples(data::area_grid(shape, data.test_grid))?, origin, false))
}

/// The function that a config's network fits, if that is what it does.
pub fn target(config: &Config) -> Option<Target> {
    let drawn = |slopes| Target::drawn(&mut Seed(config.seed).generator(Purpose::Data, 0), slopes);
    match config.data.dataset {
        Dataset::Square => Some(Target::Square),
        Dataset::Sine => Some(Target::Sine),
        Dataset::Absolute => Some(Target::Absolute),
        Dataset::Cube => Some(Target::Cube),
        Dataset::Cosine7 => Some(Target::Cosine7),
        Dataset::SlopesPm1 => Some(drawn(&[-1, 1])),
        Dataset::SlopesPm10 => Some(drawn(&[-1, 0, 1])),
        _ => None,
    }
}

fn function_samples(config: &Config) -> Result<(Samples, Samples, String, bool)> {
    let target = target(config).with_context(|| format!("{} is no function to fit", config.data.dataset))?;
    let samples = |n: usize| {
        let pairs = target.samples(n);
        let (arguments, values) = pairs.into_iter().unzip();
        Samples::function(arguments, values)
    };
    // The test points lie between those of training.
    Ok((samples(config.data.train_points)?, samples(4 * config.data.train_points + 1)?, "generated".to_owned(), false))
}

/// Holds a random part of the training set out for validation.
fn split(config: &Config, train: Samples) -> Result<(Samples, Option<Samples>)> {
    if config.data.validation == 0.0 {
        return Ok((train, None));
    }
    let n = train.len();
    let held_out = (config.data.validation * n as f64).round() as usize;
    if held_out == 0 || held_out >= n {
        bail!("data.validation = {} leaves an empty set of {n} training samples", config.data.validation);
    }
    let order = shuffled(n, &mut Seed(config.seed).generator(Purpose::Split, 0));
    let (validation, train_indices) = order.split_at(held_out);
    Ok((train.subset(train_indices)?, Some(train.subset(validation)?)))
}
