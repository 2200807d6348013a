//! Numbers of knots and ranges beside each other, from the same seeds.

use super::rows::{accuracy_margin, groups, interval};
use crate::results::metrics::SummaryRow;
use crate::results::statistics::{Verdict, median};
use crate::results::table::Table;

/// Accuracies of runs that differ in the grid of their splines, where some have an automatic range; `None` if there are none.
pub(super) fn table(summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Grids",
        "The same networks with other knots, for the most knots K and those of sweeps that vary the range: medians over n seeds. \
         Differences of test accuracy from the grid with the most knots and the smallest fixed range are paired by seed: their mean \
         and its 95 % interval, by Student's t. The verdict is that of two one-sided tests at 5 % with the margin in points.",
        &[
            "data",
            "network",
            "protocol",
            "K",
            "range",
            "n",
            "test accuracy (%)",
            "difference",
            "margin",
            "verdict",
            "knots that data reach (%)",
        ],
    );
    let gridless = |row: &SummaryRow| SummaryRow {
        run: String::new(),
        spline_size: None,
        spline_range: None,
        spline_ranges_of_layers: None,
        ..row.clone()
    };
    let mut families: Vec<Vec<&SummaryRow>> = Vec::new();
    for row in summaries.iter().filter(|row| row.spline_size.is_some() && row.test_accuracy.is_some()) {
        let same = |family: &&mut Vec<&SummaryRow>| groups(&[gridless(family[0]), gridless(row)]).len() == 1;
        match families.iter_mut().find(same) {
            Some(family) => family.push(row),
            None => families.push(vec![row]),
        }
    }
    for family in families.iter().filter(|family| family.iter().any(|row| row.spline_ranges_of_layers.is_some())) {
        // Other sweeps have one number of knots, and settings of their own: the names of these runs tell their range.
        let most = family.iter().map(|row| row.spline_size).max();
        let is_compared = |row: &SummaryRow| {
            let is_automatic =
                |other: &&SummaryRow| other.spline_size == row.spline_size && other.spline_ranges_of_layers.is_some();
            Some(row.spline_size) == most || row.run.contains("-range") || family.iter().any(is_automatic)
        };
        let mut grids = groups(family.iter().copied().filter(|row| is_compared(row)));
        let order = |row: &SummaryRow| {
            let range = row.spline_range.map(f64::to_bits);
            (row.spline_ranges_of_layers.is_some(), std::cmp::Reverse(row.spline_size), range)
        };
        // Of one grid in two sweeps the one with more runs.
        grids.sort_by_key(|grid| (order(grid[0]), std::cmp::Reverse(grid.len())));
        grids.dedup_by_key(|grid| order(grid[0]));
        let base = grids[0].clone();
        for grid in &grids {
            let first = grid[0];
            let of_base = |row: &SummaryRow| base.iter().find(|other| other.seed == row.seed)?.test_accuracy;
            let differences: Vec<f64> =
                grid.iter().filter_map(|row| Some(row.test_accuracy? - of_base(row)?)).collect();
            let is_base = first.spline_size == base[0].spline_size && first.spline_range == base[0].spline_range;
            let reached = grid.iter().filter_map(|row| Some(100.0 * row.reached_knots? as f64 / row.knots? as f64));
            let reached: Vec<f64> = reached.collect();
            table.rows.push(vec![
                first.dataset.clone(),
                format!("{} {}", first.network, first.activation),
                first.protocol.clone(),
                first.spline_size.map(|size| size.to_string()).unwrap_or_default(),
                first.spline_range.map_or("automatic".to_owned(), |range| range.to_string()),
                grid.len().to_string(),
                format!("{:.2}", median(grid.iter().filter_map(|row| row.test_accuracy).collect())),
                if is_base { String::new() } else { interval(&differences) },
                accuracy_margin(&first.experiment).to_string(),
                if is_base {
                    String::new()
                } else {
                    Verdict::of(&differences, accuracy_margin(&first.experiment)).to_string()
                },
                if reached.is_empty() { String::new() } else { format!("{:.0}", median(reached)) },
            ]);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}
