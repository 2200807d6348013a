//! Lines with bands: the median over seeds and the quartiles around it, in panels that share their horizontal axis.

use super::axes::{Axis, Entry, LARGE, Mark, Panel, legend, legend_height};
use super::canvas::{Anchor, Canvas, Figure};
use super::palette::GREY;
use crate::results::statistics::quantile;
use anyhow::Result;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// The quartiles of some values at one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median of the places.
    pub x: f64,
    /// The first quartile.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The third quartile.
    pub high: f64,
}

impl Spread {
    /// Of points (x, y); those that are not finite do not count. `None` if there are none.
    pub fn of(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let (mut x, mut y): (Vec<f64>, Vec<f64>) =
            points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).unzip();
        x.sort_by(f64::total_cmp);
        y.sort_by(f64::total_cmp);
        Some(Self {
            x: quantile(&x, 0.5)?,
            low: quantile(&y, 0.25)?,
            median: quantile(&y, 0.5)?,
            high: quantile(&y, 0.75)?,
        })
    }
}

/// One line with its band.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What the legend calls it.
    pub label: String,
    /// Its colour.
    pub colour: RGBColor,
    /// Drawn dashed, with rings for dots.
    pub dashed: bool,
    /// Its points, ascending in x.
    pub points: Vec<Spread>,
}

/// One vertical axis with its lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Name and unit of the vertical axis.
    pub label: String,
    /// Whether it is logarithmic.
    pub logarithmic: bool,
    /// What values can be at all.
    pub limits: (f64, f64),
    /// The lines.
    pub lines: Vec<Line>,
}

/// Panels on top of each other.
#[derive(Debug, Clone, PartialEq)]
pub struct SpreadChart {
    /// What is shown.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub label: String,
    /// Whether the horizontal axis is logarithmic; 0 is then left of a break.
    pub logarithmic: bool,
    /// A place that is marked with a vertical line, and what is there.
    pub marked: Option<(f64, String)>,
    /// The panels, from top to bottom.
    pub stacks: Vec<Stack>,
    /// What is said below the legend about the band.
    pub note: String,
}

const WIDTH: f64 = 700.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 682.0;

impl SpreadChart {
    /// A chart without panels.
    pub fn new(title: String, label: &str, logarithmic: bool) -> Self {
        let label = label.to_owned();
        Self { title, label, logarithmic, marked: None, stacks: Vec::new(), note: String::new() }
    }

    fn panel_height(&self) -> f64 {
        if self.stacks.len() == 1 { 290.0 } else { 180.0 }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for line in self.stacks.iter().flat_map(|stack| &stack.lines).filter(|line| !line.label.is_empty()) {
            let mark = if line.dashed { Mark::Dashes(2.0) } else { Mark::Line(2.0) };
            let entry = (line.label.clone(), line.colour, mark);
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        entries.extend(self.marked.iter().map(|(_, text)| (text.clone(), GREY, Mark::Dashes(1.5))));
        if !self.note.is_empty() {
            entries.push((self.note.clone(), GREY, Mark::Note));
        }
        entries
    }

    /// The top of the first panel.
    fn top(&self) -> f64 {
        // Without the embedded font drawing fails anyway, and says so.
        44.0 + legend_height(&self.entries(), (16.0, RIGHT)).unwrap_or(0.0)
    }

    fn x_axis(&self) -> Axis {
        let places = self.stacks.iter().flat_map(|stack| &stack.lines).flat_map(|line| &line.points).map(|p| p.x);
        let places = places.chain(self.marked.iter().map(|(x, _)| *x));
        if self.logarithmic {
            Axis::logarithmic(&self.label, places, true)
        } else {
            Axis::around(&self.label, places, (f64::NEG_INFINITY, f64::INFINITY), 7)
        }
    }
}

impl Figure for SpreadChart {
    fn size(&self) -> (u32, u32) {
        let panels = self.stacks.len() as f64 * (self.panel_height() + 26.0);
        (WIDTH as u32, (self.top() + panels + 18.0) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text(&self.title, (16.0, 18.0), LARGE, Anchor::Left)?;
        legend(canvas, &self.entries(), (16.0, RIGHT), 32.0)?;
        let mut top = self.top();
        let x = self.x_axis();
        for (k, stack) in self.stacks.iter().enumerate() {
            let values = stack.lines.iter().flat_map(|line| &line.points).flat_map(|p| [p.low, p.median, p.high]);
            let y = if stack.logarithmic {
                Axis::logarithmic(&stack.label, values, false)
            } else {
                Axis::around(&stack.label, values, stack.limits, 6)
            };
            let mut x = x.clone();
            if k + 1 < self.stacks.len() {
                x.label.clear();
            }
            let panel = Panel { area: [LEFT, top, RIGHT, top + self.panel_height()], x, y };
            panel.draw_grid(canvas)?;
            if let Some(place) = self.marked.as_ref().and_then(|(place, _)| panel.x.fraction(*place)) {
                let x = LEFT + place * (RIGHT - LEFT);
                canvas.dashed(&[(x, top), (x, panel.area[3])], GREY, 1.5, 4.4)?;
            }
            stack.lines.iter().try_for_each(|line| draw_band(canvas, &panel, line))?;
            stack.lines.iter().try_for_each(|line| draw_line(canvas, &panel, line))?;
            panel.draw_frame(canvas)?;
            top += self.panel_height() + 26.0;
        }
        Ok(())
    }
}

/// The points that are joined: one at 0 is cut off by the break of a logarithmic axis.
fn joined<'a>(panel: &Panel, line: &'a Line) -> &'a [Spread] {
    let broken = panel.x.is_broken() && line.points.first().is_some_and(|p| p.x == 0.0);
    &line.points[usize::from(broken)..]
}

fn draw_band<B: DrawingBackend>(canvas: &mut Canvas<B>, panel: &Panel, line: &Line) -> Result<()> {
    let points = joined(panel, line);
    let mut outline = panel.all(points.iter().map(|p| (p.x, p.high)));
    outline.extend(panel.all(points.iter().rev().map(|p| (p.x, p.low))));
    if points.len() > 1 && points.iter().any(|p| p.high > p.low) {
        canvas.polygon(&outline, line.colour, 0.16)?;
    }
    let alone = &line.points[..line.points.len() - points.len()];
    for p in alone.iter().filter(|p| p.high > p.low) {
        canvas.line(&panel.all([(p.x, p.low), (p.x, p.high)]), line.colour, 1.0)?;
    }
    Ok(())
}

fn draw_line<B: DrawingBackend>(canvas: &mut Canvas<B>, panel: &Panel, line: &Line) -> Result<()> {
    let path = panel.all(joined(panel, line).iter().map(|p| (p.x, p.median)));
    if line.dashed {
        canvas.dashed(&path, line.colour, 2.0, 5.0)?;
    } else {
        canvas.line(&path, line.colour, 2.0)?;
    }
    for place in panel.all(line.points.iter().map(|p| (p.x, p.median))) {
        if line.dashed {
            canvas.ring(place, 3.5, line.colour)?;
        } else {
            canvas.dot(place, 3.0, line.colour)?;
        }
    }
    Ok(())
}
