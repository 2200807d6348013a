//! Which rows of a sweep belong to one line: those that differ in their seeds only.

use super::axes::superscript;
use super::palette;
use super::spread::{Line, Spread};
use crate::results::metrics::SummaryRow;
use plotters::style::RGBColor;
use std::collections::{BTreeMap, BTreeSet};

/// A setting that tells rows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// The activation.
    Activation,
    /// The norm that is penalised.
    Norm,
    /// Knots of a spline.
    SplineSize,
    /// λ.
    Lambda,
    /// Units of the hidden layers.
    Hidden,
    /// The end of the knots.
    SplineRange,
    /// The factor of the weights' decay.
    WeightDecay,
    /// The optimiser of the splines.
    Optimizer,
}

impl Setting {
    const ALL: [Self; 8] = [
        Self::Activation,
        Self::Norm,
        Self::SplineSize,
        Self::Lambda,
        Self::Hidden,
        Self::SplineRange,
        Self::WeightDecay,
        Self::Optimizer,
    ];

    fn text(self, row: &SummaryRow) -> Option<String> {
        Some(match self {
            Self::Activation => row.activation.replace('_', " "),
            Self::Norm => match row.norm.as_deref()? {
                "tv2" => "TV²".to_owned(),
                "bv2" => "BV²".to_owned(),
                _ => "no penalty".to_owned(),
            },
            Self::SplineSize => format!("K = {}", row.spline_size?),
            Self::Lambda => format!("λ = {}", scientific(row.lambda?)),
            Self::Hidden => format!("hidden {}", row.hidden.as_deref()?.replace('x', "×")),
            Self::SplineRange if row.spline_ranges_of_layers.is_some() => "automatic range".to_owned(),
            Self::SplineRange => format!("range {}", row.spline_range?),
            Self::WeightDecay => format!("weight decay {}", scientific(row.weight_decay?)),
            Self::Optimizer => row.splines_optimizer.as_deref()?.replace('_', " "),
        })
    }
}

/// A number for texts: as it is, or with a power of ten where it is small or large.
pub fn scientific(v: f64) -> String {
    if v == 0.0 || (1e-2..1e5).contains(&v.abs()) {
        return v.to_string();
    }
    let text = format!("{v:e}");
    let (factor, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power = format!("10{}", superscript(power.parse().unwrap_or(0)));
    if factor == "1" { power } else { format!("{factor}·{power}") }
}

/// Rows that differ in their seeds, and in `along`, only.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// What tells the group from the others; empty if it is the only one.
    pub label: String,
    /// Its colour: that of its activation, if no other group has the same.
    pub colour: RGBColor,
    /// The rows.
    pub rows: Vec<&'a SummaryRow>,
}

/// The groups along a setting, in the order of their first rows.
pub fn groups<'a>(rows: &[&'a SummaryRow], along: Setting) -> Vec<Group<'a>> {
    // A weight decay that is coupled to λ is no line of its own, nor is a norm of none, where λ is 0.
    let lambdas = distinct(rows, |row| row.lambda.map(f64::to_bits));
    let pairs = distinct(rows, |row| Some((row.lambda?.to_bits(), row.weight_decay?.to_bits())));
    let follows = |setting: Setting, row: &SummaryRow| {
        along == Setting::Lambda
            && match setting {
                Setting::Norm => row.norm.as_deref() == Some("none"),
                Setting::WeightDecay => pairs == lambdas,
                _ => false,
            }
    };
    let texts = |row: &SummaryRow| -> Vec<Option<String>> {
        let kept = Setting::ALL.iter().filter(|setting| **setting != along);
        kept.map(|&setting| setting.text(row).filter(|_| !follows(setting, row))).collect()
    };
    let all: Vec<Vec<Option<String>>> = rows.iter().map(|row| texts(row)).collect();
    let varies: Vec<bool> = (0..Setting::ALL.len() - 1)
        .map(|k| all.iter().filter_map(|texts| texts[k].as_ref()).collect::<BTreeSet<_>>().len() > 1)
        .collect();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (row, texts) in rows.iter().zip(&all) {
        let told = texts.iter().zip(&varies).filter(|(_, varies)| **varies).filter_map(|(text, _)| text.clone());
        let label = told.collect::<Vec<_>>().join(", ");
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { label, colour: palette::INK, rows: vec![row] }),
        }
    }
    let names: Vec<String> = groups.iter().map(|group| group.rows[0].activation.clone()).collect();
    let distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    for (k, group) in groups.iter_mut().enumerate() {
        group.colour = if distinct { palette::activation(&names[k]) } else { palette::series(k) };
    }
    groups
}

