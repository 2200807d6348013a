//! Comparison of results with the papers, with the original's code run on identical protocols, of costs with ReLU, and of
//! activations in 1-Lipschitz networks.

mod certified;
mod cost;
mod lipschitz_fits;
mod original;
mod papers;
mod rows;

pub use papers::{PaperRow, Provenance};
pub use rows::{effective_parameters, summaries};

use crate::files::{self, write_atomically};
use crate::statistics::median;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// The files that are compared with.
#[derive(Debug, Clone, Copy)]
pub struct References<'a> {
    /// Values of the papers (`results/papers.csv`).
    pub papers: &'a Path,
    /// Runs of the original's code, `benches/original.py` writes them; left out where the file is not there.
    pub original: &'a Path,
}

/// The tables of a folder of results, by the names of their files: with the papers, with the original, of costs, of certified
/// accuracies, and of fits by 1-Lipschitz networks.
///
/// # Errors
/// If there are no results, or a file is wrong.
pub fn tables(results: &Path, references: &References<'_>) -> Result<Vec<(&'static str, Table)>> {
    let summaries = rows::summaries(results)?;
    if summaries.is_empty() {
        bail!(
            "{} has no results: no summary.csv in it or below it; `reproduce all --configs configs/quick --out {}` makes some",
            results.display(),
            results.display()
        );
    }
    let papers = papers::read(references.papers)?;
    let mut all = vec![("papers", papers::table(&papers, &summaries))];
    if references.original.exists() {
        all.push(("original", original::table(&original::read(references.original)?)));
    }
    all.extend(cost::table(&papers, &summaries).map(|table| ("cost", table)));
    all.extend(certified::table(&summaries).map(|table| ("certified", table)));
    all.extend(lipschitz_fits::table(&summaries).map(|table| ("lipschitz-fits", table)));
    Ok(all)
}

/// Writes the tables as `comparison.md` and each as CSV.
///
/// # Errors
/// If a file cannot be written.
pub fn write(results: &Path, tables: &[(&str, Table)]) -> Result<()> {
    let mut text = format!("# Comparison\n\nWritten by `reproduce compare` at revision {}.\n\n", files::revision());
    text += &tables.iter().map(|(_, table)| table.to_markdown()).collect::<Vec<_>>().join("\n");
    write_atomically(&results.join("comparison.md"), |file| file.write_all(text.as_bytes()))?;
    for (name, table) in tables {
        let path = results.join(format!("comparison-{name}.csv"));
        let bytes = table.to_csv().with_context(|| format!("table for {}", path.display()))?;
        write_atomically(&path, |file| file.write_all(&bytes))?;
    }
    Ok(())
}

/// Median, least and largest of some values, in `digits` decimals: `98.5 [98.1, 98.7]`.
fn spread(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let (least, largest) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    let median = show(median(values.to_vec()));
    if values.len() < 2 { median } else { format!("{median} [{}, {}]", show(least), show(largest)) }
}

#[cfg(test)]
mod tests;
