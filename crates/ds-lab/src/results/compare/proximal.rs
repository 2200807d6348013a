//! Adam with proximal steps for the splines beside Adam along a subgradient, from the same seeds.

use super::rows::{groups, interval, interval_of_ratios, splines_optimizer};
use crate::config::OptimizerKind;
use crate::results::metrics::SummaryRow;
use crate::results::statistics::median;
use crate::results::table::Table;

/// Objectives, knots and accuracies of runs that differ in the optimiser of the splines; `None` if there are none.
pub(super) fn table(summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Proximal steps",
        "The same networks trained with proximal steps for TV² (prox_adam) and along its subgradient (adam): medians over n seeds at the \
         end of training, before any pruning. Differences of prox_adam minus adam, and ratios of prox_adam to adam, are paired by seed: their \
         mean or geometric mean, and its 95 % interval, by Student's t. Warm-up: epochs of prox_adam before its proximal steps.",
        &[
            "data",
            "network",
            "warm-up",
            "n",
            "knots, adam",
            "knots, prox_adam",
            "of",
            "objective, adam",
            "objective, prox_adam",
            "ratio",
            "lower in",
            "test accuracy (%), adam",
            "test accuracy (%), prox_adam",
            "difference",
            "time, prox_adam / adam",
        ],
    );
    let of = |kind: OptimizerKind| {
        summaries.iter().filter(move |row| row.objective.is_some() && splines_optimizer(row) == kind.name())
    };
    let others: Vec<&SummaryRow> = of(OptimizerKind::Adam).collect();
    for group in groups(of(OptimizerKind::ProxAdam)) {
        let same = |other: &&&SummaryRow, row: &SummaryRow| {
            let optimizer = other.splines_optimizer.clone();
            let alike = SummaryRow { splines_optimizer: optimizer, splines_warmup_epochs: None, ..row.clone() };
            // Names tell the optimisers apart.
            let alike = SummaryRow { run: other.run.clone(), training_md5: other.training_md5.clone(), ..alike };
            other.seed == row.seed && groups([**other, &alike]).len() == 1
        };
        // Of several such runs the one that was made with it: others may differ in what rows do not tell.
        let partner = |row: &SummaryRow| {
            others.iter().filter(|other| same(other, row)).min_by_key(|other| other.revision != row.revision).copied()
        };
        let pairs: Vec<(&SummaryRow, &SummaryRow)> =
            group.iter().filter_map(|row| Some((*row, partner(row)?))).collect();
        let of_pairs = |value: &dyn Fn(&SummaryRow, &SummaryRow) -> Option<f64>| -> Vec<f64> {
            pairs.iter().filter_map(|(ours, adam)| value(ours, adam)).collect()
        };
        let middle = |digits: usize, value: &dyn Fn(&SummaryRow, &SummaryRow) -> Option<f64>| {
            let values = of_pairs(value);
            if values.is_empty() { String::new() } else { format!("{:.*}", digits, median(values)) }
        };
        let scientific =
            |value: &dyn Fn(&SummaryRow, &SummaryRow) -> Option<f64>| format!("{:.4e}", median(of_pairs(value)));
        if pairs.is_empty() {
            continue;
        }
        let knots = |row: &SummaryRow| row.active_knots.map(|knots| knots as f64);
        let is_lower = |(ours, adam): &&(&SummaryRow, &SummaryRow)| ours.objective < adam.objective;
        let lower = pairs.iter().filter(is_lower).count();
        table.rows.push(vec![
            group[0].dataset.clone(),
            format!("{} {}", group[0].network, group[0].activation),
            group[0].splines_warmup_epochs.unwrap_or(0).to_string(),
            pairs.len().to_string(),
            middle(0, &|_, adam| knots(adam)),
            middle(0, &|ours, _| knots(ours)),
            middle(0, &|ours, _| ours.knots.map(|knots| knots as f64)),
            scientific(&|_, adam| adam.objective),
            scientific(&|ours, _| ours.objective),
            interval_of_ratios(&of_pairs(&|ours, adam| Some((ours.objective? / adam.objective?).ln()))),
            format!("{lower} runs"),
            middle(2, &|_, adam| adam.test_accuracy),
            middle(2, &|ours, _| ours.test_accuracy),
            interval(&of_pairs(&|ours, adam| Some(ours.test_accuracy? - adam.test_accuracy?))),
            middle(2, &|ours, adam| Some(ours.seconds / adam.seconds)),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}
