//! A run from its first step to its summary.

use super::bounds::{self, Bounds};
use super::checkpoint::{BestEpoch, Checkpoint, read_network};
use super::directory::{RunDirectory, RunOptions, RunState};
use super::evaluation::{Evaluation, count_active_knots, count_knots, evaluate};
use super::ranges;
use super::setup::{Setup, network_on_device, radii};
use super::sparsify;
use super::trainer::Trainer;
use crate::config::{self, Config};
use crate::data::Source;
use crate::device::{self, Context};
use crate::file_names::{BEST, SUMMARY};
use crate::files;
use crate::interrupt;
use crate::progress::Loss;
use crate::results::metrics::{self, SummaryRow};
use anyhow::{Context as _, Result};
use ds_core::Group;
use ds_core::sparsify::Histogram;
use ds_nn::parallel::Communicator;
use std::path::Path;

/// Trains, evaluates, sparsifies and writes the summary; a run that was finished before only returns it.
///
/// # Errors
/// If the directory holds another run or another process works on it, data is missing, a file cannot be written, the loss diverges
/// ([`Diverged`](crate::run::Diverged)), or a signal ended the training ([`Interrupted`](crate::interrupt::Interrupted)).
pub fn run(config: &Config, source: &Source, options: &RunOptions, context: &Context) -> Result<SummaryRow> {
    let mut directory = RunDirectory::new(config, options, true);
    let checkpoint = match directory.inspect()? {
        RunState::Finished(row) => return Ok(say_finished(*row, options)),
        RunState::Unfinished(checkpoint) => checkpoint,
    };
    context.check_precision(config.train.precision)?;
    let setup = Setup::new(config, source, context)?;
    let checkpoint = match directory.claim(checkpoint.is_some())? {
        None => checkpoint,
        // Another process began the run while the data was loaded, and has ended.
        Some(RunState::Finished(row)) => return Ok(say_finished(*row, options)),
        Some(RunState::Unfinished(checkpoint)) => {
            directory.claim(checkpoint.is_some())?;
            checkpoint
        }
    };
    let trained = train(config, &setup, &directory, options, checkpoint.as_deref(), None)?;
    summarise(config, &setup, options, trained)
}

/// Prints a line about the run.
fn log(run: &str, options: &RunOptions, text: &str) {
    if !options.quiet {
        crate::note!("{run}: {text}");
    }
}

/// Prints that there is nothing left to do.
pub(super) fn say_finished(row: SummaryRow, options: &RunOptions) -> SummaryRow {
    let text = format!("was finished before, nothing is left to do; {}", report(&row, &options.directory));
    log(&row.run, options, &text);
    row
}

/// What [`summarise`] needs of a training.
pub(super) struct Trained {
    seconds: f64,
    devices: String,
    /// Where its data came from.
    origins: String,
    best: Option<BestEpoch>,
    /// Of the objective, beside the data loss.
    penalties: f64,
    /// Where the network comes from, if it was imported.
    imported: Option<&'static str>,
}

/// Trains in a directory that was claimed, as the only process or as the one of rank 0.
pub(super) fn train(
    config: &Config,
    setup: &Setup,
    directory: &RunDirectory<'_>,
    options: &RunOptions,
    checkpoint: Option<&Checkpoint>,
    communicator: Option<&dyn Communicator>,
) -> Result<Trained> {
    if setup.is_sample {
        let text = format!("NOTE: this is the shipped sample, not the data set: {}", setup.origin);
        log(&config.name, options, &text);
    }
    let text = format!(
        "{} with {}, {} parameters; {} training and {} test samples from {}; {}, {} threads",
        config.network.kind,
        config.activation.kind,
        setup.network.parameter_count(),
        setup.train.len(),
        setup.test.len(),
        setup.origin,
        device::description(&setup.network.device(), communicator.map_or(1, Communicator::size)),
        rayon::current_num_threads()
    );
    log(&config.name, options, &text);
    if let Some(checkpoint) = checkpoint {
        let (epoch, step) = (checkpoint.position.epoch, checkpoint.position.step);
        let text = if epoch < config.train.epochs {
            format!("resumes after step {step} (epoch {})", epoch + 1)
        } else {
            format!("no epoch of {epoch} is left; evaluation follows")
        };
        log(&config.name, options, &text);
    }
    let mut trainer = Trainer::new(config, setup, &options.directory, checkpoint, communicator)?;
    if checkpoint.is_some() {
        directory.write_config()?;
    }
    trainer.run(options.quiet)?;
    let penalties = trainer.penalties()?;
    Ok(Trained {
        seconds: trainer.seconds(),
        devices: trainer.devices(),
        origins: trainer.origins(),
        best: trainer.best(),
        penalties,
        imported: trainer.imported(),
    })
}

