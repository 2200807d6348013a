//! The training loop.

use super::bounds;
use super::checkpoint::{BestEpoch, Checkpoint, EpochSums, Position, epoch_of_best, write_best};
use super::diverged::check_finite;
use super::evaluation::{Evaluation, count_active_knots, evaluate_share, fetch};
use super::execution::execution;
use super::optimizers::Optimizers;
use super::penalty::SplinePenalty;
use super::ranges;
use super::rate::Rate;
use super::replica::Replica;
use super::setup::Setup;
use super::step::{At, Model, Step};
use crate::config::Config;
use crate::data::{Epoch, Samples, shuffled};
use crate::device;
use crate::file_names::{BEST, CHECKPOINT, METRICS};
use crate::files;
use crate::interrupt;
use crate::progress::{Loss, Progress, Status};
use crate::results::metrics::{MetricsRow, MetricsWriter, Split};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use ds_nn::parallel::Communicator;
use ds_nn::rng::{Purpose, Seed};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A run in its directory, between two steps.
pub struct Trainer<'a> {
    config: &'a Config,
    setup: &'a Setup,
    optimizers: Optimizers,
    penalty: Option<SplinePenalty>,
    /// Those of the steps since the last fetch.
    totals: Tensor,
    /// The training samples on the network's device, in the precision of training.
    train: Samples,
    /// The held-out samples there, in f32 as those of a checkpoint's evaluation.
    held_out: Vec<(Split, Samples)>,
    /// The batch size whose steps are captured as CUDA graphs.
    graphs: Option<usize>,
    /// Samples of all replicas whose losses and predictions are still only on the device.
    pending: usize,
    /// The last sums that were fetched, to be shown until the next are.
    last: Option<Evaluation>,
    position: Position,
    /// Of the replica that writes: of rank 0, where there are several.
    metrics: Option<MetricsWriter>,
    directory: PathBuf,
    last_checkpoint: Instant,
    started: Instant,
    seconds_before: f64,
    seed: Seed,
    replica: Option<Rc<Replica<'a>>>,
    /// Whether the sums are fetched after each step, so that a loss that diverges is seen at once: on a CPU that costs nothing.
    fetches_every_step: bool,
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
        if config.activation.range.is_auto() && communicator.is_some_and(|communicator| communicator.size() > 1) {
            bail!(
                "activation.range = \"auto\" is for one device: train without --gpus, or set activation.range to a number"
            );
        }
        if let Some(checkpoint) = resume {
            checkpoint.check_data(setup)?;
        }
        // Both may be relative to the weights before training, so they come before those of a checkpoint.
        let mut penalty = SplinePenalty::new(config, &setup.network)?;
        let mut position = resume.map(|checkpoint| checkpoint.position.clone()).unwrap_or_default();
        if let Some(penalty) = &mut penalty {
            penalty.begin_epoch(position.epoch);
        }
        let mut optimizers = Optimizers::new(config, &setup.network, penalty.as_ref())?;
        let metrics_path = directory.join(METRICS);
        let device = device::description(&setup.network.device(), communicator.map_or(1, Communicator::size));
        if resume.is_some() && position.devices.is_empty() {
            // Older checkpoints do not name their devices.
            position.devices.push("unknown".to_owned());
        }
        if position.epoch < config.train.epochs && position.devices.last() != Some(&device) {
            position.devices.push(device);
        }
        if position.origins.last() != Some(&setup.origin) {
            position.origins.push(setup.origin.clone());
        }
        position.trained_on.get_or_insert_with(|| setup.trained_on());
        if let Some(checkpoint) = resume {
            checkpoint.restore_network(&setup.network)?;
            checkpoint.restore_optimizers(&mut optimizers)?;
            // On the grids of the checkpoint.
            optimizers.set_proximal(&setup.network, penalty.as_ref())?;
        }
        if !config.train.keep_best {
            position.best = None;
        }
        let writes = communicator.is_none_or(|communicator| communicator.rank() == 0);
        let open = || match resume {
            None => MetricsWriter::create(&metrics_path),
            Some(_) => MetricsWriter::resume(&metrics_path, position.metrics_bytes, position.metrics_md5.as_deref()),
        };
        let replica = communicator.map(|communicator| Replica::new(&setup.network, communicator)).transpose()?;
        let replica = replica.map(Rc::new);
        let there = setup.network.device();
        let held_out = setup.held_out().into_iter();
        let mut trainer = Self {
            config,
            setup,
            optimizers,
            totals: Model::totals_on(&there)?,
            train: setup.train.to(config.train.precision.dtype(), &there)?,
            held_out: held_out
                .map(|(split, samples)| Ok((split, samples.to(DType::F32, &there)?)))
                .collect::<candle_core::Result<_>>()?,
            graphs: setup.context.cuda_graphs.then_some(config.train.batch_size),
            pending: 0,
            last: None,
            penalty,
            metrics: writes.then(open).transpose()?,
            seconds_before: position.seconds,
            position,
            directory: directory.to_owned(),
            last_checkpoint: Instant::now(),
            started: Instant::now(),
            seed: Seed(config.seed),
            fetches_every_step: there.is_cpu() && replica.is_none(),
            replica,
        };
        trainer.resume_best()?;
        Ok(trainer)
    }

    /// Sees to it that the file of the best network has that of the checkpoint's best epoch; no epoch is the best if the network is lost.
    /// A checkpoint of the best epoch itself has the network, and the process may have been killed before it wrote the file.
    fn resume_best(&mut self) -> Result<()> {
        let Some(best) = self.position.best else { return Ok(()) };
        if self.position.batch == 0 && self.position.epoch == best.epoch {
            return self.write_best(best);
        }
        let path = self.directory.join(BEST);
        let lost = if path.exists() {
            // Older versions wrote the file before the checkpoint, and a copy of an older checkpoint may have been put there.
            let epoch = epoch_of_best(&path)?;
            epoch.filter(|&epoch| epoch != best.epoch).map(|epoch| format!("has the network of epoch {epoch}"))
        } else {
            Some("is missing".to_owned())
        };
        if let Some(lost) = lost {
            self.position.best = None;
            if self.metrics.is_some() {
                crate::note!(
                    "NOTE: {}: {} {lost}, and the best network so far was that of epoch {}: the best of the epochs from here on is kept",
                    self.config.name,
                    path.display(),
                    best.epoch
                );
            }
        }
        Ok(())
    }

    /// Seconds of training so far, those before a resumption included.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// What it was trained on, one after the other, as it stands in summaries.
    pub fn devices(&self) -> String {
        self.position.devices.join(device::DEVICE_SEPARATOR)
    }

    /// Where its data came from, one after the other, as it stands in summaries.
    pub fn origins(&self) -> String {
        self.position.origins.join(device::DEVICE_SEPARATOR)
    }

    /// The epoch with the best validation, if its network is kept.
    pub fn best(&self) -> Option<BestEpoch> {
        self.position.best
    }

    /// The protocol of a network that came from elsewhere.
    pub(super) fn imported(&self) -> Option<&'static str> {
        let imported = self.position.imported.as_ref()?;
        Some(if self.position.step > imported.step { "imported, and trained on" } else { "imported" })
    }

    /// What the objective has beside the data loss: λ·norm of the splines and the L2 terms.
    ///
    /// # Errors
    /// If the device fails.
    pub fn penalties(&self) -> candle_core::Result<f64> {
        let of_splines = self.penalty.as_ref().map_or(Ok(0.0), |penalty| penalty.value(&self.setup.network))?;
        Ok(of_splines + self.optimizers.l2_terms()?)
    }

    /// Trains to the last epoch.
    ///
    /// # Errors
    /// If a file cannot be written, if the loss diverges ([`Diverged`](super::Diverged)), or if a signal ended the training
    /// ([`Interrupted`](interrupt::Interrupted)); in the last case the checkpoint is written.
    pub fn run(&mut self, quiet: bool) -> Result<()> {
        let _deferred = interrupt::Deferred::begin();
        let (config, count) = (self.config, self.train.len());
        let (size, epochs) = (config.train.batch_size, config.train.epochs);
        let batches = count.div_ceil(size);
        let mut progress = Progress::new(&config.name, (batches * epochs) as u64, self.position.step, quiet);
        let mut rate = Rate::new();
        let mut execution = execution(&self.setup.network, self.replica.clone(), self.graphs)?;
        while self.position.epoch < epochs {
            let epoch = self.position.epoch;
            if self.begin_proximal_steps()? | self.fit_ranges()? {
                // A captured graph has the old penalty or the old grids.
                execution = self::execution(&self.setup.network, self.replica.clone(), self.graphs)?;
            }
            let order = shuffled(count, &mut self.seed.generator(Purpose::Order, epoch as u64));
            self.epoch(&mut *execution, &order, &mut rate, &mut progress)?;
            self.finish_epoch(epoch, epochs, &rate, &progress)?;
        }
        progress.finish();
        self.write_checkpoint()?;
        // A run without an epoch, as after an import, has no rows, and a table without a header is a damaged one.
        if self.metrics.as_ref().is_some_and(|metrics| metrics.position() == 0) {
            files::remove_written(&self.directory, METRICS)?;
        }
        Ok(())
    }

    /// Lets proximal steps begin where a warm-up has ended; whether it did.
    fn begin_proximal_steps(&mut self) -> Result<bool> {
        let epoch = self.position.epoch;
        let begins = self.penalty.as_mut().is_some_and(|penalty| penalty.begin_epoch(epoch));
        if begins {
            self.optimizers.set_proximal(&self.setup.network, self.penalty.as_ref())?;
        }
        Ok(begins)
    }

    /// Fits ranges to the inputs before an epoch for which the config wants it; whether it did.
    fn fit_ranges(&mut self) -> Result<bool> {
        let (config, position) = (self.config, &self.position);
        let is_due = position.batch == 0 && config.activation.range_epochs().contains(&position.epoch);
        if !is_due || position.range_epochs.contains(&position.epoch) {
            return Ok(false);
        }
        let fitted = ranges::fit(&self.setup.network, &self.train, &mut self.optimizers, self.penalty.as_ref());
        if let Err(error) = fitted {
            // A pass that a signal cut off has changed nothing.
            return if interrupt::received().is_some() { self.stop().map(|()| false) } else { Err(error) };
        }
        self.position.range_epochs.push(self.position.epoch);
        Ok(true)
    }

    /// The steps that are left of the epoch.
    fn epoch(
        &mut self,
        execution: &mut dyn Step,
        order: &[usize],
        rate: &mut Rate,
        progress: &mut Progress,
    ) -> Result<()> {
        let (config, epoch, samples) = (self.config, self.position.epoch, self.train.clone());
        let batches = order.len().div_ceil(config.train.batch_size);
        let batches_left = Epoch {
            samples: &samples,
            order,
            size: config.train.batch_size,
            taken: self.position.batch,
            step: self.position.step,
            augment: config.data.augment,
            seed: self.seed,
            replica: self.replica.as_ref().map_or((0, 1), |replica| replica.rank_and_size()),
        };
        batches_left.for_each(|batch, count| {
            let at = At { epoch, dropout: self.seed.key(Purpose::Dropout, self.position.step) };
            let (network, penalty) = (&self.setup.network, self.penalty.as_ref());
            let model = Model { network, penalty, totals: &self.totals };
            execution.step(&model, batch, count, &mut self.optimizers, at)?;
            self.position.step += 1;
            self.position.batch += 1;
            self.pending += count;
            if self.fetches_every_step {
                self.fetch()?;
            }
            self.after_step(epoch, count, batches, rate, progress)
        })
    }

    /// Adds the sums on the device to those of the epoch; a host that is ahead of its GPU waits here.
    fn fetch(&mut self) -> Result<()> {
        if self.pending > 0 {
            let (loss, correct) = fetch(&self.totals, self.replica.as_deref())?;
            check_finite(loss, self.position.step, self.position.epoch)?;
            let sums = &mut self.position.sums;
            sums.loss += loss;
            sums.correct += correct;
            sums.samples += std::mem::take(&mut self.pending);
        }
        Ok(())
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
        let best_before = self.position.best;
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
        if let Some(best) = self.position.best.filter(|best| Some(*best) != best_before) {
            // This checkpoint has the network as well: after a kill between the two, the file is written from it.
            self.write_checkpoint()?;
            self.write_best(best)?;
        }
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
        let network = &self.setup.network;
        for (split, samples) in self.held_out.clone() {
            let evaluation = evaluate_share(network, &samples, self.replica.as_deref())?;
            line += &format!("  {split} loss {}", Loss(evaluation.loss));
            if let Some(accuracy) = evaluation.accuracy {
                line += &format!(" accuracy {accuracy:.2} %");
            }
            if self.config.train.keep_best && split == Split::Validation && evaluation.loss.is_finite() {
                let this = BestEpoch { epoch: epoch + 1, loss: evaluation.loss, accuracy: evaluation.accuracy };
                if best.is_none_or(|best| this.is_better_than(&best)) {
                    best = Some(this);
                }
            }
            self.append_row(split, epoch, evaluation, None)?;
        }
        progress.line(&line);
        Ok(best)
    }

    fn status(&self, epoch: usize, rate: &Rate) -> Status {
        // The last epoch, where nothing of this one was fetched yet.
        let last = self.last.filter(|_| self.position.sums.samples == 0);
        let Evaluation { loss, accuracy } = last.unwrap_or_else(|| self.epoch_so_far());
        Status { step: self.position.step, epoch: epoch + 1, loss, accuracy, images_per_second: rate.per_second() }
    }

    fn epoch_so_far(&self) -> Evaluation {
        let sums = &self.position.sums;
        let n = sums.samples.max(1) as f64;
        let accuracy = self.train.has_accuracy().then(|| 100.0 * sums.correct as f64 / n);
        Evaluation { loss: sums.loss / n, accuracy }
    }

    fn append(&mut self, split: Split, epoch: usize, rate: Option<f64>) -> Result<()> {
        self.fetch()?;
        let so_far = self.epoch_so_far();
        self.last = Some(so_far);
        self.append_row(split, epoch, so_far, rate)
    }

    fn append_row(&mut self, split: Split, epoch: usize, result: Evaluation, rate: Option<f64>) -> Result<()> {
        let seconds = self.seconds();
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let (config, network) = (self.config, &self.setup.network);
        let regularizer = self.penalty.as_ref().map_or(Ok(0.0), |penalty| penalty.value(network))?;
        let [lr_weights, lr_splines, _] = self.optimizers.rates(epoch);
        let has_constant = config.network.kind.is_lipschitz() && split != Split::Train;
        let certified = has_constant.then(|| bounds::product_of_norms(network)).transpose()?;
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

    /// Writes the network as it is, which is that of the best epoch.
    fn write_best(&self, best: BestEpoch) -> Result<()> {
        if self.metrics.is_none() {
            return Ok(());
        }
        write_best(&self.directory.join(BEST), &self.setup.network, &self.config.to_toml(), best.epoch)
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
