//! What a results folder holds: runs, sweeps, and the rows of their summaries.
//!
//! One damaged or foreign file does not hide the others: it is left out, and [`Results::left_out`] says why.

mod folder;
mod outputs;
mod rows;
mod run;

pub(crate) use outputs::{COMPARISON_HEAD, PAGE_GENERATOR, PAGE_HEAD, PAGE_TITLE};
pub use outputs::{Kind, Output, save};
pub use rows::{Rows, TableRow, parse_rows, read_rows};
pub use run::Run;

use crate::metrics::{DivergedRow, SummaryRow};
use crate::table::Table;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// All that a results folder holds, by path.
#[derive(Debug, Default)]
pub struct Results {
    /// The folder.
    pub folder: PathBuf,
    /// The runs that have a folder of their own.
    pub runs: Vec<Run>,
    /// The sweeps.
    pub sweeps: Vec<Sweep>,
    /// The summary row of every run, also of those of sweeps; each once.
    pub rows: Vec<SummaryRow>,
    /// Runs of sweeps whose loss became NaN or infinite, with the name of the sweep.
    pub diverged: Vec<(String, DivergedRow)>,
    /// Files that are left out.
    pub left_out: Vec<LeftOut>,
}

/// The folder of a sweep.
#[derive(Debug)]
pub struct Sweep {
    /// The path inside of the results folder.
    pub name: String,
    /// One row per finished run.
    pub rows: Vec<SummaryRow>,
}

/// A file, or rows of a file, that comparison and report leave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The path of the file.
    pub path: PathBuf,
    /// The reason, on one line.
    pub reason: String,
}

impl LeftOut {
    /// A file with its reason; line breaks and runs of spaces become one space.
    pub fn new(path: impl Into<PathBuf>, reason: &str) -> Self {
        const LONGEST: usize = 400;
        let mut reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = reason.char_indices().nth(LONGEST) {
            reason.truncate(end);
            reason.push('…');
        }
        Self { path: path.into(), reason }
    }
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}: {}", self.path.display(), self.reason);
        f.write_str(&text.replace(char::is_control, " "))
    }
}

impl Results {
    /// Reads a folder and all folders inside of it, except those whose names begin with a dot.
    ///
    /// # Errors
    /// If the folder is missing or unreadable, or holds no run, sweep or summary that can be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let results = folder::read(folder)?;
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

    /// The runs of sweeps that diverged, as a table; `None` if there are none.
    pub fn diverged_table(&self) -> Option<Table> {
        let mut table = Table::new(
            "Diverged runs",
            "Runs of sweeps that stopped because the loss became NaN or infinite; no other table has them.",
            &["sweep", "run", "seed", "epoch", "step"],
        );
        table.rows.extend(self.diverged.iter().map(|(sweep, row)| {
            vec![sweep.clone(), row.run.clone(), row.seed.to_string(), row.epoch.to_string(), row.step.to_string()]
        }));
        (!table.rows.is_empty()).then_some(table)
    }

    /// The files that are left out, as a table; `None` if there are none.
    pub fn left_out_table(&self) -> Option<Table> {
        let mut table = Table::new(
            "Left out",
            "Files of the folder, or rows of them, that could not be used; everything else is in the other tables.",
            &["file", "reason"],
        );
        table.rows.extend(self.left_out.iter().map(|left_out| {
            let path = left_out.path.strip_prefix(&self.folder).unwrap_or(&left_out.path);
            vec![path.display().to_string(), left_out.reason.clone()]
        }));
        (!table.rows.is_empty()).then_some(table)
    }
}

#[cfg(test)]
mod tests;
