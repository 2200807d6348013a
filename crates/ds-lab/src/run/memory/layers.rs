//! The sizes of a network's layers, from its config.

use crate::config::{Config, Dataset, NetworkKind};

/// A layer with the activation behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    /// Weights, biases and what a batch norm has.
    pub weights: f64,
    /// Channels of its output.
    pub channels: f64,
    /// Numbers of a channel.
    pub plane: f64,
    /// Whether an activation follows.
    pub activated: bool,
}

impl Layer {
    fn dense(inputs: f64, outputs: f64) -> Self {
        Self { weights: (inputs + 1.0) * outputs, channels: outputs, plane: 1.0, activated: true }
    }

    /// A convolution whose output has a side of so many pixels, with biases or a batch norm.
    fn convolution((inputs, outputs): (f64, f64), kernel: f64, side: f64) -> Self {
        let weights = (inputs * kernel * kernel + 2.0) * outputs;
        Self { weights, channels: outputs, plane: side * side, activated: true }
    }

    fn without_activation(self) -> Self {
        Self { activated: false, ..self }
    }

    /// Numbers of its output for one sample.
    pub(super) fn outputs(&self) -> f64 {
        self.channels * self.plane
    }
}

/// Numbers of a sample.
pub(super) fn input_size(config: &Config) -> f64 {
    let (channels, side) = image_shape(config);
    channels * side * side
}

/// (channels, side) of an image; points and numbers are vectors.
fn image_shape(config: &Config) -> (f64, f64) {
    match config.data.dataset {
        Dataset::Cifar10 | Dataset::Cifar100 => (3.0, 32.0),
        Dataset::Mnist | Dataset::FashionMnist => (1.0, 28.0),
        dataset if dataset.is_area() => (2.0, 1.0),
        _ => (1.0, 1.0),
    }
}

/// From input to output.
pub(super) fn layers(config: &Config) -> Vec<Layer> {
    let classes = config.data.dataset.outputs() as f64;
    let hidden: Vec<f64> = config.network.hidden.iter().map(|&units| units as f64).collect();
    match config.network.kind {
        NetworkKind::Area | NetworkKind::Lipschitz => dense(input_size(config), &hidden, classes),
        NetworkKind::Scalar => vec![Layer { weights: 0.0, ..Layer::dense(1.0, 1.0) }],
        NetworkKind::Convnet => {
            let blocks = [Layer::convolution((1.0, 2.0), 5.0, 24.0), Layer::convolution((2.0, 2.0), 5.0, 8.0)];
            blocks.into_iter().chain(dense(32.0, &[], classes)).collect()
        }
        NetworkKind::Resnet32 => resnet32(classes),
        NetworkKind::Nin => nin(classes),
        NetworkKind::LipschitzConv => {
            let (channels, side) = image_shape(config);
            let (width, hidden) = hidden.split_first().map_or((0.0, &[][..]), |(width, hidden)| (*width, hidden));
            let (mut layers, mut inputs, mut side, mut width) = (Vec::new(), channels, side, width);
            for _ in 0..config.network.stages() {
                for _ in 0..config.network.depth() {
                    layers.push(Layer::convolution((inputs, width), 3.0, side));
                    inputs = width;
                }
                side /= 2.0;
                layers.push(Layer::convolution((width, 2.0 * width), 2.0, side));
                width *= 2.0;
                inputs = width;
            }
            layers.extend(dense(inputs * side * side, hidden, classes));
            layers
        }
    }
}

fn dense(mut inputs: f64, hidden: &[f64], outputs: f64) -> Vec<Layer> {
    let mut layers = Vec::with_capacity(hidden.len() + 1);
    for &units in hidden {
        layers.push(Layer::dense(inputs, units));
        inputs = units;
    }
    layers.push(Layer::dense(inputs, outputs).without_activation());
    layers
}

fn resnet32(classes: f64) -> Vec<Layer> {
    let mut layers = vec![Layer::convolution((3.0, 16.0), 3.0, 32.0)];
    let mut inputs = 16.0;
    for (width, side) in [(16.0, 32.0), (32.0, 16.0), (64.0, 8.0)] {
        for _ in 0..5 {
            layers.push(Layer::convolution((inputs, width), 3.0, side));
            layers.push(Layer::convolution((width, width), 3.0, side));
            if inputs != width {
                layers.push(Layer::convolution((inputs, width), 1.0, side).without_activation());
            }
            inputs = width;
        }
    }
    layers.extend(dense(64.0, &[], classes));
    layers
}

fn nin(classes: f64) -> Vec<Layer> {
    let widths =
        [(192.0, 5.0), (160.0, 1.0), (96.0, 1.0), (192.0, 5.0), (192.0, 1.0), (192.0, 1.0), (192.0, 3.0), (192.0, 1.0)];
    let mut inputs = 3.0;
    let layer = |(depth, (outputs, kernel)): (usize, (f64, f64))| {
        let side = [32.0, 16.0, 8.0][depth / 3];
        let layer = Layer::convolution((inputs, outputs), kernel, side);
        inputs = outputs;
        layer
    };
    widths.into_iter().chain([(classes, 1.0)]).enumerate().map(layer).collect()
}
