//! Every experiment of both papers: runs, sweeps, comparison and report.

mod all;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use ds_lab::cli::{DataArgs, RunArgs, check_instructions, exit_code, in_thread_pool, train};
use ds_lab::sweep::{Outcome, Sweep, SweepOptions, run_sweep};
use ds_nn::memory::Recycling;
use indicatif::HumanDuration;
use mimalloc::MiMalloc;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Recycling<MiMalloc> = Recycling::new(MiMalloc);

/// Reproduces the experiments of Bohra-Campos2020 and Aziznejad2020.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All runs and sweeps of a directory of configs, then the comparison and the report; says first what they will take.
    All(all::AllArgs),
    /// One run, of any experiment.
    Train(RunArgs),
    /// The runs of one sweep.
    Sweep(SweepArgs),
}

#[derive(Debug, clap::Args)]
struct SweepArgs {
    /// The sweep (TOML).
    sweep: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// The sweep's directory [default: results/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs at once; 0: one a core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Start again, even where there are rows of finished runs.
    #[arg(long)]
    overwrite: bool,
    /// Show nothing but errors.
    #[arg(long, short)]
    quiet: bool,
    /// Print the names of the runs and stop.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    exit_code(match Args::parse().command {
        Command::All(args) => in_thread_pool(|| all::run(&args)),
        Command::Train(args) => train(None, &args),
        Command::Sweep(args) => sweep(&args),
    })
}

fn sweep(args: &SweepArgs) -> Result<()> {
    check_instructions()?;
    let sweep = Sweep::load(&args.sweep)?;
    if args.list {
        for run in sweep.runs()? {
            println!("{} seed {}", run.config.name, run.config.seed);
        }
        return Ok(());
    }
    let directory = args.out.clone().unwrap_or_else(|| Path::new("results").join(&sweep.name));
    let options =
        SweepOptions { directory: directory.clone(), jobs: args.jobs, overwrite: args.overwrite, quiet: args.quiet };
    let outcome = run_sweep(&sweep, &args.data.source()?, &options)?;
    println!("{}", told(&sweep.name, &outcome, &directory));
    if !outcome.failures.is_empty() {
        bail!("{} runs failed; the same command tries them again", outcome.failures.len());
    }
    Ok(())
}

/// What a sweep came to, in words.
fn told(name: &str, outcome: &Outcome, directory: &Path) -> String {
    let mut text = format!(
        "{name}: {} runs, {} of them made now in {}; {}",
        outcome.rows.len(),
        outcome.made,
        HumanDuration(Duration::from_secs_f64(outcome.seconds)),
        directory.join("summary.csv").display()
    );
    for choice in &outcome.choices {
        text += &format!("\n  selected: {choice}");
    }
    for (title, error) in &outcome.failures {
        text += &format!("\n  FAILED: {title}: {error:#}");
    }
    text
}
