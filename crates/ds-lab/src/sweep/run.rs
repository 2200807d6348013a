//! Runs of a sweep: several at once, each on threads of its own, into one summary.

use super::{PlannedRun, Sweep};
use crate::data::Source;
use crate::experiment::{RunOptions, run};
use crate::files;
use crate::metrics::{SummaryRow, SummaryWriter, write_table};
use crate::progress::SweepProgress;
use anyhow::{Context, Result, anyhow, bail};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How a sweep is run.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The sweep's directory: `summary.csv`, a copy of the definition, and the runs that are on their way.
    pub directory: PathBuf,
    /// Runs at once; 0: one a core.
    pub jobs: usize,
    /// Start again where the directory has rows of runs with other configs.
    pub overwrite: bool,
    /// Show nothing but errors.
    pub quiet: bool,
}

/// What became of a sweep.
#[derive(Debug)]
pub struct Outcome {
    /// A row a run, in the order of the definition.
    pub rows: Vec<SummaryRow>,
    /// Runs that failed, and why.
    pub failures: Vec<(String, anyhow::Error)>,
    /// How many runs were made now; the others were there.
    pub made: usize,
    /// Seconds for those.
    pub seconds: f64,
    /// What was selected, a line each.
    pub choices: Vec<String>,
}

/// Runs what is not there yet. Rows come in as runs end; a sweep that is cut off goes on where it stopped.
///
/// # Errors
/// If the directory holds rows of other configs, or a file cannot be written. A run that fails is no error of the sweep: it
/// is in the outcome, and tried again the next time.
pub fn run_sweep(sweep: &Sweep, source: &Source, options: &SweepOptions) -> Result<Outcome> {
    let directory = &options.directory;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let runs = sweep.runs()?;
    let summary = directory.join("summary.csv");
    if options.overwrite && summary.exists() {
        std::fs::remove_file(&summary).with_context(|| format!("cannot remove {}", summary.display()))?;
    }
    files::write_atomically(&directory.join("sweep.toml"), |file| file.write_all(sweep.text.as_bytes()))?;
    let writer = Mutex::new(SummaryWriter::open(&summary)?);
    let start = Instant::now();
    let mut progress = SweepProgress::new(&sweep.name, sweep.count()?, options.quiet);
    let mut failures = Vec::new();
    let mut made = run_all(&runs, sweep, source, options, &writer, &mut progress, &mut failures)?;
    let so_far = lock(&writer).rows().to_vec();
    let (selected, choices) = match sweep.selected(&runs, &so_far) {
        Ok(selected) => selected,
        Err(error) if !failures.is_empty() => {
            failures.push((format!("{}: selection", sweep.name), error));
            (Vec::new(), Vec::new())
        }
        Err(error) => return Err(error),
    };
    made += run_all(&selected, sweep, source, options, &writer, &mut progress, &mut failures)?;
    progress.finish();
    // In the order of the definition, whatever the order in which runs ended.
    let found = lock(&writer).rows().to_vec();
    let of = |run: &PlannedRun| found.iter().find(|row| row.run == run.config.name && row.seed == run.config.seed);
    let rows: Vec<SummaryRow> = runs.iter().chain(&selected).filter_map(of).cloned().collect();
    drop(writer);
    write_table(&summary, &rows)?;
    if !sweep.keep_runs && failures.is_empty() {
        remove_if_there(&directory.join("runs"))?;
    }
    Ok(Outcome { rows, failures, made, seconds: start.elapsed().as_secs_f64(), choices })
}

/// Makes the runs that have no row yet; returns how many.
fn run_all(
    runs: &[PlannedRun],
    sweep: &Sweep,
    source: &Source,
    options: &SweepOptions,
    writer: &Mutex<SummaryWriter>,
    progress: &mut SweepProgress,
    failures: &mut Vec<(String, anyhow::Error)>,
) -> Result<usize> {
    let mut waiting = Vec::new();
    for run in runs {
        match lock(writer).rows().iter().find(|row| row.run == run.config.name && row.seed == run.config.seed) {
            None => waiting.push(run),
            Some(row) if row.config_md5 == Some(files::md5(run.config.to_toml().as_bytes())) => progress.done(None),
            Some(row) => bail!(
                "{} has a row of the run {} with seed {} that was made with another config; --overwrite starts the sweep \
                 again, another --out keeps both",
                options.directory.join("summary.csv").display(),
                row.run,
                row.seed
            ),
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = if options.jobs == 0 { cores } else { options.jobs }.clamp(1, waiting.len().max(1));
    let threads = |run: &PlannedRun| match run.config.train.threads {
        0 => (cores / jobs).max(1),
        threads => threads,
    };
    let (planned, failed_before) = (waiting.len(), failures.len());
    let queue = Mutex::new(waiting.into_iter());
    let (progress, failures) = (Mutex::new(progress), Mutex::new(failures));
    std::thread::scope(|scope| -> Result<()> {
        let work = || -> Result<()> {
            loop {
                let Some(run) = lock(&queue).next() else { return Ok(()) };
                let title = format!("{}-seed{}", run.config.name, run.config.seed);
                let directory = options.directory.join("runs").join(&title);
                match one(run, source, &directory, threads(run)) {
                    Ok(row) => {
                        lock(writer).append(row)?;
                        if !sweep.keep_runs {
                            remove_if_there(&directory)?;
                        }
                        lock(&progress).done(Some(&title));
                    }
                    Err(error) => {
                        lock(&progress).failed(&title, &error);
                        lock(&failures).push((title, error));
                    }
                }
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread of the sweep panicked"))?)
    })?;
    let failed = lock(&failures).len() - failed_before;
    Ok(planned - failed)
}

fn one(planned: &PlannedRun, source: &Source, directory: &Path, threads: usize) -> Result<SummaryRow> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("train.threads")?;
    let options = RunOptions { directory: directory.to_owned(), resume: true, overwrite: false, quiet: true };
    let row = pool.install(|| run(&planned.config, source, &options))?;
    // Runs share the process, so its memory is not theirs.
    Ok(SummaryRow { peak_memory_mb: None, ..row }.with_settings(&planned.config))
}

fn remove_if_there(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
