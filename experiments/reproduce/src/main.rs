//! Every experiment of both papers: runs, sweeps, comparison and report.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod all;
mod bounds;
mod run_folder;
mod sparsify;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use ds_lab::cli::{DataArgs, RunArgs, check_instructions, exit_code, in_thread_pool, train};
use ds_lab::compare::{self, References};
use ds_lab::file_names::{COMPARISON, SUMMARY};
use ds_lab::results::{Kind, Results, save};
use ds_lab::sweep::{Outcome, Sweep, SweepOptions, run_sweep};
use ds_lab::table::Table;
use ds_lab::{console, files, interrupt, note, outln};
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
    /// Results beside the papers' values and beside the original's code, as tables, Markdown and CSV.
    Compare(CompareArgs),
    /// The comparison, and a page with all pictures and tables: report.html and figures/ in the folder.
    Report(CompareArgs),
    /// Bounds of the Lipschitz constant of a run's network, from its checkpoint: from below, certified, and the papers'.
    Bounds(bounds::BoundsArgs),
    /// Eliminates knots of a finished run: every threshold of the papers' list, from its checkpoint.
    Sparsify(sparsify::SparsifyArgs),
}

#[derive(Debug, clap::Args)]
struct CompareArgs {
    /// Folder of results; comparison.md and comparison-*.csv are written to it.
    #[arg(default_value = "results")]
    results: PathBuf,
    #[command(flatten)]
    references: ReferenceArgs,
}

#[derive(Debug, clap::Args)]
struct ReferenceArgs {
    /// The papers' values [default: results/papers.csv if it is there, else the copy in the program].
    #[arg(long, value_name = "FILE")]
    papers: Option<PathBuf>,
    /// Runs of the original's code, from benches/original.py [default: results/original.csv if it is there, else the copy in the
    /// program].
    #[arg(long, value_name = "FILE")]
    original: Option<PathBuf>,
}

impl ReferenceArgs {
    /// The files, or their copies in the program.
    ///
    /// # Errors
    /// If a file that was named is missing or wrong.
    fn load(&self) -> Result<References> {
        References::load(self.papers.as_deref(), self.original.as_deref())
    }
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
    let command = Args::parse().command;
    if let Err(error) = interrupt::install() {
        return exit_code(Err(error).context("cannot handle signals"));
    }
    exit_code(match command {
        Command::All(args) => in_thread_pool(|| all::run(args)),
        Command::Train(args) => train(None, &args),
        Command::Sweep(args) => sweep(&args),
        Command::Compare(args) => compare(&args.results, &args.references),
        Command::Report(args) => in_thread_pool(|| report(&args.results, &args.references)),
        Command::Bounds(args) => check_instructions().and_then(|()| in_thread_pool(|| bounds::run(&args))),
        Command::Sparsify(args) => check_instructions().and_then(|()| in_thread_pool(|| sparsify::run(&args))),
    })
}

fn sweep(args: &SweepArgs) -> Result<()> {
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
    let outcome = run_sweep(&sweep, &args.data.source()?, &options)?;
    outln!("{}", describe_outcome(&sweep.name, &outcome, &directory));
    if !outcome.failures.is_empty() {
        bail!("{} runs failed; the same command tries them again", outcome.failures.len());
    }
    Ok(())
}

fn compare(folder: &Path, args: &ReferenceArgs) -> Result<()> {
    let references = args.load()?;
    let results = read_results(folder, &references)?;
    let tables = compare::tables(&results, &references);
    if tables.is_empty() && results.diverged.is_empty() {
        list_left_out(&results);
        bail!("{} has no run that has ended (no row of a summary.csv): there is nothing to compare", folder.display());
    }
    let saved = compare::outputs(&results, &tables).and_then(|outputs| save(&outputs));
    print(&results, &tables);
    saved?;
    outln!("written to {}", folder.join(COMPARISON).display());
    Ok(())
}

fn report(folder: &Path, args: &ReferenceArgs) -> Result<()> {
    let references = args.load()?;
    let mut results = read_results(folder, &references)?;
    let tables = compare::tables(&results, &references);
    let shown: Vec<Table> = tables.iter().map(|(_, table)| known(table)).collect();
    let mut outputs = ds_lab::report::outputs(&mut results, &shown)?;
    if !tables.is_empty() || !results.diverged.is_empty() {
        outputs.extend(compare::outputs(&results, &tables)?);
    }
    let saved = save(&outputs);
    print(&results, &tables);
    saved?;
    for output in outputs.iter().filter(|output| matches!(output.kind, Kind::Comparison | Kind::Page)) {
        outln!("written to {}", output.path.display());
    }
    Ok(())
}

fn read_results(folder: &Path, references: &References) -> Result<Results> {
    let mut results = Results::read(folder)?;
    results.left_out.extend(references.left_out.iter().cloned());
    Ok(results)
}

/// Prints tables. Files are saved before, so that a closed pipe does not prevent that.
fn print(results: &Results, tables: &[(&'static str, Table)]) {
    for table in tables.iter().map(|(_, table)| table).chain(&results.diverged_table()) {
        outln!("{}", known(table));
    }
    list_left_out(results);
}

fn list_left_out(results: &Results) {
    for left_out in &results.left_out {
        note!("left out: {left_out}");
    }
}

/// A table without the rows that have neither our value nor the paper's.
fn known(table: &Table) -> Table {
    let column = |name: &str| table.columns.iter().position(|column| column == name);
    let (Some(ours), Some(papers)) = (column("ours"), column("paper's")) else { return table.clone() };
    let is_known = |row: &&Vec<String>| [ours, papers].iter().any(|&k| row.get(k).is_some_and(|cell| !cell.is_empty()));
    let rows: Vec<_> = table.rows.iter().filter(is_known).cloned().collect();
    let left_out = table.rows.len() - rows.len();
    let note = match left_out {
        0 => table.note.clone(),
        _ => format!("{} {left_out} rows with neither value are in comparison.md.", table.note),
    };
    Table { rows, note, ..table.clone() }
}

/// The outcome of a sweep as text.
fn describe_outcome(name: &str, outcome: &Outcome, directory: &Path) -> String {
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
