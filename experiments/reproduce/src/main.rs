//! Every experiment of both papers: runs, sweeps, comparison and report.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod all;
mod bounds;
mod compare;
mod export;
mod import;
mod run_folder;
mod slurm;
mod sparsify;
mod status;
mod sweep;

use anyhow::Context;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use ds_lab::cli::{RunArgs, check_instructions, exit_code, in_thread_pool, train};
use ds_lab::files::expand_home;
use ds_lab::interrupt;
use ds_nn::memory::Recycling;
use mimalloc::MiMalloc;
use std::any::TypeId;
use std::path::PathBuf;
use std::process::ExitCode;

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
    Sweep(sweep::SweepArgs),
    /// Submits a sweep to Slurm: a job array of shards, and a merge of their rows.
    Slurm(slurm::SlurmArgs),
    /// How far a sweep is: runs done, running, failed and left, and those of each shard.
    Status(status::StatusArgs),
    /// Results beside the papers' values and beside the original's code, as tables, Markdown and CSV.
    Compare(compare::CompareArgs),
    /// The comparison, and a page with all pictures and tables: report.html and figures/ in the folder.
    Report(compare::CompareArgs),
    /// Bounds of the Lipschitz constant of a run's network, from its checkpoint: from below, certified, and the papers'.
    Bounds(bounds::BoundsArgs),
    /// Eliminates knots of a finished run: every threshold of the papers' list, from its checkpoint.
    Sparsify(sparsify::SparsifyArgs),
    /// Makes a run of a network of PyTorch: a checkpoint of DeepSplines' own program, a state_dict, or a safetensors file.
    Import(import::ImportArgs),
    /// Writes a run's network for other programs: ONNX, the original's classes, or safetensors.
    Export(export::ExportArgs),
}

/// The command line. A path may begin with `~`, the home folder, also in `--out=~/x`, which shells leave as it is.
fn command_line() -> clap::Command {
    let path = PathBufValueParser::new().map(|path| expand_home(&path));
    let expanded = |arg: Arg| {
        let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        if is_path { arg.value_parser(path.clone()) } else { arg }
    };
    Args::command().mut_subcommands(|command| command.mut_args(expanded))
}

fn main() -> ExitCode {
    let command = match Args::from_arg_matches(&command_line().get_matches()) {
        Ok(args) => args.command,
        Err(error) => error.exit(),
    };
    if let Err(error) = interrupt::install() {
        return exit_code(Err(error).context("cannot handle signals"));
    }
    exit_code(match command {
        Command::All(args) => in_thread_pool(|| all::run(&args)),
        Command::Train(args) => train(None, &args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Slurm(args) => slurm::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Compare(args) => compare::compare(&args.results, &args.references),
        Command::Report(args) => in_thread_pool(|| compare::report(&args.results, &args.references)),
        Command::Import(args) => check_instructions().and_then(|()| in_thread_pool(|| import::run(&args))),
        Command::Export(args) => check_instructions().and_then(|()| in_thread_pool(|| export::run(&args))),
        Command::Bounds(args) => check_instructions().and_then(|()| in_thread_pool(|| bounds::run(&args))),
        Command::Sparsify(args) => check_instructions().and_then(|()| in_thread_pool(|| sparsify::run(&args))),
    })
}
