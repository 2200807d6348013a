//! The training loop.

mod evaluation;
mod graph;
mod on_device;
mod optimizers;
mod replica;

pub use evaluation::{Evaluation, count_active_knots, count_knots, evaluate};
pub use graph::StepsOnDevice;
pub use optimizers::Optimizers;

use self::evaluation::evaluation;
use self::on_device::{OnDevice, evaluate_on_device};
use self::replica::Replica;
use crate::batches::Epoch;
use crate::bounds;
use crate::checkpoint::{BestEpoch, Checkpoint, EpochSums, Position, write_network};
use crate::config::Config;
use crate::device;
use crate::experiment::Setup;
use crate::file_names::{BEST, CHECKPOINT, METRICS};
use crate::interrupt;
use crate::metrics::{MetricsRow, MetricsWriter, Split};
use crate::penalty::SplinePenalty;
use crate::progress::{Loss, Progress, Status};
use crate::samples::{Batch, shuffled};
use anyhow::{Context, Result};
use ds_core::graph::Graph;
use ds_nn::layers::Mode;
use ds_nn::networks::Network;
use ds_nn::parallel::Communicator;
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::{Tape, TapeGradients};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One training step; returns the batch's mean loss and its number of right answers.
///
/// # Errors
/// On Candle's errors.
pub fn step(
    network: &Network,
    batch: &Batch,
    penalty: Option<&SplinePenalty>,
    optimizers: &mut Optimizers,
    epoch: usize,
    dropout: u64,
) -> candle_core::Result<(f64, usize)> {
    let mut tape = Tape::recording();
    let x = tape.constant(&batch.inputs);
    let output = network.forward_in(&mut tape, &x, Mode::training(dropout))?;
    let loss = batch.targets.loss_in(&mut tape, &output)?;
    let value = f64::from(tape.tensor(&loss).to_scalar::<f32>()?);
    let correct = batch.targets.correct(tape.tensor(&output))?;
    let gradients = tape.backward(&loss)?;
    optimizers.prepare(epoch)?;
    update(network, gradients, penalty, optimizers)?;
    Ok((value, correct))
}

/// Adds the penalty to the gradients of the data loss and makes the step that the optimisers have begun.
fn update(
    network: &Network,
    mut gradients: TapeGradients,
    penalty: Option<&SplinePenalty>,
    optimizers: &Optimizers,
) -> candle_core::Result<()> {
    if let Some(penalty) = penalty {
        penalty.add_gradient(network, &mut gradients)?;
    }
    optimizers.apply(&gradients)
}

/// A run in its directory, between two steps.
pub struct Trainer<'a> {
    config: &'a Config,
    setup: &'a Setup,
    optimizers: Optimizers,
    penalty: Option<SplinePenalty>,
    position: Position,
    /// Of the replica that writes: of rank 0, where there are several.
    metrics: Option<MetricsWriter>,
    directory: PathBuf,
    last_checkpoint: Instant,
    started: Instant,
    seconds_before: f64,
    seed: Seed,
    on_device: Option<OnDevice<'a>>,
    replica: Option<Replica<'a>>,
}

