//! How a linear spline is made: the functions β¹ on the grid, and one spline as their sum.

use super::axes::{Axis, Entry, LARGE, Mark, Panel, legend};
use super::canvas::{Anchor, Canvas, Figure};
use super::functions::Layer;
use super::palette::{self, INK};
use anyhow::Result;
use ds_core::Grid;
use plotters::backend::DrawingBackend;

/// A picture that depends on no run.
#[derive(Debug, Clone)]
pub struct Basis {
    layer: Layer,
}

const COEFFICIENTS: [f64; 7] = [0.5, 0.2, -0.45, 0.25, 0.95, 1.2, 0.8];
const LEFT: f64 = 62.0;
const RIGHT: f64 = 682.0;

impl Basis {
    /// Seven knots at −3, −2, …, 3.
    ///
    /// # Errors
    /// Those of the grid.
    pub fn new() -> Result<Self> {
        let grid = Grid::from_step(COEFFICIENTS.len(), 1.0)?;
        let inner = (1..COEFFICIENTS.len() - 1).collect();
        Ok(Self { layer: Layer { grid, values: vec![COEFFICIENTS.to_vec()], active: vec![inner] } })
    }
}

impl Figure for Basis {
    fn size(&self) -> (u32, u32) {
        (700, 440)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text("A linear spline is a sum of triangles", (16.0, 18.0), LARGE, Anchor::Left)?;
        let entries: [Entry; 3] = [
            ("σ(x) = Σ c_k·β¹(x/T − k)".replace("c_k", "cₖ"), INK, Mark::Line(2.25)),
            ("outside: the last slope goes on".to_owned(), INK, Mark::Dashes(2.25)),
            ("knots, T apart".to_owned(), INK, Mark::Dot),
        ];
        legend(canvas, &entries, (16.0, RIGHT), 32.0)?;
        let mut x = Axis::linear("", (-4.2, 4.2), 9);
        let y = Axis::linear("β¹(x/T − k)", (0.0, 1.1), 2);
        let upper = Panel { area: [LEFT, 62.0, RIGHT, 152.0], x: x.clone(), y };
        upper.draw_grid(canvas)?;
        for (k, centre) in self.layer.grid.knots().enumerate() {
            let triangle = [(centre - 1.0, 0.0), (centre, 1.0), (centre + 1.0, 0.0)];
            canvas.line(&upper.all(triangle), palette::series(k), 1.75)?;
        }
        upper.draw_frame(canvas)?;
        x.label = "x".to_owned();
        let y = Axis::linear("cₖ·β¹ and their sum σ", (-0.7, 1.4), 4);
        let lower = Panel { area: [LEFT, 184.0, RIGHT, 392.0], x, y };
        lower.draw_grid(canvas)?;
        for (k, (centre, c)) in self.layer.grid.knots().zip(COEFFICIENTS).enumerate() {
            let triangle = [(centre - 1.0, 0.0), (centre, c), (centre + 1.0, 0.0)];
            let place = lower.all(triangle);
            canvas.polygon(&place, palette::series(k), 0.18)?;
            canvas.line(&place, palette::series(k), 1.25)?;
        }
        let spline = |from: f64, to: f64| {
            let knots = self.layer.grid.knots().filter(move |x| from < *x && *x < to);
            std::iter::once(from).chain(knots).chain([to]).map(|x| (x, self.layer.value(0, x)))
        };
        canvas.line(&lower.all(spline(-3.0, 3.0)), INK, 2.25)?;
        for (from, to) in [(-4.2, -3.0), (3.0, 4.2)] {
            canvas.dashed(&lower.all(spline(from, to)), INK, 2.25, 5.0)?;
        }
        let knots = self.layer.grid.knots().zip(COEFFICIENTS);
        lower.all(knots).into_iter().try_for_each(|place| canvas.dot(place, 3.5, INK))?;
        lower.draw_frame(canvas)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;

    #[test]
    fn the_triangles_add_up_to_the_spline() {
        let basis = Basis::new().unwrap();
        let triangle = |x: f64| (1.0 - x.abs()).max(0.0);
        for x in [-3.0, -1.7, 0.25, 2.5] {
            let sum: f64 = basis.layer.grid.knots().zip(COEFFICIENTS).map(|(k, c)| c * triangle(x - k)).sum();
            assert!((sum - basis.layer.value(0, x)).abs() < 1e-12);
        }
        let svg = to_svg(&basis).unwrap();
        // A polygon for each weighted function, and a dot for each knot and the legend.
        assert_eq!(svg.matches("<polygon").count(), COEFFICIENTS.len());
        assert_eq!(svg.matches("<circle").count(), COEFFICIENTS.len() + 1);
    }
}
