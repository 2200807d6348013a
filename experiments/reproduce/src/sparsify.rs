//! Knot elimination from a finished run's checkpoint: every threshold of the papers' list, one evaluation each.

use anyhow::{Context, Result, bail};
use ds_lab::checkpoint::Checkpoint;
use ds_lab::cli::DataArgs;
use ds_lab::config::{Config, Search};
use ds_lab::experiment::Setup;
use ds_lab::metrics::{ThresholdRow, read_table};
use ds_lab::sparsify::{self, THRESHOLDS};
use ds_lab::table::Table;
use ds_lab::train::{count_active_knots, evaluate};
use ds_lab::{note, out};
use std::path::PathBuf;

/// What `reproduce sparsify` is told.
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
    let path = args.run.join("checkpoint.safetensors");
    let checkpoint = Checkpoint::read(&path)?;
    let mut config =
        Config::from_toml(&checkpoint.config).with_context(|| format!("the config in {}", path.display()))?;
    if checkpoint.position.epoch < config.train.epochs {
        note!("NOTE: the run is not finished: epoch {} of {}", checkpoint.position.epoch, config.train.epochs);
    }
    config.sparsify.enabled = true;
    config.sparsify.threshold = None;
    config.sparsify.search = Search::Every;
    if let Some(tolerance) = args.tolerance {
        if !(0.0..=100.0).contains(&tolerance) {
            bail!("--tolerance {tolerance}: allowed is a number of points from 0 to 100");
        }
        config.sparsify.tolerance = tolerance;
    }
    let setup = Setup::new(&config, &args.data.source()?)?;
    checkpoint.restore_network(&setup.network)?;
    let Some(active) = count_active_knots(&setup.network)? else {
        bail!("{} has no splines: its activation is {}", path.display(), config.activation.kind);
    };
    let (train, test) = (evaluate(&setup.network, &setup.train)?, evaluate(&setup.network, &setup.test)?);
    let out = args.out.as_ref().unwrap_or(&args.run);
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    let sparsified = sparsify::run(&config, &setup, train, out)?;
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
    for row in read_table::<ThresholdRow>(&out.join(THRESHOLDS))? {
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
