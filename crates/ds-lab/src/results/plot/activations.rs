//! The learned functions of a network: a grid of small panels for each spline layer.

use super::axes::{Axis, Entry, LARGE, Mark, NORMAL, Panel, extent, legend};
use super::canvas::{Anchor, Canvas, Figure};
use super::functions::Layer;
use super::palette::{self, INK, SPARSE};
use anyhow::Result;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// The functions of a network before and after sparsification.
#[derive(Debug, Clone)]
pub struct Activations {
    /// What is shown.
    pub title: String,
    /// The colour of the activation.
    pub colour: RGBColor,
    /// The layers, from input to output.
    pub layers: Vec<Layer>,
    /// The layers after sparsification, if there are any.
    pub sparsified: Option<Vec<Layer>>,
}

const WIDTH: f64 = 700.0;
const LEFT: f64 = 48.0;
const HEAD: f64 = 58.0;
const LAYERS: usize = 6;

/// Where the panels of one layer are.
struct Block {
    layer: usize,
    top: f64,
    columns: usize,
    shown: usize,
}

impl Block {
    fn rows(&self) -> usize {
        self.shown.div_ceil(self.columns)
    }

    /// Width and height of a panel.
    fn panel(&self) -> (f64, f64) {
        let width = (WIDTH - LEFT - 12.0) / self.columns as f64 - 8.0;
        let height = match self.columns {
            ..=2 => 130.0,
            3..=4 => 104.0,
            _ => 68.0,
        };
        (width, height)
    }

    fn height(&self) -> f64 {
        26.0 + self.rows() as f64 * (self.panel().1 + 8.0) + 26.0
    }
}

impl Activations {
    fn blocks(&self) -> Vec<Block> {
        let n = self.layers.len();
        let layers: Vec<usize> = if n <= LAYERS {
            (0..n).collect()
        } else {
            (0..LAYERS).map(|k| (k * (n - 1) + (LAYERS - 1) / 2) / (LAYERS - 1)).collect()
        };
        let most = if layers.len() > 3 { 8 } else { 16 };
        let mut top = HEAD;
        let block = |layer: usize| {
            let shown = self.layers[layer].values.len().min(most);
            let block = Block { layer, top, columns: if shown > 4 { 8 } else { shown.max(2) }, shown };
            top += block.height();
            block
        };
        layers.into_iter().map(block).collect()
    }

    /// Colour and width of the learned functions: pale and broad below those after sparsification, which hardly differ.
    fn learned(&self) -> (RGBColor, f64, Mark) {
        let (colour, width) = match self.sparsified {
            Some(_) => (palette::tint(self.colour, 0.4), 3.5),
            None => (self.colour, 1.5),
        };
        (colour, width, Mark::Line(width))
    }

    fn draw_block<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, block: &Block) -> Result<()> {
        let layer = &self.layers[block.layer];
        let sparse = self.sparsified.as_ref().and_then(|layers| layers.get(block.layer));
        let (all, end) = (layer.values.len(), 1.2 * layer.range());
        let rest = if all > block.shown { format!(", {} of {all} shown", block.shown) } else { String::new() };
        let what = if all == 1 { "function" } else { "functions" };
        let heading = format!("layer {} of {}: {all} {what}{rest}", block.layer + 1, self.layers.len());
        canvas.text(&heading, (16.0, block.top + 12.0), NORMAL, Anchor::Left)?;
        let paths: Vec<_> = (0..block.shown).map(|channel| layer.path(channel, end)).collect();
        let after: Vec<_> =
            sparse.map_or(Vec::new(), |sparse| (0..block.shown).map(|channel| sparse.path(channel, end)).collect());
        let values = paths.iter().chain(&after).flatten().map(|(_, y)| *y);
        let (low, high) = extent(values.chain([0.0])).unwrap_or((0.0, 1.0));
        let y = Axis::around("", [low, high], (f64::NEG_INFINITY, f64::INFINITY), 4);
        let range = layer.range();
        let mut x = Axis::linear("", (-end, end), 1);
        x.ticks = [-range, -range / 2.0, 0.0, range / 2.0, range].map(|v| (v, tick(v, range))).into();
        let (width, height) = block.panel();
        for channel in 0..block.shown {
            let (row, column) = (channel / block.columns, channel % block.columns);
            let left = LEFT + column as f64 * (width + 8.0);
            let top = block.top + 26.0 + row as f64 * (height + 8.0);
            let (mut x, mut y) = (x.clone(), y.clone());
            let panel = Panel { area: [left, top, left + width, top + height], x: x.clone(), y: y.clone() };
            panel.draw_grid(canvas)?;
            let (colour, width, _) = self.learned();
            let dots = if block.columns > 4 { 1.4 } else { 2.0 };
            canvas.line(&panel.all(paths[channel].iter().copied()), colour, width)?;
            for place in panel.all(layer.knots(channel)) {
                canvas.dot(place, dots + 0.5 * (width - 1.5), colour)?;
            }
            if let Some(sparse) = sparse {
                canvas.line(&panel.all(after[channel].iter().copied()), SPARSE, 1.25)?;
                for place in panel.all(sparse.knots(channel)) {
                    canvas.dot(place, dots, SPARSE)?;
                }
            }
            if column > 0 {
                y.ticks.iter_mut().for_each(|(_, text)| text.clear());
            }
            if channel + block.columns < block.shown {
                x.ticks.iter_mut().for_each(|(_, text)| text.clear());
            }
            Panel { x, y, ..panel }.draw_frame(canvas)?;
        }
        Ok(())
    }
}

