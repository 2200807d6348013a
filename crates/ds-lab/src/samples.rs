//! Samples of an experiment and the batches that are cut from them: order, crop, flip, normalisation.

use crate::data::ImageSet;
use candle_core::{Device, Result, Tensor, bail};
use ds_core::graph::Graph;
use ds_core::ops::real::with_elements;
use ds_nn::ops::images::Pick;
use ds_nn::ops::loss::{BinaryCrossEntropy, CrossEntropy, MeanSquaredError};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Mean and standard deviation of each channel, for pixels in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// One mean a channel.
    pub mean: Vec<f64>,
    /// One standard deviation a channel.
    pub deviation: Vec<f64>,
}

impl Normalization {
    /// (v/255 − mean)/deviation for every byte v: (channels, 256).
    fn table(&self) -> Vec<[f32; 256]> {
        let row =
            |(mean, deviation): (&f64, &f64)| std::array::from_fn(|v| ((v as f64 / 255.0 - mean) / deviation) as f32);
        self.mean.iter().zip(&self.deviation).map(row).collect()
    }
}

/// Samples with their targets.
#[derive(Debug, Clone)]
pub enum Samples {
    /// Images with classes; the loss is the cross-entropy.
    Images {
        /// Bytes (N, C, H, W) and labels.
        set: Arc<ImageSet>,
        /// Normalised values by channel and byte.
        table: Arc<Vec<[f32; 256]>>,
    },
    /// Points of the plane with targets 0 or 1; the loss is the binary cross-entropy.
    Points {
        /// (N, 2).
        points: Arc<Vec<[f32; 2]>>,
        /// N targets.
        targets: Arc<Vec<f32>>,
    },
    /// Numbers with function values; the loss is the mean squared error.
    Function {
        /// N arguments.
        arguments: Arc<Vec<f32>>,
        /// N values.
        values: Arc<Vec<f32>>,
    },
}

/// The targets of one batch.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Class labels.
    Classes(Arc<[u8]>),
    /// 0 or 1.
    Binary(Arc<[f32]>),
    /// Function values.
    Values(Arc<[f32]>),
}

/// Inputs and targets of one step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// (N, …).
    pub inputs: Tensor,
    /// N targets.
    pub targets: Targets,
}

/// A random crop out of 4 pixels of padding, and a random flip.
struct Placement {
    dy: isize,
    dx: isize,
    flip: bool,
}

const PADDING: i32 = 4;

impl Placement {
    fn drawn(rng: &mut ChaCha8Rng) -> Self {
        Self {
            dy: rng.random_range(-PADDING..=PADDING) as isize,
            dx: rng.random_range(-PADDING..=PADDING) as isize,
            flip: rng.random(),
        }
    }
}

/// An image with the crop and the flip that a batch would draw for it.
pub(crate) fn placed(index: u32, rng: &mut ChaCha8Rng) -> Pick {
    let Placement { dy, dx, flip } = Placement::drawn(rng);
    Pick { index, dy: dy as i8, dx: dx as i8, flip }
}

impl Samples {
    /// Images with the values they are normalised to.
    pub fn images(set: impl Into<Arc<ImageSet>>, normalization: &Normalization) -> Self {
        Self::Images { set: set.into(), table: Arc::new(normalization.table()) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Images { set, .. } => set.len(),
            Self::Points { targets, .. } => targets.len(),
            Self::Function { values, .. } => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples at these indices as a set of its own.
    pub fn subset(&self, indices: &[usize]) -> Self {
        match self {
            Self::Images { set, table } => Self::Images { set: Arc::new(set.subset(indices)), table: table.clone() },
            Self::Points { points, targets } => Self::Points {
                points: Arc::new(indices.iter().map(|&i| points[i]).collect()),
                targets: Arc::new(indices.iter().map(|&i| targets[i]).collect()),
            },
            Self::Function { arguments, values } => Self::Function {
                arguments: Arc::new(indices.iter().map(|&i| arguments[i]).collect()),
                values: Arc::new(indices.iter().map(|&i| values[i]).collect()),
            },
        }
    }

    /// Whether an accuracy has a meaning.
    pub fn has_accuracy(&self) -> bool {
        !matches!(self, Self::Function { .. })
    }

    /// The largest change of an input per change of a pixel in [0, 1], which normalisation makes: 1/deviation; `None` for
    /// what is no image.
    pub fn contrast(&self) -> Option<f64> {
        let Self::Images { table, .. } = self else { return None };
        Some(table.iter().map(|values| f64::from(values[255]) - f64::from(values[0])).fold(0.0, f64::max))
    }

    /// The samples at these indices, as they are.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn batch(&self, indices: &[usize]) -> Result<Batch> {
        self.assemble(indices, None)
    }

    /// The samples at these indices; images are cropped and flipped with draws from `rng`.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn augmented_batch(&self, indices: &[usize], rng: &mut ChaCha8Rng) -> Result<Batch> {
        self.assemble(indices, Some(rng))
    }

