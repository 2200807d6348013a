//! Pruning from a finished run's checkpoint: the accuracies for a list of numbers of knots, and for the papers' thresholds.

use crate::run_folder;
use anyhow::{Context, Result, bail};
use ds_core::sparsify::Cost;
use ds_lab::cli::DataArgs;
use ds_lab::config::{Config, Experiment, Judged, Kind, PruningMethod, Search, find};
use ds_lab::file_names::{CHECKPOINT, CONFIG, FINETUNED, PRUNING, SPARSIFIED, THRESHOLDS};
use ds_lab::files::{remove_written, write_atomically};
use ds_lab::interrupt::{self, Deferred};
use ds_lab::lock::DirectoryLock;
use ds_lab::progress::Loss;
use ds_lab::results::metrics::{PruningRow, ThresholdRow};
use ds_lab::results::table::Table;
use ds_lab::run::sparsify::{self, Outcome};
use ds_lab::run::{Evaluation, Setup, count_active_knots, count_knots, evaluate};
use ds_lab::{note, out};
use std::path::{Path, PathBuf};

/// Arguments of `reproduce sparsify`.
#[derive(Debug, clap::Args)]
pub struct SparsifyArgs {
    /// The run's directory, with its checkpoint.
    run: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// refit, papers or both.
    #[arg(long, value_name = "METHOD", default_value = "both")]
    method: PruningMethod,
    /// Points of accuracy that may be lost [default: the config's].
    #[arg(long, value_name = "POINTS")]
    tolerance: Option<f64>,
    /// The accuracy that may be lost, training or validation [default: the config's].
    #[arg(long, value_name = "SAMPLES")]
    accuracy: Option<Judged>,
    /// The knots that refit keeps, instead of a search.
    #[arg(long, value_name = "N")]
    knots: Option<usize>,
    /// The error that refit keeps small, mean_square or squared_gradient [default: the config's].
    #[arg(long, value_name = "COST")]
    cost: Option<Cost>,
    /// Epochs of training after refit, with the kept knots fixed.
    #[arg(long, value_name = "N")]
    finetune_epochs: Option<usize>,
    /// What the learning rates are multiplied with in these epochs [default: the config's].
    #[arg(long, value_name = "FACTOR")]
    finetune_lr: Option<f64>,
    /// Remove more knots after these epochs and train again, while the tolerance allows it.
    #[arg(long)]
    iterate: bool,
    /// Where to write the pruned networks and the tables [default: the run's directory].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl SparsifyArgs {
    /// Refuses options that change nothing beside the others.
    fn check_effects(&self, config: &Config) -> Result<()> {
        let epochs = self.finetune_epochs.unwrap_or(config.sparsify.finetune_epochs);
        let of_refit = [
            ("--knots", self.knots.is_some()),
            ("--cost", self.cost.is_some()),
            ("--finetune-epochs", self.finetune_epochs.is_some_and(|epochs| epochs > 0)),
            ("--finetune-lr", self.finetune_lr.is_some()),
            ("--iterate", self.iterate),
        ];
        let first =
            |options: &[(&'static str, bool)]| options.iter().find(|(_, is_given)| *is_given).map(|(name, _)| *name);
        if let Some(option) = first(&of_refit).filter(|_| !self.method.refits()) {
            bail!(
                "{option}: --method papers keeps what its thresholds leave, fits no function and trains nothing; choose --method \
                 refit or both, or leave the option out"
            );
        }
        if self.finetune_lr.is_some() && epochs == 0 {
            bail!(
                "--finetune-lr: nothing is trained after pruning; give --finetune-epochs, too, such as --finetune-epochs 5, or \
                 leave the option out"
            );
        }
        if self.iterate && (epochs == 0 || self.knots.is_some()) {
            bail!("--iterate: it removes knots between epochs of training; give --finetune-epochs, and no --knots");
        }
        let of_search = [("--tolerance", self.tolerance.is_some()), ("--accuracy", self.accuracy.is_some())];
        let has_search = self.knots.is_none() || self.method.thresholds();
        if let Some(option) = first(&of_search).filter(|_| !has_search) {
            bail!(
                "{option}: --method refit with --knots searches nothing, so that no accuracy is judged; leave one of them out"
            );
        }
        Ok(())
    }

    /// Refuses numbers that the keys of the config do not take.
    fn check_numbers(&self) -> Result<()> {
        let all = [
            ("--tolerance", "sparsify.tolerance", self.tolerance),
            ("--finetune-epochs", "sparsify.finetune_epochs", self.finetune_epochs.map(|epochs| epochs as f64)),
            ("--finetune-lr", "sparsify.finetune_lr", self.finetune_lr),
        ];
        for (option, path, number) in all {
            let (Some(key), Some(number)) = (find(path), number) else { continue };
            let is_allowed = match key.kind {
                Kind::Integer(low, high) => (low as f64..=high as f64).contains(&number),
                Kind::Number(low, high) => (low..=high).contains(&number),
                Kind::Positive(high) => number > 0.0 && number <= high,
                _ => true,
            };
            if !is_allowed {
                bail!("{option} {number}: expected {}", key.kind);
            }
        }
        Ok(())
    }

    /// The config with what the arguments change. Keys of the run that have no effect beside them get their defaults.
    fn applied_to(&self, config: &Config) -> Result<Config> {
        self.check_effects(config)?;
        self.check_numbers()?;
        let mut config = config.clone();
        let sparsify = &mut config.sparsify;
        (sparsify.enabled, sparsify.threshold, sparsify.search) = (true, None, Search::Every);
        sparsify.method = Some(self.method);
        sparsify.knots = self.knots;
        sparsify.tolerance = self.tolerance.unwrap_or(sparsify.tolerance);
        sparsify.accuracy = self.accuracy.unwrap_or(sparsify.accuracy);
        sparsify.cost = self.cost.unwrap_or(sparsify.cost);
        sparsify.finetune_epochs = self.finetune_epochs.unwrap_or(sparsify.finetune_epochs);
        if !self.method.refits() {
            (sparsify.cost, sparsify.finetune_epochs) = (Cost::default(), 0);
        }
        let trains = sparsify.finetune_epochs > 0;
        sparsify.iterate = trains && self.knots.is_none() && (self.iterate || sparsify.iterate);
        sparsify.finetune_lr = self.finetune_lr.or(sparsify.finetune_lr).filter(|_| trains);
        if sparsify.accuracy == Judged::Validation && config.data.validation == 0.0 {
            bail!("--accuracy validation: the run has held out no samples (data.validation = 0); choose training");
        }
        if config.network.kind.is_lipschitz() && self.method.thresholds() {
            bail!(
                "--method {}: eliminated knots could exceed the slopes of a 1-Lipschitz spline; choose refit",
                self.method
            );
        }
        Ok(config)
    }
}

pub fn run(args: &SparsifyArgs) -> Result<()> {
    let (checkpoint, saved_config) = run_folder::open(&args.run)?;
    let kind = saved_config.activation.kind;
    if !kind.has_knots() {
        bail!(
            "{} has no knots to remove: its activation is {kind}; those of bspline, explicit_linear, relu_spline and \
             lipschitz_spline have some",
            args.run.join(CHECKPOINT).display()
        );
    }
    if saved_config.experiment == Experiment::Fit1d && (args.knots.is_none() || args.method.thresholds()) {
        bail!(
            "{}: a search needs an accuracy, and fit1d has none; give --method refit and --knots N",
            args.run.display()
        );
    }
    let config = args.applied_to(&saved_config)?;
    let out = args.out.as_ref().unwrap_or(&args.run);
    let is_elsewhere = !out.canonicalize().is_ok_and(|out| args.run.canonicalize().is_ok_and(|run| run == out));
    if is_elsewhere {
        run_folder::check_target(out, &saved_config)?;
    }
    run_folder::check_table::<ThresholdRow>(&out.join(THRESHOLDS))?;
    run_folder::check_table::<PruningRow>(&out.join(PRUNING))?;
    let setup = Setup::new(&config, &args.data.source()?, &args.data.context(0)?)?;
    checkpoint.check_data(&setup)?;
    checkpoint.restore_network(&setup.network)?;
    let Some(active) = count_active_knots(&setup.network)? else {
        bail!("{} has no splines", args.run.join(CHECKPOINT).display());
    };
    let knots = count_knots(&setup.network);
    if let Some(count) = args.knots.filter(|&count| count > knots) {
        bail!("--knots {count}: the network has {knots} knots; choose a number from 0 to {knots}");
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let _lock = DirectoryLock::acquire(out)?;
    let config_file = out.join(CONFIG);
    let is_new = is_elsewhere && !config_file.exists();
    if is_new {
        // By its config a folder is known to be of this run.
        write_atomically(&config_file, |file| file.write_all(saved_config.to_toml().as_bytes()))?;
    }
    let (before, outcome) = match pruned(&config, &setup, out) {
        Ok(pruned) => pruned,
        Err(error) => {
            if is_new {
                remove_written(out, CONFIG)?;
            }
            return Err(match interrupt::received() {
                Some(_) => error.context("sparsify was interrupted; no file was changed"),
                None => error,
            });
        }
    };
    let tolerance = config.sparsify.tolerance;
    if args.method.thresholds() && outcome.sparsified.is_none() {
        let unsaved = if args.method.refits() { String::new() } else { format!(", so that there is no {SPARSIFIED}") };
        note!("NOTE: every threshold loses more than {tolerance} points{unsaved}");
    }
    if args.method.refits() && outcome.refit.is_none() {
        note!("NOTE: every number of knots loses more than {tolerance} points, so that there is no {SPARSIFIED}");
    }
    for file in &outcome.removed {
        note!("NOTE: removed {}, which was of an earlier pruning", out.join(file).display());
    }
    out!("{}", table(&config, active, &before, &outcome));
    Ok(())
}

/// The network before pruning.
struct Before {
    train: Evaluation,
    validation: Option<Evaluation>,
    test: Evaluation,
}

/// Evaluates the network and prunes it, unless a signal comes between.
fn pruned(config: &Config, setup: &Setup, out: &Path) -> Result<(Before, Outcome)> {
    let _deferred = Deferred::begin();
    let network = &setup.network;
    let (train, test) = (evaluate(network, &setup.train)?, evaluate(network, &setup.test)?);
    let validation = setup.validation.as_ref().map(|samples| evaluate(network, samples)).transpose()?;
    let outcome = sparsify::run(config, setup, train, out)?;
    Ok((Before { train, validation, test }, outcome))
}

/// What the stars in the table mean.
fn legend(config: &Config) -> String {
    let (method, knots) = (config.sparsify.method(), config.sparsify.knots);
    let searched = match (method.refits() && knots.is_none(), method.thresholds()) {
        (true, true) => Some("fewest knots, and largest threshold, that lose"),
        (true, false) => Some("fewest knots that lose"),
        (false, true) => Some("largest threshold that loses"),
        (false, false) => None,
    };
    let (tolerance, accuracy) = (config.sparsify.tolerance, config.sparsify.accuracy);
    let searched = searched.map(|what| format!("{what} at most {tolerance} points of {accuracy} accuracy"));
    let given = knots.map(|knots| format!("{knots} knots as given, whatever they lose"));
    // Of both methods' networks the one of refit is kept.
    let of_refit = if method.refits() && method.thresholds() { " of refit" } else { "" };
    let trained =
        if config.sparsify.finetune_epochs > 0 { format!(" or, with epochs, {FINETUNED}") } else { String::new() };
    let saved = format!("a network{of_refit} with a star is in {SPARSIFIED}{trained}");
    format!("*: {}", given.into_iter().chain(searched).chain([saved]).collect::<Vec<_>>().join("; "))
}

/// What was tried, by both methods, below the network before; what was chosen has a star. A fit has losses in the place of accuracies.
fn table(config: &Config, active: usize, before: &Before, outcome: &Outcome) -> Table {
    let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let star = |is_chosen: bool| if is_chosen { " *" } else { "" };
    let has_accuracy = before.test.accuracy.is_some();
    let columns = if has_accuracy {
        &["method", "knots", "train accuracy (%)", "validation accuracy (%)", "test accuracy (%)"][..]
    } else {
        &["method", "knots", "test loss"][..]
    };
    let mut table = Table::new(&format!("{}, seed {}", config.name, config.seed), &legend(config), columns);
    let cells = |accuracies: [Option<f64>; 3], test_loss: f64| {
        if has_accuracy { accuracies.map(percent).to_vec() } else { vec![Loss(test_loss).to_string()] }
    };
    let validation = before.validation.and_then(|evaluation| evaluation.accuracy);
    let unchanged = cells([before.train.accuracy, validation, before.test.accuracy], before.test.loss);
    table.rows.push([vec!["none".to_owned(), active.to_string()], unchanged].concat());
    for (row, &test_loss) in outcome.curve.iter().zip(&outcome.test_losses) {
        let is_chosen = [&outcome.refit, &outcome.finetuned].into_iter().flatten().any(|chosen| chosen == row);
        let method = match row.finetune_epochs {
            0 => "refit".to_owned(),
            epochs => format!("refit, {epochs} epochs"),
        };
        let known = vec![format!("{method}{}", star(is_chosen)), row.knots.to_string()];
        let accuracies = [row.train_accuracy, row.validation_accuracy, row.test_accuracy];
        table.rows.push([known, cells(accuracies, test_loss)].concat());
    }
    for row in &outcome.thresholds {
        let chosen = outcome.sparsified.filter(|chosen| chosen.threshold == row.threshold);
        table.rows.push(vec![
            format!("papers, threshold {}{}", row.threshold, star(chosen.is_some())),
            row.active_knots.to_string(),
            format!("{:.2}", row.train_accuracy),
            percent(chosen.and_then(|chosen| chosen.validation_accuracy)),
            percent(chosen.and_then(|chosen| chosen.test_accuracy)),
        ]);
    }
    table
}
