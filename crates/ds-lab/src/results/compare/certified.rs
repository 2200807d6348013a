//! Images classified by networks with a Lipschitz constant: how sure they are, one activation beside the other.

use super::rows::groups;
use crate::results::metrics::SummaryRow;
use crate::results::statistics::median;
use crate::results::statistics::spread;
use crate::results::table::Table;

/// Clean and certified accuracies of lipschitz networks by data set, the best at the middle radius first; `None` if none was
/// trained.
pub(super) fn table(summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Certified accuracy",
        "Percent of the test images whose class no change of the pixels (in [0, 1]) by less than the radius in l2 can change, by \
         the certified Lipschitz constant; median [least, largest] over n seeds.",
        &["data set", "network", "activation", "parameters", "clean", "radii", "certified", "n", "protocol"],
    );
    let is_certified = |row: &&SummaryRow| row.certified_radii.is_some();
    let mut all = groups(summaries.iter().filter(is_certified));
    let middle = |rows: &[&SummaryRow]| median(rows.iter().filter_map(|row| row.certified_accuracy_2).collect());
    let common = |rows: &[&SummaryRow]| (rows[0].dataset.clone(), rows[0].network.clone(), rows[0].protocol.clone());
    all.sort_by(|a, b| common(a).cmp(&common(b)).then(middle(b).total_cmp(&middle(a))));
    for rows in all {
        let of = |value: &dyn Fn(&SummaryRow) -> Option<f64>| {
            spread(&rows.iter().filter_map(|row| value(row)).collect::<Vec<_>>(), |v| format!("{v:.2}"))
        };
        let first = rows[0];
        let radii = first.certified_radii.as_deref().unwrap_or_default().split(' ');
        let radii: Vec<String> = radii.map(|r| r.parse::<f64>().map_or(r.to_owned(), |r| format!("{r:.3}"))).collect();
        let knots = first.spline_size.map(|size| format!(", K = {size}")).unwrap_or_default();
        table.rows.push(vec![
            first.dataset.clone(),
            format!("{} {}", first.network, first.hidden.as_deref().unwrap_or_default()),
            format!("{}{knots}", first.activation),
            first.parameters.to_string(),
            of(&|row| row.test_accuracy),
            radii.join(", "),
            [
                of(&|row| row.certified_accuracy_1),
                of(&|row| row.certified_accuracy_2),
                of(&|row| row.certified_accuracy_3),
            ]
            .join(", "),
            rows.len().to_string(),
            first.protocol.clone(),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}
