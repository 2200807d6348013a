//! Accuracy against the number of parameters, by activation.

use super::grouping::{Setting, band_note, distinct, groups, line};
use super::palette;
use super::spread::{SpreadChart, Stack};
use crate::results::compare::effective_parameters;
use crate::results::metrics::SummaryRow;

/// The chart of the rows of one data set; `None` with less than three networks.
pub fn chart(title: String, rows: &[&SummaryRow]) -> Option<SpreadChart> {
    if distinct(rows, |row| row.hidden.clone()) < 3 {
        return None;
    }
    let mut lines = Vec::new();
    for group in groups(rows, Setting::Hidden) {
        let hidden = |row: &SummaryRow| row.hidden.clone();
        lines.push(line(&group, hidden, |row| Some((row.parameters as f64, row.test_accuracy?))));
        // By the method that the parameters are counted after.
        let accuracy = |row: &SummaryRow| row.sparsified_test_accuracy.or(row.refit_test_accuracy);
        let mut sparse = line(&group, hidden, |row| Some((effective_parameters(row) as f64, accuracy(row)?)));
        let name = if group.label.is_empty() { group.rows[0].activation.replace('_', " ") } else { group.label };
        sparse.label = format!("{name}, after pruning");
        sparse.dashed = true;
        sparse.colour = palette::tint(sparse.colour, 0.75);
        lines.push(sparse);
    }
    lines.retain(|line| !line.points.is_empty());
    if lines.len() > 1 {
        let name = rows[0].activation.replace('_', " ");
        lines.iter_mut().filter(|line| line.label.is_empty()).for_each(|line| line.label.clone_from(&name));
    }
    let note = band_note(&lines, rows);
    let stacks = vec![Stack { label: "test accuracy (%)".to_owned(), logarithmic: false, limits: (0.0, 100.0), lines }];
    Some(SpreadChart { stacks, note, ..SpreadChart::new(title, "number of parameters", true) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    fn row(activation: &str, hidden: &str, seed: u64, parameters: usize, accuracy: f64) -> SummaryRow {
        let splines = activation == "bspline";
        SummaryRow {
            activation: activation.to_owned(),
            hidden: Some(hidden.to_owned()),
            seed,
            parameters,
            spline_parameters: if splines { 20 } else { 0 },
            test_accuracy: Some(accuracy),
            // Three knots, one of them inner, for each function.
            spline_size: splines.then_some(3),
            knots: splines.then(|| hidden.parse().unwrap()),
            sparsified_active_knots: splines.then_some(7),
            sparsified_test_accuracy: splines.then_some(accuracy - 1.0),
            ..SummaryRow::default()
        }
    }

    /// The row of a run that was pruned to the same knots by refit.
    fn refit(row: &SummaryRow) -> SummaryRow {
        SummaryRow {
            refit_knots: row.sparsified_active_knots,
            refit_test_accuracy: row.sparsified_test_accuracy,
            sparsified_active_knots: None,
            sparsified_test_accuracy: None,
            ..row.clone()
        }
    }

    #[test]
    fn each_activation_is_a_line_of_medians() {
        let mut rows = Vec::new();
        for (seed, shift) in [(0, 0.0), (1, 2.0), (2, 10.0)] {
            for (hidden, parameters) in [("2", 30), ("4", 60), ("8", 120)] {
                rows.push(row("bspline", hidden, seed, parameters, 80.0 + shift));
                rows.push(row("relu", hidden, seed, parameters / 2, 70.0 + shift));
            }
        }
        let rows: Vec<&SummaryRow> = rows.iter().collect();
        let chart = chart("made up".to_owned(), &rows).unwrap();
        let labels: Vec<&str> = chart.stacks[0].lines.iter().map(|line| line.label.as_str()).collect();
        assert_eq!(labels, ["bspline", "bspline, after pruning", "relu"]);
        let spline = &chart.stacks[0].lines[0];
        assert_eq!(spline.points.iter().map(|p| p.x).collect::<Vec<_>>(), [30.0, 60.0, 120.0]);
        assert_eq!((spline.points[0].low, spline.points[0].median, spline.points[0].high), (81.0, 82.0, 86.0));
        assert_eq!(chart.stacks[0].lines[1].points[0].x, 30.0 - 20.0 + 7.0 + 4.0);
        assert_eq!(chart.note, "median and quartiles over 3 seeds");
        let svg = to_svg(&chart).unwrap();
        // A band for each line; dots for two lines, rings of two discs for the third.
        assert_eq!(svg.matches("<polygon").count(), 3);
        assert_eq!(svg.matches("<circle").count(), 3 + 3 + 6);
        assert!(super::chart(String::new(), &rows[..2]).is_none());
        // With a refit alone, which is the default.
        let refits: Vec<SummaryRow> = rows.iter().map(|row| refit(row)).collect();
        let of_refits = super::chart("made up".to_owned(), &refits.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(of_refits.stacks[0].lines[1].points, chart.stacks[0].lines[1].points);
    }
}
