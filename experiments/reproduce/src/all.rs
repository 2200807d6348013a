//! All runs and sweeps of a directory of configs, in the order of their names, sweeps after runs.
//!
//! A run whose data is missing is named and skipped, never silently; a quick CIFAR run takes the shipped sample instead. What
//! is done is not done again, and what was cut off goes on. Each run has a process of its own, so that its peak memory is its
//! own and a crash takes nothing else with it.

use crate::compare::{ReferenceArgs, report};
use anyhow::{Context, Result, anyhow, bail};
use ds_lab::cli::{DataArgs, DataChoice, check_instructions, run_directory};
use ds_lab::config::{Config, Experiment};
use ds_lab::data::{DataError, ImageDataset, Location, Source, locate};
use ds_lab::device::Context as DeviceContext;
use ds_lab::file_names::SUMMARY;
use ds_lab::interrupt;
use ds_lab::lock::DirectoryLock;
use ds_lab::outln;
use ds_lab::results::metrics::{SummaryRow, read_summary, write_summary};
use ds_lab::run::Setup;
use ds_lab::run::estimate::{estimate, estimate_sweep};
use ds_lab::sweep::{Status, Sweep, SweepOptions, run_sweep, status};
use indicatif::HumanDuration;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Arguments of `reproduce all`.
#[derive(Debug, clap::Args)]
pub struct AllArgs {
    /// Directory of configs, with a folder `sweeps`: configs for the full protocols, configs/quick for reduced ones.
    #[arg(long, value_name = "DIR", default_value = "configs")]
    configs: PathBuf,
    /// Directory that all results are written to.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Use the shipped sample for CIFAR-10 where the data set is not found (for reduced runs).
    #[arg(long)]
    sample_if_missing: bool,
    #[command(flatten)]
    references: ReferenceArgs,
    /// Only what has this in the name of its config; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only say what would be run and what it would take.
    #[arg(long)]
    dry_run: bool,
}

/// Time from one look at a run's process to the next.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

enum Work {
    Run(Box<Config>),
    Sweep(Sweep),
}

/// One config or sweep and what is known before it runs.
struct Planned {
    path: PathBuf,
    work: Work,
    source: Source,
    /// The data that it needs, and where that was found.
    data: String,
    /// Seconds that it will take, or why it cannot run; `None` where that is known after a download only.
    cost: Result<Option<f64>>,
}

impl Planned {
    fn title(&self) -> String {
        match &self.work {
            Work::Run(config) => format!("{} {}", config.experiment, config.name),
            Work::Sweep(sweep) => match sweep.count() {
                Ok(count) => format!("sweep {} ({count} runs)", sweep.name),
                Err(_) => format!("sweep {}", sweep.name),
            },
        }
    }
}

/// The result of a config or sweep.
enum Outcome {
    Row(Box<SummaryRow>),
    Sweep(String),
}

