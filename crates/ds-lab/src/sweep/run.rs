//! Runs of a sweep: several at once, each on threads of its own, into one summary.

use super::{KeepRuns, PlannedRun, Sweep};
use crate::config::Config;
use crate::data::Source;
use crate::device::Context as DeviceContext;
use crate::file_names::{CHECKPOINT, COMPARISON, CONFIG, DISCARDED, DIVERGED, METRICS, REPORT, SUMMARY, SWEEP};
use crate::files::{self, FileError, write_atomically};
use crate::interrupt;
use crate::lock::lock_checked;
use crate::note;
use crate::progress::SweepProgress;
use crate::results::metrics::{DivergedRow, SummaryRow, SummaryWriter, read_summary, read_table, write_table};
use crate::run::Diverged;
use crate::run::memory;
use crate::run::{Existing, RunOptions, remove_if_empty, remove_run, run};
use anyhow::{Context, Result, anyhow, bail};
use ds_core::backend::sync::lock;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

/// How a sweep is run.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The sweep's directory: `summary.csv`, `diverged.csv`, a copy of the definition, and the runs that have not ended.
    pub directory: PathBuf,
    /// Runs at once; 0: one a core, or one where a GPU computes.
    pub jobs: usize,
    /// Start the runs of the definition again where the directory has rows of them.
    pub overwrite: bool,
    /// Print nothing but errors and warnings.
    pub quiet: bool,
}

/// The result of a sweep.
#[derive(Debug)]
pub struct Outcome {
    /// A row a run, in the order of the definition.
    pub rows: Vec<SummaryRow>,
    /// Runs that failed, and selections that could not be made, with their errors.
    pub failures: Vec<(String, anyhow::Error)>,
    /// Runs whose loss became infinite or NaN, now or before.
    pub diverged: Vec<DivergedRow>,
    /// How many runs were made now; the others were there.
    pub made: usize,
    /// Seconds for those.
    pub seconds: f64,
    /// What was selected, a line each.
    pub choices: Vec<String>,
}

/// Runs what is not there yet. Rows come in as runs end; a sweep that is cut off goes on where it stopped. Rows of runs that the
/// definition does not have any more stay.
///
/// # Errors
/// If the directory is not of a sweep, holds rows of other configs or is in use by another process, if a file cannot be written, or
/// if a signal was received. A run that fails is no error of the sweep: it is in the outcome, and tried again the next time. One
/// that diverges is in the outcome, too, counts as the worst in a selection, and is not tried again.
pub fn run_sweep(sweep: &Sweep, source: &Source, options: &SweepOptions, context: &DeviceContext) -> Result<Outcome> {
    let _deferred = interrupt::Deferred::begin();
    let directory = &options.directory;
    let runs = sweep.runs()?;
    let _lock = lock_checked(directory, || check_directory(directory, options.overwrite))?;
    for file in [SWEEP, SUMMARY, DIVERGED] {
        files::remove_temporaries(directory, file)?;
    }
    let start = Instant::now();
    // Before all others, so that the directory always says what it is.
    write_atomically(&directory.join(SWEEP), |file| file.write_all(sweep.text.as_bytes()))?;
    let execution = Execution::begin(sweep, source, options, context, &runs)?;
    let made = || -> Result<_> {
        let mut made = execution.run_all(&runs, Stage::Grid)?;
        let (rows, diverged) = (lock(&execution.writer).rows().to_vec(), lock(&execution.diverged).clone());
        let selection = sweep.selected(&runs, &rows, &diverged)?;
        lock(&execution.failures).extend(selection.problems);
        made += execution.run_all(&selection.runs, Stage::Selected)?;
        Ok((made, selection.runs, selection.choices))
    };
    let made = made();
    lock(&execution.progress).finish();
    let (made, selected, choices) = made.map_err(|error| execution.with_state(error))?;
    let planned: Vec<&PlannedRun> = runs.iter().chain(&selected).collect();
    let rows = execution.sort_rows(&planned)?;
    if sweep.keep_runs == KeepRuns::None {
        remove_if_empty(&directory.join("runs"))?;
    }
    let is_planned = |row: &DivergedRow| planned.iter().any(|run| is_of(row, &run.config));
    Ok(Outcome {
        rows,
        failures: unlock(execution.failures),
        diverged: unlock(execution.diverged).into_iter().filter(is_planned).collect(),
        made,
        seconds: start.elapsed().as_secs_f64(),
        choices,
    })
}

