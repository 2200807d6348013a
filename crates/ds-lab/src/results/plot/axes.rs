//! Axes with their ticks, panels, and legends.

use super::canvas::{Anchor, Canvas, text_width};
use super::palette::{GREY, GRID, INK};
use anyhow::Result;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// Font size of ticks and legends, in CSS pixels.
pub const SMALL: f64 = 11.0;
/// Font size of the names of axes.
pub const NORMAL: f64 = 12.0;
/// Font size of titles.
pub const LARGE: f64 = 14.0;

/// One axis: what it shows, from where to where, with ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Its name and unit.
    pub label: String,
    /// Values with the text that is written at them.
    pub ticks: Vec<(f64, String)>,
    range: (f64, f64),
    logarithmic: bool,
    zero: Option<f64>,
}

/// The digits of an integer as superscripts.
pub(super) fn superscript(n: i32) -> String {
    let digit = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_u32(0x2070 + c.to_digit(10).unwrap_or(0)).unwrap_or(c),
    };
    n.to_string().chars().map(digit).collect()
}

/// A number with this many decimals and a real minus sign.
fn number(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.trim_matches(['0', '.']).is_empty() => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// The smallest of 1, 2, 5 times a power of ten of which at most `count` fit into `width`.
fn nice_step(width: f64, count: f64) -> f64 {
    let rough = width / count;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|f| f * power).find(|step| *step >= rough * 0.999_999).unwrap_or(10.0 * power)
}

/// Multiples of a nice step, at most about `count`.
fn linear_ticks((low, high): (f64, f64), count: usize) -> Vec<(f64, String)> {
    let step = nice_step(high - low, count as f64);
    // A range that is too narrow for f64, or infinite, has no ticks.
    if !step.is_normal() {
        return Vec::new();
    }
    let decimals = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
    let first = (low / step - 1e-6).ceil() as i64;
    let last = (high / step + 1e-6).floor() as i64;
    (first..=last).map(|k| k as f64 * step).map(|v| (v, number(v, decimals))).collect()
}

impl Axis {
    /// A linear axis with at most about `count` ticks; a range without width gets one.
    pub fn linear(label: &str, (low, high): (f64, f64), count: usize) -> Self {
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        let ticks = linear_ticks((low, high), count);
        Self { label: label.to_owned(), ticks, range: (low, high), logarithmic: false, zero: None }
    }

    /// A linear axis around values, with a little room at both ends, but not beyond `limits`.
    pub fn around(label: &str, values: impl IntoIterator<Item = f64>, limits: (f64, f64), count: usize) -> Self {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        let room = if high > low { 0.06 * (high - low) } else { 0.05 * high.abs().max(1e-3) };
        Self::linear(label, ((low - room).max(limits.0), (high + room).min(limits.1)), count)
    }

    /// A logarithmic axis around the positive ones of the values. Where a value is 0 and `zero` is wanted, it has a place
    /// left of a break in the axis.
    pub fn logarithmic(label: &str, values: impl IntoIterator<Item = f64>, zero: bool) -> Self {
        let all: Vec<f64> = values.into_iter().collect();
        let has_zero = zero && all.contains(&0.0);
        let (low, high) = extent(all.into_iter().filter(|v| *v > 0.0)).unwrap_or((0.1, 1.0));
        let (low, high) = (low.log10(), high.log10());
        let room = (0.04 * (high - low)).max(0.05);
        let (start, end) = (low - room, high + room);
        let mut ticks = log_ticks(start, end);
        let gap = 0.16 * (end - start);
        let zero = has_zero.then_some(start - gap);
        ticks.extend(zero.map(|_| (0.0, "0".to_owned())));
        let range = (zero.map_or(start, |zero| zero - room), end);
        Self { label: label.to_owned(), ticks, range, logarithmic: true, zero }
    }

    /// Where a value lies: 0 is the low end, 1 the high one; `None` if it has no place.
    pub fn fraction(&self, v: f64) -> Option<f64> {
        let position = match (self.logarithmic, v > 0.0) {
            (false, _) => v,
            (true, true) => v.log10(),
            (true, false) => self.zero.filter(|_| v == 0.0)?,
        };
        let fraction = (position - self.range.0) / (self.range.1 - self.range.0);
        fraction.is_finite().then_some(fraction)
    }

    /// Whether 0 has a place left of a break.
    pub fn is_broken(&self) -> bool {
        self.zero.is_some()
    }

    /// Where the axis is broken between 0 and the logarithmic part, as a fraction.
    fn break_at(&self) -> Option<f64> {
        let zero = self.zero?;
        let width = self.range.1 - self.range.0;
        Some((zero - self.range.0) / width + 0.08 / 1.2)
    }
}

