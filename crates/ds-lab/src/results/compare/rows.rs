//! Summary rows, grouped.

use crate::config::OptimizerKind;
use crate::results::metrics::SummaryRow;
use crate::results::statistics::paired;
use ds_core::activation::ActivationKind;

/// The parameters that a pruned network is described by: weights, and for each spline its kept knots and a line. The papers' method
/// counts before a refit. Without splines, or before pruning, all parameters.
pub fn effective_parameters(row: &SummaryRow) -> usize {
    parameters_with(row, row.sparsified_active_knots.or(row.refit_knots))
}

/// The same with this number of kept knots.
pub(super) fn parameters_with(row: &SummaryRow, kept: Option<usize>) -> usize {
    match (kept, row.knots, row.spline_size) {
        (Some(kept), Some(knots), Some(size)) if size > 2 => {
            let weights = row.parameters.saturating_sub(row.spline_parameters);
            weights.saturating_add(kept).saturating_add(2 * (knots / (size - 2)))
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
                let splines = (
                    row.spline_size,
                    row.norm.clone(),
                    row.lambda.map(f64::to_bits),
                    (splines_optimizer(row).to_owned(), row.splines_warmup_epochs),
                );
                let range = (row.spline_range.map(f64::to_bits), row.spline_ranges_of_layers.is_some());
                let rest = (range, row.activation.clone(), row.hidden.clone(), row.epochs, row.protocol.clone());
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

/// The optimiser of the splines; rows that were written before there was a choice of a proximal one do not name it.
pub(super) fn splines_optimizer(row: &SummaryRow) -> &str {
    row.splines_optimizer.as_deref().unwrap_or(OptimizerKind::Adam.name())
}

/// The margin of equivalence in points of test accuracy.
pub(super) fn accuracy_margin(experiment: &str) -> f64 {
    if experiment == "cifar10" { 0.15 } else { 0.2 }
}

/// The mean of paired differences with its 95 % interval: `+0.12 (-0.03 to +0.27)`; empty for less than two.
pub(super) fn interval(differences: &[f64]) -> String {
    paired(differences, 0.95)
        .map_or(String::new(), |(mean, half)| format!("{mean:+.2} ({:+.2} to {:+.2})", mean - half, mean + half))
}

/// The geometric mean of paired ratios, given by their logarithms, with its 95 % interval: `× 0.91 (0.75 to 1.12)`.
pub(super) fn interval_of_ratios(logarithms: &[f64]) -> String {
    paired(logarithms, 0.95).map_or(String::new(), |(mean, half)| {
        format!("× {:.3} ({:.3} to {:.3})", mean.exp(), (mean - half).exp(), (mean + half).exp())
    })
}

/// Whether an activation of this name is one of the three kinds of splines without a constraint.
pub(super) fn is_spline(activation: &str) -> bool {
    activation.parse().is_ok_and(ActivationKind::is_spline)
}