impl<'a> Trainer<'a> {
    /// Starts a run in `directory`, or goes on from the checkpoint there; with a communicator as one of its replicas, of which
    /// that of rank 0 writes.
    ///
    /// # Errors
    /// If files cannot be written, or the checkpoint does not fit.
    pub fn new(
        config: &'a Config,
        setup: &'a Setup,
        directory: &Path,
        resume: Option<&Checkpoint>,
        communicator: Option<&'a dyn Communicator>,
    ) -> Result<Self> {
        // Both may be relative to the weights before training, so they come before those of a checkpoint.
        let mut optimizers = Optimizers::new(config, &setup.network)?;
        let penalty = SplinePenalty::new(config, &setup.network)?;
        let metrics_path = directory.join(METRICS);
        let mut position = resume.map(|checkpoint| checkpoint.position.clone()).unwrap_or_default();
        let device = device::description(&setup.network.device(), communicator.map_or(1, Communicator::size));
        if resume.is_some() && position.devices.is_empty() {
            // Checkpoints did not always tell.
            position.devices.push("unknown".to_owned());
        }
        if position.epoch < config.train.epochs && position.devices.last() != Some(&device) {
            position.devices.push(device);
        }
        if let Some(checkpoint) = resume {
            checkpoint.restore_network(&setup.network)?;
            checkpoint.restore_optimizers(&mut optimizers)?;
        }
        if !config.train.keep_best || !directory.join(BEST).exists() {
            position.best = None;
        }
        let writes = communicator.is_none_or(|communicator| communicator.rank() == 0);
        let open = || match resume {
            None => MetricsWriter::create(&metrics_path),
            Some(_) => MetricsWriter::resume(&metrics_path, position.metrics_bytes, position.metrics_md5.as_deref()),
        };
        let replica = communicator.map(|communicator| Replica::new(&setup.network, communicator)).transpose()?;
        Ok(Self {
            config,
            setup,
            optimizers,
            on_device: OnDevice::new(config, setup, penalty.clone(), replica.is_some())?,
            penalty,
            metrics: writes.then(open).transpose()?,
            seconds_before: position.seconds,
            position,
            directory: directory.to_owned(),
            last_checkpoint: Instant::now(),
            started: Instant::now(),
            seed: Seed(config.seed),
            replica,
        })
    }

    /// Seconds of training so far, those before a resumption included.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// What it was trained on, one after the other, as it stands in summaries.
    pub fn devices(&self) -> String {
        self.position.devices.join(device::THEN)
    }

    /// The epoch with the best validation, if its network is kept.
    pub fn best(&self) -> Option<BestEpoch> {
        self.position.best
    }

    /// Trains to the last epoch.
    ///
    /// # Errors
    /// On Candle's errors, if a file cannot be written, if the loss diverges ([`Diverged`]), or if a signal ended the training
    /// ([`Interrupted`](interrupt::Interrupted)); in the last case the checkpoint is written.
    pub fn run(&mut self, quiet: bool) -> Result<()> {
        let _deferred = interrupt::Deferred::begin();
        let (config, samples) = (self.config, &self.setup.train);
        let (size, epochs) = (config.train.batch_size, config.train.epochs);
        let batches = samples.len().div_ceil(size);
        let mut progress = Progress::new(&config.name, (batches * epochs) as u64, self.position.step, quiet);
        let mut rate = Rate::new();
        while self.position.epoch < epochs {
            let epoch = self.position.epoch;
            let order = shuffled(samples.len(), &mut self.seed.generator(Purpose::Order, epoch as u64));
            if self.on_device.is_some() {
                self.epoch_on_device(epoch, &order, &mut rate, &mut progress)?;
            } else {
                self.epoch_on_cpu(epoch, &order, &mut rate, &mut progress)?;
            }
            self.finish_epoch(epoch, epochs, &rate, &progress)?;
        }
        progress.finish();
        self.write_checkpoint()
    }

    fn epoch_on_cpu(&mut self, epoch: usize, order: &[usize], rate: &mut Rate, progress: &mut Progress) -> Result<()> {
        let (config, samples, size) = (self.config, &self.setup.train, self.config.train.batch_size);
        let batches = order.len().div_ceil(size);
        let batches_left = Epoch {
            samples,
            order,
            size,
            taken: self.position.batch,
            step: self.position.step,
            augment: config.data.augment,
            seed: self.seed,
        };
        batches_left.for_each(|batch| {
            let dropout = self.seed.key(Purpose::Dropout, self.position.step);
            let (network, penalty) = (&self.setup.network, self.penalty.as_ref());
            let (loss, correct) = step(network, &batch, penalty, &mut self.optimizers, epoch, dropout)?;
            check_finite(loss, self.position.step + 1, epoch)?;
            let count = batch.targets.len();
            self.position.step += 1;
            self.position.batch += 1;
            let sums = &mut self.position.sums;
            sums.loss += loss * count as f64;
            sums.correct += correct;
            sums.samples += count;
            self.after_step(epoch, count, batches, rate, progress)
        })
    }

