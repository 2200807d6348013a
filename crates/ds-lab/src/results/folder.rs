//! Walks through a results folder.

use super::contents::{LeftOut, Results, Sweep};
use super::rows::{Rows, TableRow, read_rows};
use super::run::Run;
use crate::config::Config;
use crate::file_names::{
    CHECKPOINT, CONFIG, DIVERGED, FINETUNED, METRICS, PRUNING, RUNS, SPARSIFIED, SUMMARY, SWEEP, THRESHOLDS,
};
use crate::files::md5;
use crate::results::metrics::{DivergedRow, MetricsRow, PruningRow, SummaryRow, ThresholdRow};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The files that are read.
const KNOWN: [&str; 10] =
    [SUMMARY, METRICS, CONFIG, CHECKPOINT, SWEEP, DIVERGED, SPARSIFIED, FINETUNED, THRESHOLDS, PRUNING];

/// A folder that is still to be read, with the name of the sweep that it is inside of.
type Waiting = (PathBuf, Option<String>);

struct Walk {
    results: Results,
    /// The folders that were read, without links in their paths.
    visited: HashSet<PathBuf>,
    /// Links to folders; they are followed last, so that a folder has its own name and not that of a link.
    links: Vec<Waiting>,
    /// Rows by the path of their file.
    rows: Vec<(PathBuf, Vec<SummaryRow>)>,
    /// Rows of runs inside of sweeps, with the name of the sweep.
    rows_inside: Vec<(String, SummaryRow)>,
}

impl Results {
    /// Reads a folder and all folders inside of it, except those whose names begin with a dot.
    ///
    /// # Errors
    /// If the folder is missing or unreadable, or holds no run, sweep or summary that can be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let results = walk(folder)?;
        let is_empty = results.runs.is_empty() && results.rows.is_empty() && results.diverged.is_empty();
        if is_empty {
            let folder = folder.display();
            let mut text = format!(
                "{folder} has no results: neither a summary.csv nor a run (config.toml, metrics.csv) in it or below it"
            );
            if results.left_out.is_empty() {
                text += &format!(
                    "; `reproduce all --configs configs/quick --out {folder}` makes some, `cargo run --release -p area2d \
                     -- --config configs/area2d.toml` makes a single run in results/area2d"
                );
            } else {
                let all: Vec<String> = results.left_out.iter().map(ToString::to_string).collect();
                text += &format!(" that can be read:\n  {}", all.join("\n  "));
            }
            bail!(text);
        }
        Ok(results)
    }
}

fn walk(root: &Path) -> Result<Results> {
    if !root.is_dir() {
        bail!("there is no folder {}: name the folder that runs have written to, such as results", root.display());
    }
    fs::read_dir(root).with_context(|| format!("cannot read the folder {}", root.display()))?;
    let mut walk = Walk {
        results: Results { folder: root.to_owned(), ..Results::default() },
        visited: HashSet::new(),
        links: Vec::new(),
        rows: Vec::new(),
        rows_inside: Vec::new(),
    };
    walk.all(vec![(root.to_owned(), None)]);
    let real = fs::canonicalize(root).with_context(|| format!("cannot read the folder {}", root.display()))?;
    while let Some((link, sweep)) = walk.next_link() {
        // Its parents have everything else on the machine in them.
        if fs::canonicalize(&link).is_ok_and(|target| target != real && real.starts_with(target)) {
            walk.leave_out(&link, "is a link to a folder that contains this one");
        } else {
            walk.all(vec![(link, sweep)]);
        }
    }
    Ok(walk.finish())
}

impl Walk {
    /// The first link by its path, whatever the order in which the system lists them.
    fn next_link(&mut self) -> Option<Waiting> {
        self.links.sort_by(|a, b| b.cmp(a));
        self.links.pop()
    }

    /// Reads folders and what is inside of them. Not recursive, so that no depth overflows the stack.
    fn all(&mut self, mut waiting: Vec<Waiting>) {
        while let Some((directory, sweep)) = waiting.pop() {
            let mut inner = self.folder(&directory, sweep);
            inner.sort();
            inner.reverse();
            waiting.extend(inner);
        }
    }

    fn leave_out(&mut self, path: &Path, reason: &str) {
        self.results.left_out.push(LeftOut::new(path, reason));
    }

    /// The whole rows of a table; what is wrong with others is noted.
    fn read<R: TableRow>(&mut self, path: &Path, objection: impl Fn(&R) -> Option<String>) -> Vec<R> {
        let rows: Result<Rows<R>, String> = read_rows(path).map(|mut rows| {
            rows.reject(objection);
            rows
        });
        match rows {
            Ok(rows) => {
                if let Some(complaint) = rows.complaint() {
                    self.leave_out(path, &complaint);
                }
                rows.whole.into_iter().map(|(_, row)| row).collect()
            }
            Err(reason) => {
                self.leave_out(path, &reason);
                Vec::new()
            }
        }
    }