    fn assemble(&self, indices: &[usize], rng: Option<&mut ChaCha8Rng>) -> Result<Batch> {
        let pick = |values: &[f32]| indices.iter().map(|&i| values[i]).collect::<Arc<[f32]>>();
        match self {
            Self::Points { points, targets } => {
                let inputs: Vec<f32> = indices.iter().flat_map(|&i| points[i]).collect();
                let inputs = Tensor::from_vec(inputs, (indices.len(), 2), &Device::Cpu)?;
                Ok(Batch { inputs, targets: Targets::Binary(pick(targets)) })
            }
            Self::Function { arguments, values } => {
                let inputs: Vec<f32> = indices.iter().map(|&i| arguments[i]).collect();
                let inputs = Tensor::from_vec(inputs, (indices.len(), 1), &Device::Cpu)?;
                Ok(Batch { inputs, targets: Targets::Values(pick(values)) })
            }
            Self::Images { set, table } => {
                let mut inputs = Vec::with_capacity(indices.len() * set.channels * set.height * set.width);
                let mut rng = rng;
                for &i in indices {
                    let placement = rng.as_deref_mut().map(Placement::drawn);
                    normalise(set, table, i, placement, &mut inputs);
                }
                let shape = (indices.len(), set.channels, set.height, set.width);
                let labels = indices.iter().map(|&i| set.labels[i]).collect();
                Ok(Batch { inputs: Tensor::from_vec(inputs, shape, &Device::Cpu)?, targets: Targets::Classes(labels) })
            }
        }
    }
}

/// Appends one image; what a crop takes from outside is black before normalisation, as in torchvision.
fn normalise(set: &ImageSet, table: &[[f32; 256]], i: usize, placement: Option<Placement>, out: &mut Vec<f32>) {
    let area = set.height * set.width;
    for (plane, values) in set.image(i).chunks_exact(area).zip(table) {
        let Some(Placement { dy, dx, flip }) = placement else {
            out.extend(plane.iter().map(|&v| values[usize::from(v)]));
            continue;
        };
        let (height, width) = (set.height as isize, set.width as isize);
        for y in 0..height {
            let (y, start) = (y + dy, out.len());
            if !(0..height).contains(&y) {
                out.resize(start + set.width, values[0]);
                continue;
            }
            let row = &plane[y as usize * set.width..(y as usize + 1) * set.width];
            out.extend((0..width).map(|x| {
                let x = x + dx;
                if (0..width).contains(&x) { values[usize::from(row[x as usize])] } else { values[0] }
            }));
            if flip {
                out[start..].reverse();
            }
        }
    }
}

/// A random order of 0..n.
pub fn shuffled(n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(rng);
    order
}

impl Targets {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(labels) => labels.len(),
            Self::Binary(targets) | Self::Values(targets) => targets.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mean loss of the network's output.
    ///
    /// # Errors
    /// If the output does not fit the targets.
    pub fn loss_in<G: Graph>(&self, graph: &mut G, output: &G::Value) -> Result<G::Value> {
        match self {
            Self::Classes(labels) => graph.apply1(CrossEntropy { labels: labels.clone() }, output),
            Self::Binary(targets) => graph.apply1(BinaryCrossEntropy { targets: targets.clone() }, output),
            Self::Values(targets) => graph.apply1(MeanSquaredError { targets: targets.clone() }, output),
        }
    }

