//! The runs of a sweep.

use anyhow::{Result, bail};
use ds_lab::cli::{DataArgs, check_instructions};
use ds_lab::file_names::SUMMARY;
use ds_lab::sweep::{Outcome, Sweep, SweepOptions, run_sweep};
use ds_lab::{console, files, outln};
use indicatif::HumanDuration;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `reproduce sweep`.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// The sweep (TOML).
    pub sweep: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// The sweep's directory [default: results/NAME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Runs at once; 0: one a core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub jobs: usize,
    /// Start again, even where there are rows of finished runs.
    #[arg(long)]
    pub overwrite: bool,
    /// Show nothing but errors.
    #[arg(long, short)]
    pub quiet: bool,
    /// Print the names of the runs and stop.
    #[arg(long)]
    pub list: bool,
}

pub fn run(args: &SweepArgs) -> Result<()> {
    check_instructions()?;
    let sweep = Sweep::load(&args.sweep)?;
    if args.list {
        for run in sweep.runs()? {
            outln!("{} seed {}", run.config.name, run.config.seed);
        }
        return Ok(());
    }
    console::set_quiet(args.quiet);
    let directory = args.out.as_deref().map_or_else(|| Path::new("results").join(&sweep.name), files::expand_home);
    let options =
        SweepOptions { directory: directory.clone(), jobs: args.jobs, overwrite: args.overwrite, quiet: args.quiet };
    let outcome = run_sweep(&sweep, &args.data.source()?, &options, &args.data.context(0)?)?;
    outln!("{}", describe_outcome(&sweep.name, &outcome, &directory));
    if !outcome.failures.is_empty() {
        bail!("{} runs failed; the same command tries them again", outcome.failures.len());
    }
    Ok(())
}

/// The outcome of a sweep as text.
pub fn describe_outcome(name: &str, outcome: &Outcome, directory: &Path) -> String {
    let mut text = format!(
        "{name}: {} runs, {} of them made now in {}; {}",
        outcome.rows.len(),
        outcome.made,
        HumanDuration(Duration::from_secs_f64(outcome.seconds)),
        directory.join(SUMMARY).display()
    );
    for choice in &outcome.choices {
        text += &format!("\n  selected: {choice}");
    }
    for row in &outcome.diverged {
        text += &format!(
            "\n  DIVERGED: {} with seed {}: the loss was {} at step {} (epoch {}); it is not trained again",
            row.run, row.seed, row.loss, row.step, row.epoch
        );
    }
    for (title, error) in &outcome.failures {
        text += &format!("\n  FAILED: {title}: {error:#}");
    }
    text
}