/// How many of the runs that the file lists have ended in a directory already.
///
/// # Errors
/// If its summary is there and cannot be read.
pub fn count_done(sweep: &Sweep, directory: &Path) -> Result<usize> {
    let (summary, diverged) = (directory.join(SUMMARY), directory.join(DIVERGED));
    let rows = if summary.exists() { read_summary(&summary)? } else { Vec::new() };
    let diverged: Vec<DivergedRow> = if diverged.exists() { read_table(&diverged)? } else { Vec::new() };
    let is_done = |run: &PlannedRun| {
        let has_row = rows.iter().any(|row| row.is_of(&run.config) && row.has_training_of(&run.config));
        has_row || diverged.iter().any(|row| is_of(row, &run.config))
    };
    Ok(sweep.runs()?.iter().filter(|run| is_done(run)).count())
}

/// Refuses a directory with files that the sweep would replace and that are not of a sweep.
fn check_directory(directory: &Path, overwrite: bool) -> Result<()> {
    let has = |file: &str| directory.join(file).symlink_metadata().is_ok();
    if overwrite || has(SWEEP) {
        return Ok(());
    }
    let of_others = [CONFIG, METRICS, CHECKPOINT, COMPARISON, REPORT];
    match [SUMMARY, DIVERGED].into_iter().chain(of_others).find(|file| has(file)) {
        None => Ok(()),
        Some(file) => bail!(
            "{} is not the directory of a sweep (it has no {SWEEP}), and it has a file {file}: --out DIR writes elsewhere, \
             --overwrite replaces it",
            directory.display()
        ),
    }
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
    context: &'a DeviceContext,
    writer: Mutex<SummaryWriter>,
    diverged: Mutex<Vec<DivergedRow>>,
    progress: Mutex<SweepProgress>,
    failures: Mutex<Vec<(String, anyhow::Error)>>,
    /// Names and seeds of rows that are of an earlier call and do not count in this one.
    overwritten: HashSet<(String, u64)>,
}

impl<'a> Execution<'a> {
    /// Reads the rows that are there and, if they are to be overwritten, removes those of these runs.
    fn begin(
        sweep: &'a Sweep,
        source: &'a Source,
        options: &'a SweepOptions,
        context: &'a DeviceContext,
        runs: &[PlannedRun],
    ) -> Result<Self> {
        let (summary, diverged_path) = (options.directory.join(SUMMARY), options.directory.join(DIVERGED));
        if options.overwrite && summary.exists() && read_summary(&summary).is_err() {
            files::remove_written(&options.directory, SUMMARY)?;
        }
        let mut writer = SummaryWriter::open(&summary)?;
        let read = || if diverged_path.exists() { read_table(&diverged_path) } else { Ok(Vec::new()) };
        let mut diverged: Vec<DivergedRow> = if options.overwrite { read().unwrap_or_default() } else { read()? };
        let mut overwritten = HashSet::new();
        if options.overwrite {
            let is_planned = |run: &str, seed: u64| runs.iter().any(|p| p.config.name == run && p.config.seed == seed);
            writer.retain(|row| !is_planned(&row.run, row.seed))?;
            diverged.retain(|row| !is_planned(&row.run, row.seed));
            files::remove_written(&options.directory, DIVERGED)?;
            if !diverged.is_empty() {
                write_table(&diverged_path, &diverged)?;
            }
            for run in runs {
                remove_run(&directory_of(run, options))?;
            }
            overwritten = writer.rows().iter().map(|row| (row.run.clone(), row.seed)).collect();
        }
        Ok(Self {
            sweep,
            source,
            options,
            context,
            writer: Mutex::new(writer),
            diverged: Mutex::new(diverged),
            progress: Mutex::new(SweepProgress::new(&sweep.name, sweep.count()?, options.quiet)),
            failures: Mutex::new(Vec::new()),
            overwritten,
        })
    }

