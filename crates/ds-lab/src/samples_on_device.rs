//! Samples that were put on a device once, and the batches that are cut from them there: the same numbers as
//! [`Samples::batch`] and [`Samples::augmented_batch`] give.

use crate::samples::Samples;
use candle_core::{DType, Device, Result, Tensor, bail};
use ds_core::graph::Graph;
use ds_nn::ops::images::{Pick, PlaceImages};
use ds_nn::ops::target_loss::{Tally, TargetLoss};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

enum Inputs {
    Images {
        /// Bytes (n, C, H, W).
        images: Tensor,
        /// (C, 256).
        table: Tensor,
    },
    /// (n, features).
    Rows(Tensor),
}

/// Samples on a device.
pub struct SamplesOnDevice {
    inputs: Inputs,
    targets: Tensor,
    loss: TargetLoss,
    len: usize,
}

/// Inputs and targets of one step, on the device.
pub struct BatchOnDevice {
    /// (N, …); what a network makes of them has their type.
    pub inputs: Tensor,
    targets: Tensor,
    loss: TargetLoss,
}

impl SamplesOnDevice {
    /// A copy on the device, whose batches have inputs of this type: f32 or bf16.
    ///
    /// # Errors
    /// If a label is not below the number of classes, or there is no room on the device.
    pub fn new(samples: &Samples, dtype: DType, device: &Device) -> Result<Self> {
        let len = samples.len();
        let rounded = |values: Vec<f32>, shape: (usize, usize)| {
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        let (inputs, targets, loss) = match samples {
            Samples::Images { set, table } => {
                if let Some(label) = set.labels.iter().find(|&&label| usize::from(label) >= set.classes) {
                    bail!("label {label} with {} classes", set.classes);
                }
                let shape = (len, set.channels, set.height, set.width);
                let table: Vec<f32> = table.iter().flatten().copied().collect();
                let inputs = Inputs::Images {
                    images: Tensor::from_slice(&set.images, shape, device)?,
                    table: rounded(table, (set.channels, 256))?,
                };
                (inputs, Tensor::from_slice(&set.labels, len, device)?, TargetLoss::CrossEntropy)
            }
            Samples::Points { points, targets } => {
                let points: Vec<f32> = points.iter().flatten().copied().collect();
                let inputs = Inputs::Rows(rounded(points, (len, 2))?);
                (inputs, Tensor::from_slice(targets, len, device)?, TargetLoss::Binary)
            }
            Samples::Function { arguments, values } => {
                let inputs = Inputs::Rows(rounded(arguments.to_vec(), (len, 1))?);
                (inputs, Tensor::from_slice(values, len, device)?, TargetLoss::Squared)
            }
        };
        Ok(Self { inputs, targets, loss, len })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The samples at these indices; images are cropped and flipped with draws from `rng`, if one is given.
    ///
    /// # Errors
    /// If an index is too large, or on Candle's errors.
    pub fn batch(&self, indices: &[usize], rng: Option<&mut ChaCha8Rng>) -> Result<BatchOnDevice> {
        self.gathered(&self.picks(indices, rng)?)
    }

    /// A part of the batch of these indices; what is drawn for its samples is what is drawn for them in the whole batch.
    ///
    /// # Errors
    /// As for [`batch`](Self::batch), and if there is no such part.
    pub fn part_of_batch(
        &self,
        indices: &[usize],
        part: Range<usize>,
        rng: Option<&mut ChaCha8Rng>,
    ) -> Result<BatchOnDevice> {
        match self.picks(indices, rng)?.get(part.clone()) {
            Some(picks) if !picks.is_empty() => self.gathered(picks),
            _ => bail!("samples {part:?} of a batch of {}", indices.len()),
        }
    }

    /// Which samples, and what of them.
    fn picks(&self, indices: &[usize], mut rng: Option<&mut ChaCha8Rng>) -> Result<Vec<Pick>> {
        if let Some(index) = indices.iter().find(|&&index| index >= self.len) {
            bail!("sample {index} of {}", self.len);
        }
        let is_placed = matches!(self.inputs, Inputs::Images { .. });
        let pick = |&index: &usize| match rng.as_deref_mut().filter(|_| is_placed) {
            None => Pick::whole(index as u32),
            Some(rng) => crate::samples::placed(index as u32, rng),
        };
        Ok(indices.iter().map(pick).collect())
    }

    fn gathered(&self, picks: &[Pick]) -> Result<BatchOnDevice> {
        let (device, count) = (self.targets.device(), picks.len());
        let chosen = Tensor::from_iter(picks.iter().map(|pick| pick.index), device)?;
        let inputs = match &self.inputs {
            Inputs::Images { images, table } => {
                let words: Vec<u32> = picks.iter().copied().flat_map(Pick::words).collect();
                images.apply_op3_no_bwd(table, &Tensor::from_vec(words, (count, 2), device)?, &PlaceImages)?
            }
            Inputs::Rows(rows) => rows.index_select(&chosen, 0)?,
        };
        Ok(BatchOnDevice { inputs, targets: self.targets.index_select(&chosen, 0)?, loss: self.loss })
    }
}

impl BatchOnDevice {
    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.targets.elem_count()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts another batch of the same size in its place, where it is.
    ///
    /// # Errors
    /// If the other one has another size or type.
    pub fn replace(&self, other: &Self) -> Result<()> {
        self.inputs.slice_set(&other.inputs, 0, 0)?;
        self.targets.slice_set(&other.targets, 0, 0)
    }

    /// The mean loss of the network's output.
    ///
    /// # Errors
    /// If the output does not fit the targets.
    pub fn loss_in<G: Graph>(&self, graph: &mut G, output: &G::Value) -> Result<G::Value> {
        let targets = graph.constant(&self.targets);
        graph.apply2(self.loss, output, &targets)
    }

    /// Adds losses and right answers of the network's output to `totals` (2, f64).
    ///
    /// # Errors
    /// If the output does not fit the targets.
    pub fn tally(&self, output: &Tensor, totals: &Tensor) -> Result<()> {
        totals.inplace_op3(output, &self.targets, &Tally(self.loss))
    }
}
