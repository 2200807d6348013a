//! Runs of a sweep: several at once, each on threads of its own, into one summary.

use super::{KeepRuns, PlannedRun, Sweep};
use crate::data::Source;
use crate::device;
use crate::experiment::{RunOptions, run};
use crate::files;
use crate::metrics::{SummaryRow, SummaryWriter, read_summary, write_table};
use crate::progress::SweepProgress;
use anyhow::{Context, Result, anyhow, bail};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

/// How a sweep is run.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The sweep's directory: `summary.csv`, a copy of the definition, and the runs that are on their way.
    pub directory: PathBuf,
    /// Runs at once; 0: one a core, or one where a GPU computes.
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
    let start = Instant::now();
    let progress = SweepProgress::new(&sweep.name, sweep.count()?, options.quiet);
    let execution = Execution {
        sweep,
        source,
        options,
        writer: Mutex::new(SummaryWriter::open(&summary)?),
        progress: Mutex::new(progress),
        failures: Mutex::new(Vec::new()),
    };
    let mut made = execution.run_all(&runs, Stage::Grid)?;
    let rows_of_grid = lock(&execution.writer).rows().to_vec();
    let (selected, choices) = match sweep.selected(&runs, &rows_of_grid) {
        Ok(selected) => selected,
        Err(error) if !lock(&execution.failures).is_empty() => {
            lock(&execution.failures).push((format!("{}: selection", sweep.name), error));
            (Vec::new(), Vec::new())
        }
        Err(error) => return Err(error),
    };
    made += execution.run_all(&selected, Stage::Selected)?;
    lock(&execution.progress).finish();
    let found = lock(&execution.writer).rows().to_vec();
    let failures = execution.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let of = |run: &PlannedRun| found.iter().find(|row| row.is_of(&run.config));
    let rows: Vec<SummaryRow> = runs.iter().chain(&selected).filter_map(of).cloned().collect();
    if failures.is_empty() {
        // In the order of the definition, whatever the order in which runs ended.
        write_table(&summary, &rows)?;
        if sweep.keep_runs == KeepRuns::None {
            remove_if_there(&directory.join("runs"))?;
        }
    }
    Ok(Outcome { rows, failures, made, seconds: start.elapsed().as_secs_f64(), choices })
}

/// How many of the runs that the file lists have their row in a directory already.
///
/// # Errors
/// If its summary is there and cannot be read.
pub fn count_done(sweep: &Sweep, directory: &Path) -> Result<usize> {
    let summary = directory.join("summary.csv");
    if !summary.exists() {
        return Ok(0);
    }
    let rows = read_summary(&summary)?;
    let is_done = |run: &PlannedRun| rows.iter().any(|row| row.is_of(&run.config) && row.has_config(&run.config));
    Ok(sweep.runs()?.iter().filter(|run| is_done(run)).count())
}

/// The runs that the file lists, or those with a chosen value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Grid,
    Selected,
}

/// A sweep that is being run.
struct Execution<'a> {
    sweep: &'a Sweep,
    source: &'a Source,
    options: &'a SweepOptions,
    writer: Mutex<SummaryWriter>,
    progress: Mutex<SweepProgress>,
    failures: Mutex<Vec<(String, anyhow::Error)>>,
}

impl Execution<'_> {
    /// Makes the runs that have no row yet; returns how many.
    fn run_all(&self, runs: &[PlannedRun], stage: Stage) -> Result<usize> {
        let mut waiting = Vec::new();
        for run in runs {
            if !self.is_done(run, stage)? {
                waiting.push(run);
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let on_gpu = device::current().is_cuda();
        let usual = if on_gpu { 1 } else { cores };
        let jobs = if self.options.jobs == 0 { usual } else { self.options.jobs }.clamp(1, waiting.len().max(1));
        if on_gpu && jobs > 1 {
            // All runs of a process launch on one stream, which records for one run alone.
            device::use_graphs(false);
        }
        let (planned, failed_before) = (waiting.len(), lock(&self.failures).len());
        let queue = Mutex::new(waiting.into_iter());
        std::thread::scope(|scope| -> Result<()> {
            let work = || -> Result<()> {
                loop {
                    let Some(run) = lock(&queue).next() else { return Ok(()) };
                    self.make(run, (cores / jobs).max(1))?;
                }
            };
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let joined = |worker: ScopedJoinHandle<'_, Result<()>>| {
                worker.join().map_err(|_| anyhow!("a thread of the sweep panicked"))?
            };
            workers.into_iter().try_for_each(joined)
        })?;
        Ok(planned - (lock(&self.failures).len() - failed_before))
    }

    /// Whether the run has its row already.
    fn is_done(&self, run: &PlannedRun, stage: Stage) -> Result<bool> {
        let writer = lock(&self.writer);
        let mut rows = writer.rows().iter();
        let Some(row) = rows.find(|row| row.is_of(&run.config)) else {
            return Ok(false);
        };
        if row.has_config(&run.config) {
            lock(&self.progress).done(None);
            return Ok(true);
        }
        if stage == Stage::Selected {
            // With more candidates the choice may be another one; what is left of the run with the old one is of no use.
            remove_if_there(&self.directory(run))?;
            return Ok(false);
        }
        bail!(
            "{} has a row of the run {} with seed {} that was made with another config; --overwrite starts the sweep \
             again, another --out keeps both",
            self.options.directory.join("summary.csv").display(),
            row.run,
            row.seed
        )
    }

    fn directory(&self, run: &PlannedRun) -> PathBuf {
        self.options.directory.join("runs").join(title(run))
    }

    /// Makes one run, on threads of its own. Its failure is noted; an error is one of the sweep.
    fn make(&self, run: &PlannedRun, threads: usize) -> Result<()> {
        let directory = self.directory(run);
        let threads = if run.config.train.threads == 0 { threads } else { run.config.train.threads };
        match one(run, self.source, &directory, threads) {
            Ok(row) => {
                lock(&self.writer).append(row)?;
                if self.sweep.keep_runs == KeepRuns::None {
                    remove_if_there(&directory)?;
                }
                lock(&self.progress).done(Some(&title(run)));
            }
            Err(error) => {
                lock(&self.progress).failed(&title(run), &error);
                lock(&self.failures).push((title(run), error));
            }
        }
        Ok(())
    }
}

fn title(run: &PlannedRun) -> String {
    format!("{}-seed{}", run.config.name, run.config.seed)
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
