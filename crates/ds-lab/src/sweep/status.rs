//! How far a sweep is, as its directory tells.

use super::directory::Place;
use super::ended::{Ended, shards};
use super::run::{run_directory, title};
use super::shard::{Shard, cost, shares};
use super::{PlannedRun, Sweep};
use crate::lock::is_locked;
use crate::results::metrics::SummaryRow;
use anyhow::Result;
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How far a sweep is: of the runs that its file lists, or of those of a selection when all of these have ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Runs of the sweep, those of a selection included.
    pub runs: usize,
    /// Runs with a row.
    pub done: usize,
    /// Runs whose loss became infinite or NaN.
    pub diverged: usize,
    /// Runs that failed in the last call, with their errors.
    pub failed: Vec<Failed>,
    /// Runs that a process is training, by name.
    pub running: Vec<String>,
    /// Runs that have not begun, or wait for their process to go on.
    pub left: usize,
    /// Seconds until all runs have ended, at the rate of those that have, with as many at once as are running now; none where that
    /// is not known.
    pub seconds_left: Option<f64>,
    /// The shards that have begun since the last merge.
    pub shards: Vec<ShardStatus>,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Failed {
    pub run: String,
    pub error: String,
}

/// How far a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardStatus {
    /// Such as 3/8.
    pub shard: String,
    /// Its runs of the present stage.
    pub runs: usize,
    /// Those with a row.
    pub done: usize,
    /// Whether a process is at work on it.
    pub running: bool,
    /// The process that is or was.
    pub place: Option<Place>,
}

/// How far the sweep of a directory is. Nothing is written.
///
/// # Errors
/// If a file cannot be read, or rows do not agree.
pub fn status(sweep: &Sweep, directory: &Path) -> Result<Status> {
    let ended = Ended::of_sweep(directory)?;
    let grid = sweep.runs()?;
    let all = sweep.count_with(&grid);
    let is_grid_done = grid.iter().all(|run| ended.has(&run.config));
    let selected = if is_grid_done { sweep.selected(&grid, &ended.rows, &ended.diverged)?.runs } else { Vec::new() };
    let mut rates = Rates::default();
    let (mut done, mut diverged, mut failed, mut running, mut waiting) = (0, 0, Vec::new(), Vec::new(), Vec::new());
    let errors: HashMap<(&str, u64), &str> =
        ended.failed.iter().map(|row| ((row.run.as_str(), row.seed), row.error.as_str())).collect();
    for run in grid.iter().chain(&selected) {
        let config = &run.config;
        if let Some(row) = ended.rows.of(config).filter(|row| row.has_training_of(config)) {
            rates.add(run, row);
            done += 1;
            continue;
        }
        if ended.has_diverged(config) {
            diverged += 1;
            continue;
        }
        let folder = run_directory(directory, run);
        let is_running = folder.exists() && is_locked(&folder);
        if is_running {
            running.push(title(run));
        } else if let Some(error) = errors.get(&(config.name.as_str(), config.seed)) {
            failed.push(Failed { run: title(run), error: (*error).to_owned() });
        }
        waiting.push(run);
    }
    let stage = if is_grid_done && sweep.has_selection() { &selected } else { &grid };
    let shards = shards(directory)?;
    let mut shares_of: HashMap<usize, Vec<Vec<&PlannedRun>>> = HashMap::new();
    let of_shard = |(shard, folder): &(Shard, PathBuf)| {
        let count = shard.count();
        let runs = &shares_of.entry(count).or_insert_with(|| shares(stage, count))[shard.number() - 1];
        ShardStatus {
            shard: shard.to_string(),
            runs: runs.len(),
            done: runs.iter().filter(|run| ended.has(&run.config)).count(),
            running: is_locked(folder),
            place: Place::of_folder(folder),
        }
    };
    let shards = shards.iter().map(of_shard).collect();
    // Runs of a selection that is still to be made.
    let unknown = all.saturating_sub(grid.len() + selected.len());
    let seconds_left = rates.seconds(&waiting, running.len(), unknown);
    let left = all - done - diverged - failed.len() - running.len();
    Ok(Status { runs: all, done, diverged, failed, running, left, seconds_left, shards })
}

/// What runs have cost and taken.
#[derive(Default)]
struct Rates {
    cost: f64,
    seconds: f64,
    count: usize,
}

impl Rates {
    fn add(&mut self, run: &PlannedRun, row: &SummaryRow) {
        let bounds = [row.lower_seconds, row.certified_seconds, row.papers_seconds, row.exact_seconds];
        let after = bounds.into_iter().flatten().sum::<f64>();
        self.cost += cost(&run.config);
        self.seconds += row.seconds + after;
        self.count += 1;
    }

    /// Of runs of which none, so many or all are being made; `unknown` more are as expensive as those that have ended.
    fn seconds(&self, waiting: &[&PlannedRun], at_once: usize, unknown: usize) -> Option<f64> {
        if waiting.is_empty() && unknown == 0 {
            return Some(0.0);
        }
        if self.count == 0 || at_once == 0 || self.cost <= 0.0 {
            return None;
        }
        let known: f64 = waiting.iter().map(|run| cost(&run.config)).sum();
        let cost = known + unknown as f64 * self.cost / self.count as f64;
        Some(cost * self.seconds / self.cost / at_once as f64)
    }
}
