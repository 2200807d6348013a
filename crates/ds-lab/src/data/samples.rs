//! Samples of an experiment and the batches that are cut from them, on any device: order, crop, flip, normalisation.

use super::ImageSet;
use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use ds_core::backend::real::elements;
use ds_core::graph::Graph;
use ds_nn::ops::images::{Crop, gather};
use ds_nn::ops::loss::{Kind, Loss};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

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

#[derive(Debug, Clone)]
enum Inputs {
    Images {
        /// Bytes (n, C, H, W).
        images: Tensor,
        /// Normalised values by channel and byte (C, 256).
        table: Tensor,
    },
    /// (n, features).
    Rows(Tensor),
}

/// Samples with their targets, on one device. Clones share the tensors.
#[derive(Debug, Clone)]
pub struct Samples {
    inputs: Inputs,
    targets: Tensor,
    loss: Kind,
    margin: f64,
    outputs: usize,
}

/// Inputs and targets of one step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// (N, …), in the type of the samples.
    pub inputs: Tensor,
    /// N targets.
    pub targets: Tensor,
    loss: Kind,
    margin: f64,
}

/// Pixels of padding around an image that a crop is drawn from.
const PADDING: i8 = 4;

/// A random crop of a padded image, and a random flip.
fn drawn(index: u32, rng: &mut ChaCha8Rng) -> Crop {
    let mut shift = || rng.random_range(-i32::from(PADDING)..=i32::from(PADDING)) as i8;
    let (dy, dx) = (shift(), shift());
    Crop { index, dy, dx, flip: rng.random() }
}

impl Samples {
    /// Images with classes; the loss is the cross-entropy.
    ///
    /// # Errors
    /// If the set has another number of channels.
    pub fn images(set: &ImageSet, normalization: &Normalization) -> Result<Self> {
        let table: Vec<f32> = normalization.table().into_iter().flatten().collect();
        let table = Tensor::from_vec(table, (set.images.dim(1)?, 256), &Device::Cpu)?;
        let inputs = Inputs::Images { images: set.images.clone(), table };
        Ok(Self { inputs, targets: set.labels.clone(), loss: Kind::CrossEntropy, margin: 0.0, outputs: set.classes })
    }

    /// Points of the plane with targets 0 or 1; the loss is the binary cross-entropy.
    ///
    /// # Errors
    /// If there is another number of targets.
    pub fn points(points: &[[f32; 2]], targets: Vec<f32>) -> Result<Self> {
        let count = points.len();
        let points = Tensor::from_vec(points.iter().flatten().copied().collect(), (count, 2), &Device::Cpu)?;
        let targets = Tensor::from_vec(targets, count, &Device::Cpu)?;
        Ok(Self { inputs: Inputs::Rows(points), targets, loss: Kind::BinaryCrossEntropy, margin: 0.0, outputs: 1 })
    }

    /// Numbers with function values; the loss is the mean squared error.
    ///
    /// # Errors
    /// If there is another number of values.
    pub fn function(arguments: Vec<f32>, values: Vec<f32>) -> Result<Self> {
        let count = arguments.len();
        let arguments = Tensor::from_vec(arguments, (count, 1), &Device::Cpu)?;
        let targets = Tensor::from_vec(values, count, &Device::Cpu)?;
        Ok(Self { inputs: Inputs::Rows(arguments), targets, loss: Kind::MeanSquaredError, margin: 0.0, outputs: 1 })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.targets.elem_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outputs of a network for them: the classes of images, else 1.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether the samples are images.
    pub fn are_images(&self) -> bool {
        matches!(self.inputs, Inputs::Images { .. })
    }

    /// The device that the samples are on.
    pub fn device(&self) -> &Device {
        self.targets.device()
    }

    /// The samples at these indices as a set of its own.
    ///
    /// # Errors
    /// If an index is too large.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let indices = Tensor::from_iter(indices.iter().map(|&i| i as u32), self.device())?;
        let select = |tensor: &Tensor| tensor.index_select(&indices, 0);
        let inputs = match &self.inputs {
            Inputs::Images { images, table } => Inputs::Images { images: select(images)?, table: table.clone() },
            Inputs::Rows(rows) => Inputs::Rows(select(rows)?),
        };
        Ok(Self { inputs, targets: select(&self.targets)?, ..*self })
    }

