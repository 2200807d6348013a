//! The linear pieces of a network over the square [−1, 1]²: the norm of each one's gradient as a colour, and the line on which the
//! output is 0.

use super::axes::{Axis, LARGE, Mark, legend};
use super::canvas::{Anchor, Canvas, Figure};
use super::palette;
use super::square::{self, CELLS, coordinate};
use anyhow::{Result, ensure};
use ds_core::lipschitz::exact::{Corner, Domain, pieces};
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// Colours that are told apart, each for as large a factor.
const LEVELS: usize = 12;
/// The steepest gradient over that of the lightest colour, at least and at most.
const RANGES: (f64, f64) = (10.0, 1e3);

type Point = (f64, f64);

/// The gradients of a network's pieces.
#[derive(Debug, Clone)]
pub struct Pieces {
    /// What is shown.
    pub title: String,
    /// The number of pieces in the square.
    pub count: u64,
    /// The norm of the steepest one's gradient.
    pub steepest: f64,
    /// The steepest gradient over that of the lightest colour.
    range: f64,
    /// The norms at the middles of all cells, row by row from y = −1.
    norms: Vec<f64>,
    /// Where the output is 0, one line a piece.
    decided: Vec<[Point; 2]>,
}

impl Pieces {
    /// Those of a network of two inputs and one output; `None` if they are more than `most`.
    ///
    /// # Errors
    /// If the network has other inputs or outputs, or parameters that are not finite.
    pub fn of(title: String, network: &PiecewiseLinear, most: u64) -> Result<Option<Self>> {
        let (inputs, outputs) = (network.inputs, network.outputs());
        ensure!((inputs, outputs) == (2, 1), "pieces of a network of {inputs} inputs and {outputs} outputs");
        let mut figure = Self {
            title,
            count: 0,
            steepest: 0.0,
            range: RANGES.0,
            norms: vec![0.0; CELLS * CELLS],
            decided: Vec::new(),
        };
        let (mut corners, mut stopped) = (Vec::new(), false);
        let shown = pieces(network, &Domain::Box(vec![(-1.0, 1.0); 2]), |piece| {
            figure.count += 1;
            stopped = figure.count > most;
            if stopped {
                candle_core::bail!("more than {most} linear pieces");
            }
            corners.clear();
            corners.extend(piece.corners.iter().map(|corner| match *corner {
                Corner::Point([x, y]) | Corner::Direction([x, y]) => (x, y),
            }));
            let (gradient, offset) = (piece.affine.weight.row(0), piece.affine.bias[0]);
            let norm = gradient[0].hypot(gradient[1]);
            figure.steepest = figure.steepest.max(norm);
            figure.fill(&corners, norm);
            let value = |(x, y): Point| gradient[0] * x + gradient[1] * y + offset;
            if let [from, to] = crossings(&corners, value)[..] {
                figure.decided.push([from, to]);
            }
            Ok(())
        });
        match shown {
            Err(_) if stopped => Ok(None),
            shown => {
                shown?;
                let least = figure.norms.iter().copied().fold(f64::INFINITY, f64::min);
                figure.range = (figure.steepest / least).min(RANGES.1).max(RANGES.0);
                Ok(Some(figure))
            }
        }
    }

    /// The cells whose middles are in a convex polygon.
    fn fill(&mut self, corners: &[Point], norm: f64) {
        let middle = |k: usize| coordinate(k) + 1.0 / CELLS as f64;
        // The first cell whose middle is not below a coordinate.
        let first = |v: f64| (0.5 * CELLS as f64 * (v + 1.0) - 0.5).ceil().clamp(0.0, CELLS as f64) as usize;
        let (low, high) = corners.iter().fold((1.0f64, -1.0f64), |(low, high), &(_, y)| (low.min(y), high.max(y)));
        for row in first(low)..first(high) {
            if let [(a, _), (b, _)] = crossings(corners, |(_, y)| y - middle(row))[..] {
                self.norms[row * CELLS..][first(a.min(b))..first(a.max(b))].fill(norm);
            }
        }
    }

