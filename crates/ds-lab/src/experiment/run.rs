//! A run from its first step to its summary.

use super::{Setup, radii};
use crate::bounds::{self, Bounds};
use crate::checkpoint::{Checkpoint, Position};
use crate::config::{self, Config, Train};
use crate::data::Source;
use crate::device;
use crate::files;
use crate::metrics::{self, SummaryRow};
use crate::progress::Loss;
use crate::sparsify;
use crate::train::{Evaluation, Trainer, count_active_knots, count_knots, evaluate};
use anyhow::{Context, Result, bail};
use ds_core::Group;
use ds_nn::optim::multi_step;
use ds_nn::parallel::Communicator;
use std::path::{Path, PathBuf};

/// Where a run writes, and what to do with what is there already.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The directory of the run.
    pub directory: PathBuf,
    /// Go on from the checkpoint in the directory, if there is one.
    pub resume: bool,
    /// Start again where the directory holds a run.
    pub overwrite: bool,
    /// Show nothing but errors.
    pub quiet: bool,
}

/// Trains, evaluates, sparsifies and writes the summary; a run that was finished before only returns it.
///
/// # Errors
/// If the directory holds another run, data is missing, or a file cannot be written.
pub fn run(config: &Config, source: &Source, options: &RunOptions) -> Result<SummaryRow> {
    let checkpoint = match found(config, options)? {
        Found::Finished(row) => return Ok(*row),
        Found::Unfinished(checkpoint) => checkpoint,
    };
    let setup = Setup::new(config, source)?;
    let trained = train(config, &setup, options, checkpoint.as_deref(), None)?;
    summarise(config, &setup, options, trained)
}

/// What the directory of a run holds.
pub(super) enum Found {
    /// The run, with its summary.
    Finished(Box<SummaryRow>),
    /// Nothing that is to be gone on with, or a checkpoint.
    Unfinished(Option<Box<Checkpoint>>),
}

pub(super) fn found(config: &Config, options: &RunOptions) -> Result<Found> {
    let checkpoint = open_directory(config, options)?;
    if let Some(checkpoint) = &checkpoint
        && checkpoint.position.epoch >= config.train.epochs
        && let Some(row) = finished(&options.directory, config)?
    {
        return Ok(Found::Finished(Box::new(row)));
    }
    device::check_precision(config.train.precision)?;
    Ok(Found::Unfinished(checkpoint.map(Box::new)))
}

/// Prints a line about the run.
fn say(config: &Config, options: &RunOptions, text: &str) {
    if !options.quiet {
        crate::note!("{}: {text}", config.name);
    }
}

/// Claims the directory and trains, as the only process or as the one of rank 0; returns the seconds it took, and on what.
pub(super) fn train(
    config: &Config,
    setup: &Setup,
    options: &RunOptions,
    checkpoint: Option<&Checkpoint>,
    communicator: Option<&dyn Communicator>,
) -> Result<(f64, String)> {
    claim_directory(config, &options.directory, checkpoint.is_some())?;
    if setup.is_sample {
        say(config, options, &format!("NOTE: this is the shipped sample, not the data set: {}", setup.origin));
    }
    let text = format!(
        "{} with {}, {} parameters; {} training and {} test samples from {}; {}, {} threads",
        config.network.kind,
        config.activation.kind,
        setup.network.parameter_count(),
        setup.train.len(),
        setup.test.len(),
        setup.origin,
        device::description(communicator.map_or(1, Communicator::size)),
        rayon::current_num_threads()
    );
    say(config, options, &text);
    let mut trainer = Trainer::new(config, setup, &options.directory, checkpoint, communicator)?;
    trainer.run(options.quiet)?;
    Ok((trainer.seconds(), trainer.devices()))
}