    fn after_step(
        &mut self,
        epoch: usize,
        count: usize,
        batches: usize,
        rate: &mut Rate,
        progress: &mut Progress,
    ) -> Result<()> {
        let config = self.config;
        rate.count(count);
        if config.train.log_steps > 0 && self.position.step.is_multiple_of(config.train.log_steps as u64) {
            self.append(Split::Train, epoch, Some(rate.per_second()))?;
        }
        if progress.is_due() {
            progress.show(&self.status(epoch, rate));
        }
        // The clocks of replicas differ, and within an epoch a checkpoint needs the sums of all.
        let may_stop = self.position.batch < batches && self.replica.is_none();
        if !may_stop {
            return Ok(());
        }
        if interrupt::received().is_some() { self.stop() } else { self.checkpoint_if_due() }
    }

    /// Writes the checkpoint and ends the training, as a signal wants it.
    fn stop(&mut self) -> Result<()> {
        self.write_checkpoint()?;
        let step = self.position.step;
        interrupt::check().with_context(|| {
            format!("{}: the checkpoint after step {step} is written, and --resume goes on from it", self.config.name)
        })
    }

    fn finish_epoch(&mut self, epoch: usize, epochs: usize, rate: &Rate, progress: &Progress) -> Result<()> {
        let before = self.metrics.as_ref().map(MetricsWriter::mark);
        self.append(Split::Train, epoch, Some(rate.per_second()))?;
        if let Some(replica) = &self.replica {
            replica.average_statistics()?;
        }
        let is_last = epoch + 1 == epochs;
        if is_last || (epoch + 1).is_multiple_of(self.config.train.eval_every) {
            match self.evaluate_held_out(epoch, rate, progress) {
                // The evaluation was cut off: it is made again, with its rows.
                Err(_) if interrupt::received().is_some() && self.replica.is_none() => {
                    if let (Some(metrics), Some(before)) = (&mut self.metrics, before) {
                        metrics.cut(before)?;
                    }
                    return self.stop();
                }
                best => self.position.best = best?,
            }
        }
        self.position.epoch += 1;
        self.position.batch = 0;
        self.position.sums = EpochSums::default();
        if let Some(replica) = &self.replica
            && replica.any(interrupt::received().is_some())?
        {
            interrupt::request();
        }
        if interrupt::received().is_some() {
            return self.stop();
        }
        if self.position.epoch < epochs { self.checkpoint_if_due() } else { Ok(()) }
    }

    /// Evaluates and appends the rows; returns the best epoch so far.
    fn evaluate_held_out(&mut self, epoch: usize, rate: &Rate, progress: &Progress) -> Result<Option<BestEpoch>> {
        let mut best = self.position.best;
        let mut line = self.status(epoch, rate).to_string();
        for (k, (split, samples)) in self.setup.held_out().into_iter().enumerate() {
            let network = &self.setup.network;
            let evaluation = match self.on_device.as_ref().and_then(|on_device| on_device.held_out.get(k)) {
                Some(there) => {
                    let (loss_sum, correct) = evaluate_on_device(network, there, self.replica.as_ref())?;
                    evaluation(samples, loss_sum, correct)
                }
                None => evaluate(network, samples)?,
            };
            line += &format!("  {split} loss {}", Loss(evaluation.loss));
            if let Some(accuracy) = evaluation.accuracy {
                line += &format!(" accuracy {accuracy:.2} %");
            }
            if self.config.train.keep_best && split == Split::Validation && evaluation.loss.is_finite() {
                let this = BestEpoch { epoch: epoch + 1, loss: evaluation.loss, accuracy: evaluation.accuracy };
                if best.is_none_or(|best| this.is_better_than(&best)) {
                    best = Some(this);
                    if self.metrics.is_some() {
                        write_network(&self.directory.join(BEST), network, &self.config.to_toml())?;
                    }
                }
            }
            self.append_row(split, epoch, evaluation, None)?;
        }
        progress.line(&line);
        Ok(best)
    }