    fn level(&self, column: usize, row: usize) -> usize {
        square::level(self.fraction(self.norms[row * CELLS + column]), LEVELS)
    }

    /// The place of a norm between the lightest colour and the darkest.
    fn fraction(&self, norm: f64) -> f64 {
        1.0 + (norm / self.steepest).ln() / self.range.ln()
    }
}

/// The points of a polygon's edges between a corner at which a function is positive and one at which it is not.
fn crossings(corners: &[Point], value: impl Fn(Point) -> f64) -> Vec<Point> {
    let edge = |k: usize| {
        let (a, b) = (corners[k], corners[(k + 1) % corners.len()]);
        let (from, to) = (value(a), value(b));
        let t = from / (from - to);
        ((from > 0.0) != (to > 0.0)).then_some((a.0 + t * (b.0 - a.0), a.1 + t * (b.1 - a.1)))
    };
    (0..corners.len()).filter_map(edge).collect()
}

fn colour(level: usize) -> RGBColor {
    palette::tint(palette::series(0), 0.04 + 0.96 * level as f64 / (LEVELS - 1) as f64)
}

impl Figure for Pieces {
    fn size(&self) -> (u32, u32) {
        square::SIZE
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text(&self.title, (16.0, 18.0), LARGE, Anchor::Left)?;
        let entries = [("decision of the network (0.5)".to_owned(), palette::SPARSE, Mark::Line(2.0))];
        legend(canvas, &entries, (16.0, f64::from(square::SIZE.0) - 8.0), 32.0)?;
        square::draw_cells(canvas, |column, row| self.level(column, row), colour)?;
        let panel = square::panel();
        for line in &self.decided {
            canvas.line(&panel.all(line.iter().copied()), palette::SPARSE, 2.0)?;
        }
        panel.draw_frame(canvas)?;
        let norms = Axis::logarithmic("", [self.steepest / self.range, self.steepest], false);
        let ticks = norms.ticks.iter().map(|(norm, text)| (self.fraction(*norm), text.as_str()));
        let ticks: Vec<_> = ticks.filter(|(fraction, _)| (0.0..=1.0).contains(fraction)).collect();
        square::draw_bar(canvas, (LEVELS, colour), &ticks, "norm of the gradient")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;
    use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix};

    #[test]
    fn each_cell_has_the_gradient_of_its_piece() {
        // 3·|x| + max(0, 4·y) − 1.
        let affine = Affine { weight: Matrix::identity(2), bias: vec![0.0; 2] };
        let functions = vec![Function::absolute().into(), Function::rectifier(0.0).into()];
        let output = Affine { weight: Matrix::new(1, 2, vec![3.0, 4.0]), bias: vec![-1.0] };
        let mut network = PiecewiseLinear { inputs: 2, layers: vec![Layer { affine, functions }], output };
        let figure = Pieces::of("made up".to_owned(), &network, 4).unwrap().unwrap();
        assert_eq!((figure.count, figure.steepest), (4, 5.0));
        let (lower, upper) = figure.norms.split_at(CELLS * CELLS / 2);
        assert!(lower.iter().all(|&norm| norm == 3.0) && upper.iter().all(|&norm| norm == 5.0));
        let ends = figure.decided.concat();
        assert_eq!(ends.len(), 8);
        assert!(ends.iter().all(|&(x, y)| (3.0 * x.abs() + (4.0 * y).max(0.0) - 1.0).abs() < 1e-12), "{ends:?}");
        assert!(to_svg(&figure).unwrap().contains("norm of the gradient"));
        assert!(Pieces::of(String::new(), &network, 3).unwrap().is_none());
        // Nothing to see.
        network.output.weight = Matrix::zeros(1, 2);
        assert!(to_svg(&Pieces::of(String::new(), &network, 4).unwrap().unwrap()).is_ok());
        network.output = Affine { weight: Matrix::identity(2), bias: vec![0.0; 2] };
        assert!(Pieces::of(String::new(), &network, 4).is_err());
    }
}
