//! The Lipschitz constant and its bounds against the weight λ of the splines' penalty: from below, exact, certified, and the papers'.

use super::grouping::{band_note, distinct};
use super::lambda::{lambda, lambda_key};
use super::palette;
use super::spread::{Line, Spread, SpreadChart, Stack};
use crate::results::metrics::SummaryRow;
use std::collections::BTreeMap;

type Bound = (&'static str, fn(&SummaryRow) -> Option<f64>);

const BOUNDS: [Bound; 4] = [
    ("papers, p = 2", |row| row.lipschitz_papers_l2),
    ("certified", |row| row.lipschitz_certified_l2),
    ("found from below", |row| row.lipschitz_lower_l2),
    ("exact", |row| row.lipschitz_exact_l2),
];

/// The chart of the rows of one data set and network with splines of one kind: a line for each bound and norm, dashed for BV²;
/// `None` with less than three λ.
pub fn chart(title: String, rows: &[&SummaryRow]) -> Option<SpreadChart> {
    let is_meant = |row: &&SummaryRow| {
        row.lambda.is_some() && row.lipschitz_certified_l2.is_some() && !row.run.ends_with("-selected")
    };
    let rows: Vec<&SummaryRow> = rows.iter().copied().filter(is_meant).collect();
    let kinds = distinct(&rows, |row| Some((row.activation.clone(), row.spline_size, row.hidden.clone())));
    if distinct(&rows, lambda_key) < 3 || kinds > 1 {
        return None;
    }
    let mut lines = Vec::new();
    for (k, (bound, value)) in BOUNDS.into_iter().enumerate() {
        for (norm, name) in [("none", "no penalty"), ("tv2", "TV²"), ("bv2", "BV²")] {
            let mut places: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
            for row in rows.iter().filter(|row| row.norm.as_deref() == Some(norm)) {
                if let (Some(key), Some(x), Some(y)) = (lambda_key(row), lambda(row), value(row).filter(|y| *y > 0.0)) {
                    places.entry(key).or_default().push((x, y));
                }
            }
            let points: Vec<Spread> = places.into_values().filter_map(Spread::of).collect();
            if !points.is_empty() {
                let label = format!("{bound}, {name}");
                lines.push(Line { label, colour: palette::series(k), dashed: norm == "bv2", points });
            }
        }
    }
    let note = band_note(&lines, &rows);
    let label = "Lipschitz constant".to_owned();
    let stacks = vec![Stack { label, logarithmic: true, limits: (0.0, f64::INFINITY), lines }];
    Some(SpreadChart { stacks, note, ..SpreadChart::new(title, "λ, weight of the splines' penalty", true) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    #[test]
    fn bounds_are_colours_and_norms_are_dashes() {
        let row = |norm: &str, lambda: f64| SummaryRow {
            norm: Some(norm.to_owned()),
            lambda: Some(lambda),
            lipschitz_lower_l2: Some(3.0),
            lipschitz_certified_l2: Some(7.0),
            lipschitz_papers_l2: Some(1e4),
            ..SummaryRow::default()
        };
        let mut rows = vec![row("none", 1e-4)];
        for norm in ["tv2", "bv2"] {
            rows.extend([1e-6, 1e-5, 1e-4].map(|lambda| row(norm, lambda)));
        }
        let chart = chart("made up".to_owned(), &rows.iter().collect::<Vec<_>>()).unwrap();
        let lines = &chart.stacks[0].lines;
        assert_eq!(lines.len(), 9);
        assert!(lines[0].label == "papers, p = 2, no penalty" && lines[0].points[0].x == 0.0);
        assert!(lines[2].dashed && lines[1].colour == lines[2].colour && lines[1].colour != lines[4].colour);
        let exact: Vec<SummaryRow> =
            rows.iter().map(|row| SummaryRow { lipschitz_exact_l2: Some(5.0), ..row.clone() }).collect();
        let with_exact = super::chart(String::new(), &exact.iter().collect::<Vec<_>>()).unwrap();
        assert!(with_exact.stacks[0].lines[9].label.starts_with("exact"), "{}", with_exact.stacks[0].lines[9].label);
        assert_eq!(lines[4].points.iter().map(|p| p.median).collect::<Vec<_>>(), [7.0; 3]);
        assert!(to_svg(&chart).unwrap().contains("Lipschitz constant"));
        // Rows without a certified bound are of an older version.
        let old: Vec<SummaryRow> =
            rows.iter().map(|row| SummaryRow { lipschitz_certified_l2: None, ..row.clone() }).collect();
        assert!(super::chart(String::new(), &old.iter().collect::<Vec<_>>()).is_none());
    }
}