    /// Reads the files of a folder; returns the folders inside of it.
    fn folder(&mut self, directory: &Path, mut sweep: Option<String>) -> Vec<Waiting> {
        let path = match fs::canonicalize(directory) {
            Ok(path) => path,
            Err(error) => {
                self.leave_out(directory, &format!("cannot be read: {error}"));
                return Vec::new();
            }
        };
        if !self.visited.insert(path) {
            return Vec::new();
        }
        let (files, folders, links) = self.entries(directory);
        let has = |name: &str| files.contains(name);
        let file = |name: &str| directory.join(name);
        let name = self.name(directory);
        if has(SWEEP) {
            let rows = if has(SUMMARY) { self.summary(&file(SUMMARY), |_| None) } else { Vec::new() };
            self.rows.push((file(SUMMARY), rows.clone()));
            self.results.sweeps.push(Sweep { name: name.clone(), rows });
            sweep = Some(name.clone());
        } else if has(CONFIG) && [SUMMARY, METRICS, CHECKPOINT].into_iter().any(has) {
            self.run(directory, &files, &name, sweep.as_deref());
        } else {
            if has(SUMMARY) {
                let rows = self.summary(&file(SUMMARY), |_| None);
                self.rows.push((file(SUMMARY), rows));
            }
            if has(METRICS) {
                self.leave_out(&file(METRICS), "no config.toml beside it says which run it is of");
            }
        }
        if has(DIVERGED) {
            let rows: Vec<DivergedRow> = self.read(&file(DIVERGED), |_| None);
            self.results.diverged.extend(rows.into_iter().map(|row| (name.clone(), row)));
        }
        self.links.extend(links.into_iter().map(|link| (link, sweep.clone())));
        folders.into_iter().map(|folder| (folder, sweep.clone())).collect()
    }

