//! The runs of a sweep, all of them or those of a shard, and the rows of all shards.

use anyhow::{Result, bail};
use ds_lab::cli::{DataArgs, check_instructions};
use ds_lab::file_names::SUMMARY;
use ds_lab::sweep::{Merged, Shard, Sweep, SweepOptions, merge, run_sweep};
use ds_lab::{console, outln};
use std::path::{Path, PathBuf};

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
    /// Runs at once; 0: one a core, or one on a GPU.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub jobs: usize,
    /// Start again, even where there are rows of finished runs.
    #[arg(long)]
    pub overwrite: bool,
    /// Make one of N parts of the runs, in a directory that other processes share which make the others; without a value, the
    /// part of this task of a Slurm job array.
    #[arg(long, value_name = "K/N", num_args = 0..=1, default_missing_value = SLURM, conflicts_with_all = ["overwrite", "merge"])]
    pub shard: Option<String>,
    /// Bring the rows of all shards into one summary.csv, tell what is missing, and stop.
    #[arg(long, conflicts_with_all = ["overwrite", "list"])]
    pub merge: bool,
    /// Show nothing but errors.
    #[arg(long, short)]
    pub quiet: bool,
    /// Print the names of the runs and stop.
    #[arg(long)]
    pub list: bool,
}

/// `--shard` without a value.
const SLURM: &str = "slurm";

pub fn run(args: &SweepArgs) -> Result<()> {
    check_instructions()?;
    let sweep = Sweep::load(&args.sweep)?;
    let shard = args.shard.as_deref().map(shard_of).transpose()?;
    if args.list {
        let runs = sweep.runs()?;
        for run in shard.map_or_else(|| runs.iter().collect(), |shard| shard.of(&runs)) {
            outln!("{} seed {}", run.config.name, run.config.seed);
        }
        return Ok(());
    }
    console::set_quiet(args.quiet);
    let directory = directory(&sweep, args.out.as_deref());
    if args.merge {
        return report_merge(&sweep.name, &merge(&sweep, &directory)?, &directory, args.quiet);
    }
    let options = SweepOptions { directory, jobs: args.jobs, overwrite: args.overwrite, quiet: args.quiet, shard };
    let outcome = run_sweep(&sweep, &args.data.source()?, &options, &args.data.context(0)?)?;
    let name = shard.map_or_else(|| sweep.name.clone(), |shard| format!("{}, shard {shard}", sweep.name));
    if !args.quiet {
        outln!("{}", outcome.describe(&name));
    }
    outcome.check(options.again())
}

/// The directory of a sweep.
pub fn directory(sweep: &Sweep, out: Option<&Path>) -> PathBuf {
    out.map_or_else(|| Path::new("results").join(&sweep.name), Path::to_owned)
}

fn shard_of(text: &str) -> Result<Shard> {
    if text != SLURM {
        return Ok(text.parse()?);
    }
    Ok(Shard::of_slurm(|name| std::env::var(name).ok())?)
}

/// The most runs that are named one by one.
const NAMED: usize = 20;

fn report_merge(name: &str, merged: &Merged, directory: &Path, quiet: bool) -> Result<()> {
    let Merged { rows, diverged, missing, choices, problems, next } = merged;
    let runs = |count: usize| if count == 1 { "1 run".to_owned() } else { format!("{count} runs") };
    let mut text = format!("{name}: {} in {}", runs(*rows), directory.join(SUMMARY).display());
    if *diverged > 0 {
        text += &format!(", {diverged} diverged");
    }
    for choice in choices {
        text += &format!("\n  selected: {choice}");
    }
    for (title, error) in problems {
        text += &format!("\n  FAILED: {title}: {error:#}");
    }
    if *next > 0 {
        text += &format!("\n  next: {} of the selection, by the same shards", runs(*next));
    }
    for (title, error) in missing.iter().take(NAMED) {
        text += &format!("\n  MISSING: {title}");
        if let Some(error) = error {
            text += &format!(": {error}");
        }
    }
    if missing.len() > NAMED {
        text += &format!("\n  MISSING: and {} more", missing.len() - NAMED);
    }
    // Which runs are missing is part of the error.
    if !quiet || !missing.is_empty() || !problems.is_empty() {
        outln!("{text}");
    }
    if !missing.is_empty() {
        bail!(
            "{} missing: run the shards again, or the sweep without --shard, which makes what is missing",
            if missing.len() == 1 { "1 run is".to_owned() } else { format!("{} runs are", missing.len()) }
        );
    }
    if !problems.is_empty() {
        let selections = if problems.len() == 1 { "selection" } else { "selections" };
        bail!("{} {selections} could not be made", problems.len());
    }
    Ok(())
}