pub fn run(args: &AllArgs) -> Result<()> {
    check_instructions()?;
    // A wrong file of references is reported before the runs, not after them.
    args.references.load()?;
    let (source, context) = (args.data.source()?, args.data.context(0)?);
    let mut plan = Vec::new();
    let is_meant = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        args.only.is_empty() || args.only.iter().any(|text| name.contains(text))
    };
    for path in config_files(&args.configs)?.into_iter().filter(is_meant) {
        let config = Config::load(&path, &[])?;
        plan.push(planned(args, &source, &context, path, Work::Run(Box::new(config))));
    }
    let sweeps = args.configs.join("sweeps");
    if sweeps.is_dir() {
        for path in config_files(&sweeps)?.into_iter().filter(is_meant) {
            let sweep = Sweep::load(&path)?;
            plan.push(planned(args, &source, &context, path, Work::Sweep(sweep)));
        }
    }
    if plan.is_empty() {
        bail!("no config in {} has {} in its name", args.configs.display(), args.only.join(" or "));
    }
    outln!("{:44} {:>14}  data", "run", "will take");
    for planned in &plan {
        match &planned.cost {
            Ok(Some(seconds)) => outln!("{:44} {:>14}  {}", planned.title(), duration(*seconds), planned.data),
            Ok(None) => outln!("{:44} {:>14}  {}", planned.title(), "not known", planned.data),
            Err(error) => outln!("{:44} {:>14}  {}: {error:#}", planned.title(), "CANNOT RUN", planned.data),
        }
    }
    let total: f64 = plan.iter().filter_map(|planned| planned.cost.as_ref().ok().copied().flatten()).sum();
    outln!("{:44} {:>14}  measured from a few steps of each, on this machine\n", "all", duration(total));
    if args.dry_run {
        return Ok(());
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the directory {}", args.out.display()))?;
    let _lock = DirectoryLock::acquire(&args.out)?;
    if args.out.join(SUMMARY).exists() {
        // Rows are added to it: a foreign file is reported before the first run, not after it.
        read_summary(&args.out.join(SUMMARY))?;
    }
    let _deferred = interrupt::Deferred::begin();
    let mut failed = 0;
    let mut outcomes = Vec::new();
    for mut planned in plan {
        // Reduced runs are for machines with nothing but the checkout: data that is missing there is no failure.
        let expected = args.sample_if_missing && planned.cost.as_ref().is_err_and(is_data_missing);
        let title = planned.title();
        let cost = std::mem::replace(&mut planned.cost, Ok(None));
        let outcome = cost.and_then(|_| made(args, &context, &planned));
        if interrupt::received().is_some() {
            let error = outcome.err().unwrap_or_else(|| anyhow!("{title} has ended"));
            return Err(error.context("the same command goes on where this one was ended"));
        }
        failed += usize::from(outcome.is_err() && !expected);
        outcomes.push((title, outcome));
    }
    list(&outcomes);
    // If there is nothing to compare, the table above says so.
    if outcomes.iter().any(|(_, outcome)| outcome.is_ok()) {
        report(&args.out, &args.references)?;
    }
    if failed > 0 {
        bail!("{failed} of {} could not be made; the table says why", outcomes.len());
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

fn planned(args: &AllArgs, source: &Source, context: &DeviceContext, path: PathBuf, work: Work) -> Planned {
    let configs = match &work {
        Work::Run(config) => Ok(vec![(**config).clone()]),
        Work::Sweep(sweep) => sweep.runs().map(|runs| runs.into_iter().map(|run| run.config).collect()),
    };
    let configs: Vec<Config> = match configs {
        Ok(configs) => configs,
        Err(error) => {
            let (source, data) = (source.clone(), String::new());
            return Planned { path, work, source, data, cost: Err(error.into()) };
        }
    };
    let first = &configs[0];
    let mut datasets: Vec<String> = Vec::new();
    for config in &configs {
        let name = config.data.dataset.to_string();
        if !datasets.contains(&name) {
            datasets.push(name);
        }
    }
    let mut data = datasets.join(", ");
    // Asking for the sample is asking for it where there is one.
    let is_cifar = first.experiment == Experiment::Cifar10;
    let mut source = match (args.data.data, is_cifar) {
        (DataChoice::Sample, false) => Source::Auto { dir: None },
        _ => source.clone(),
    };
    if args.dry_run
        && let Some(location) = configs.iter().find_map(|config| download(config, &source))
    {
        data += &format!(": {location}");
        return Planned { path, work, source, data, cost: Ok(None) };
    }
    let mut setup = Setup::new(first, &source, context);
    if setup.as_ref().is_err_and(is_data_missing) && is_cifar && args.sample_if_missing {
        let of_sample = Setup::new(first, &Source::Sample, context);
        // Where there is no sample either, the first error says more.
        if of_sample.is_ok() {
            (source, setup) = (Source::Sample, of_sample);
        }
    }
    if let Ok(setup) = &setup {
        data += &format!(": {}", setup.origin);
    }
    let cost = setup.and_then(|setup| match &work {
        Work::Run(config) if is_finished(config, &run_directory(&args.out, config)) => {
            data += "; the run is there";
            Ok(0.0)
        }
        Work::Run(config) => estimate(config, &setup),
        Work::Sweep(sweep) => {
            // Runs that are there are not made again, those of a selection only as far as the rows still choose them.
            let Status { runs, done, diverged, .. } = status(sweep, &args.out.join(&sweep.name))?;
            let there = done + diverged;
            if there > 0 {
                data += &format!("; {there} of {runs} runs are there");
            }
            Ok(estimate_sweep(sweep, &source, context)? * runs.saturating_sub(there) as f64 / runs.max(1) as f64)
        }
    });
    Planned { path, work, source, data, cost: cost.map(Some) }
}

/// Whether the data of a run is nowhere on this machine. What else can be wrong is an error, such as a damaged file.
fn is_data_missing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<DataError>(),
            Some(DataError::NotFound { .. } | DataError::NoDownload { .. } | DataError::Hub { .. })
        )
    })
}