/// The text at a knot: only the ends and the middle have one.
fn tick(v: f64, range: f64) -> String {
    if v.abs() == range / 2.0 {
        return String::new();
    }
    // Grids cut their steps to millionths: 0.9999 is meant to be 1.
    let rounded = (v * 100.0).round() / 100.0;
    if rounded == 0.0 { "0".to_owned() } else { rounded.to_string().replace('-', "−") }
}

impl Figure for Activations {
    fn size(&self) -> (u32, u32) {
        let bottom = self.blocks().last().map_or(HEAD, |block| block.top + block.height());
        (WIDTH as u32, bottom as u32 + 6)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text(&self.title, (16.0, 18.0), LARGE, Anchor::Left)?;
        let blocks = self.blocks();
        let (colour, _, line) = self.learned();
        let mut entries: Vec<Entry> =
            vec![("learned".to_owned(), colour, line), ("active knots".to_owned(), colour, Mark::Dot)];
        if self.sparsified.is_some() {
            entries.push(("sparsified".to_owned(), SPARSE, Mark::Line(1.25)));
            entries.push(("kept knots".to_owned(), SPARSE, Mark::Dot));
        }
        if blocks.len() < self.layers.len() {
            let note = format!("{} of {} layers shown", blocks.len(), self.layers.len());
            entries.push((note, INK, Mark::Note));
        }
        legend(canvas, &entries, (16.0, WIDTH - 16.0), 32.0)?;
        blocks.iter().try_for_each(|block| self.draw_block(canvas, block))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;
    use ds_core::Grid;

    fn layer(channels: usize, active: &[usize]) -> Layer {
        let grid = Grid::from_step(5, 0.5).unwrap();
        Layer { grid, values: vec![vec![0.0, 0.0, 0.0, 0.5, 1.0]; channels], active: vec![active.to_vec(); channels] }
    }

    #[test]
    fn a_panel_has_a_curve_and_its_knots() {
        let colour = palette::activation("bspline");
        let title = "made up".to_owned();
        let figure = Activations { title, colour, layers: vec![layer(3, &[1, 2]), layer(20, &[2])], sparsified: None };
        let svg = to_svg(&figure).unwrap();
        // One curve a panel, and one in the legend; 16 of the 20 functions are shown.
        assert_eq!(svg.matches("stroke=\"#0072B2\"").count(), 3 + 16 + 1);
        assert_eq!(svg.matches("<circle").count(), 3 * 2 + 16 + 1);
        assert!(svg.contains("layer 2 of 2: 20 functions, 16 of 20 shown"));
        let sparsified = Some(vec![layer(3, &[2]), layer(20, &[])]);
        let svg = to_svg(&Activations { sparsified, ..figure }).unwrap();
        assert_eq!(svg.matches("fill=\"#D55E00\"").count(), 3 + 1);
        assert_eq!(svg.matches("stroke=\"#D55E00\"").count(), 3 + 16 + 1);
    }

    #[test]
    fn of_many_layers_the_first_the_last_and_some_between_are_shown() {
        let title = String::new();
        let figure = Activations { title, colour: INK, layers: vec![layer(16, &[]); 31], sparsified: None };
        let shown: Vec<usize> = figure.blocks().iter().map(|block| block.layer).collect();
        assert_eq!(shown, [0, 6, 12, 18, 24, 30]);
        assert!(to_svg(&figure).unwrap().contains("6 of 31 layers shown"));
    }
}
