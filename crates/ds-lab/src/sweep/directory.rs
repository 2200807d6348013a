//! The directory of a sweep: who may write to which of its files.
//!
//! One process makes all runs and writes `summary.csv`, or several make a shard each. A shard writes its rows below `shards`, in a
//! folder that it locks, and the directories of its runs. [`merge`](super::merge()) brings the rows together.

use super::ended::{Ended, shards};
use super::shard::Shard;
use super::{PlannedRun, Sweep};
use crate::file_names::{
    CHECKPOINT, COMPARISON, CONFIG, DIVERGED, FAILED, LOCK, METRICS, REPORT, RUNS, SHARD, SHARDS, SUMMARY, SWEEP,
};
use crate::files::{self, FileError, write_atomically};
use crate::lock::{self, DirectoryLock, lock_checked, lock_shared_checked};
use crate::results::metrics::{SummaryRow, write_table};
use crate::run::remove_if_empty;
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory of a sweep for a process that makes runs, locked.
#[derive(Debug)]
pub(super) struct Directory {
    /// Of the sweep: its definition, and the runs.
    root: PathBuf,
    /// Where this process writes its rows.
    rows: PathBuf,
    _locks: Vec<DirectoryLock>,
}

impl Directory {
    /// For a process that makes all runs. What shards have left is taken in.
    pub(super) fn whole(root: &Path, sweep: &Sweep, runs: &[PlannedRun], overwrite: bool) -> Result<Self> {
        let check = || {
            check_contents(root, sweep, overwrite)?;
            if overwrite { Ok(()) } else { check_rows(root, sweep, runs) }
        };
        let lock = lock_checked(root, check)?;
        for file in [SWEEP, SUMMARY, DIVERGED, FAILED] {
            files::remove_temporaries(root, file)?;
        }
        // Before all others, so that the directory always says what it is.
        write_definition(root, sweep)?;
        if root.join(SHARDS).exists() {
            write_ended(root, &Ended::of_sweep(root)?)?;
            remove_shards(root)?;
        }
        Ok(Self { root: root.to_owned(), rows: root.to_owned(), _locks: vec![lock] })
    }

    /// For a process that makes the runs of a shard.
    pub(super) fn of_shard(root: &Path, sweep: &Sweep, runs: &[PlannedRun], shard: Shard) -> Result<Self> {
        let shared = lock_shared_checked(root, || check_shards(root, sweep, runs, shard.count()))?;
        let rows = root.join(SHARDS).join(shard.directory());
        let lock = lock_checked(&rows, || Ok(()))?;
        for file in [SWEEP, SUMMARY, DIVERGED, FAILED, SHARD] {
            files::remove_temporaries(&rows, file)?;
        }
        if !has_definition(root, sweep) {
            // Other shards may do the same with the same text: a file of their own takes the name at once.
            write_definition(&rows, sweep)?;
            let (from, to) = (rows.join(SWEEP), root.join(SWEEP));
            std::fs::rename(&from, &to).map_err(|source| FileError { action: "write", path: to, source })?;
        }
        let place = Place::of_this_process();
        let text = toml::to_string(&place).context("shard.toml")?;
        write_atomically(&rows.join(SHARD), |file| file.write_all(text.as_bytes()))?;
        Ok(Self { root: root.to_owned(), rows, _locks: vec![shared, lock] })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn rows(&self) -> &Path {
        &self.rows
    }

    /// What has ended according to files that this process does not write.
    pub(super) fn ended_elsewhere(&self) -> Result<Ended> {
        if self.rows == self.root { Ok(Ended::default()) } else { Ended::of_folder(&self.root) }
    }
}

/// Where a shard is run, or was the last time: its `shard.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The machine.
    pub host: String,
    /// The number of the process there.
    pub process: u32,
    /// The Slurm job, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job: Option<String>,
    /// Seconds since 1970 when it began.
    pub started: u64,
}

impl Place {
    fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let job = variable("SLURM_ARRAY_JOB_ID").zip(variable("SLURM_ARRAY_TASK_ID"));
        Self {
            host: lock::host(),
            process: std::process::id(),
            slurm_job: job.map(|(job, task)| format!("{job}_{task}")).or_else(|| variable("SLURM_JOB_ID")),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        }
    }

    /// The one that a shard's folder tells of, if it can be read.
    pub(super) fn of_folder(folder: &Path) -> Option<Self> {
        toml::from_str(&std::fs::read_to_string(folder.join(SHARD)).ok()?).ok()
    }
}

/// Refuses a directory with files that the sweep would replace and that are not of a sweep, or that are of one that was never run.
fn check_contents(directory: &Path, sweep: &Sweep, overwrite: bool) -> Result<()> {
    let has = |file: &str| directory.join(file).symlink_metadata().is_ok();
    if overwrite {
        return Ok(());
    }
    let of_sweep = [SUMMARY, DIVERGED, FAILED];
    if has(SWEEP) {
        let was_run = of_sweep.into_iter().chain([SHARDS, RUNS]).any(has);
        if was_run || has_definition(directory, sweep) {
            return Ok(());
        }
        bail!(
            "{} is the definition of another sweep, of which there is no run: --out DIR writes elsewhere, --overwrite replaces it",
            directory.join(SWEEP).display()
        );
    }
    let of_others = [CONFIG, METRICS, CHECKPOINT, COMPARISON, REPORT];
    match of_sweep.into_iter().chain(of_others).find(|file| has(file)) {
        None => Ok(()),
        Some(file) => bail!(
            "{} is not the directory of a sweep (it has no {SWEEP}), and it has a file {file}: --out DIR writes elsewhere, \
             --overwrite replaces it",
            directory.display()
        ),
    }
}

