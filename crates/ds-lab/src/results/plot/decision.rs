//! What a network says over the square [−1, 1]²: its probability as colours, its decision and the true area as lines.

use super::axes::{LARGE, Mark, legend};
use super::canvas::{Anchor, Canvas, Figure};
use super::contour::boundary;
use super::palette::{self, INK};
use super::square::{self, CELLS, coordinate};
use crate::data::AreaShape;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use ds_core::graph::CandleGraph;
use ds_nn::Network;
use ds_nn::layers::Mode;
use plotters::backend::DrawingBackend;

/// Colours that are told apart.
const LEVELS: usize = 24;

/// The probabilities of a network.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What is shown.
    pub title: String,
    /// The area that was to be learned.
    pub shape: AreaShape,
    /// The logits at (CELLS + 1)² points, row by row from y = −1.
    logits: Vec<f64>,
}

impl Decision {
    /// What the network says.
    ///
    /// # Errors
    /// If the network does not take points of the plane.
    pub fn of(title: String, shape: AreaShape, network: &Network) -> Result<Self> {
        let n = CELLS + 1;
        let points: Vec<f32> = (0..n * n).flat_map(|k| [coordinate(k % n) as f32, coordinate(k / n) as f32]).collect();
        let points = Tensor::from_vec(points, (n * n, 2), &Device::Cpu)?;
        let output = network.forward_in(&mut CandleGraph, &points, Mode::Evaluation)?;
        let logits = output.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        Ok(Self { title, shape, logits })
    }

    fn logit(&self, column: usize, row: usize) -> f64 {
        self.logits[row * (CELLS + 1) + column]
    }

    /// The lines where the network's decision changes.
    fn decided(&self) -> Vec<Vec<(f64, f64)>> {
        let crossing = |(a, b): (usize, usize), (c, d): (usize, usize)| {
            let (inner, outer) = (self.logit(a, b), self.logit(c, d));
            between((a, b), (c, d), inner / (inner - outer))
        };
        boundary(CELLS + 1, |column, row| self.logit(column, row) > 0.0, crossing)
    }

    /// The boundary of the true area.
    fn truth(&self) -> Vec<Vec<(f64, f64)>> {
        let inside = |(x, y): (f64, f64)| self.shape.contains([x, y]);
        let crossing = |a: (usize, usize), c: (usize, usize)| {
            let (mut inner, mut outer) = (0.0, 1.0);
            for _ in 0..20 {
                let middle = (inner + outer) / 2.0;
                if inside(between(a, c, middle)) { inner = middle } else { outer = middle }
            }
            between(a, c, inner)
        };
        boundary(CELLS + 1, |column, row| inside((coordinate(column), coordinate(row))), crossing)
    }

    fn level(&self, column: usize, row: usize) -> usize {
        let corners = [(0, 0), (1, 0), (0, 1), (1, 1)];
        let probability = |(dx, dy)| 1.0 / (1.0 + (-self.logit(column + dx, row + dy)).exp());
        let mean = corners.map(probability).iter().sum::<f64>() / 4.0;
        square::level(mean, LEVELS)
    }
}

fn between(a: (usize, usize), c: (usize, usize), t: f64) -> (f64, f64) {
    let mix = |a: usize, c: usize| coordinate(a) + t * (coordinate(c) - coordinate(a));
    (mix(a.0, c.0), mix(a.1, c.1))
}

fn colour(level: usize) -> plotters::style::RGBColor {
    palette::probability((level as f64 + 0.5) / LEVELS as f64)
}

impl Figure for Decision {
    fn size(&self) -> (u32, u32) {
        square::SIZE
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text(&self.title, (16.0, 18.0), LARGE, Anchor::Left)?;
        let entries = [
            ("decision of the network (0.5)".to_owned(), INK, Mark::Line(2.0)),
            ("true boundary".to_owned(), INK, Mark::Dashes(1.5)),
        ];
        legend(canvas, &entries, (16.0, f64::from(square::SIZE.0) - 8.0), 32.0)?;
        square::draw_cells(canvas, |column, row| self.level(column, row), colour)?;
        let panel = square::panel();
        for line in self.truth() {
            canvas.dashed(&panel.all(line), INK, 1.5, 5.0)?;
        }
        for line in self.decided() {
            canvas.line(&panel.all(line), INK, 2.0)?;
        }
        panel.draw_frame(canvas)?;
        let ticks = [(0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")];
        square::draw_bar(canvas, (LEVELS, colour), &ticks, "probability of being inside")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::square::{LEFT, SIDE, TOP};
    use crate::results::plot::{to_png, to_svg};

    /// Inside where x₁ > 0.2.
    fn half_plane() -> Decision {
        let n = CELLS + 1;
        let logits = (0..n * n).map(|k| 20.0 * (coordinate(k % n) - 0.2)).collect();
        Decision { title: "made up".to_owned(), shape: AreaShape::Circle, logits }
    }

    #[test]
    fn contours_lie_where_they_should() {
        let figure = half_plane();
        let decided = figure.decided();
        assert_eq!(decided.len(), 1);
        assert!(decided[0].iter().all(|(x, _)| (x - 0.2).abs() < 1e-9));
        let truth = figure.truth();
        assert_eq!(truth.len(), 1);
        assert!(truth[0].iter().all(|(x, y)| (x * x + y * y - std::f64::consts::FRAC_2_PI).abs() < 1e-4));
    }

    #[test]
    fn cells_of_one_colour_are_one_rectangle() {
        let figure = half_plane();
        let levels = (0..CELLS).map(|column| figure.level(column, 0)).collect::<Vec<_>>();
        let runs = 1 + levels.windows(2).filter(|w| w[0] != w[1]).count();
        let svg = to_svg(&figure).unwrap();
        // The sheet, the map and the colour bar.
        assert_eq!(svg.matches("<rect").count(), 1 + runs * CELLS + LEVELS);
        let png = image::load_from_memory(&to_png(&figure).unwrap()).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), (1200, 1104));
        let at = |x: f64, y: f64| {
            let place = |v: f64| (2.0 * v) as u32;
            png.get_pixel(place(LEFT + SIDE * (x + 1.0) / 2.0), place(TOP + SIDE * (1.0 - y) / 2.0)).0
        };
        let (outside, inside) = (colour(0), colour(LEVELS - 1));
        assert_eq!(at(-0.5, 0.1), [outside.0, outside.1, outside.2]);
        assert_eq!(at(0.9, 0.9), [inside.0, inside.1, inside.2]);
    }
}