    /// The samples on a device, with inputs of batches in this type, f32 or bf16; the tensors themselves where they are so already.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        let rounded = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        let inputs = match &self.inputs {
            Inputs::Images { images, table } => {
                Inputs::Images { images: images.to_device(device)?, table: rounded(table)? }
            }
            Inputs::Rows(rows) => Inputs::Rows(rounded(rows)?),
        };
        Ok(Self { inputs, targets: self.targets.to_device(device)?, ..*self })
    }

    /// The same with a margin in their cross-entropy ([`Loss::margin`]).
    pub fn with_margin(self, margin: f64) -> Self {
        Self { margin, ..self }
    }

    /// Whether an accuracy has a meaning.
    pub fn has_accuracy(&self) -> bool {
        self.loss != Kind::MeanSquaredError
    }

    /// The largest change of an input per change of a pixel in [0, 1], which normalisation makes: 1/deviation; `None` for
    /// what is no image.
    pub fn contrast(&self) -> Result<Option<f64>> {
        let Inputs::Images { table, .. } = &self.inputs else { return Ok(None) };
        let rows = table.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        Ok(Some(rows.iter().map(|values| values[255] - values[0]).fold(0.0, f64::max)))
    }

    /// The samples at these indices; images are cropped and flipped with draws from `rng`, if one is given.
    ///
    /// # Errors
    /// If an index is too large.
    pub fn batch(&self, indices: &[usize], rng: Option<&mut ChaCha8Rng>) -> Result<Batch> {
        self.part_of_batch(indices, 0..indices.len(), rng)
    }

    /// A part of the batch of these indices; what is drawn for its samples is what is drawn for them in the whole batch.
    ///
    /// # Errors
    /// If an index is too large, or there is no such part.
    pub fn part_of_batch(&self, indices: &[usize], part: Range<usize>, rng: Option<&mut ChaCha8Rng>) -> Result<Batch> {
        let Some(of_part) = indices.get(part.clone()).filter(|part| !part.is_empty()) else {
            bail!("samples {part:?} of a batch of {}", indices.len())
        };
        let inputs = match &self.inputs {
            Inputs::Images { images, table } => {
                let crops: Vec<Crop> = match rng {
                    Some(rng) => indices.iter().map(|&index| drawn(index as u32, rng)).collect(),
                    None => indices.iter().map(|&index| Crop::whole(index as u32)).collect(),
                };
                gather(images, table, &crops[part])?
            }
            Inputs::Rows(rows) => gather_rows(rows, of_part)?,
        };
        Ok(Batch { inputs, targets: gather_rows(&self.targets, of_part)?, loss: self.loss, margin: self.margin })
    }
}

/// The rows of a tensor at these indices. On the CPU without an index tensor, which takes longer than copying a few numbers.
fn gather_rows(rows: &Tensor, indices: &[usize]) -> Result<Tensor> {
    fn on_cpu<T: WithDType>(rows: &Tensor, indices: &[usize]) -> Result<Tensor> {
        let (storage, layout) = rows.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("rows are not on the CPU") };
        let all = elements::<T>(storage, layout)?;
        let mut shape = rows.shape().clone().into_dims();
        let width = shape[1..].iter().product::<usize>();
        let mut gathered = Vec::with_capacity(indices.len() * width);
        for &index in indices {
            match all.get(index * width..(index + 1) * width) {
                Some(row) => gathered.extend_from_slice(row),
                None => bail!("sample {index} of {}", shape[0]),
            }
        }
        shape[0] = indices.len();
        Tensor::from_vec(gathered, shape, rows.device())
    }
    match (rows.device(), rows.dtype()) {
        (Device::Cpu, DType::F32) => on_cpu::<f32>(rows, indices),
        (Device::Cpu, DType::U8) => on_cpu::<u8>(rows, indices),
        (device, _) => rows.index_select(&Tensor::from_iter(indices.iter().map(|&i| i as u32), device)?, 0),
    }
}

/// A random order of 0..n.
pub fn shuffled(n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(rng);
    order
}