/// Evaluates and sparsifies what was trained in so many seconds, and on what, and writes the summary.
pub(super) fn summarise(
    config: &Config,
    setup: &Setup,
    options: &RunOptions,
    (seconds, device): (f64, String),
) -> Result<SummaryRow> {
    let (network, directory) = (&setup.network, &options.directory);
    let (train, test) = (evaluate(network, &setup.train)?, evaluate(network, &setup.test)?);
    let validation = setup.validation.as_ref().map(|samples| evaluate(network, samples)).transpose()?;
    let active = count_active_knots(network)?;
    let bounds = Bounds::new(network, &setup.test, bounds::points_after_training(network))?;
    let radii = radii(config.data.dataset).filter(|_| config.network.kind.is_lipschitz());
    let certified = match radii {
        Some(radii) => bounds::certified_accuracy(network, &setup.test, bounds.certified_l2, &radii)?,
        None => None,
    };
    let certified_at = |k: usize| certified.as_ref().and_then(|all| all.get(k)).copied();
    let sparse = sparsify::run(config, setup, train, directory)?;
    let splines = |p: &&ds_core::Parameter| p.group != Group::Weights;
    let row = SummaryRow {
        run: config.name.clone(),
        experiment: config.experiment.to_string(),
        dataset: config.data.dataset.to_string(),
        data_origin: setup.origin.clone(),
        network: config.network.kind.to_string(),
        activation: config.activation.kind.to_string(),
        seed: config.seed,
        epochs: config.train.epochs,
        parameters: network.parameter_count(),
        spline_parameters: network.parameters().iter().filter(splines).map(|p| p.var.elem_count()).sum(),
        protocol: config::protocol(config, setup.is_sample),
        device,
        threads: rayon::current_num_threads(),
        revision: files::git_revision(),
        train_loss: train.loss,
        train_accuracy: train.accuracy,
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
        certified_radii: certified.as_ref().and(radii).map(|radii| radii.map(|r| r.to_string()).join(" ")),
        certified_accuracy_1: certified_at(0),
        certified_accuracy_2: certified_at(1),
        certified_accuracy_3: certified_at(2),
        seconds,
        peak_memory_mb: device::peak_memory_mb(),
        ..SummaryRow::default()
    }
    .with_settings(config);
    metrics::write_summary(&directory.join("summary.csv"), &row)?;
    say(config, options, &report(&row, directory));
    Ok(row)
}

fn report(row: &SummaryRow, directory: &Path) -> String {
    let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2} %"));
    let mut text = format!(
        "done: test loss {}, accuracy {}; train loss {}, accuracy {}; {:.1} s",
        Loss(row.test_loss),
        percent(row.test_accuracy),
        Loss(row.train_loss),
        percent(row.train_accuracy),
        row.seconds
    );
    if let (Some(active), Some(knots)) = (row.active_knots, row.knots) {
        text += &format!("; {active} of {knots} knots active");
    }
    if let (Some(threshold), Some(active)) = (row.sparsified_threshold, row.sparsified_active_knots) {
        text += &format!(
            "; sparsified at {threshold}: {active} knots, test accuracy {}",
            percent(row.sparsified_test_accuracy)
        );
    }
    text + &format!("\n  protocol {}; results in {}", row.protocol, directory.display())
}

/// The checkpoint to go on from, if that is what is wanted and there is one; nothing is written yet.
fn open_directory(config: &Config, options: &RunOptions) -> Result<Option<Checkpoint>> {
    let directory = &options.directory;
    let checkpoint_path = directory.join("checkpoint.safetensors");
    let held = checkpoint_path.exists() || directory.join("metrics.csv").exists();
    if held && !options.resume && !options.overwrite {
        bail!(
            "{} already holds a run: --resume goes on with it, --overwrite starts again, --out DIR writes elsewhere",
            directory.display()
        );
    }
    if !options.resume || !checkpoint_path.exists() {
        return Ok(None);
    }
    let checkpoint = Checkpoint::read(&checkpoint_path)?;
    let saved = Config::from_toml(&checkpoint.config)
        .with_context(|| format!("the config in {}", checkpoint_path.display()))?;
    let differences = obstacles(&saved, config, &checkpoint.position);
    if !differences.is_empty() {
        bail!(
            "{} was made with another config; it cannot be resumed with this one:\n  {}\n--overwrite starts again",
            checkpoint_path.display(),
            differences.join("\n  ")
        );
    }
    Ok(Some(checkpoint))
}

