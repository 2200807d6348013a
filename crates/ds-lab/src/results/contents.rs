//! What a results folder holds.

use super::run::Run;
use crate::results::metrics::{DivergedRow, SummaryRow};
use crate::results::table::Table;
use std::path::PathBuf;

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
