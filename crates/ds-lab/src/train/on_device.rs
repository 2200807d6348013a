//! Evaluations and epochs of which nothing is fetched but sums.

use super::{Evaluation, Rate, Replica, StepsOnDevice, Trainer, check_finite};
use crate::config::Config;
use crate::device;
use crate::experiment::Setup;
use crate::interrupt;
use crate::penalty::SplinePenalty;
use crate::progress::Progress;
use crate::samples_on_device::{BatchOnDevice, SamplesOnDevice};
use anyhow::Result;
use candle_core::{DType, Tensor};
use ds_core::graph::Graph;
use ds_nn::layers::Mode;
use ds_nn::networks::Network;
use ds_nn::ops::cast::cast;
use ds_nn::ops::dropout::Key;
use ds_nn::rng::Purpose;
use ds_nn::tape::{Tape, Value};

/// The loss of a batch, on its tape; adds to the totals.
pub(super) fn forward(
    network: &Network,
    batch: &BatchOnDevice,
    dropout: Key<'_>,
    totals: &Tensor,
) -> candle_core::Result<(Tape, Value)> {
    let mut tape = Tape::recording();
    let x = tape.constant(&batch.inputs);
    let output = network.forward_in(&mut tape, &x, Mode::Training { dropout })?;
    let output = cast(&mut tape, &output, DType::F32)?;
    let loss = batch.loss_in(&mut tape, &output)?;
    batch.tally(tape.tensor(&output), totals)?;
    Ok((tape, loss))
}

/// (Σ loss, right answers) of all replicas from the device, which starts again from 0, in place.
fn fetched(totals: &Tensor, replica: Option<&Replica<'_>>) -> candle_core::Result<(f64, usize)> {
    if let Some(replica) = replica {
        replica.communicator.sum(totals)?;
    }
    let sums = totals.to_vec1::<f64>()?;
    totals.zero_set()?;
    Ok((sums[0], sums[1] as usize))
}

/// (Σ loss, right answers) over samples in evaluation mode; each replica takes a share of them.
pub(super) fn evaluate_on_device(
    network: &Network,
    samples: &SamplesOnDevice,
    replica: Option<&Replica<'_>>,
) -> candle_core::Result<(f64, usize)> {
    let totals = Tensor::zeros(2, DType::F64, &network.device())?;
    let all = 0..samples.len();
    let indices: Vec<usize> = replica.map_or(all, |replica| replica.share(samples.len())).collect();
    for indices in indices.chunks(1000) {
        if replica.is_none() {
            interrupt::check().map_err(candle_core::Error::wrap)?;
        }
        let batch = samples.batch(indices, None)?;
        let mut tape = Tape::inference();
        let x = tape.constant(&batch.inputs);
        let output = network.forward_in(&mut tape, &x, Mode::Evaluation)?;
        batch.tally(tape.tensor(&output), &totals)?;
    }
    fetched(&totals, replica)
}

/// What a run keeps on its device.
pub(super) struct OnDevice<'a> {
    train: SamplesOnDevice,
    /// In the order of [`Setup::held_out`].
    pub(super) held_out: Vec<SamplesOnDevice>,
    steps: StepsOnDevice<'a>,
    /// So many samples (those of all replicas) have losses and right answers that were not fetched yet.
    pending: usize,
    /// The last epoch that was fetched, to be shown while the next one runs.
    pub(super) last: Option<Evaluation>,
}

impl<'a> OnDevice<'a> {
    /// `None` on the CPU, but for replicas. Training is in the config's precision; evaluation is in f32, as that of a checkpoint
    /// is.
    pub(super) fn new(
        config: &Config,
        setup: &'a Setup,
        penalty: Option<SplinePenalty>,
        is_replica: bool,
    ) -> Result<Option<Self>> {
        let device = setup.network.device();
        if device.is_cpu() && !is_replica {
            return Ok(None);
        }
        let put = |samples| SamplesOnDevice::new(samples, DType::F32, &device);
        // Sums over replicas go on beside a step, on a stream of their own.
        let graphs = (!is_replica && device::uses_graphs()).then_some(config.train.batch_size);
        Ok(Some(Self {
            train: SamplesOnDevice::new(&setup.train, config.train.precision.dtype(), &device)?,
            held_out: setup
                .held_out()
                .into_iter()
                .map(|(_, samples)| put(samples))
                .collect::<candle_core::Result<_>>()?,
            steps: StepsOnDevice::new(&setup.network, penalty, graphs)?,
            pending: 0,
            last: None,
        }))
    }
}

impl Trainer<'_> {
    /// The same with all of it on the device; the host runs ahead and waits when it fetches the sums.
    pub(super) fn epoch_on_device(
        &mut self,
        epoch: usize,
        order: &[usize],
        rate: &mut Rate,
        progress: &mut Progress,
    ) -> Result<()> {
        let (config, size) = (self.config, self.config.train.batch_size);
        let batches = order.len().div_ceil(size);
        for indices in order.chunks(size).skip(self.position.batch) {
            let step = self.position.step;
            let Some(on_device) = &mut self.on_device else { break };
            let mut rng = config.data.augment.then(|| self.seed.generator(Purpose::Augmentation, step));
            let dropout = self.seed.key(Purpose::Dropout, step);
            let (optimizers, at) = (&mut self.optimizers, (epoch, dropout));
            if let Some(replica) = &self.replica {
                let (part, weight) = replica.part_of_batch(indices.len());
                let batch = on_device.train.part_of_batch(indices, part, rng.as_mut())?;
                let (network, penalty) = (&self.setup.network, self.penalty.as_ref());
                replica.step(network, (&batch, weight), penalty, optimizers, at, on_device.steps.totals())?;
            } else {
                let batch = on_device.train.batch(indices, rng.as_mut())?;
                on_device.steps.step(batch, optimizers, at)?;
            }
            on_device.pending += indices.len();
            self.position.step += 1;
            self.position.batch += 1;
            self.after_step(epoch, indices.len(), batches, rate, progress)?;
        }
        Ok(())
    }

    /// Adds what the device has summed up to the sums of the epoch.
    pub(super) fn fetch(&mut self) -> Result<()> {
        let Some(on_device) = &mut self.on_device else { return Ok(()) };
        if on_device.pending > 0 {
            let (loss, correct) = fetched(on_device.steps.totals(), self.replica.as_ref())?;
            check_finite(loss, self.position.step, self.position.epoch)?;
            let sums = &mut self.position.sums;
            sums.loss += loss;
            sums.correct += correct;
            sums.samples += std::mem::take(&mut on_device.pending);
        }
        let now = self.epoch_so_far();
        if let Some(on_device) = &mut self.on_device {
            on_device.last = Some(now);
        }
        Ok(())
    }
}