/// Where the images of a run would be downloaded from, if they would.
fn download(config: &Config, source: &Source) -> Option<Location> {
    let location = locate(ImageDataset::of(config.data.dataset)?, source).ok()?;
    matches!(location, Location::Download { .. }).then_some(location)
}

fn is_finished(config: &Config, directory: &Path) -> bool {
    let rows = read_summary(&directory.join(SUMMARY)).unwrap_or_default();
    rows.iter().any(|row| row.is_of(config) && row.has_training_of(config))
}

fn made(args: &AllArgs, context: &DeviceContext, planned: &Planned) -> Result<Outcome> {
    match &planned.work {
        Work::Run(config) => {
            let directory = run_directory(&args.out, config);
            let row = run_alone(args, planned, config, &directory)?;
            write_summary(&args.out.join(SUMMARY), &row)?;
            Ok(Outcome::Row(Box::new(row)))
        }
        Work::Sweep(sweep) => {
            let directory = args.out.join(&sweep.name);
            let options =
                SweepOptions { directory: directory.clone(), jobs: 0, overwrite: false, quiet: false, shard: None };
            let outcome = run_sweep(sweep, &planned.source, &options, context)?;
            let text = outcome.describe(&sweep.name);
            if !outcome.failures.is_empty() {
                bail!("{text}");
            }
            Ok(Outcome::Sweep(text))
        }
    }
}

/// A run in a process of its own, which ends with this one.
fn run_alone(args: &AllArgs, planned: &Planned, config: &Config, directory: &Path) -> Result<SummaryRow> {
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(this);
    command.arg("train").arg("--config").arg(&planned.path).args(["--resume-or-start", "--end-with-parent"]);
    command.arg("--out").arg(directory).args(args.data.device_arguments());
    match &planned.source {
        Source::Sample => command.args(["--data", "sample"]),
        Source::Auto { dir: Some(dir) } => command.arg("--data-dir").arg(dir),
        Source::Auto { dir: None } => &mut command,
    };
    let mut child = command.stdin(Stdio::piped()).spawn().context("cannot start this program again")?;
    let mut input = child.stdin.take();
    let status = loop {
        if interrupt::received().is_some() {
            // Without its input it writes a checkpoint and ends. From a terminal it has the signal, too.
            drop(input.take());
        }
        match child.try_wait().context("cannot wait for this program")? {
            Some(status) => break status,
            None => std::thread::sleep(POLL_INTERVAL),
        }
    };
    interrupt::check()?;
    if !status.success() {
        bail!("{} ended with {status}; its own words are above", planned.path.display());
    }
    let rows = read_summary(&directory.join(SUMMARY))?;
    let row = rows.into_iter().find(|row| row.is_of(config));
    row.with_context(|| format!("{} has no row of the run", directory.join(SUMMARY).display()))
}

fn duration(seconds: f64) -> String {
    HumanDuration(Duration::from_secs_f64(seconds.max(0.0))).to_string()
}

fn list(outcomes: &[(String, Result<Outcome>)]) {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let count = |value: Option<usize>| value.map_or("-".to_owned(), |v| v.to_string());
    outln!(
        "\n{:44} {:>10} {:>9} {:>9} {:>9} {:>9}  protocol",
        "run",
        "test loss",
        "test acc",
        "knots",
        "pruned",
        "its acc"
    );
    for (title, outcome) in outcomes {
        match outcome {
            Ok(Outcome::Row(row)) => outln!(
                "{title:44} {:>10.3e} {:>9} {:>9} {:>9} {:>9}  {}",
                row.test_loss,
                number(row.test_accuracy),
                count(row.active_knots),
                count(row.pruned().map(|(knots, _)| knots)),
                number(row.pruned().and_then(|(_, accuracy)| accuracy)),
                row.protocol
            ),
            Ok(Outcome::Sweep(_)) => {}
            Err(error) => outln!("{title:44} NOT RUN: {error:#}"),
        }
    }
    outln!("");
    for (_, outcome) in outcomes {
        if let Ok(Outcome::Sweep(text)) = outcome {
            outln!("{text}");
        }
    }
}
