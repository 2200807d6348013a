//! Images classified by networks with a Lipschitz constant: how sure they are, one activation beside the other.

use super::rows::{groups, interval};
use crate::results::metrics::SummaryRow;
use crate::results::statistics::{median, spread};
use crate::results::table::Table;
use ds_core::activation::ActivationKind;

/// The certified accuracies, in the order of the radii.
fn accuracies(row: &SummaryRow) -> [Option<f64>; 5] {
    [
        row.certified_accuracy_1,
        row.certified_accuracy_2,
        row.certified_accuracy_3,
        row.certified_accuracy_4,
        row.certified_accuracy_5,
    ]
}

/// That of the radius in the middle of the row's radii, or before it.
fn at_middle_radius(row: &SummaryRow) -> Option<f64> {
    let radii = row.certified_radii.as_deref().unwrap_or_default().split(' ').count().min(5);
    accuracies(row)[radii.saturating_sub(1) / 2]
}

/// Clean and certified accuracies of lipschitz networks by data set, the best at the middle radius first; `None` if none was
/// trained.
pub(super) fn table(summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Certified accuracy",
        "Percent of the test images whose class no change of the pixels (in [0, 1]) by less than the radius in l2 can change, by \
         the certified Lipschitz constant; median [least, largest] over n seeds. Differences from lipschitz_spline, in points of clean \
         accuracy and of that certified at the middle radius, are of networks with the same margin in the training loss and paired by seed: \
         their mean and its 95 % interval, by Student's t.",
        &[
            "data set",
            "network",
            "activation",
            "parameters",
            "margin",
            "clean",
            "radii",
            "certified",
            "n",
            "clean, minus splines",
            "certified, minus splines",
            "protocol",
        ],
    );
    let is_certified = |row: &&SummaryRow| row.certified_radii.is_some();
    let mut all = groups(summaries.iter().filter(is_certified));
    let middle = |rows: &[&SummaryRow]| median(rows.iter().filter_map(|row| at_middle_radius(row)).collect());
    let margin = |rows: &[&SummaryRow]| rows[0].margin.map(|margin| margin.to_string()).unwrap_or_default();
    let common = |rows: &[&SummaryRow]| {
        (rows[0].dataset.clone(), rows[0].network.clone(), margin(rows), rows[0].protocol.clone())
    };
    all.sort_by(|a, b| common(a).cmp(&common(b)).then(middle(b).total_cmp(&middle(a))));
    let is_spline = |rows: &[&SummaryRow]| rows[0].activation == ActivationKind::LipschitzSpline.name();
    for rows in &all {
        let splines = all.iter().find(|other| is_spline(other) && common(other) == common(rows));
        let minus = |value: &dyn Fn(&SummaryRow) -> Option<f64>| {
            let of_splines = |seed: u64| value(splines?.iter().find(|row| row.seed == seed)?);
            let differences = rows.iter().filter_map(|row| Some(value(row)? - of_splines(row.seed)?));
            if is_spline(rows) { String::new() } else { interval(&differences.collect::<Vec<_>>()) }
        };
        let of = |value: &dyn Fn(&SummaryRow) -> Option<f64>| {
            spread(&rows.iter().filter_map(|row| value(row)).collect::<Vec<_>>(), |v| format!("{v:.2}"))
        };
        let first = rows[0];
        let radii = first.certified_radii.as_deref().unwrap_or_default().split(' ').take(5);
        let radii: Vec<String> = radii.map(|r| r.parse::<f64>().map_or(r.to_owned(), |r| format!("{r:.3}"))).collect();
        let knots = first.spline_size.map(|size| format!(", K = {size}")).unwrap_or_default();
        table.rows.push(vec![
            first.dataset.clone(),
            format!("{} {}", first.network, first.hidden.as_deref().unwrap_or_default()),
            format!("{}{knots}", first.activation),
            first.parameters.to_string(),
            margin(rows),
            of(&|row| row.test_accuracy),
            radii.join(", "),
            (0..radii.len()).map(|k| of(&|row| accuracies(row)[k])).collect::<Vec<_>>().join(", "),
            rows.len().to_string(),
            minus(&|row| row.test_accuracy),
            minus(&at_middle_radius),
            first.protocol.clone(),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}
