//! Loss and accuracy against epochs, for runs that can be compared.

use super::axes::{Axis, Entry, LARGE, Mark, Panel, legend, legend_height};
use super::canvas::{Anchor, Canvas, Figure};
use super::palette::{self, GREY};
use crate::results::metrics::{MetricsRow, Split};
use anyhow::Result;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// The rows of a run, with how it is drawn.
#[derive(Debug, Clone)]
pub struct Curve {
    /// What the legend calls it.
    pub label: String,
    /// Its colour.
    pub colour: RGBColor,
    /// Its rows of `metrics.csv`.
    pub rows: Vec<MetricsRow>,
}

/// The training of some runs.
#[derive(Debug, Clone)]
pub struct Curves {
    /// What is shown.
    pub title: String,
    /// The runs.
    pub curves: Vec<Curve>,
}

const WIDTH: f64 = 700.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 682.0;
const HEIGHT: f64 = 190.0;

impl Curve {
    fn points(&self, split: Split, value: impl Fn(&MetricsRow) -> Option<f64>) -> Vec<(f64, f64)> {
        let rows = self.rows.iter().filter(|row| row.split == split);
        rows.filter_map(|row| Some((row.epoch as f64, value(row)?))).filter(|(_, v)| v.is_finite()).collect()
    }

    /// The number of epochs it has rows of.
    pub fn epochs(&self) -> usize {
        self.rows.iter().map(|row| row.epoch).max().unwrap_or(0)
    }
}

impl Curves {
    fn entries(&self) -> Vec<Entry> {
        let runs = self.curves.iter().map(|curve| (curve.label.clone(), curve.colour, Mark::Line(2.0)));
        runs.chain([
            ("training".to_owned(), palette::tint(GREY, 0.6), Mark::Line(1.0)),
            ("test".to_owned(), GREY, Mark::Line(2.0)),
        ])
        .collect()
    }

    fn has_accuracy(&self) -> bool {
        self.curves.iter().flat_map(|curve| &curve.rows).any(|row| row.accuracy.is_some())
    }

    fn top(&self) -> f64 {
        // Without the embedded font drawing fails anyway, and says so.
        44.0 + legend_height(&self.entries(), (16.0, RIGHT)).unwrap_or(0.0)
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &mut Canvas<B>,
        panel: &Panel,
        value: impl Fn(&MetricsRow) -> Option<f64> + Copy,
    ) -> Result<()> {
        panel.draw_grid(canvas)?;
        for curve in &self.curves {
            let mut path = panel.all(curve.points(Split::Train, value));
            path.retain(|(_, y)| *y <= panel.area[3]);
            canvas.line(&path, palette::tint(curve.colour, 0.5), 1.0)?;
        }
        for curve in &self.curves {
            let mut path = panel.all(curve.points(Split::Test, value));
            path.retain(|(_, y)| *y <= panel.area[3]);
            canvas.line(&path, curve.colour, 2.0)?;
            if path.len() <= 12 {
                path.iter().try_for_each(|place| canvas.dot(*place, 3.0, curve.colour))?;
            }
        }
        panel.draw_frame(canvas)
    }
}

impl Figure for Curves {
    fn size(&self) -> (u32, u32) {
        let panels = if self.has_accuracy() { 2.0 * HEIGHT + 26.0 } else { HEIGHT };
        (WIDTH as u32, (self.top() + panels + 46.0) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text(&self.title, (16.0, 18.0), LARGE, Anchor::Left)?;
        legend(canvas, &self.entries(), (16.0, RIGHT), 32.0)?;
        let rows = || self.curves.iter().flat_map(|curve| &curve.rows);
        let last = self.curves.iter().map(Curve::epochs).max().unwrap_or(1) as f64;
        let first = if last <= 20.0 { 1.0 } else { 0.0 };
        let x = Axis::linear("epoch", (first, last.max(first)), ((last - first) as usize).clamp(1, 10));
        let loss = Axis::logarithmic("loss", rows().map(|row| row.loss), false);
        let mut top = self.top();
        if self.has_accuracy() {
            let mut above = x.clone();
            above.label.clear();
            let panel = Panel { area: [LEFT, top, RIGHT, top + HEIGHT], x: above, y: loss };
            self.draw_panel(canvas, &panel, |row| Some(row.loss))?;
            top += HEIGHT + 26.0;
            // The first epochs would take most of the height; what is below the axis is left out.
            let late = rows().filter(|row| row.epoch as f64 >= last / 20.0);
            let y = Axis::around("accuracy (%)", late.filter_map(|row| row.accuracy), (0.0, 100.0), 6);
            let panel = Panel { area: [LEFT, top, RIGHT, top + HEIGHT], x, y };
            self.draw_panel(canvas, &panel, |row| row.accuracy)
        } else {
            let panel = Panel { area: [LEFT, top, RIGHT, top + HEIGHT], x, y: loss };
            self.draw_panel(canvas, &panel, |row| Some(row.loss))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    pub(crate) fn row(epoch: usize, split: Split, loss: f64, accuracy: Option<f64>) -> MetricsRow {
        MetricsRow {
            run: "run".into(),
            experiment: "mnist".into(),
            dataset: "mnist".into(),
            network: "convnet".into(),
            activation: "relu".into(),
            seed: 0,
            epoch,
            step: epoch as u64,
            split,
            loss,
            accuracy,
            regularizer: 0.0,
            lr_weights: 1e-3,
            lr_splines: 1e-3,
            active_knots: None,
            lipschitz_bound_l1: None,
            seconds: 1.0,
            images_per_second: None,
            lipschitz_certified_l2: None,
        }
    }

    #[test]
    fn each_run_has_a_thin_and_a_bold_line_in_each_panel() {
        let run = |name: &str, accuracy: Option<f64>| {
            let rows = (1..=3).flat_map(|epoch| {
                [Split::Train, Split::Test].map(|split| row(epoch, split, 1.0 / epoch as f64, accuracy))
            });
            Curve { label: name.to_owned(), colour: palette::activation(name), rows: rows.collect() }
        };
        let curves = vec![run("bspline", Some(90.0)), run("relu", Some(80.0))];
        let figure = Curves { title: "made up".to_owned(), curves };
        let svg = to_svg(&figure).unwrap();
        assert_eq!(svg.matches("stroke=\"#0072B2\"").count(), 2 + 1);
        assert_eq!(svg.matches("stroke=\"#80B9D9\"").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 2 * 2 * 3);
        assert!(svg.contains("accuracy (%)"));
        let loss_only = Curves { curves: vec![run("bspline", None)], ..figure };
        let svg = to_svg(&loss_only).unwrap();
        assert_eq!((svg.matches("<circle").count(), svg.contains("accuracy")), (3, false));
    }
}