fn log_ticks(start: f64, end: f64) -> Vec<(f64, String)> {
    if end - start < 0.8 {
        return linear_ticks((10f64.powf(start), 10f64.powf(end)), 6);
    }
    let (first, last) = (start.floor() as i32, end.ceil() as i32);
    let inside = |v: &f64| (start - 1e-9..=end + 1e-9).contains(&v.log10());
    let decades = end - start;
    let factors: &[u32] = if decades < 2.2 { &[1, 2, 5] } else { &[1] };
    let every = ((decades / 8.0).ceil() as i32).max(1);
    let plain = first >= -3 && last <= 5;
    let label = |factor: u32, power: i32| match (plain, factor) {
        (true, _) => number(f64::from(factor) * 10f64.powi(power), (-power).max(0) as usize),
        (false, 1) => format!("10{}", superscript(power)),
        (false, factor) => format!("{factor}·10{}", superscript(power)),
    };
    let powers = (first..=last).filter(|power| power.rem_euclid(every) == 0);
    let all = powers.flat_map(|power| factors.iter().map(move |&factor| (factor, power)));
    all.map(|(factor, power)| (f64::from(factor) * 10f64.powi(power), label(factor, power)))
        .filter(|(v, _)| inside(v))
        .collect()
}

/// The smallest and the largest of the finite values.
pub fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |range, v| {
        let (low, high) = range.unwrap_or((v, v));
        Some((v.min(low), v.max(high)))
    })
}

/// A rectangle of the sheet with two axes.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Left, top, right and bottom of the plotted area, in CSS pixels.
    pub area: [f64; 4],
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
}

impl Panel {
    /// Where a point lies on the sheet; `None` if it has no place on an axis.
    pub fn at(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        let [left, top, right, bottom] = self.area;
        let (x, y) = (self.x.fraction(x)?, self.y.fraction(y)?);
        Some((left + x * (right - left), bottom + y * (top - bottom)))
    }

    /// Where points lie; those without a place are left out.
    pub fn all(&self, points: impl IntoIterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
        points.into_iter().filter_map(|(x, y)| self.at(x, y)).collect()
    }

    /// Grid, frame, ticks and names.
    pub fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        self.draw_grid(canvas)?;
        self.draw_frame(canvas)
    }

    /// The grid alone, to be drawn below what the panel shows.
    pub fn draw_grid<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        let [left, top, right, bottom] = self.area;
        for x in self.x.ticks.iter().filter_map(|(v, _)| self.x.fraction(*v)) {
            let x = left + x * (right - left);
            canvas.line(&[(x, top), (x, bottom)], GRID, 0.75)?;
        }
        for y in self.y.ticks.iter().filter_map(|(v, _)| self.y.fraction(*v)) {
            let y = bottom + y * (top - bottom);
            canvas.line(&[(left, y), (right, y)], GRID, 0.75)?;
        }
        Ok(())
    }

    /// Frame, ticks and names.
    pub fn draw_frame<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        let [left, top, right, bottom] = self.area;
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], INK, 1.0)?;
        let mut widest = 0f64;
        for (v, text) in &self.y.ticks {
            let Some(y) = self.y.fraction(*v) else { continue };
            let y = bottom + y * (top - bottom);
            canvas.line(&[(left - 4.0, y), (left, y)], INK, 1.0)?;
            canvas.text(text, (left - 7.0, y), SMALL, Anchor::Right)?;
            widest = widest.max(text_width(text, SMALL)?);
        }
        for (v, text) in &self.x.ticks {
            let Some(x) = self.x.fraction(*v) else { continue };
            let x = left + x * (right - left);
            canvas.line(&[(x, bottom), (x, bottom + 4.0)], INK, 1.0)?;
            canvas.text(text, (x, bottom + 14.0), SMALL, Anchor::Centre)?;
        }
        if let Some(x) = self.x.break_at() {
            let x = left + x * (right - left);
            canvas.rectangle((x - 2.0, bottom - 2.0), (x + 2.0, bottom + 2.0), plotters::style::WHITE)?;
            for x in [x - 2.5, x + 2.5] {
                canvas.line(&[(x - 2.0, bottom + 5.0), (x + 2.0, bottom - 5.0)], INK, 1.0)?;
            }
        }
        if !self.x.label.is_empty() {
            canvas.text(&self.x.label, ((left + right) / 2.0, bottom + 34.0), NORMAL, Anchor::Centre)?;
        }
        if !self.y.label.is_empty() {
            canvas.text(&self.y.label, (left - widest - 20.0, (top + bottom) / 2.0), NORMAL, Anchor::Upwards)?;
        }
        Ok(())
    }
}

/// How an entry of a legend looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// A line of this width.
    Line(f64),
    /// A dashed line of this width.
    Dashes(f64),
    /// A disc.
    Dot,
    /// A disc with a white inside.
    Ring,
    /// A box.
    Area,
    /// No mark: a note in grey.
    Note,
}