/// Evaluates and sparsifies what was trained, and writes the summary.
pub(super) fn summarise(config: &Config, setup: &Setup, options: &RunOptions, trained: Trained) -> Result<SummaryRow> {
    let made = summary(config, setup, options, trained);
    if interrupt::received().is_none() {
        return made;
    }
    let name = &config.name;
    made.with_context(|| {
        format!("{name}: the training has ended; --resume begins with what follows it, evaluation and pruning")
    })
}

fn summary(config: &Config, setup: &Setup, options: &RunOptions, trained: Trained) -> Result<SummaryRow> {
    let _deferred = interrupt::Deferred::begin();
    let (network, directory) = (&setup.network, &options.directory);
    let best_test = trained.best.map(|_| evaluate_best(config, setup, directory)).transpose()?;
    let (train, test) = (evaluate(network, &setup.train)?, evaluate(network, &setup.test)?);
    let validation = setup.validation.as_ref().map(|samples| evaluate(network, samples)).transpose()?;
    interrupt::check()?;
    let active = count_active_knots(network)?;
    let bounds = Bounds::new(network, &setup.test, bounds::points_after_training(network))?;
    let radii = radii(config.data.dataset).filter(|_| config.network.kind.is_lipschitz());
    let certified = match radii {
        Some(radii) => bounds::certified_accuracy(network, &setup.test, bounds.certified_l2, radii)?,
        None => None,
    };
    let certified_at = |k: usize| certified.as_ref().and_then(|all| all.get(k)).copied();
    let pruned = sparsify::run(config, setup, train, directory)?;
    for file in &pruned.removed {
        let path = directory.join(file);
        crate::note!("NOTE: {}: removed {}, which was of an earlier pruning", config.name, path.display());
    }
    let (sparse, refit, finetuned) = (pruned.sparsified, pruned.refit, pruned.finetuned);
    let inputs = pruned.histograms.as_ref().map(|histograms| &histograms.counts);
    let splines = |p: &&ds_core::Parameter| p.group != Group::Weights;
    let row = SummaryRow {
        run: config.name.clone(),
        experiment: config.experiment.to_string(),
        dataset: config.data.dataset.to_string(),
        data_origin: trained.origins,
        network: config.network.kind.to_string(),
        activation: config.activation.kind.to_string(),
        seed: config.seed,
        epochs: config.train.epochs,
        parameters: network.parameter_count(),
        spline_parameters: network.parameters().iter().filter(splines).map(|p| p.var.elem_count()).sum(),
        protocol: trained.imported.map_or_else(|| config::protocol(config, setup.is_sample), str::to_owned),
        device: trained.devices,
        threads: rayon::current_num_threads(),
        revision: files::revision(),
        train_loss: train.loss,
        train_accuracy: train.accuracy,
        objective: Some(train.loss + trained.penalties),
        validation_accuracy: validation.and_then(|v: Evaluation| v.accuracy),
        test_loss: test.loss,
        test_accuracy: test.accuracy,
        knots: active.map(|_| count_knots(network)),
        active_knots: active,
        sparsified_threshold: sparse.map(|s| s.threshold),
        sparsified_active_knots: sparse.map(|s| s.active_knots),
        sparsified_train_accuracy: sparse.and_then(|s| s.train_accuracy),
        sparsified_test_accuracy: sparse.and_then(|s| s.test_accuracy),
        lipschitz_bound_l1: bounds.papers_l1,
        lipschitz_lower_l2: Some(bounds.lower_l2),
        lipschitz_certified_l2: Some(bounds.certified_l2),
        lipschitz_papers_l2: bounds.papers_l2,
        lower_seconds: Some(bounds.lower_seconds),
        certified_seconds: Some(bounds.certified_seconds),
        papers_seconds: Some(bounds.papers_seconds),
        lipschitz_exact_l2: bounds.exact_l2,
        pieces: bounds.pieces,
        exact_seconds: bounds.exact_seconds,
        lipschitz_attained_l2: bounds.attained_l2,
        certified_radii: certified
            .as_ref()
            .and(radii)
            .map(|radii| radii.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")),
        certified_accuracy_1: certified_at(0),
        certified_accuracy_2: certified_at(1),
        certified_accuracy_3: certified_at(2),
        certified_accuracy_4: certified_at(3),
        certified_accuracy_5: certified_at(4),
        margin: config.train.margin.filter(|&margin| margin > 0.0),
        seconds: trained.seconds,
        best_epoch: trained.best.map(|best| best.epoch),
        best_validation_accuracy: trained.best.and_then(|best| best.accuracy),
        best_test_accuracy: best_test.and_then(|test| test.accuracy),
        refit_knots: refit.as_ref().map(|row| row.knots),
        refit_train_accuracy: refit.as_ref().and_then(|row| row.train_accuracy),
        refit_validation_accuracy: refit.as_ref().and_then(|row| row.validation_accuracy),
        refit_test_accuracy: refit.as_ref().and_then(|row| row.test_accuracy),
        finetune_epochs: finetuned.as_ref().map(|row| row.finetune_epochs),
        finetuned_knots: finetuned.as_ref().map(|row| row.knots),
        finetuned_train_accuracy: finetuned.as_ref().and_then(|row| row.train_accuracy),
        finetuned_test_accuracy: finetuned.as_ref().and_then(|row| row.test_accuracy),
        reached_knots: inputs.map(|all| all.iter().map(Histogram::reached_knots).sum()),
        reached_knots_of_layers: inputs.map(|all| joined(all, |inputs| inputs.reached_knots().to_string())),
        inputs_outside_of_layers: inputs
            .map(|all| joined(all, |inputs| format!("{:.3}", 100.0 * inputs.share_outside()))),
        spline_ranges_of_layers: config.activation.range.is_auto().then(|| ranges::of_layers(network)),
        peak_memory_mb: device::peak_memory_mb(&network.device()),
        ..SummaryRow::default()
    }
    .with_settings(config);
    metrics::write_summary(&directory.join(SUMMARY), &row)?;
    log(&config.name, options, &format!("done: {}", report(&row, directory)));
    Ok(row)
}

fn joined(histograms: &[Histogram], text: impl Fn(&Histogram) -> String) -> String {
    histograms.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// Test loss and accuracy of the network with the best validation.
fn evaluate_best(config: &Config, setup: &Setup, directory: &Path) -> Result<Evaluation> {
    let network = network_on_device(config, setup.train.outputs(), &setup.context)?;
    read_network(&directory.join(BEST), &network)?;
    Ok(evaluate(&network, &setup.test)?)
}

fn report(row: &SummaryRow, directory: &Path) -> String {
    let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2} %"));
    let mut text = format!(
        "test loss {}, accuracy {}; train loss {}, accuracy {}; {:.1} s",
        Loss(row.test_loss),
        percent(row.test_accuracy),
        Loss(row.train_loss),
        percent(row.train_accuracy),
        row.seconds
    );
    if let (Some(active), Some(knots)) = (row.active_knots, row.knots) {
        text += &format!("; {active} of {knots} knots active");
    }
    if let Some(knots) = row.refit_knots {
        text += &format!("; pruned to {knots} knots: test accuracy {}", percent(row.refit_test_accuracy));
    }
    if let (Some(knots), Some(epochs)) = (row.finetuned_knots, row.finetune_epochs) {
        let accuracy = percent(row.finetuned_test_accuracy);
        text += &format!("; trained on for {epochs} epochs with {knots} knots: test accuracy {accuracy}");
    }
    if let (Some(threshold), Some(active)) = (row.sparsified_threshold, row.sparsified_active_knots) {
        text += &format!(
            "; sparsified at {threshold}: {active} knots, test accuracy {}",
            percent(row.sparsified_test_accuracy)
        );
    }
    if let (Some(epoch), Some(accuracy)) = (row.best_epoch, row.best_test_accuracy) {
        text += &format!("; best validation in epoch {epoch}: test accuracy {accuracy:.2} %");
    }
    text + &format!("\n  protocol {}; results in {}", row.protocol, directory.display())
}
