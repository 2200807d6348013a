//! All summary rows of a folder, each once.

use crate::metrics::{SummaryRow, read_summary};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The rows of every `summary.csv` in a folder and below it; a run that is in several of them comes once.
///
/// # Errors
/// If the folder or a file cannot be read.
pub fn summaries(results: &Path) -> Result<Vec<SummaryRow>> {
    let mut files = Vec::new();
    find(results, &mut files)?;
    files.sort();
    let mut all: Vec<SummaryRow> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for path in files {
        for row in read_summary(&path)? {
            let key = (row.experiment.clone(), row.dataset.clone(), row.run.clone(), row.seed, row.protocol.clone());
            if seen.insert((key, row.train_loss.to_bits())) {
                all.push(row);
            }
        }
    }
    Ok(all)
}

fn find(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read the directory {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            // Runs of a sweep that are on their way have no rows of their own yet, or are in the sweep's.
            if path.file_name().is_none_or(|name| name != "runs") {
                find(&path, into)?;
            }
        } else if path.file_name().is_some_and(|name| name == "summary.csv") {
            into.push(path);
        }
    }
    Ok(())
}

/// The parameters that a sparsified network is described by: weights, and for each spline its kept knots and a line.
/// Without splines, or before sparsification, all of them.
pub fn effective_parameters(row: &SummaryRow) -> usize {
    match (row.sparsified_active_knots, row.knots, row.spline_size) {
        (Some(kept), Some(knots), Some(size)) if size > 2 => {
            row.parameters - row.spline_parameters + kept + 2 * (knots / (size - 2))
        }
        _ => row.parameters,
    }
}

/// Runs that differ in their seed only.
pub(super) fn groups<'a>(rows: impl IntoIterator<Item = &'a SummaryRow>) -> Vec<Vec<&'a SummaryRow>> {
    let mut groups: Vec<Vec<&SummaryRow>> = Vec::new();
    for row in rows {
        let same = |other: &SummaryRow| {
            let seedless = |row: &SummaryRow| {
                let names = (row.run.clone(), row.experiment.clone(), row.dataset.clone(), row.network.clone());
                let splines = (row.spline_size, row.norm.clone(), row.lambda.map(f64::to_bits));
                let rest = (row.activation.clone(), row.hidden.clone(), row.epochs, row.protocol.clone());
                (names, splines, rest, row.validation.map(f64::to_bits), row.trained_in().to_owned())
            };
            seedless(row) == seedless(other)
        };
        match groups.iter_mut().find(|group| same(group[0])) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

pub(super) fn is_spline(activation: &str) -> bool {
    matches!(activation, "bspline" | "explicit_linear" | "relu_spline")
}
