//! Accuracy against the knots that pruning leaves, by both methods.

use super::palette;
use super::spread::{Line, Spread, SpreadChart, Stack};
use crate::results::metrics::{PruningRow, SummaryRow, ThresholdRow};

/// The chart of what a run's pruning tried; `None` with less than three numbers of knots.
pub fn chart(
    title: String,
    refit: &[PruningRow],
    papers: &[ThresholdRow],
    summary: Option<&SummaryRow>,
) -> Option<SpreadChart> {
    let untrained = || refit.iter().filter(|row| row.finetune_epochs == 0);
    let of_refit = |value: fn(&PruningRow) -> Option<f64>| -> Vec<(f64, f64)> {
        untrained().filter_map(|row| Some((row.knots as f64, value(row)?))).collect()
    };
    let of_papers = papers.iter().map(|row| (row.active_knots as f64, row.train_accuracy)).collect();
    let papers_test =
        summary.and_then(|row| Some((row.sparsified_active_knots? as f64, row.sparsified_test_accuracy?)));
    let all = [
        ("refit, training", palette::SPARSE, false, of_refit(|row| row.train_accuracy)),
        ("refit, test", palette::SPARSE, true, of_refit(|row| row.test_accuracy)),
        ("papers' thresholds, training", palette::INK, false, of_papers),
        ("papers' thresholds, test", palette::INK, true, papers_test.into_iter().collect()),
    ];
    if all.iter().all(|(_, _, _, points)| points.len() < 3) {
        return None;
    }
    let line = |(label, colour, dashed, mut points): (&str, _, _, Vec<(f64, f64)>)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let points = points.into_iter().map(|(x, y)| Spread { x, low: y, median: y, high: y }).collect();
        Line { label: label.to_owned(), colour, dashed, points }
    };
    let lines = all.into_iter().filter(|(_, _, _, points)| !points.is_empty()).map(line).collect();
    let label = "accuracy (%)".to_owned();
    let stacks = vec![Stack { label, logarithmic: false, limits: (0.0, 100.0), lines }];
    let chosen = summary.and_then(|row| row.refit_knots.or(row.sparsified_active_knots));
    let marked = chosen.map(|knots| (knots as f64, format!("chosen: {knots}")));
    Some(SpreadChart { stacks, marked, ..SpreadChart::new(title, "knots that are left", true) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    #[test]
    fn both_methods_are_lines_of_one_panel() {
        let papers = [(0.2, 20, 90.0), (0.0, 40, 99.0), (0.1, 30, 98.0)]
            .map(|(threshold, active_knots, train_accuracy)| ThresholdRow { threshold, active_knots, train_accuracy });
        let row = |knots: usize, accuracy: f64| PruningRow {
            knots,
            train_accuracy: Some(accuracy),
            test_accuracy: Some(accuracy - 1.0),
            ..PruningRow::default()
        };
        let refit = [row(40, 99.0), row(20, 98.0), row(10, 97.0)];
        let summary = SummaryRow {
            refit_knots: Some(10),
            sparsified_active_knots: Some(30),
            sparsified_test_accuracy: Some(97.0),
            ..SummaryRow::default()
        };
        let chart = chart("made up".to_owned(), &refit, &papers, Some(&summary)).unwrap();
        let knots: Vec<f64> = chart.stacks[0].lines[2].points.iter().map(|p| p.x).collect();
        assert_eq!(knots, [20.0, 30.0, 40.0]);
        let svg = to_svg(&chart).unwrap();
        // A ring is two circles.
        assert_eq!(svg.matches("<circle").count(), 3 + 3 + 2 * (3 + 1));
        assert!(svg.contains("chosen: 10"));
        assert!(super::chart(String::new(), &refit[..2], &papers[..2], None).is_none());
    }
}