/// Refuses a definition with other configs of runs that have rows, before it takes the place of the one that they are of. A selected
/// run may have the config of any choice.
fn check_rows(root: &Path, sweep: &Sweep, runs: &[PlannedRun]) -> Result<()> {
    let ended = Ended::of_sweep(root)?;
    let mut fits: HashMap<(&str, u64), bool> = HashMap::new();
    let mut compare = |run: &PlannedRun| {
        if let Some(row) = ended.rows.of(&run.config) {
            *fits.entry((&row.run, row.seed)).or_default() |= row.has_training_of(&run.config);
        }
    };
    runs.iter().for_each(&mut compare);
    for runs in sweep.runs_of_choices(runs) {
        runs?.iter().for_each(&mut compare);
    }
    match ended.rows.all().iter().find(|row| fits.get(&(row.run.as_str(), row.seed)) == Some(&false)) {
        None => Ok(()),
        Some(row) => Err(of_another_config(root, row)),
    }
}

/// The error of a row that another config of the same name has left.
pub(super) fn of_another_config(root: &Path, row: &SummaryRow) -> anyhow::Error {
    anyhow!(
        "{} has a row of the run {} with seed {} that was made with another config; --overwrite starts the runs of the sweep again, \
         another --out keeps both",
        root.join(SUMMARY).display(),
        row.run,
        row.seed
    )
}

fn has_definition(directory: &Path, sweep: &Sweep) -> bool {
    std::fs::read(directory.join(SWEEP)).is_ok_and(|text| text == sweep.text.as_bytes())
}

fn write_definition(directory: &Path, sweep: &Sweep) -> Result<()> {
    Ok(write_atomically(&directory.join(SWEEP), |file| file.write_all(sweep.text.as_bytes()))?)
}

/// Refuses a directory in which none of `count` shards can be made.
///
/// # Errors
/// If the directory is not of a sweep, or holds rows of other configs, or shards of another division or definition.
pub fn check_shards(directory: &Path, sweep: &Sweep, runs: &[PlannedRun], count: usize) -> Result<()> {
    check_contents(directory, sweep, false)?;
    check_division(directory, sweep, count)?;
    if has_definition(directory, sweep) { Ok(()) } else { check_rows(directory, sweep, runs) }
}

/// The command that merges the shards of a directory, whatever has become of the file that they were made with.
pub(super) fn merge_command(root: &Path) -> String {
    format!("`reproduce sweep {} --out {} --merge`", root.join(SWEEP).display(), root.display())
}

/// Refuses shards where others are of another division or of another definition.
fn check_division(root: &Path, sweep: &Sweep, count: usize) -> Result<()> {
    let others = shards(root)?;
    let way = format!("{} takes in what they have made, when none of them runs any more", merge_command(root));
    if let Some((other, _)) = others.iter().find(|(other, _)| other.count() != count) {
        let old = other.count();
        bail!(
            "{} has been divided into {old} shards, which are not {count}: use --shard K/{old} (--array {old} of `reproduce slurm`), \
             or begin a new division: {way}",
            root.display()
        );
    }
    if root.join(SWEEP).exists()
        && !has_definition(root, sweep)
        && others.iter().any(|(_, folder)| folder.join(SHARD).exists())
    {
        bail!("{} has shards of another definition than this sweep file: {way}", root.display());
    }
    Ok(())
}

/// Puts what has ended into the files of the sweep.
pub(super) fn write_ended(root: &Path, ended: &Ended) -> Result<()> {
    write_table(&root.join(SUMMARY), ended.rows.all())?;
    write_if_any(root, DIVERGED, &ended.diverged)?;
    write_if_any(root, FAILED, &ended.failed)
}

/// Writes a table, or removes its file where there are no rows.
pub(super) fn write_if_any<R: Serialize + Default>(folder: &Path, file: &str, rows: &[R]) -> Result<()> {
    if rows.is_empty() {
        return Ok(files::remove_written(folder, file)?);
    }
    Ok(write_table(&folder.join(file), rows)?)
}

/// Removes the files of all shards, whose rows are among those of the sweep. The directory is locked for this process alone, so no
/// shard runs.
pub(super) fn remove_shards(root: &Path) -> Result<()> {
    for (_, folder) in shards(root)? {
        for file in [SUMMARY, DIVERGED, FAILED, SHARD, SWEEP] {
            files::remove_written(&folder, file)?;
        }
        files::remove_written(&folder, LOCK)?;
        remove_if_empty(&folder)?;
    }
    files::remove_written(&root.join(SHARDS), LOCK)?;
    remove_if_empty(&root.join(SHARDS))?;
    Ok(())
}
