//! Accuracy against the number of knots of a spline.

use super::grouping::{Setting, band_note, groups, line, tell_apart};
use super::spread::{SpreadChart, Stack};
use crate::results::metrics::SummaryRow;
use std::collections::BTreeSet;

/// The chart of the rows of one data set and network: a line for each setting that has four sizes; `None` if none has.
pub fn chart(title: String, rows: &[&SummaryRow]) -> Option<SpreadChart> {
    let rows: Vec<&SummaryRow> = rows.iter().copied().filter(|row| row.spline_size.is_some()).collect();
    let mut groups = groups(&rows, Setting::SplineSize);
    groups.retain(|group| group.rows.iter().filter_map(|row| row.spline_size).collect::<BTreeSet<_>>().len() >= 4);
    if groups.is_empty() {
        return None;
    }
    let value = |row: &SummaryRow| Some((row.spline_size? as f64, row.test_accuracy?));
    let mut lines: Vec<_> = groups.iter().map(|group| line(group, |row| row.spline_size, value)).collect();
    tell_apart(&mut lines, &groups);
    let note = band_note(&lines, &rows);
    let stacks = vec![Stack { label: "test accuracy (%)".to_owned(), logarithmic: false, limits: (0.0, 100.0), lines }];
    Some(SpreadChart { stacks, note, ..SpreadChart::new(title, "K, knots of a spline", true) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    #[test]
    fn only_settings_with_four_sizes_are_lines() {
        let row = |size: usize, lambda: f64| SummaryRow {
            spline_size: Some(size),
            lambda: Some(lambda),
            test_accuracy: Some(80.0 + size as f64 / 10.0),
            ..SummaryRow::default()
        };
        let mut rows: Vec<SummaryRow> = [5, 11, 51, 101].map(|size| row(size, 1e-4)).into();
        rows.push(row(5, 1e-5));
        let rows: Vec<&SummaryRow> = rows.iter().collect();
        let chart = chart("made up".to_owned(), &rows).unwrap();
        assert_eq!(chart.stacks[0].lines.len(), 1);
        assert_eq!(chart.stacks[0].lines[0].label, "λ = 10⁻⁴");
        assert_eq!(chart.stacks[0].lines[0].points.iter().map(|p| p.x).collect::<Vec<_>>(), [5.0, 11.0, 51.0, 101.0]);
        assert_eq!(to_svg(&chart).unwrap().matches("<circle").count(), 4);
        assert!(super::chart(String::new(), &rows[..3]).is_none());
    }
}
