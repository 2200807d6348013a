//! Runs of a sweep: several at once, each on threads of its own, into one summary.

use super::directory::{Directory, of_another_config, write_if_any};
use super::ended::{Ended, drop_outdated, is_of};
use super::outcome::Outcome;
use super::shard::Shard;
use super::{KeepRuns, PlannedRun, Sweep};
use crate::data::Source;
use crate::device::{Context as DeviceContext, cores};
use crate::file_names::{CHECKPOINT, DISCARDED, DIVERGED, FAILED, RUNS, SUMMARY};
use crate::files::{self, FileError};
use crate::interrupt;
use crate::note;
use crate::progress::SweepProgress;
use crate::results::metrics::{
    DivergedRow, FailedRow, SummaryRow, SummaryRows, SummaryWriter, read_summary, read_table, write_table,
};
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
    /// The part of the runs to make, beside other processes that make the others; `None`: all.
    pub shard: Option<Shard>,
}

impl SweepOptions {
    /// The command that goes on with what is left, as it stands in messages.
    pub fn again(&self) -> &'static str {
        if self.overwrite { "the same command without --overwrite" } else { "the same command" }
    }
}

/// Runs what is not there yet. Rows come in as runs end; a sweep that is cut off goes on where it stopped. Rows of runs that the
/// definition does not have any more stay.
///
/// With a shard only its runs are made: those of the file, or those of a selection once [`merge`](super::merge()) has
/// brought together the rows of all others.
///
/// # Errors
/// If the directory is not of a sweep, holds rows of other configs or is in use by another process, if a file cannot be written, or
/// if a signal was received. A run that fails is no error of the sweep: it is in the outcome, and tried again the next time. One
/// that diverges is in the outcome, too, counts as the worst in a selection, and is not tried again.
pub fn run_sweep(sweep: &Sweep, source: &Source, options: &SweepOptions, context: &DeviceContext) -> Result<Outcome> {
    let _deferred = interrupt::Deferred::begin();
    if options.overwrite && options.shard.is_some() {
        bail!("--overwrite would start a shard again each time that its job is requeued: write to another --out DIR");
    }
    let runs = sweep.runs()?;
    let directory = match options.shard {
        None => Directory::whole(&options.directory, sweep, &runs, options.overwrite)?,
        Some(shard) => Directory::of_shard(&options.directory, sweep, &runs, shard)?,
    };
    let start = Instant::now();
    let execution = Execution::begin(sweep, source, options, context, &directory, &runs)?;
    let made = || match options.shard {
        None => execution.all(&runs),
        Some(shard) => execution.part(&runs, shard),
    };
    let made = made();
    lock(&execution.progress).finish();
    let Made { planned, count, choices, awaits_merge } = made.map_err(|error| execution.with_state(error))?;
    let rows = execution.sort_rows(&planned)?;
    if sweep.keep_runs == KeepRuns::None {
        remove_if_empty(&options.directory.join(RUNS))?;
    }
    let rows_diverged = [unlock(execution.diverged), execution.elsewhere.diverged].concat();
    let of = |run: &PlannedRun| rows_diverged.iter().find(|row| is_of(row, &run.config)).cloned();
    let diverged = planned.iter().filter_map(of).collect();
    Ok(Outcome {
        rows,
        failures: unlock(execution.failures),
        diverged,
        made: count,
        seconds: start.elapsed().as_secs_f64(),
        choices,
        summary: directory.rows().join(SUMMARY),
        awaits_merge,
    })
}

/// How many runs have ended in a directory already; those of a selection count when all that the file lists have ended.
///
/// # Errors
/// If its summary is there and cannot be read.
pub fn count_done(sweep: &Sweep, directory: &Path) -> Result<usize> {
    let ended = Ended::of_sweep(directory)?;
    let count = |runs: &[PlannedRun]| runs.iter().filter(|run| ended.has(&run.config)).count();
    let listed = sweep.runs()?;
    let done = count(&listed);
    if done < listed.len() {
        return Ok(done);
    }
    Ok(done + count(&sweep.selected(&listed, &ended.rows, &ended.diverged)?.runs))
}

/// What a call has made.
struct Made {
    /// The runs that it was about.
    planned: Vec<PlannedRun>,
    count: usize,
    choices: Vec<String>,
    awaits_merge: bool,
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
    directory: &'a Directory,
    /// What has ended according to files that others write.
    elsewhere: Ended,
    writer: Mutex<SummaryWriter>,
    diverged: Mutex<Vec<DivergedRow>>,
    progress: Mutex<SweepProgress>,
    failures: Mutex<Vec<(String, anyhow::Error)>>,
    failed: Mutex<Vec<FailedRow>>,
}