    /// Makes the runs that have not ended yet; returns how many.
    fn run_all(&self, runs: &[PlannedRun], stage: Stage) -> Result<usize> {
        let mut waiting = Vec::new();
        for run in runs {
            if !self.is_done(run, stage)? {
                waiting.push(run);
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let on_gpu = self.context.device.is_cuda();
        let usual = if on_gpu { 1 } else { cores };
        // Of all runs and not of those that wait, so that a run has the same threads after a stop.
        let jobs = if self.options.jobs == 0 { usual } else { self.options.jobs }.clamp(1, runs.len().max(1));
        let wanted = jobs;
        let jobs = memory::jobs(runs.iter().map(|run| &run.config), wanted, self.context);
        if jobs < wanted && !waiting.is_empty() {
            note!("NOTE: {}: {jobs} runs at once instead of {wanted}, for want of free memory", self.sweep.name);
        }
        // All runs of a process launch on one stream, which is captured for one run alone.
        let mut context = self.context.clone();
        context.cuda_graphs &= jobs == 1;
        let (planned, failed_before) = (waiting.len(), lock(&self.failures).len());
        let queue = Mutex::new(waiting.into_iter());
        std::thread::scope(|scope| -> Result<()> {
            let work = || -> Result<()> {
                loop {
                    interrupt::check()?;
                    let Some(run) = lock(&queue).next() else { return Ok(()) };
                    self.make(run, (cores / jobs).max(1), stage, &context)?;
                }
            };
            let workers: Vec<_> = (0..jobs.min(planned)).map(|_| scope.spawn(work)).collect();
            let joined = |worker: ScopedJoinHandle<'_, Result<()>>| {
                worker.join().map_err(|_| anyhow!("a thread of the sweep panicked"))?
            };
            workers.into_iter().map(joined).fold(Ok(()), Result::and)
        })?;
        Ok(planned - (lock(&self.failures).len() - failed_before))
    }

    /// Whether the run has ended already.
    fn is_done(&self, run: &PlannedRun, stage: Stage) -> Result<bool> {
        let directory = directory_of(run, self.options);
        if lock(&self.diverged).iter().any(|row| is_of(row, &run.config)) {
            lock(&self.progress).done(None);
            remove_discarded(&directory)?;
            return Ok(true);
        }
        let writer = lock(&self.writer);
        let mut rows = writer.rows().iter();
        let Some(row) = rows.find(|row| row.is_of(&run.config)) else {
            return Ok(false);
        };
        let is_overwritten = self.overwritten.contains(&(row.run.clone(), row.seed));
        if row.has_training_of(&run.config) && !is_overwritten {
            // With another sparsification the network that was kept gets another row.
            let is_kept = directory.join(CHECKPOINT).exists() && !directory.join(DISCARDED).exists();
            let can_be_renewed = is_kept && !row.has_config(&run.config);
            if can_be_renewed {
                return Ok(false);
            }
            lock(&self.progress).done(None);
            remove_discarded(&directory)?;
            return Ok(true);
        }
        if stage == Stage::Selected {
            // With more candidates the choice may be another one; what is left of the run with the old one is of no use.
            remove_run(&directory)?;
            return Ok(false);
        }
        bail!(
            "{} has a row of the run {} with seed {} that was made with another config; --overwrite starts the runs of the \
             sweep again, another --out keeps both",
            self.options.directory.join(SUMMARY).display(),
            row.run,
            row.seed
        )
    }

    /// Makes one run, on threads of its own. Its failure is noted; an error is one of the sweep.
    fn make(&self, run: &PlannedRun, threads: usize, stage: Stage, context: &DeviceContext) -> Result<()> {
        let directory = directory_of(run, self.options);
        let threads = if run.config.train.threads == 0 { threads } else { run.config.train.threads };
        let made = catch_unwind(AssertUnwindSafe(|| one(run, self.source, &directory, threads, context)));
        let error = match made.unwrap_or_else(|_| Err(anyhow!("it panicked; the reason is above"))) {
            Ok(row) => {
                self.discard(&directory, stage)?;
                lock(&self.writer).append(row)?;
                lock(&self.progress).done(Some(&title(run)));
                return remove_discarded(&directory);
            }
            Err(error) => error,
        };
        if interrupt::received().is_some() {
            return Err(error);
        }
        lock(&self.progress).failed(&title(run), &error);
        if let Some(diverged) = error.downcast_ref::<Diverged>() {
            self.discard(&directory, stage)?;
            self.remember(run, *diverged)?;
            return remove_discarded(&directory);
        }
        lock(&self.failures).push((title(run), error));
        Ok(())
    }

    fn remember(&self, run: &PlannedRun, Diverged { loss, step, epoch }: Diverged) -> Result<()> {
        let mut rows = lock(&self.diverged);
        rows.push(DivergedRow {
            run: run.config.name.clone(),
            seed: run.config.seed,
            training_md5: run.config.training_md5(),
            step,
            epoch,
            loss,
            revision: files::revision(),
        });
        Ok(write_table(&self.options.directory.join(DIVERGED), &rows)?)
    }

    /// Marks the directory of a run that has ended, unless the sweep keeps it: a later call removes it if this one is killed.
    fn discard(&self, directory: &Path, stage: Stage) -> Result<()> {
        match (self.sweep.keep_runs, stage) {
            (KeepRuns::All, _) | (KeepRuns::Selected, Stage::Selected) => Ok(()),
            _ => {
                let path = directory.join(DISCARDED);
                let failed = |source| FileError { action: "write", path: path.clone(), source };
                std::fs::File::create(&path).map(|_| ()).map_err(failed).map_err(Into::into)
            }
        }
    }

    /// Puts the rows in the order of the definition, whatever the order in which runs ended, and those of other runs after them;
    /// returns the former.
    fn sort_rows(&self, planned: &[&PlannedRun]) -> Result<Vec<SummaryRow>> {
        let mut writer = lock(&self.writer);
        let place = |row: &SummaryRow| planned.iter().position(|run| row.is_of(&run.config));
        let (mut of_sweep, others): (Vec<_>, Vec<_>) =
            writer.rows().iter().cloned().map(|row| (place(&row), row)).partition(|(place, _)| place.is_some());
        of_sweep.sort_by_key(|(place, _)| *place);
        let rows = |pairs: &[(Option<usize>, SummaryRow)]| pairs.iter().map(|(_, row)| row.clone()).collect::<Vec<_>>();
        writer.replace([rows(&of_sweep), rows(&others)].concat())?;
        Ok(rows(&of_sweep))
    }

    /// An error that ends the sweep, with what is done if a signal was the reason.
    fn with_state(&self, error: anyhow::Error) -> anyhow::Error {
        if interrupt::received().is_none() {
            return error;
        }
        let done = count_done(self.sweep, &self.options.directory).unwrap_or(0);
        let all = self.sweep.count().unwrap_or(0);
        let name = &self.sweep.name;
        error
            .context(format!("sweep {name}: {done} of {all} runs have ended; the same command goes on with the others"))
    }
}

fn remove_discarded(directory: &Path) -> Result<()> {
    if directory.join(DISCARDED).exists() { remove_run(directory) } else { Ok(()) }
}

fn directory_of(run: &PlannedRun, options: &SweepOptions) -> PathBuf {
    options.directory.join("runs").join(title(run))
}

fn is_of(row: &DivergedRow, config: &Config) -> bool {
    row.run == config.name && row.seed == config.seed && row.training_md5 == config.training_md5()
}

fn title(run: &PlannedRun) -> String {
    format!("{}-seed{}", run.config.name, run.config.seed)
}

fn one(
    planned: &PlannedRun,
    source: &Source,
    directory: &Path,
    threads: usize,
    context: &DeviceContext,
) -> Result<SummaryRow> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("train.threads")?;
    let options = RunOptions { directory: directory.to_owned(), existing: Existing::ResumeOrStart, quiet: true };
    let row = pool.install(|| run(&planned.config, source, &options, context))?;
    // Runs share the process, so its memory is not theirs.
    Ok(SummaryRow { peak_memory_mb: None, ..row }.with_settings(&planned.config))
}

fn unlock<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
