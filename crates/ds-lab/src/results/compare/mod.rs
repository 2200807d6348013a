//! Comparison of results with the papers, with the original's code run on identical protocols, of costs with ReLU, and of
//! activations in 1-Lipschitz networks.

mod certified;
mod cost;
mod grids;
mod lipschitz_fits;
mod original;
mod papers;
mod proximal;
mod pruning;
mod references;
mod rows;

pub use papers::{PaperRow, Provenance};
pub use references::References;
pub use rows::effective_parameters;

use crate::file_names::COMPARISON;
use crate::files;
use crate::results::table::Table;
use crate::results::{COMPARISON_HEAD, Kind, Output, Results};
use anyhow::{Context, Result};

/// The tables of a folder of results, by the names of their files: with the papers, with the original, of costs, of proximal steps, of
/// grids, of pruning, of certified accuracies, and of fits by 1-Lipschitz networks. None if no run has ended.
pub fn tables(results: &Results, references: &References) -> Vec<(&'static str, Table)> {
    let rows = &results.rows;
    if rows.is_empty() {
        return Vec::new();
    }
    let mut all = vec![("papers", papers::table(&references.papers, rows))];
    if !references.original.is_empty() {
        all.push(("original", original::table(&references.original)));
    }
    all.extend(cost::table(&references.papers, rows).map(|table| ("cost", table)));
    all.extend(proximal::table(rows).map(|table| ("proximal", table)));
    all.extend(grids::table(rows).map(|table| ("grids", table)));
    all.extend(pruning::table(rows).map(|table| ("pruning", table)));
    all.extend(certified::table(rows).map(|table| ("certified", table)));
    all.extend(lipschitz_fits::table(rows).map(|table| ("lipschitz-fits", table)));
    all
}

/// The tables as `comparison.md`, with the runs that diverged and the files that are left out, and each as CSV.
///
/// # Errors
/// If a table cannot be written as CSV.
pub fn outputs(results: &Results, tables: &[(&'static str, Table)]) -> Result<Vec<Output>> {
    let sections: Vec<String> = tables
        .iter()
        .map(|(_, table)| table.to_markdown())
        .chain(results.diverged_table().iter().map(Table::to_markdown))
        .chain(results.left_out_table().iter().map(Table::to_markdown))
        .collect();
    let text = format!("{COMPARISON_HEAD} at revision {}.\n\n{}", files::revision(), sections.join("\n"));
    let path = results.folder.join(COMPARISON);
    let mut outputs = vec![Output { path, kind: Kind::Comparison, bytes: text.into_bytes() }];
    for (name, table) in tables {
        let path = results.folder.join(format!("comparison-{name}.csv"));
        let bytes = table.to_csv().with_context(|| format!("table for {}", path.display()))?;
        outputs.push(Output { path, kind: Kind::ComparisonTable, bytes });
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests;
