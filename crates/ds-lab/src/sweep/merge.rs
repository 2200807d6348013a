//! The rows of all shards of a sweep in one summary.

use super::directory::{merge_command, remove_shards, write_ended};
use super::ended::{Ended, drop_outdated};
use super::run::{in_order, title};
use super::{PlannedRun, Sweep};
use crate::file_names::{SHARDS, SUMMARY, SWEEP};
use crate::lock::{DirectoryLock, LockError};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// What a sweep's summary has after [`merge`].
#[derive(Debug)]
pub struct Merged {
    /// Rows of runs of the sweep.
    pub rows: usize,
    /// Runs of the sweep that diverged.
    pub diverged: usize,
    /// Runs that neither have a row nor diverged, with the error of those that failed. Those of a selection count from the moment
    /// when one of them has ended.
    pub missing: Vec<(String, Option<String>)>,
    /// What was selected, a line each.
    pub choices: Vec<String>,
    /// Selections that could not be made.
    pub problems: Vec<(String, anyhow::Error)>,
    /// Runs of a selection, if none of them has ended yet.
    pub next: usize,
}

/// Writes the rows of all shards to the summary of their sweep. Where no shard runs it removes their files, so that the runs that
/// are left may be divided anew.
///
/// # Errors
/// If the directory is not of this sweep, all runs are being made by one process, another process merges, or two rows of
/// one run do not agree.
pub fn merge(sweep: &Sweep, directory: &Path) -> Result<Merged> {
    let definition = directory.join(SWEEP);
    let text = std::fs::read_to_string(&definition)
        .with_context(|| format!("{} is not the directory of a sweep: cannot read its {SWEEP}", directory.display()))?;
    if text != sweep.text {
        bail!(
            "{} is of another definition than this sweep file: {} merges what was made with it",
            definition.display(),
            merge_command(directory)
        );
    }
    let (locks, is_alone) = match DirectoryLock::acquire(directory) {
        Ok(lock) => (vec![lock], true),
        // Shards run: they go on, and leave more rows.
        Err(LockError::Held { .. }) => {
            let shared = DirectoryLock::acquire_shared(directory)?;
            (vec![shared, DirectoryLock::acquire(&directory.join(SHARDS))?], false)
        }
        Err(error) => return Err(error.into()),
    };
    let mut ended = Ended::of_sweep(directory)?;
    let mut planned = sweep.runs()?;
    let mut missing = missing_of(&planned, &ended);
    let (mut choices, mut problems, mut next) = (Vec::new(), Vec::new(), 0);
    if missing.is_empty() {
        let selection = sweep.selected(&planned, &ended.rows, &ended.diverged)?;
        (choices, problems) = (selection.choices, selection.problems);
        if selection.runs.iter().any(|run| ended.has(&run.config)) {
            missing = missing_of(&selection.runs, &ended);
        } else {
            next = selection.runs.len();
        }
        planned.extend(selection.runs);
    }
    let rows = planned.iter().filter(|run| ended.rows.of(&run.config).is_some()).count();
    ended.rows = in_order(&ended.rows, &planned);
    drop_outdated(&mut ended.diverged, &planned);
    let diverged = planned.iter().filter(|run| ended.has_diverged(&run.config)).count();
    write_ended(directory, &ended).with_context(|| format!("{}", directory.join(SUMMARY).display()))?;
    if is_alone {
        remove_shards(directory)?;
    }
    drop(locks);
    Ok(Merged { rows, diverged, missing, choices, problems, next })
}

fn missing_of(runs: &[PlannedRun], ended: &Ended) -> Vec<(String, Option<String>)> {
    let error = |run: &PlannedRun| {
        let mut failed = ended.failed.iter();
        failed.find(|row| row.run == run.config.name && row.seed == run.config.seed).map(|row| row.error.clone())
    };
    runs.iter().filter(|run| !ended.has(&run.config)).map(|run| (title(run), error(run))).collect()
}