/// What keeps a run of `saved` that stands there from going on as one of `config`: all that differs, but for what is left of its
/// schedule. Its last epoch may come later or, if something is left of it, earlier, and other milestones may follow, if the
/// learning rates so far are those of `config`. Rows are then those of a run of `config` from the start, but that an end that was
/// reached before keeps the row of its evaluation.
fn obstacles(saved: &Config, config: &Config, position: &Position) -> Vec<String> {
    let past = position.epoch + usize::from(position.batch > 0);
    let factor = |config: &Config, epoch| multi_step(epoch, &config.train.milestones, config.train.gamma);
    // The last epoch ends with an evaluation.
    let is_over = config.train.epochs <= position.epoch && config.train.epochs != saved.train.epochs;
    if is_over || config.train.epochs < past || (0..past).any(|epoch| factor(saved, epoch) != factor(config, epoch)) {
        return saved.differences(config);
    }
    let (epochs, milestones) = (config.train.epochs, config.train.milestones.clone());
    Config { train: Train { epochs, milestones, ..saved.train.clone() }, ..saved.clone() }.differences(config)
}

/// Makes the directory, takes away what an abandoned run left there, and writes the resolved config.
fn claim_directory(config: &Config, directory: &Path, resumes: bool) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the run's directory {}", directory.display()))?;
    // What is written after the last epoch is of another one where a run goes on.
    let mut stale = vec!["summary.csv", sparsify::NETWORK, sparsify::THRESHOLDS];
    if !resumes {
        stale.extend(["checkpoint.safetensors", "metrics.csv"]);
    }
    for stale in stale {
        let path = directory.join(stale);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    files::write_atomically(&directory.join("config.toml"), |file| file.write_all(config.to_toml().as_bytes()))?;
    Ok(())
}

/// The summary of a run that was finished before.
fn finished(directory: &Path, config: &Config) -> Result<Option<SummaryRow>> {
    let path = directory.join("summary.csv");
    if !path.exists() {
        return Ok(None);
    }
    let rows = metrics::read_summary(&path)?;
    Ok(rows.into_iter().find(|row| row.is_of(config) && row.epochs == config.train.epochs))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_left_of_a_schedule_may_change() {
        let of = |epochs: usize, milestones: &str| {
            let text = format!("experiment = \"mnist\"\ntrain.epochs = {epochs}\ntrain.milestones = {milestones}");
            Config::from_toml(&text).unwrap()
        };
        let saved = of(10, "[4, 8]");
        let goes_on = |epoch, batch, config| {
            obstacles(&saved, &config, &Position { epoch, batch, ..Position::default() }).is_empty()
        };
        assert!(goes_on(5, 0, of(10, "[4, 8]")));
        assert!(goes_on(5, 0, of(20, "[4, 12]")));
        assert!(goes_on(5, 0, of(6, "[4]")));
        assert!(goes_on(5, 3, of(6, "[4]")));
        assert!(goes_on(10, 0, of(12, "[4, 8, 11]")));
        // The learning rate of epoch 5, which has begun, and of epoch 4.
        assert!(!goes_on(5, 3, of(10, "[4, 5]")));
        assert!(goes_on(5, 0, of(10, "[4, 5]")));
        assert!(!goes_on(5, 0, of(10, "[5, 8]")));
        // Nothing is left to be trained, so that the last epoch would not be evaluated.
        assert!(!goes_on(5, 0, of(5, "[4]")));
        assert!(!goes_on(5, 3, of(5, "[4]")));
        assert!(goes_on(10, 0, of(10, "[4, 8]")));
    }
}