impl<'a> Execution<'a> {
    /// Reads the rows that are there and, if they are to be overwritten, removes those of these runs.
    fn begin(
        sweep: &'a Sweep,
        source: &'a Source,
        options: &'a SweepOptions,
        context: &'a DeviceContext,
        directory: &'a Directory,
        runs: &[PlannedRun],
    ) -> Result<Self> {
        let (summary, diverged_path) = (directory.rows().join(SUMMARY), directory.rows().join(DIVERGED));
        if options.overwrite && summary.exists() && read_summary(&summary).is_err() {
            let damaged = files::set_aside(&summary)?;
            note!("NOTE: {} cannot be read; it is kept as {}", summary.display(), damaged.display());
        }
        // Of the last call; what fails again is noted again.
        files::remove_written(directory.rows(), FAILED)?;
        let mut writer = SummaryWriter::open(&summary)?;
        let read = || if diverged_path.exists() { read_table(&diverged_path) } else { Ok(Vec::new()) };
        let mut diverged: Vec<DivergedRow> = if options.overwrite { read().unwrap_or_default() } else { read()? };
        if options.overwrite {
            // The names of selected runs do not depend on the choice.
            let all = [runs, &sweep.runs_of_any_choice()?].concat();
            let planned: HashSet<(&str, u64)> =
                all.iter().map(|run| (run.config.name.as_str(), run.config.seed)).collect();
            writer.retain(|row| !planned.contains(&(row.run.as_str(), row.seed)))?;
            diverged.retain(|row| !planned.contains(&(row.run.as_str(), row.seed)));
            write_if_any(directory.rows(), DIVERGED, &diverged)?;
            for run in &all {
                remove_run(&run_directory(directory.root(), run))?;
            }
        }
        let count = match options.shard {
            None => sweep.count()?,
            Some(shard) => shard.of(runs).len(),
        };
        Ok(Self {
            sweep,
            source,
            options,
            context,
            directory,
            elsewhere: directory.ended_elsewhere()?,
            writer: Mutex::new(writer),
            diverged: Mutex::new(diverged),
            progress: Mutex::new(SweepProgress::new(&sweep.name, count, options.quiet)),
            failures: Mutex::new(Vec::new()),
            failed: Mutex::new(Vec::new()),
        })
    }

    /// Makes all runs, and then those of a selection.
    fn all(&self, runs: &[PlannedRun]) -> Result<Made> {
        let every = |runs: &[PlannedRun]| self.run_all(runs, &runs.iter().collect::<Vec<_>>(), Stage::Grid);
        let mut count = every(runs)?;
        let (rows, diverged) = (lock(&self.writer).rows().clone(), lock(&self.diverged).clone());
        let selection = self.sweep.selected(runs, &rows, &diverged)?;
        self.note_problems(selection.problems);
        count += self.run_all(&selection.runs, &selection.runs.iter().collect::<Vec<_>>(), Stage::Selected)?;
        let planned = runs.iter().cloned().chain(selection.runs).collect();
        Ok(Made { planned, count, choices: selection.choices, awaits_merge: false })
    }

    /// Makes the runs of a shard: those of the file or, if the sweep knows that all of these have ended, those of a selection.
    fn part(&self, runs: &[PlannedRun], shard: Shard) -> Result<Made> {
        let has_selection = self.sweep.has_selection();
        let of = |runs: &[PlannedRun]| shard.of(runs).into_iter().cloned().collect::<Vec<_>>();
        if !has_selection || runs.iter().any(|run| !self.elsewhere.has(&run.config)) {
            let count = self.run_all(runs, &shard.of(runs), Stage::Grid)?;
            return Ok(Made { planned: of(runs), count, choices: Vec::new(), awaits_merge: has_selection });
        }
        let selection = self.sweep.selected(runs, &self.elsewhere.rows, &self.elsewhere.diverged)?;
        self.note_problems(selection.problems);
        let share = shard.of(&selection.runs);
        *lock(&self.progress) = SweepProgress::new(&self.sweep.name, share.len(), self.options.quiet);
        let count = self.run_all(&selection.runs, &share, Stage::Selected)?;
        Ok(Made { planned: of(&selection.runs), count, choices: selection.choices, awaits_merge: false })
    }

    /// Prints and keeps selections that could not be made.
    fn note_problems(&self, problems: Vec<(String, anyhow::Error)>) {
        for (title, error) in problems {
            lock(&self.progress).failed(&title, &error);
            lock(&self.failures).push((title, error));
        }
    }

