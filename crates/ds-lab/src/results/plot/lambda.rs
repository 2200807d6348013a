//! Test error, knots that are left and Lipschitz bound against the weight λ of the splines' penalty.

use super::grouping::{Setting, band_note, distinct, groups, line, tell_apart};
use super::spread::{Line, SpreadChart, Stack};
use crate::results::metrics::SummaryRow;

/// λ of a row in units of 1e-15, so that it can be a key; 0 where no norm is penalised, `None` without splines.
pub fn lambda_key(row: &SummaryRow) -> Option<u64> {
    let lambda = row.lambda.filter(|lambda| *lambda >= 0.0)?;
    Some(if row.norm.as_deref() == Some("none") { 0 } else { (lambda * 1e15).round() as u64 })
}

/// λ of a row, 0 where no norm is penalised.
pub(super) fn lambda(row: &SummaryRow) -> Option<f64> {
    lambda_key(row).map(|key| if key == 0 { 0.0 } else { row.lambda.unwrap_or(0.0) })
}

/// The chart of the rows of one data set and network; `None` with less than three λ.
pub fn chart(title: String, rows: &[&SummaryRow]) -> Option<SpreadChart> {
    // Runs with a chosen λ are others: on all of the training set.
    let is_meant = |row: &&SummaryRow| row.lambda.is_some() && !row.run.ends_with("-selected");
    let rows: Vec<&SummaryRow> = rows.iter().copied().filter(is_meant).collect();
    if distinct(&rows, lambda_key) < 3 {
        return None;
    }
    let groups = groups(&rows, Setting::Lambda);
    let stack = |label: &str, logarithmic: bool, value: &dyn Fn(&SummaryRow) -> Option<f64>| {
        let lines = groups.iter().map(|group| line(group, lambda_key, |row| Some((lambda(row)?, value(row)?))));
        let mut lines: Vec<Line> = lines.filter(|line| !line.points.is_empty()).collect();
        tell_apart(&mut lines, &groups);
        let limits = if logarithmic { (0.0, f64::INFINITY) } else { (0.0, 100.0) };
        Stack { label: label.to_owned(), logarithmic, limits, lines }
    };
    // By the papers' thresholds where these were tried, as in older rows.
    let left = |row: &SummaryRow| row.sparsified_active_knots.or(row.refit_knots);
    let share = |row: &SummaryRow| Some(100.0 * left(row)? as f64 / row.knots? as f64);
    let mut stacks = vec![
        stack("test error (%)", false, &|row| Some(100.0 - row.test_accuracy?)),
        stack("knots kept (%)", false, &share),
        stack("Lipschitz bound", true, &|row| row.lipschitz_bound_l1.filter(|bound| *bound > 0.0)),
    ];
    stacks.retain(|stack| !stack.lines.is_empty());
    if stacks.is_empty() {
        return None;
    }
    let note = band_note(&stacks[0].lines, &rows);
    Some(SpreadChart { stacks, note, ..SpreadChart::new(title, "λ, weight of the splines' penalty", true) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    fn row(norm: &str, lambda: f64, accuracy: f64) -> SummaryRow {
        SummaryRow {
            norm: Some(norm.to_owned()),
            lambda: Some(lambda),
            test_accuracy: Some(accuracy),
            knots: Some(50),
            sparsified_active_knots: Some(10),
            lipschitz_bound_l1: Some(1e4),
            ..SummaryRow::default()
        }
    }

    #[test]
    fn colours_are_for_sizes_and_dashes_for_bv2() {
        let mut rows = Vec::new();
        for (norm, size) in [("tv2", 5), ("bv2", 5), ("tv2", 21), ("bv2", 21), ("tv2", 41)] {
            for (k, shift) in [(1, 0.0), (2, 0.0), (3, 0.0), (3, 1.0)] {
                let row = row(norm, 10f64.powi(-k), 90.0 + shift);
                rows.push(SummaryRow { spline_size: Some(size), seed: shift as u64, ..row });
            }
        }
        let chart = chart(String::new(), &rows.iter().collect::<Vec<_>>()).unwrap();
        let lines = &chart.stacks[0].lines;
        assert_eq!(lines.iter().map(|line| line.dashed).collect::<Vec<_>>(), [false, true, false, true, false]);
        assert!(lines[0].colour == lines[1].colour && lines[2].colour == lines[3].colour);
        assert!(lines[0].colour != lines[2].colour && lines[2].colour != lines[4].colour);
        // Five bands would hide each other.
        assert!(lines.iter().flat_map(|line| &line.points).all(|p| p.low == p.high));
        assert_eq!(chart.note, "medians over 2 seeds");
    }

    #[test]
    fn a_coupled_weight_decay_and_a_choice_are_no_lines() {
        let of = |k: i32, run: &str| {
            let lambda = 10f64.powi(-k);
            SummaryRow { weight_decay: Some(lambda), run: run.to_owned(), ..row("tv2", lambda, 90.0) }
        };
        let rows: Vec<SummaryRow> = (1..4).map(|k| of(k, "a")).chain([of(2, "a-selected")]).collect();
        let chart = chart(String::new(), &rows.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(chart.stacks[0].lines.len(), 1);
        assert_eq!(chart.stacks[0].lines[0].points.len(), 3);
        let other = SummaryRow { weight_decay: Some(0.5), ..row("tv2", 0.1, 80.0) };
        let rows: Vec<&SummaryRow> = rows.iter().chain([&other]).collect();
        assert_eq!(super::chart(String::new(), &rows).unwrap().stacks[0].lines.len(), 4);
    }

    #[test]
    fn norms_are_lines_and_no_penalty_is_at_0() {
        let mut rows = vec![row("none", 1e-4, 90.0)];
        for norm in ["tv2", "bv2"] {
            rows.extend([(1e-6, 92.0), (1e-5, 95.0), (1e-4, 91.0)].map(|(lambda, a)| row(norm, lambda, a)));
        }
        let rows: Vec<&SummaryRow> = rows.iter().collect();
        let chart = chart("made up".to_owned(), &rows).unwrap();
        assert_eq!(chart.stacks.len(), 3);
        let error = &chart.stacks[0].lines;
        assert_eq!(error[0].points.iter().map(|p| (p.x, p.median)).collect::<Vec<_>>(), [(0.0, 10.0)]);
        assert_eq!(error[1].label, "TV²");
        assert_eq!(
            error[2].points.iter().map(|p| (p.x, p.median)).collect::<Vec<_>>(),
            [(1e-6, 8.0), (1e-5, 5.0), (1e-4, 9.0)]
        );
        assert_eq!(chart.stacks[1].lines[1].points[0].median, 20.0);
        let svg = to_svg(&chart).unwrap();
        assert_eq!(svg.matches("<circle").count(), 3 * 7);
        assert!(svg.contains("10⁻⁶") && svg.contains("Lipschitz bound"));
        assert!(super::chart(String::new(), &rows[..3]).is_some_and(|chart| chart.stacks.len() == 3));
        assert!(super::chart(String::new(), &rows[1..3]).is_none());
    }
}
