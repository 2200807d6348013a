//! What the search for the largest threshold saw: training accuracy and knots that are kept.

use super::palette;
use super::spread::{Line, Spread, SpreadChart, Stack};
use crate::results::metrics::{SummaryRow, ThresholdRow};

/// The chart of a run's thresholds; `None` with less than three.
pub fn chart(title: String, rows: &[ThresholdRow], summary: Option<&SummaryRow>) -> Option<SpreadChart> {
    if rows.len() < 3 {
        return None;
    }
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| a.threshold.total_cmp(&b.threshold));
    let stack = |label: &str, limits, value: &dyn Fn(&ThresholdRow) -> f64| {
        let points = rows.iter().map(|row| {
            let y = value(row);
            Spread { x: row.threshold, low: y, median: y, high: y }
        });
        let line = Line { label: String::new(), colour: palette::SPARSE, dashed: false, points: points.collect() };
        Stack { label: label.to_owned(), logarithmic: false, limits, lines: vec![line] }
    };
    let stacks = vec![
        stack("training accuracy (%)", (0.0, 100.0), &|row| row.train_accuracy),
        stack("knots kept", (0.0, f64::INFINITY), &|row| row.active_knots as f64),
    ];
    let chosen = summary.and_then(|row| row.sparsified_threshold);
    let marked = chosen.map(|threshold| (threshold, format!("chosen: {threshold}")));
    Some(SpreadChart { stacks, marked, ..SpreadChart::new(title, "threshold for |slope change|", true) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    #[test]
    fn accuracy_and_knots_are_two_panels() {
        let rows = [(0.2, 20, 90.0), (0.0, 40, 99.0), (0.1, 30, 98.0)]
            .map(|(threshold, active_knots, train_accuracy)| ThresholdRow { threshold, active_knots, train_accuracy });
        let summary = SummaryRow { sparsified_threshold: Some(0.1), ..SummaryRow::default() };
        let chart = chart("made up".to_owned(), &rows, Some(&summary)).unwrap();
        let knots: Vec<f64> = chart.stacks[1].lines[0].points.iter().map(|p| p.median).collect();
        assert_eq!(knots, [40.0, 30.0, 20.0]);
        let svg = to_svg(&chart).unwrap();
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains("chosen: 0.1"));
        assert!(super::chart(String::new(), &rows[..2], None).is_none());
    }
}
