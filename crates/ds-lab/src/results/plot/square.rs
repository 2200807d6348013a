//! The square [−1, 1]² as a map of coloured cells, with axes and a bar of the colours.

use super::axes::{Axis, NORMAL, Panel, SMALL};
use super::canvas::{Anchor, Canvas};
use super::palette::INK;
use anyhow::Result;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// Cells of the map, a side.
pub const CELLS: usize = 176;
pub const LEFT: f64 = 62.0;
pub const TOP: f64 = 64.0;
pub const SIDE: f64 = 440.0;
/// Of the whole picture.
pub const SIZE: (u32, u32) = ((LEFT + SIDE + 98.0) as u32, (TOP + SIDE + 48.0) as u32);

/// The coordinate of the k-th border between cells.
pub fn coordinate(k: usize) -> f64 {
    2.0 * k as f64 / CELLS as f64 - 1.0
}

/// The part of [0, 1] that a number lies in, of so many.
pub fn level(fraction: f64, levels: usize) -> usize {
    (fraction * levels as f64).floor().clamp(0.0, (levels - 1) as f64) as usize
}

/// The axes.
pub fn panel() -> Panel {
    Panel {
        area: [LEFT, TOP, LEFT + SIDE, TOP + SIDE],
        x: Axis::linear("x₁", (-1.0, 1.0), 5),
        y: Axis::linear("x₂", (-1.0, 1.0), 5),
    }
}

/// Cells of one colour side by side are one rectangle. Each is drawn over its right and upper neighbours, which follow, so that no
/// gap shows between them at any scale.
pub fn draw_cells<B: DrawingBackend>(
    canvas: &mut Canvas<B>,
    level: impl Fn(usize, usize) -> usize,
    colour: impl Fn(usize) -> RGBColor,
) -> Result<()> {
    let cell = SIDE / CELLS as f64;
    for row in 0..CELLS {
        let bottom = TOP + SIDE - row as f64 * cell;
        let top = (bottom - 2.0 * cell).max(TOP);
        let mut start = 0;
        while start < CELLS {
            let here = level(start, row);
            let end = (start..CELLS).find(|&column| level(column, row) != here).unwrap_or(CELLS);
            let (left, right) = (LEFT + start as f64 * cell, (LEFT + (end + 1) as f64 * cell).min(LEFT + SIDE));
            canvas.rectangle((left, top), (right, bottom), colour(here))?;
            start = end;
        }
    }
    Ok(())
}

/// The colours of all levels, with texts at fractions of the bar.
pub fn draw_bar<B: DrawingBackend>(
    canvas: &mut Canvas<B>,
    (levels, colour): (usize, impl Fn(usize) -> RGBColor),
    ticks: &[(f64, &str)],
    label: &str,
) -> Result<()> {
    let (left, right) = (LEFT + SIDE + 18.0, LEFT + SIDE + 34.0);
    for level in 0..levels {
        let bottom = TOP + SIDE * (1.0 - level as f64 / levels as f64);
        let top = (bottom - SIDE / levels as f64 - 1.0).max(TOP);
        canvas.rectangle((left, top), (right, bottom), colour(level))?;
    }
    for (fraction, text) in ticks {
        let y = TOP + SIDE * (1.0 - fraction);
        canvas.line(&[(right, y), (right + 4.0, y)], INK, 1.0)?;
        canvas.text(text, (right + 7.0, y), SMALL, Anchor::Left)?;
    }
    canvas.text(label, (right + 48.0, TOP + SIDE / 2.0), NORMAL, Anchor::Upwards)
}
