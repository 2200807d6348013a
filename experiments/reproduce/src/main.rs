//! Runs all experiments, one after the other, and says first what they will take.
//!
//! A run whose data is missing is named and skipped, never silently; a quick CIFAR run takes the shipped sample instead. Runs
//! that are done are not run again, and one that was cut off goes on from its checkpoint.

use anyhow::{Context, Result, bail};
use clap::Parser;
use ds_lab::cli::{DataArgs, DataChoice, check_instructions, exit_code, in_thread_pool};
use ds_lab::config::{Config, Experiment};
use ds_lab::data::Source;
use ds_lab::estimate::estimate;
use ds_lab::experiment::{RunOptions, Setup, run};
use ds_lab::metrics::{SummaryRow, write_summary};
use ds_nn::memory::Recycling;
use indicatif::HumanDuration;
use mimalloc::MiMalloc;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Recycling<MiMalloc> = Recycling::new(MiMalloc);

/// Runs all experiments of a directory of configs.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// Directory of configs: configs for the full protocols, configs/quick for reduced ones.
    #[arg(long, value_name = "DIR", default_value = "configs")]
    configs: PathBuf,
    /// Directory that the runs and the common summary are written to.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Use the shipped sample for CIFAR-10 where the data set is not found (for reduced runs).
    #[arg(long)]
    sample_if_missing: bool,
    /// Only say what would be run and what it would take.
    #[arg(long)]
    dry_run: bool,
}

/// One config and what is known before it runs.
struct Planned {
    config: Config,
    source: Source,
    directory: PathBuf,
    /// Seconds that it will take, or why it cannot run.
    cost: Result<f64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    exit_code(in_thread_pool(|| start(&args)))
}

fn start(args: &Args) -> Result<()> {
    check_instructions()?;
    let source = args.data.source()?;
    let mut plan = Vec::new();
    for path in config_files(&args.configs)? {
        plan.push(planned(args, &source, Config::load(&path, &[])?));
    }
    println!("{:44} {:>14}  data", "run", "will take");
    for planned in &plan {
        let (name, cost) = (title(&planned.config), &planned.cost);
        match cost {
            Ok(seconds) => println!("{name:44} {:>14}  {}", duration(*seconds), data_name(planned)),
            Err(error) => println!("{name:44} {:>14}  {error:#}", "CANNOT RUN"),
        }
    }
    let total: f64 = plan.iter().filter_map(|planned| planned.cost.as_ref().ok()).sum();
    println!("{:44} {:>14}  measured from a few steps of each, on this machine\n", "all", duration(total));
    if args.dry_run {
        return Ok(());
    }
    let summary = args.out.join("summary.csv");
    let mut rows = Vec::new();
    let mut failed = 0;
    for planned in plan {
        // Reduced runs are for machines with nothing but the checkout: data that is missing there is no failure.
        let expected = planned.cost.is_err() && args.sample_if_missing;
        let (config, name) = (&planned.config, title(&planned.config));
        let outcome = planned.cost.and_then(|_| {
            let options = RunOptions { directory: planned.directory, resume: true, overwrite: false, quiet: false };
            let row = run(config, &planned.source, &options)?;
            write_summary(&summary, &row)?;
            Ok(row)
        });
        failed += usize::from(outcome.is_err() && !expected);
        rows.push((name, outcome));
    }
    report(&rows);
    println!("\nsummary in {}", summary.display());
    if failed > 0 {
        bail!("{failed} of {} runs could not be made; the table says why", rows.len());
    }
    Ok(())
}

fn config_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read the directory {}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{} has no config (*.toml)", directory.display());
    }
    files.sort();
    Ok(files)
}

fn planned(args: &Args, source: &Source, config: Config) -> Planned {
    // Asking for the sample is asking for it where there is one.
    let is_cifar = config.experiment == Experiment::Cifar10;
    let source = match (args.data.data, is_cifar) {
        (DataChoice::Sample, false) => Source::Auto { dir: None },
        _ => source.clone(),
    };
    let (mut source, mut setup) = (source.clone(), Setup::new(&config, &source));
    if setup.is_err() && is_cifar && args.sample_if_missing {
        source = Source::Sample;
        setup = Setup::new(&config, &source);
    }
    let directory = args.out.join(config.experiment.to_string()).join(format!("{}-seed{}", config.name, config.seed));
    let cost = setup.and_then(|setup| estimate(&config, &setup));
    Planned { config, source, directory, cost }
}

fn title(config: &Config) -> String {
    format!("{} {}", config.experiment, config.name)
}

fn data_name(planned: &Planned) -> String {
    match planned.source {
        Source::Sample => "shipped sample".to_owned(),
        Source::Auto { .. } => planned.config.data.dataset.to_string(),
    }
}

fn duration(seconds: f64) -> String {
    HumanDuration(Duration::from_secs_f64(seconds.max(0.0))).to_string()
}

fn report(rows: &[(String, Result<SummaryRow>)]) {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let count = |value: Option<usize>| value.map_or("-".to_owned(), |v| v.to_string());
    println!(
        "\n{:44} {:>10} {:>9} {:>9} {:>9} {:>9}  protocol",
        "run", "test loss", "test acc", "knots", "sparse", "sp. acc"
    );
    for (name, outcome) in rows {
        match outcome {
            Ok(row) => println!(
                "{name:44} {:>10.3e} {:>9} {:>9} {:>9} {:>9}  {}",
                row.test_loss,
                number(row.test_accuracy),
                count(row.active_knots),
                count(row.sparsified_active_knots),
                number(row.sparsified_test_accuracy),
                row.protocol
            ),
            Err(error) => println!("{name:44} NOT RUN: {error:#}"),
        }
    }
}
