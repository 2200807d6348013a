//! The runs of a sweep that have ended, as its directory and those of its shards tell.

use super::PlannedRun;
use super::shard::Shard;
use crate::config::Config;
use crate::file_names::{DIVERGED, FAILED, SHARDS, SUMMARY};
use crate::results::metrics::{DivergedRow, FailedRow, SummaryRow, SummaryRows, read_table, read_whole_rows};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Rows of finished runs, runs that diverged, and runs that failed and have no row.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended {
    pub(super) rows: SummaryRows,
    pub(super) diverged: Vec<DivergedRow>,
    pub(super) failed: Vec<FailedRow>,
}

impl Ended {
    /// What the files of one folder say, of a sweep or of a shard.
    pub(super) fn of_folder(folder: &Path) -> Result<Self> {
        let rows = read_whole_rows(&folder.join(SUMMARY))?;
        Ok(Self {
            rows,
            diverged: read_if_there(&folder.join(DIVERGED))?,
            failed: read_if_there(&folder.join(FAILED))?,
        })
    }

    /// What the files of a sweep and of all its shards say together, a row a run.
    ///
    /// # Errors
    /// If a file cannot be read, or if two rows of one run and config do not agree.
    pub(super) fn of_sweep(directory: &Path) -> Result<Self> {
        let mut all = Self::of_folder(directory)?;
        let shards = shards(directory)?;
        for (k, (_, folder)) in shards.iter().enumerate() {
            let Self { rows, diverged, failed } = Self::of_folder(folder)?;
            for row in rows.all() {
                if let Some(old) = all.rows.of_run(&row.run, row.seed)
                    && old.config_md5 == row.config_md5
                {
                    let before = shards[..k].iter().map(|(_, folder)| folder.as_path());
                    check_agreement(old, row, std::iter::once(directory).chain(before), folder)?;
                    continue;
                }
                // Of two configs the one in the shard is the newer one.
                all.rows.put(row.clone());
            }
            for row in diverged {
                if !all.diverged.iter().any(|old| old.training() == row.training()) {
                    all.diverged.push(row);
                }
            }
            // The shard has tried the run again.
            all.failed.retain(|old| !failed.iter().any(|new| (&new.run, new.seed) == (&old.run, old.seed)));
            all.failed.extend(failed);
        }
        let has_row = |failed: &FailedRow| all.rows.of_run(&failed.run, failed.seed).is_some();
        all.failed.retain(|failed| !has_row(failed));
        Ok(all)
    }

    /// Whether a run with this training has ended.
    pub(super) fn has(&self, config: &Config) -> bool {
        self.rows.of(config).is_some_and(|row| row.has_training_of(config)) || self.has_diverged(config)
    }

    pub(super) fn has_diverged(&self, config: &Config) -> bool {
        self.diverged.iter().any(|row| is_of(row, config))
    }
}

pub(super) fn is_of(row: &DivergedRow, config: &Config) -> bool {
    // The MD5 last, which takes the longest.
    row.run == config.name && row.seed == config.seed && row.training_md5 == config.training_md5()
}

/// Leaves out the rows of runs that are planned with another config by now.
pub(super) fn drop_outdated(diverged: &mut Vec<DivergedRow>, runs: &[PlannedRun]) {
    let configs = runs.iter().map(|run| &run.config);
    let planned: HashMap<(&str, u64), &Config> = configs.map(|c| ((c.name.as_str(), c.seed), c)).collect();
    diverged.retain(|row| planned.get(&(row.run.as_str(), row.seed)).is_none_or(|config| is_of(row, config)));
}

fn read_if_there<R>(path: &Path) -> Result<Vec<R>>
where
    R: serde::Serialize + serde::de::DeserializeOwned + Default,
{
    Ok(if path.exists() { read_table(path)? } else { Vec::new() })
}

/// The folders of a sweep's shards, in the order of their numbers.
pub(super) fn shards(directory: &Path) -> Result<Vec<(Shard, PathBuf)>> {
    let folder = directory.join(SHARDS);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read the folder {}", folder.display()))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        let shard = path.file_name().and_then(|name| Shard::of_directory(name.to_str()?));
        all.extend(shard.map(|shard| (shard, path)));
    }
    all.sort_by_key(|(shard, _)| (shard.count(), shard.number()));
    Ok(all)
}

/// Refuses two rows of one run that differ in more than what the clock and the machine say: one of the folders `before`, and one of
/// `folder`.
fn check_agreement<'a>(
    old: &SummaryRow,
    new: &SummaryRow,
    mut before: impl Iterator<Item = &'a Path>,
    folder: &Path,
) -> Result<()> {
    let differs = |(old, new): &((String, String), (String, String))| old != new;
    let Some(((column, old_cell), (_, new_cell))) = results(old)?.into_iter().zip(results(new)?).find(differs) else {
        return Ok(());
    };
    // As text, in which NaN is NaN.
    let is_old = |row: &SummaryRow| format!("{row:?}") == format!("{old:?}");
    let has_old = |folder: &&Path| {
        Ended::of_folder(folder).is_ok_and(|ended| ended.rows.of_run(&old.run, old.seed).is_some_and(is_old))
    };
    let old_folder = before.find(has_old).unwrap_or(folder);
    let shown = |cell: String| if cell.is_empty() { "empty".to_owned() } else { cell };
    bail!(
        "the run {} with seed {} has two rows that do not agree: `{column}` is {} in {} and {} in {}; remove one of the two rows",
        old.run,
        old.seed,
        shown(old_cell),
        old_folder.join(SUMMARY).display(),
        shown(new_cell),
        folder.join(SUMMARY).display()
    )
}

/// The columns of a row with their cells, without what the clock and the machine say.
fn results(row: &SummaryRow) -> Result<Vec<(String, String)>> {
    let row = SummaryRow {
        seconds: 0.0,
        lower_seconds: None,
        certified_seconds: None,
        papers_seconds: None,
        exact_seconds: None,
        peak_memory_mb: None,
        device: String::new(),
        threads: 0,
        revision: String::new(),
        ..row.clone()
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.serialize(row)?;
    let text = writer.into_inner().map_err(|error| anyhow!("a row as text: {error}"))?;
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let columns = reader.headers()?.clone();
    let cells = reader.records().next().context("a row as text: it is empty")??;
    Ok(columns.iter().map(str::to_owned).zip(cells.iter().map(str::to_owned)).collect())
}