/// One entry of a legend.
pub type Entry = (String, RGBColor, Mark);

const ROW: f64 = 18.0;

fn swatch_width(mark: Mark) -> f64 {
    if mark == Mark::Note { 0.0 } else { 28.0 }
}

/// The left end and the row of each entry, side by side between `left` and `right` as long as they fit.
fn places(entries: &[Entry], (left, right): (f64, f64)) -> Result<Vec<(f64, usize)>> {
    let (mut x, mut row) = (left, 0);
    let place = |(text, _, mark): &Entry| {
        let width = swatch_width(*mark) + text_width(text, SMALL)?;
        if x > left && x + width > right {
            (x, row) = (left, row + 1);
        }
        let place = (x, row);
        x += width + 18.0;
        Ok(place)
    };
    entries.iter().map(place).collect()
}

/// The height of a legend, in CSS pixels.
///
/// # Errors
/// If the embedded font cannot be read.
pub fn legend_height(entries: &[Entry], range: (f64, f64)) -> Result<f64> {
    Ok(places(entries, range)?.last().map_or(0.0, |(_, row)| ROW * (row + 1) as f64))
}

/// Entries side by side between the ends of `range`, in as many rows as they need.
pub fn legend<B: DrawingBackend>(canvas: &mut Canvas<B>, entries: &[Entry], range: (f64, f64), top: f64) -> Result<()> {
    for ((text, colour, mark), (x, row)) in entries.iter().zip(places(entries, range)?) {
        let y = top + ROW * (row as f64 + 0.5);
        let (from, middle, to) = ((x, y), (x + 11.0, y), (x + 22.0, y));
        match mark {
            Mark::Line(width) => canvas.line(&[from, to], *colour, *width)?,
            Mark::Dashes(width) => canvas.dashed(&[from, to], *colour, *width, 4.4)?,
            Mark::Dot => canvas.dot(middle, 3.5, *colour)?,
            Mark::Ring => canvas.ring(middle, 3.5, *colour)?,
            Mark::Area => canvas.rectangle((x + 2.0, y - 5.0), (x + 20.0, y + 5.0), *colour)?,
            Mark::Note => {}
        }
        let ink = if *mark == Mark::Note { GREY } else { INK };
        canvas.coloured_text(text, (x + swatch_width(*mark), y), SMALL, Anchor::Left, ink)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(texts(&Axis::linear("", (-1.2, 1.2), 5)), ["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(texts(&Axis::linear("", (0.0, 300.0), 6)), ["0", "50", "100", "150", "200", "250", "300"]);
        assert_eq!(texts(&Axis::linear("", (1.0, 4.0), 3)), ["1", "2", "3", "4"]);
        let axis = Axis::around("", [90.0, 100.0], (0.0, 100.0), 5);
        assert_eq!((axis.fraction(100.0), axis.fraction(89.4)), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn logarithmic_ticks_are_powers_and_zero_is_left_of_a_break() {
        let axis = Axis::logarithmic("λ", [0.0, 1e-6, 1e-4, 1e-2], true);
        assert_eq!(texts(&axis), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "0"]);
        let at = |v: f64| axis.fraction(v).unwrap();
        let broken = axis.break_at().unwrap();
        assert!(0.0 < at(0.0) && at(0.0) < broken && broken < at(1e-6), "{} {broken} {}", at(0.0), at(1e-6));
        assert!((at(1e-4) - (at(1e-6) + at(1e-2)) / 2.0).abs() < 1e-12);
        assert_eq!(axis.fraction(-1.0), None);
        let axis = Axis::logarithmic("", [0.0, 10.0, 400.0], false);
        assert_eq!((texts(&axis), axis.fraction(0.0)), (vec!["10", "20", "50", "100", "200"], None));
        assert_eq!(texts(&Axis::logarithmic("", [0.17, 0.4], false)), ["0.20", "0.25", "0.30", "0.35", "0.40"]);
    }

    #[test]
    fn constant_values_have_an_axis() {
        for axis in [Axis::around("", [3.0, 3.0], (0.0, 100.0), 5), Axis::logarithmic("", [2.0], false)] {
            let place = axis.fraction(if axis.logarithmic { 2.0 } else { 3.0 }).unwrap();
            assert!((place - 0.5).abs() < 1e-9 && !axis.ticks.is_empty(), "{axis:?}");
        }
        let too_narrow = [
            Axis::logarithmic("", [5e-324], false),
            Axis::around("", [0.0, 5e-324], (0.0, 100.0), 5),
            Axis::around("", [1e300], (0.0, 100.0), 5),
        ];
        assert!(too_narrow.iter().all(|axis| axis.ticks.is_empty()), "{too_narrow:?}");
    }
}
