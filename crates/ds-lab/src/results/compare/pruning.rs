//! Pruning with a refit beside the papers' thresholds, on the same trained networks.

use super::rows::{groups, interval};
use crate::results::metrics::SummaryRow;
use crate::results::statistics::median;
use crate::results::table::Table;

/// Knots and accuracies of runs that were pruned by both methods; `None` if there are none.
pub(super) fn table(summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Pruning",
        "The same trained networks pruned by both methods, each to the last number of knots or threshold that loses no more than the \
         tolerance: medians over n seeds. Differences of test accuracy are paired by seed: their mean and its 95 % interval, by \
         Student's t.",
        &[
            "data",
            "network",
            "method",
            "knots",
            "of",
            "reached by data",
            "test accuracy (%)",
            "n",
            "minus the papers' method",
            "minus the trained network",
            "run",
        ],
    );
    let has_both = |row: &&SummaryRow| row.sparsified_active_knots.is_some() && row.refit_knots.is_some();
    for group in groups(summaries.iter().filter(has_both)) {
        for (method, result) in METHODS {
            let found: Vec<(&SummaryRow, usize, f64)> =
                group.iter().filter_map(|row| result(row).map(|(knots, accuracy)| (*row, knots, accuracy))).collect();
            if found.len() < group.len() {
                continue;
            }
            let middle = |values: Vec<Option<usize>>| {
                let values: Vec<f64> = values.into_iter().flatten().map(|v| v as f64).collect();
                if values.is_empty() { String::new() } else { format!("{:.0}", median(values)) }
            };
            let minus = |other: &dyn Fn(&SummaryRow) -> Option<f64>| {
                let differences = found.iter().filter_map(|(row, _, accuracy)| Some(accuracy - other(row)?));
                interval(&differences.collect::<Vec<_>>())
            };
            let papers = |row: &SummaryRow| row.sparsified_test_accuracy;
            table.rows.push(vec![
                group[0].dataset.clone(),
                format!("{} {}", group[0].network, group[0].activation),
                method.to_owned(),
                middle(found.iter().map(|(_, knots, _)| Some(*knots)).collect()),
                middle(group.iter().map(|row| row.knots).collect()),
                middle(group.iter().map(|row| row.reached_knots).collect()),
                format!("{:.2}", median(found.iter().map(|(_, _, accuracy)| *accuracy).collect())),
                group.len().to_string(),
                if method == METHODS[0].0 { String::new() } else { minus(&papers) },
                minus(&|row| row.test_accuracy),
                group[0].run.clone(),
            ]);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// Knots and test accuracy of a row by a method.
type OfMethod = fn(&SummaryRow) -> Option<(usize, f64)>;

const METHODS: [(&str, OfMethod); 3] = [
    ("papers' thresholds", |row| row.sparsified_active_knots.zip(row.sparsified_test_accuracy)),
    ("refit", |row| row.refit_knots.zip(row.refit_test_accuracy)),
    ("refit and training", |row| row.finetuned_knots.zip(row.finetuned_test_accuracy)),
];