    fn status(&self, epoch: usize, rate: &Rate) -> Status {
        // What was fetched last, where the device has not been asked since.
        let last = self.on_device.as_ref().filter(|_| self.position.sums.samples == 0).and_then(|of| of.last);
        let Evaluation { loss, accuracy } = last.unwrap_or_else(|| self.epoch_so_far());
        Status { step: self.position.step, epoch: epoch + 1, loss, accuracy, images_per_second: rate.per_second() }
    }

    fn epoch_so_far(&self) -> Evaluation {
        let sums = &self.position.sums;
        let n = sums.samples.max(1) as f64;
        let accuracy = self.setup.train.has_accuracy().then(|| 100.0 * sums.correct as f64 / n);
        Evaluation { loss: sums.loss / n, accuracy }
    }

    fn append(&mut self, split: Split, epoch: usize, rate: Option<f64>) -> Result<()> {
        self.fetch()?;
        self.append_row(split, epoch, self.epoch_so_far(), rate)
    }

    fn append_row(&mut self, split: Split, epoch: usize, result: Evaluation, rate: Option<f64>) -> Result<()> {
        let seconds = self.seconds();
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let (config, network) = (self.config, &self.setup.network);
        let regularizer = self.penalty.as_ref().map_or(Ok(0.0), |penalty| penalty.value(network))?;
        let [lr_weights, lr_splines, _] = self.optimizers.rates(epoch);
        let has_constant = config.network.kind.is_lipschitz() && split != Split::Train;
        let certified = has_constant.then(|| bounds::certified(network)).transpose()?;
        let row = MetricsRow {
            run: config.name.clone(),
            experiment: config.experiment.to_string(),
            dataset: config.data.dataset.to_string(),
            network: config.network.kind.to_string(),
            activation: config.activation.kind.to_string(),
            seed: config.seed,
            epoch: epoch + 1,
            step: self.position.step,
            split,
            loss: result.loss,
            accuracy: result.accuracy,
            regularizer,
            lr_weights,
            lr_splines,
            active_knots: count_active_knots(network)?,
            lipschitz_bound_l1: network.lipschitz_bound_l1()?,
            seconds,
            images_per_second: rate,
            lipschitz_certified_l2: certified,
        };
        metrics.append(&row)?;
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        let due = Duration::from_secs_f64(self.config.train.checkpoint_seconds);
        if self.last_checkpoint.elapsed() < due { Ok(()) } else { self.write_checkpoint() }
    }

    fn write_checkpoint(&mut self) -> Result<()> {
        self.fetch()?;
        let seconds = self.seconds();
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        // The rows must be on disk before a checkpoint that counts on them.
        metrics.sync()?;
        self.position.seconds = seconds;
        self.position.metrics_bytes = metrics.position();
        self.position.metrics_md5 = Some(metrics.md5());
        Checkpoint::of_run(self.position.clone(), self.config.to_toml(), &self.setup.network, &self.optimizers)?
            .write(&self.directory.join(CHECKPOINT))
            .context("writing a checkpoint")?;
        self.last_checkpoint = Instant::now();
        Ok(())
    }
}

/// The loss became infinite or NaN.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the loss is {loss} at step {step} (epoch {epoch}): the run diverged; try a lower optimizer.weights.lr")]
pub struct Diverged {
    /// The loss of the step, or its sum over steps.
    pub loss: f64,
    /// Counted from 1.
    pub step: u64,
    /// Counted from 1.
    pub epoch: usize,
}

/// Refuses a loss, or a sum of losses, that is no number at a step (counted from 1).
fn check_finite(loss: f64, step: u64, epoch: usize) -> Result<(), Diverged> {
    if loss.is_finite() { Ok(()) } else { Err(Diverged { loss, step, epoch: epoch + 1 }) }
}

/// Samples a second since the run was started or resumed.
struct Rate {
    start: Instant,
    samples: usize,
}

impl Rate {
    fn new() -> Self {
        Self { start: Instant::now(), samples: 0 }
    }
    fn count(&mut self, samples: usize) {
        self.samples += samples;
    }
    fn per_second(&self) -> f64 {
        self.samples as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}