    /// The known files of a folder, the folders in it, and the links to folders.
    fn entries(&mut self, directory: &Path) -> (BTreeSet<String>, Vec<PathBuf>, Vec<PathBuf>) {
        let (mut files, mut folders, mut links) = (BTreeSet::new(), Vec::new(), Vec::new());
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.leave_out(directory, &format!("cannot be read: {error}"));
                return (files, folders, links);
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.leave_out(directory, &format!("cannot be read to its end: {error}"));
                    break;
                }
            };
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.starts_with('.') {
                continue;
            }
            let is_known = KNOWN.contains(&name.as_str());
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if is_known {
                        self.leave_out(&path, "is a folder");
                    }
                    if is_link { links.push(path) } else { folders.push(path) }
                }
                Ok(metadata) if is_known && !metadata.is_file() => self.leave_out(&path, "is not a regular file"),
                Ok(_) if is_known => {
                    files.insert(name);
                }
                Ok(_) => {}
                Err(error) if is_link => self.leave_out(&path, &format!("is a link that leads nowhere: {error}")),
                Err(error) => self.leave_out(&path, &format!("cannot be read: {error}")),
            }
        }
        (files, folders, links)
    }

    /// The path inside of the results folder.
    fn name(&self, directory: &Path) -> String {
        let relative = directory.strip_prefix(&self.results.folder).unwrap_or(directory);
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        if parts.is_empty() { "results".to_owned() } else { parts.join("/") }
    }

    /// The rows of a `summary.csv`; of two rows of one run the last one counts.
    fn summary(&mut self, path: &Path, objection: impl Fn(&SummaryRow) -> Option<String>) -> Vec<SummaryRow> {
        let mut rows: Vec<SummaryRow> = Vec::new();
        for row in self.read::<SummaryRow>(path, objection) {
            let is_same = |old: &&mut SummaryRow| {
                let settings = (old.seed, old.parameters, old.epochs) == (row.seed, row.parameters, row.epochs);
                settings && old.run == row.run && old.hidden == row.hidden && old.config_md5 == row.config_md5
            };
            match rows.iter_mut().find(is_same) {
                Some(old) => *old = row,
                None => rows.push(row),
            }
        }
        rows
    }

    fn run(&mut self, directory: &Path, files: &BTreeSet<String>, name: &str, sweep: Option<&str>) {
        let file = |name: &str| directory.join(name);
        let has = |name: &str| files.contains(name);
        let config = read_config(&file(CONFIG));
        if let Err(error) = &config {
            let reason = format!("{error}; rows of summary.csv are used, pictures of the run are not drawn");
            self.leave_out(&file(CONFIG), &reason);
        }
        let config = config.ok();
        let objection = |row: &SummaryRow| other_run(row, config.as_ref()?);
        let rows = if has(SUMMARY) { self.summary(&file(SUMMARY), objection) } else { Vec::new() };
        match sweep {
            Some(sweep) => {
                // The runs of a sweep share a process, so its memory is not theirs.
                let shares = directory.parent().is_some_and(|parent| parent.ends_with(RUNS));
                let row = |row: &SummaryRow| SummaryRow {
                    peak_memory_mb: row.peak_memory_mb.filter(|_| !shares),
                    ..row.clone()
                };
                self.rows_inside.extend(rows.iter().map(|inside| (sweep.to_owned(), row(inside))));
            }
            None => self.rows.push((file(SUMMARY), rows.clone())),
        }
        let Some((config, _)) = config else { return };
        let metrics = if has(METRICS) {
            self.read(&file(METRICS), |row: &MetricsRow| {
                let same = row.run == config.name && row.seed == config.seed;
                (!same).then(|| format!("is of the run {}, seed {}", row.run, row.seed))
            })
        } else {
            Vec::new()
        };
        let last = rows.into_iter().next_back();
        let (earlier, summary) = match last {
            Some(row) if row.is_of_earlier_end(&config) => (Some(row), None),
            last => (None, last),
        };
        let thresholds =
            if has(THRESHOLDS) { self.thresholds(&file(THRESHOLDS), summary.as_ref()) } else { Vec::new() };
        let pruning = if has(PRUNING) { self.pruning(&file(PRUNING), summary.as_ref()) } else { Vec::new() };
        self.results.runs.push(Run {
            name: name.to_owned(),
            sweep: sweep.map(str::to_owned),
            config,
            metrics,
            summary,
            earlier,
            thresholds,
            pruning,
            directory: directory.to_owned(),
        });
    }

    /// The thresholds of a run; none if they keep other knots than its summary says.
    fn thresholds(&mut self, path: &Path, summary: Option<&SummaryRow>) -> Vec<ThresholdRow> {
        let rows: Vec<ThresholdRow> = self.read(path, |_| None);
        let chosen = summary.and_then(|row| row.sparsified_threshold.zip(row.sparsified_active_knots));
        let other = chosen.and_then(|(threshold, knots)| {
            rows.iter().find(|row| row.threshold == threshold && row.active_knots != knots).map(|row| (row, knots))
        });
        if let Some((row, knots)) = other {
            let reason = format!(
                "is of another run: {} knots are kept at the threshold {}, summary.csv says {knots}",
                row.active_knots, row.threshold
            );
            self.leave_out(path, &reason);
            return Vec::new();
        }
        rows
    }

    /// The numbers of knots that a run's pruning tried; none if they do not fit its summary.
    fn pruning(&mut self, path: &Path, summary: Option<&SummaryRow>) -> Vec<PruningRow> {
        let rows: Vec<PruningRow> = self.read(path, |_| None);
        let chosen = summary.and_then(|row| row.refit_knots.zip(row.refit_train_accuracy));
        let is_there = |(knots, accuracy): (usize, f64)| {
            rows.iter().any(|row| (row.knots, row.train_accuracy) == (knots, Some(accuracy)))
        };
        if let Some((knots, _)) = chosen.filter(|&chosen| !is_there(chosen)) {
            let reason = format!("is of another run: it lacks the row of the {knots} knots that summary.csv says");
            self.leave_out(path, &reason);
            return Vec::new();
        }
        rows
    }

    fn finish(mut self) -> Results {
        let mut seen = HashSet::new();
        let mut is_new = |row: &SummaryRow| {
            let key = (row.experiment.clone(), row.dataset.clone(), row.run.clone(), row.seed, row.protocol.clone());
            seen.insert((key, row.train_loss.to_bits()))
        };
        // A sweep that goes on lacks rows of runs that have ended, and so does one with a damaged summary.
        for (name, row) in self.rows_inside {
            let Some(sweep) = self.results.sweeps.iter_mut().find(|sweep| sweep.name == name) else { continue };
            if !sweep.rows.iter().any(|other| other.is_of_run_of(&row)) {
                self.rows.push((self.results.folder.join(&name).join(SUMMARY), vec![row.clone()]));
                sweep.rows.push(row);
            }
        }
        // A merge beside running shards leaves their rows where they are.
        let mut seen = HashSet::new();
        self.results.diverged.retain(|(_, row)| {
            let (run, seed, training) = row.training();
            seen.insert((run.to_owned(), seed, training.to_owned()))
        });
        self.rows.sort_by(|a, b| a.0.cmp(&b.0));
        self.results.rows = self.rows.into_iter().flat_map(|(_, rows)| rows).filter(|row| is_new(row)).collect();
        self.results.left_out.sort_by(|a, b| a.path.cmp(&b.path));
        self.results
    }
}

/// A config and the MD5 of its file.
type ReadConfig = (Config, String);

fn read_config(path: &Path) -> Result<ReadConfig, String> {
    let config = Config::load(path, &[]).map_err(|error| {
        let text = format!("{:#}", anyhow::Error::from(error));
        // The file is named beside its reason.
        text.strip_prefix(&format!("{}: ", path.display())).map_or(text.clone(), str::to_owned)
    })?;
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    Ok((config, md5(&bytes)))
}

/// Why a row is not of the run with a config.
fn other_run(row: &SummaryRow, (config, digest): &ReadConfig) -> Option<String> {
    if !row.is_of(config) {
        return Some(format!(
            "is of the run {}, seed {}; config.toml is of {}, seed {}",
            row.run, row.seed, config.name, config.seed
        ));
    }
    // The digest of the file itself is that of an older version, which knew fewer keys.
    let given = row.config_md5.as_ref()?;
    let is_same = row.has_config(config) || given == digest || row.is_of_earlier_end(config);
    (!is_same).then(|| format!("its config_md5 {given} is not that of config.toml: the run had another config"))
}
