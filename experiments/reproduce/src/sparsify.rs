//! Knot elimination from a finished run's checkpoint: every threshold of the papers' list, one evaluation each.

use crate::run_folder;
use anyhow::{Context, Result, bail};
use ds_lab::cli::DataArgs;
use ds_lab::config::{Experiment, Search};
use ds_lab::file_names::{CHECKPOINT, CONFIG, SPARSIFIED, THRESHOLDS};
use ds_lab::files::write_atomically;
use ds_lab::lock::DirectoryLock;
use ds_lab::results::metrics::ThresholdRow;
use ds_lab::results::table::Table;
use ds_lab::run::Setup;
use ds_lab::run::sparsify::{self, Outcome};
use ds_lab::run::{count_active_knots, evaluate};
use ds_lab::{note, out};
use std::path::PathBuf;

/// Arguments of `reproduce sparsify`.
#[derive(Debug, clap::Args)]
pub struct SparsifyArgs {
    /// The run's directory, with its checkpoint.
    run: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Points of training accuracy that may be lost [default: the config's].
    #[arg(long, value_name = "POINTS")]
    tolerance: Option<f64>,
    /// Where to write sparsified.safetensors and thresholds.csv [default: the run's directory].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &SparsifyArgs) -> Result<()> {
    let (checkpoint, mut config) = run_folder::open(&args.run)?;
    let kind = config.activation.kind;
    if !kind.is_spline() {
        bail!(
            "{} has no knots to eliminate: its activation is {kind}; those of bspline, explicit_linear and relu_spline are \
             sparsified",
            args.run.join(CHECKPOINT).display()
        );
    }
    if config.experiment == Experiment::Fit1d {
        bail!("{}: the search for a threshold needs an accuracy, and fit1d has none", args.run.display());
    }
    if let Some(tolerance) = args.tolerance
        && !(0.0..=100.0).contains(&tolerance)
    {
        bail!("--tolerance {tolerance}: expected a number of points from 0 to 100");
    }
    let out = args.out.as_ref().unwrap_or(&args.run);
    let is_elsewhere = !out.canonicalize().is_ok_and(|out| args.run.canonicalize().is_ok_and(|run| run == out));
    if is_elsewhere {
        run_folder::check_target(out, &config)?;
    }
    run_folder::check_table::<ThresholdRow>(&out.join(THRESHOLDS))?;
    let saved_config = config.clone();
    config.sparsify.enabled = true;
    config.sparsify.threshold = None;
    config.sparsify.search = Search::Every;
    config.sparsify.tolerance = args.tolerance.unwrap_or(config.sparsify.tolerance);
    let setup = Setup::new(&config, &args.data.source()?, &args.data.context(0)?)?;
    checkpoint.restore_network(&setup.network)?;
    let Some(active) = count_active_knots(&setup.network)? else {
        bail!("{} has no splines", args.run.join(CHECKPOINT).display());
    };
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let _lock = DirectoryLock::acquire(out)?;
    let config_file = out.join(CONFIG);
    if is_elsewhere && !config_file.exists() {
        // By its config a folder is known to be of this run.
        write_atomically(&config_file, |file| file.write_all(saved_config.to_toml().as_bytes()))?;
    }
    let (train, test) = (evaluate(&setup.network, &setup.train)?, evaluate(&setup.network, &setup.test)?);
    let Outcome { sparsified, tried } = sparsify::run(&config, &setup, train, out)?;
    if sparsified.is_none() {
        let tolerance = config.sparsify.tolerance;
        note!("NOTE: every threshold loses more than {tolerance} points, so that {SPARSIFIED} is not written");
    }
    let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let mut table = Table::new(
        &format!("{}, seed {}", config.name, config.seed),
        &format!(
            "sparsified at the last threshold that loses at most {} points of training accuracy",
            config.sparsify.tolerance
        ),
        &["threshold", "active knots", "train accuracy (%)", "test accuracy (%)"],
    );
    table.rows.push(vec!["none".to_owned(), active.to_string(), percent(train.accuracy), percent(test.accuracy)]);
    for row in tried {
        let is_chosen = sparsified.is_some_and(|s| s.threshold == row.threshold);
        let test = sparsified.and_then(|s| s.test_accuracy).filter(|_| is_chosen);
        table.rows.push(vec![
            format!("{}{}", row.threshold, if is_chosen { " *" } else { "" }),
            row.active_knots.to_string(),
            format!("{:.2}", row.train_accuracy),
            test.map_or(String::new(), |v| format!("{v:.2}")),
        ]);
    }
    out!("{table}");
    Ok(())
}