    /// Makes those of the `share` of a stage's `runs` that have not ended yet; returns how many.
    fn run_all(&self, runs: &[PlannedRun], share: &[&PlannedRun], stage: Stage) -> Result<usize> {
        self.drop_outdated(runs)?;
        let mut waiting = Vec::new();
        for &run in share {
            if !self.is_done(run, stage)? {
                waiting.push(run);
            }
        }
        // Of all runs and not of those that wait or are of a shard, so that a run has the same threads after a stop and elsewhere.
        let jobs = at_once(runs, self.options.jobs, self.context);
        let (wanted, cores) = (wanted_at_once(runs.len(), self.options.jobs, self.context), cores());
        if jobs < wanted && !waiting.is_empty() {
            note!("NOTE: {}: {jobs} runs at once instead of {wanted}, for want of free memory", self.sweep.name);
        }
        let (planned, failed_before) = (waiting.len(), lock(&self.failures).len());
        let queue = Mutex::new(waiting.into_iter());
        std::thread::scope(|scope| -> Result<()> {
            let work = || -> Result<()> {
                let context = if jobs > 1 { self.context.of_concurrent_run()? } else { self.context.clone() };
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

    /// Forgets that runs have diverged with another config than that of the definition.
    fn drop_outdated(&self, runs: &[PlannedRun]) -> Result<()> {
        let mut rows = lock(&self.diverged);
        let before = rows.len();
        drop_outdated(&mut rows, runs);
        if rows.len() == before { Ok(()) } else { write_if_any(self.directory.rows(), DIVERGED, &rows) }
    }

    /// Whether the run has ended already.
    fn is_done(&self, run: &PlannedRun, stage: Stage) -> Result<bool> {
        let directory = run_directory(self.directory.root(), run);
        if lock(&self.diverged).iter().any(|row| is_of(row, &run.config)) || self.elsewhere.has_diverged(&run.config) {
            lock(&self.progress).done(None);
            remove_discarded(&directory)?;
            return Ok(true);
        }
        let writer = lock(&self.writer);
        let Some(row) = writer.rows().of(&run.config).or_else(|| self.elsewhere.rows.of(&run.config)) else {
            return Ok(false);
        };
        if row.has_training_of(&run.config) {
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
            // With more candidates the choice may be another one; what is left of the run with the old one is of no use. A row of
            // another config than those of the choices was refused (`Directory`).
            remove_run(&directory)?;
            return Ok(false);
        }
        Err(of_another_config(self.directory.root(), row))
    }

    /// Makes one run, on threads of its own. Its failure is noted; an error is one of the sweep.
    fn make(&self, run: &PlannedRun, threads: usize, stage: Stage, context: &DeviceContext) -> Result<()> {
        let directory = run_directory(self.directory.root(), run);
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
        let failed = FailedRow {
            run: run.config.name.clone(),
            seed: run.config.seed,
            error: format!("{error:#}"),
            revision: files::revision(),
        };
        lock(&self.failures).push((title(run), error));
        let mut rows = lock(&self.failed);
        rows.push(failed);
        Ok(write_table(&self.directory.rows().join(FAILED), &rows)?)
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
        Ok(write_table(&self.directory.rows().join(DIVERGED), &rows)?)
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
    /// returns the former, with those that others have written.
    fn sort_rows(&self, planned: &[PlannedRun]) -> Result<Vec<SummaryRow>> {
        let mut writer = lock(&self.writer);
        let sorted = in_order(writer.rows(), planned);
        writer.replace(sorted.all().to_vec())?;
        let row = |run: &PlannedRun| sorted.of(&run.config).or_else(|| self.elsewhere.rows.of(&run.config)).cloned();
        Ok(planned.iter().filter_map(row).collect())
    }

    /// An error that ends the sweep, with what is done if a signal was the reason.
    fn with_state(&self, error: anyhow::Error) -> anyhow::Error {
        if interrupt::received().is_none() {
            return error;
        }
        let done = count_done(self.sweep, &self.options.directory).unwrap_or(0);
        let all = self.sweep.count().unwrap_or(0);
        let (name, again) = (&self.sweep.name, self.options.again());
        error.context(format!("sweep {name}: {done} of {all} runs have ended; {again} goes on with the others"))
    }
}

/// How many of a stage's runs are made at once, as far as they fit into the memory; `asked`: 0 for one a core, or one where a GPU
/// computes.
pub(crate) fn at_once(runs: &[PlannedRun], asked: usize, context: &DeviceContext) -> usize {
    memory::jobs(runs.iter().map(|run| &run.config), wanted_at_once(runs.len(), asked, context), context)
}

/// The same with any memory.
fn wanted_at_once(runs: usize, asked: usize, context: &DeviceContext) -> usize {
    let usual = if context.device.is_cuda() { 1 } else { cores() };
    if asked == 0 { usual } else { asked }.clamp(1, runs.max(1))
}

fn remove_discarded(directory: &Path) -> Result<()> {
    if directory.join(DISCARDED).exists() { remove_run(directory) } else { Ok(()) }
}

/// The directory of a run while it is trained, and after that if the sweep keeps it.
pub(super) fn run_directory(root: &Path, run: &PlannedRun) -> PathBuf {
    root.join(RUNS).join(title(run))
}

/// The rows in the order of these runs, and those of other runs after them.
pub(super) fn in_order(rows: &SummaryRows, planned: &[PlannedRun]) -> SummaryRows {
    let of_runs = planned.iter().filter_map(|run| rows.of(&run.config)).cloned();
    let planned: HashSet<(&str, u64)> = planned.iter().map(|run| (run.config.name.as_str(), run.config.seed)).collect();
    let others = rows.all().iter().filter(|row| !planned.contains(&(row.run.as_str(), row.seed))).cloned();
    of_runs.chain(others).collect()
}

pub(super) fn title(run: &PlannedRun) -> String {
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
