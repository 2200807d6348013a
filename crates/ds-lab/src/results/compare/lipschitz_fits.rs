//! Functions fitted by networks whose Lipschitz constant is 1: one activation beside the other.

use super::rows::{groups, interval};
use crate::results::metrics::SummaryRow;
use crate::results::statistics::median;
use crate::results::table::Table;
use ds_core::activation::ActivationKind;

/// Test errors of lipschitz networks by function, the lowest median first; `None` if none was trained.
pub(super) fn table(summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Lipschitz-constrained 1D fits",
        "Mean squared error between the training points, over n seeds; functions with drawn slopes are drawn anew for each \
         seed. All networks are 1-Lipschitz in l2 and differ in their activation only. \"Beside splines\": log10 of the error over \
         that of lipschitz_spline with the same seed, mean and 95 % interval by Student's t; above 0 splines have less.",
        &["function", "activation", "hidden", "median", "least", "largest", "n", "beside splines", "protocol"],
    );
    let is_fit = |row: &&SummaryRow| row.experiment == "fit1d" && row.network == "lipschitz";
    let mut fits: Vec<(f64, Vec<&SummaryRow>)> = groups(summaries.iter().filter(is_fit))
        .into_iter()
        .map(|rows| (median(rows.iter().map(|row| row.test_loss).collect()), rows))
        .collect();
    // What is comparable stands together.
    let common = |rows: &[&SummaryRow]| (rows[0].dataset.clone(), rows[0].hidden.clone(), rows[0].protocol.clone());
    fits.sort_by(|(a, a_rows), (b, b_rows)| common(a_rows).cmp(&common(b_rows)).then(a.total_cmp(b)));
    for (median, rows) in &fits {
        let is_spline = |rows: &[&SummaryRow]| rows[0].activation == ActivationKind::LipschitzSpline.name();
        let splines = fits.iter().find(|(_, other)| is_spline(other) && common(other) == common(rows));
        let of_seed = |seed: u64| splines?.1.iter().find(|row| row.seed == seed).map(|row| row.test_loss);
        let ratio = |row: &&SummaryRow| of_seed(row.seed).map(|of_spline| (row.test_loss / of_spline).log10());
        let ratios: Vec<f64> = rows.iter().filter_map(ratio).collect();
        let beside = if is_spline(rows) { String::new() } else { interval(&ratios) };
        let losses = || rows.iter().map(|row| row.test_loss);
        table.rows.push(vec![
            rows[0].dataset.clone(),
            rows[0].activation.clone(),
            rows[0].hidden.clone().unwrap_or_default(),
            format!("{median:.2e}"),
            format!("{:.2e}", losses().fold(f64::INFINITY, f64::min)),
            format!("{:.2e}", losses().fold(f64::NEG_INFINITY, f64::max)),
            rows.len().to_string(),
            beside,
            rows[0].protocol.clone(),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}