impl Batch {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.targets.elem_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies another batch of the same size to the place of this one.
    ///
    /// # Errors
    /// If the other one has another size or type.
    pub fn replace(&self, other: &Self) -> Result<()> {
        self.inputs.slice_set(&other.inputs, 0, 0)?;
        self.targets.slice_set(&other.targets, 0, 0)
    }

    /// The labels of images; `None` for other samples.
    pub fn labels(&self) -> Result<Option<Vec<u8>>> {
        (self.loss == Kind::CrossEntropy).then(|| self.targets.to_vec1()).transpose()
    }

    /// The mean loss of the network's output in f32; the sums (2, f64) of losses and of correct predictions are added to `totals`.
    ///
    /// # Errors
    /// If the output does not fit the targets.
    pub fn loss_in<G: Graph>(&self, graph: &mut G, output: &G::Value, totals: &Tensor) -> Result<G::Value> {
        let (output, targets) = (graph.to_dtype(output, DType::F32)?, graph.constant(&self.targets));
        let loss = Loss { kind: self.loss, margin: self.margin, totals: Some(totals.clone()) };
        graph.apply(loss, [&output, &targets])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ds_nn::rng::{Purpose, Seed};

    fn ramp() -> Samples {
        let pixels = (0..2 * 3 * 4 * 5).map(|v| v as u8).collect();
        let set = ImageSet::new(pixels, vec![0, 1], (3, 4, 5), 2).unwrap();
        Samples::images(&set, &Normalization { mean: vec![0.0; 3], deviation: vec![1.0 / 255.0; 3] }).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn plain_batches_are_the_pixels() {
        let batch = ramp().batch(&[1, 0], None).unwrap();
        assert_eq!(batch.inputs.dims(), [2, 3, 4, 5]);
        let pixels = flat(&batch.inputs);
        assert_eq!((pixels[0].round(), pixels[60].round()), (60.0, 0.0));
        assert_eq!(batch.labels().unwrap(), Some(vec![1, 0]));
        assert!(ramp().batch(&[2], None).is_err());
        assert_eq!(ramp().subset(&[1]).unwrap().batch(&[0], None).unwrap().labels().unwrap(), Some(vec![1]));
    }

    #[test]
    fn crops_shift_and_flip_and_repeat() {
        let samples = ramp();
        let draw = |seed| {
            let mut rng = Seed(seed).generator(Purpose::Augmentation, 7);
            flat(&samples.batch(&[0; 64], Some(&mut rng)).unwrap().inputs)
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
    fn parts_of_batches_and_other_types_are_the_same_samples() {
        let (samples, order) = (ramp(), (0..200).map(|k| k % 2).collect::<Vec<usize>>());
        let rng = || Seed(3).generator(Purpose::Augmentation, 7);
        let whole = samples.batch(&order, Some(&mut rng())).unwrap();
        let part = samples.part_of_batch(&order, 50..80, Some(&mut rng())).unwrap();
        assert_eq!(flat(&part.inputs), flat(&whole.inputs)[50 * 60..80 * 60]);
        assert!(samples.part_of_batch(&order, 200..200, None).is_err());
        // In bf16 the same numbers, rounded.
        let narrow = samples.to(DType::BF16, &Device::Cpu).unwrap().batch(&order, Some(&mut rng())).unwrap().inputs;
        assert_eq!(narrow.dtype(), DType::BF16);
        assert_eq!(flat(&narrow), flat(&whole.inputs.to_dtype(DType::BF16).unwrap()));
    }

    #[test]
    fn rows_are_gathered_on_the_cpu_as_by_an_index() {
        let rows = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((4, 3)).unwrap();
        assert_eq!(flat(&gather_rows(&rows, &[2, 0]).unwrap()), [6.0, 7.0, 8.0, 0.0, 1.0, 2.0]);
        let narrow = rows.to_dtype(DType::BF16).unwrap();
        assert_eq!(flat(&gather_rows(&narrow, &[2, 0]).unwrap()), [6.0, 7.0, 8.0, 0.0, 1.0, 2.0]);
        assert!(gather_rows(&rows, &[4]).is_err());
    }
}