    /// How many outputs are right.
    ///
    /// # Errors
    /// If the output does not fit the targets.
    pub fn correct(&self, output: &Tensor) -> Result<usize> {
        with_elements::<f32, _>(output, |output| match self {
            Self::Classes(labels) => {
                if labels.is_empty() || output.len() % labels.len() != 0 {
                    bail!("{} outputs for {} labels", output.len(), labels.len());
                }
                let rows = output.chunks_exact(output.len() / labels.len());
                Ok(rows.zip(labels.iter()).filter(|(row, label)| largest(row) == usize::from(**label)).count())
            }
            Self::Binary(targets) => {
                Ok(output.iter().zip(targets.iter()).filter(|(v, t)| (**v > 0.0) == (**t > 0.5)).count())
            }
            Self::Values(_) => Ok(0),
        })
    }
}

/// The first of the largest entries.
fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (class, &v) in row.iter().enumerate() {
        if v > row[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::DType;
    use ds_nn::rng::{Purpose, Seed};

    fn ramp() -> Samples {
        let set = ImageSet {
            images: (0..2 * 3 * 4 * 5).map(|v| v as u8).collect(),
            labels: vec![0, 1],
            channels: 3,
            height: 4,
            width: 5,
            classes: 2,
        };
        Samples::images(set, &Normalization { mean: vec![0.0; 3], deviation: vec![1.0 / 255.0; 3] })
    }

    #[test]
    fn plain_batches_are_the_pixels() {
        let batch = ramp().batch(&[1, 0]).unwrap();
        assert_eq!(batch.inputs.dims(), [2, 3, 4, 5]);
        let pixels = batch.inputs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(pixels[0].round(), 60.0);
        assert_eq!(pixels[60].round(), 0.0);
    }

    #[test]
    fn crops_shift_and_flip_and_repeat() {
        let samples = ramp();
        let draw = |seed| {
            let mut rng = Seed(seed).generator(Purpose::Augmentation, 7);
            let batch = samples.augmented_batch(&[0; 64], &mut rng).unwrap();
            batch.inputs.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
        // Every non-black pixel keeps its distance to its right neighbour, up to the direction of a flip.
        for image in draw(0).chunks_exact(60) {
            for row in image.chunks_exact(5) {
                let inside: Vec<f32> = row.iter().copied().filter(|v| *v > 0.5).collect();
                let steps: Vec<f32> = inside.windows(2).map(|w| (w[1] - w[0]).round()).collect();
                assert!(steps.iter().all(|s| *s == 1.0) || steps.iter().all(|s| *s == -1.0), "{row:?}");
            }
        }
    }

    #[test]
    fn batches_that_are_cut_on_a_device_are_the_same() {
        let samples = ramp();
        let there = crate::samples_on_device::SamplesOnDevice::new(&samples, DType::F32, &Device::Cpu).unwrap();
        let order: Vec<usize> = (0..200).map(|k| k % 2).collect();
        let rng = || Seed(3).generator(Purpose::Augmentation, 7);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let augmented = samples.augmented_batch(&order, &mut rng()).unwrap();
        assert_eq!(flat(&there.batch(&order, Some(&mut rng())).unwrap().inputs), flat(&augmented.inputs));
        let plain = samples.batch(&order).unwrap();
        assert_eq!(flat(&there.batch(&order, None).unwrap().inputs), flat(&plain.inputs));
        assert!(there.batch(&[2], None).is_err());
        // In bf16 the same numbers, rounded.
        let narrow = crate::samples_on_device::SamplesOnDevice::new(&samples, DType::BF16, &Device::Cpu).unwrap();
        let inputs = narrow.batch(&order, Some(&mut rng())).unwrap().inputs;
        assert_eq!(inputs.dtype(), DType::BF16);
        let rounded = augmented.inputs.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(flat(&inputs.to_dtype(DType::F32).unwrap()), flat(&rounded));
    }

    #[test]
    fn correct_answers_are_counted() {
        let output = Tensor::new(&[[0.1f32, 0.9], [0.8, 0.2]], &Device::Cpu).unwrap();
        assert_eq!(Targets::Classes([1u8, 1].into()).correct(&output).unwrap(), 1);
        let output = Tensor::new(&[[0.5f32], [-0.5]], &Device::Cpu).unwrap();
        assert_eq!(Targets::Binary([1f32, 0.0].into()).correct(&output).unwrap(), 2);
    }
}
