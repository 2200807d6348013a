//! Every experiment of the papers: runs, sweeps, comparison and report.

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
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ds_lab::cli::{RunArgs, check_instructions, exit_code, expand_paths, in_thread_pool, train};
use ds_lab::interrupt;
use ds_nn::memory::Recycling;
use mimalloc::MiMalloc;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Recycling<MiMalloc> = Recycling::new(MiMalloc);

/// Reproduces the experiments of Bohra-Campos2020, Aziznejad2020 and Ducotterd2024.
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
    /// Prunes a finished run from its checkpoint: by refit, by the papers' thresholds, or both.
    Sparsify(sparsify::SparsifyArgs),
    /// Makes a run of a network of PyTorch: a checkpoint of DeepSplines' own program, a state_dict, or a safetensors file.
    Import(import::ImportArgs),
    /// Writes a run's network for other programs: ONNX, the original's classes, or safetensors.
    Export(export::ExportArgs),
}

fn main() -> ExitCode {
    let command = match Args::from_arg_matches(&expand_paths(Args::command()).get_matches()) {
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