/// The line of a group: rows of one `key` are one point, with the spread of their values (x, y).
pub fn line<K: Ord>(
    group: &Group<'_>,
    key: impl Fn(&SummaryRow) -> Option<K>,
    value: impl Fn(&SummaryRow) -> Option<(f64, f64)>,
) -> Line {
    let mut places: BTreeMap<K, Vec<(f64, f64)>> = BTreeMap::new();
    for row in &group.rows {
        if let (Some(key), Some(value)) = (key(row), value(row)) {
            places.entry(key).or_default().push(value);
        }
    }
    let mut points: Vec<Spread> = places.into_values().filter_map(Spread::of).collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    Line { label: group.label.clone(), colour: group.colour, dashed: false, points }
}

/// With more lines than this, bands hide more than they show.
const MAX_BANDS: usize = 4;

/// Many lines lose their bands. With several norms and something else that varies, a colour is for the rest and dashes are
/// for BV².
pub fn tell_apart(lines: &mut [Line], groups: &[Group<'_>]) {
    if lines.len() > MAX_BANDS {
        lines.iter_mut().flat_map(|line| &mut line.points).for_each(|p| (p.low, p.high) = (p.median, p.median));
    }
    let rest = |label: &str| {
        let parts = label.split(", ").filter(|part| !["TV²", "BV²"].contains(part));
        parts.collect::<Vec<_>>().join(", ")
    };
    let mut colours: Vec<String> = Vec::new();
    for group in groups {
        let name = rest(&group.label);
        if !colours.contains(&name) {
            colours.push(name);
        }
    }
    if colours.len() < 2 || colours.len() == groups.len() {
        return;
    }
    for line in lines {
        let place = colours.iter().position(|name| *name == rest(&line.label)).unwrap_or(0);
        line.colour = palette::series(place);
        line.dashed = line.label.split(", ").any(|part| part == "BV²");
    }
}

/// How many distinct values a setting has; rows without one do not count.
pub fn distinct<K: Ord>(rows: &[&SummaryRow], key: impl Fn(&SummaryRow) -> Option<K>) -> usize {
    rows.iter().filter_map(|row| key(row)).collect::<BTreeSet<_>>().len()
}

/// What is said about the band: nothing where no point has several seeds.
pub fn band_note(lines: &[Line], rows: &[&SummaryRow]) -> String {
    let seeds = distinct(rows, |row| Some(row.seed));
    let wide = lines.iter().flat_map(|line| &line.points).any(|p| p.high > p.low);
    match (wide, lines.len() > MAX_BANDS && seeds > 1) {
        (true, _) => format!("median and quartiles over {seeds} seeds"),
        (false, true) => format!("medians over {seeds} seeds"),
        (false, false) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_have_powers_of_ten() {
        let texts = [0.0, 0.25, 1e-5, 5e-4, 1.5e-7].map(scientific);
        assert_eq!(texts, ["0", "0.25", "10⁻⁵", "5·10⁻⁴", "1.5·10⁻⁷"]);
    }

    #[test]
    fn only_what_varies_is_in_labels_and_activations_keep_their_colours() {
        let row = |activation: &str, size: Option<usize>| SummaryRow {
            activation: activation.to_owned(),
            spline_size: size,
            norm: size.map(|_| "tv2".to_owned()),
            ..SummaryRow::default()
        };
        let rows = [row("bspline", Some(21)), row("relu", None), row("bspline", Some(21))];
        let groups_of = |rows: &[SummaryRow]| {
            let rows: Vec<&SummaryRow> = rows.iter().collect();
            let groups = groups(&rows, Setting::Hidden);
            groups.into_iter().map(|group| (group.label, group.colour, group.rows.len())).collect::<Vec<_>>()
        };
        let colour = palette::activation;
        assert_eq!(
            groups_of(&rows),
            [("bspline".to_owned(), colour("bspline"), 2), ("relu".to_owned(), colour("relu"), 1)]
        );
        let labels: Vec<String> = groups_of(&[row("bspline", Some(21)), row("bspline", Some(51))])
            .into_iter()
            .map(|(label, ..)| label)
            .collect();
        assert_eq!(labels, ["K = 21", "K = 51"]);
    }
}
