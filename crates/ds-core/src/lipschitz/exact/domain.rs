//! Where the pieces are looked for.

use super::arrangement::Arrangement;
use super::polygon::Vertex;
use candle_core::{Result, bail};

/// A set of inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// All of them.
    All,
    /// Those between a lower and an upper end, one pair for each input.
    Box(Vec<(f64, f64)>),
}

/// A domain as a polygon. A function of one input is one of (x, y) that does not depend on y, for y between 0 and 1.
pub(super) struct Outline {
    /// Its lines, the line at infinity first.
    pub(super) lines: Vec<[f64; 3]>,
    corners: Vec<Corner>,
}

/// The lines that meet there, the line of the edge to the next corner, and the direction that it is if it is one.
type Corner = ((u32, u32), u32, Option<[f64; 2]>);

impl Outline {
    /// The polygon, for an arrangement with these lines.
    pub(super) fn polygon(&self, arrangement: &Arrangement) -> Vec<Vertex> {
        self.corners.iter().map(|&(lines, edge, towards)| arrangement.corner(lines, edge, towards)).collect()
    }

    pub(super) fn new(domain: &Domain, inputs: usize) -> Result<Self> {
        // The lines x = value and y = value.
        let (x, y) = (|value: f64| [1.0, 0.0, -value], |value: f64| [0.0, 1.0, -value]);
        let (lines, corners): (Vec<[f64; 3]>, Vec<Corner>) = match (domain, inputs) {
            (Domain::All, 1) => (
                vec![y(0.0), y(1.0), x(0.0)],
                vec![
                    ((0, 1), 1, Some([-1.0, 0.0])),
                    ((1, 3), 1, None),
                    ((0, 1), 2, Some([1.0, 0.0])),
                    ((2, 3), 2, None),
                ],
            ),
            (Domain::All, 2) => (
                vec![y(0.0), x(0.0)],
                vec![
                    ((0, 1), 0, Some([1.0, 0.0])),
                    ((0, 2), 0, Some([0.0, 1.0])),
                    ((0, 1), 0, Some([-1.0, 0.0])),
                    ((0, 2), 0, Some([0.0, -1.0])),
                ],
            ),
            (Domain::Box(ends), 1 | 2) if ends.len() == inputs => {
                if !ends.iter().all(|&(low, high)| low < high && low.is_finite() && high.is_finite()) {
                    bail!("pieces: the box {ends:?} has an interval that is empty or not finite");
                }
                let (left, right) = ends[0];
                let (bottom, top) = ends.get(1).copied().unwrap_or((0.0, 1.0));
                (
                    vec![y(bottom), y(top), x(left), x(right)],
                    vec![((1, 3), 1, None), ((1, 4), 4, None), ((2, 4), 2, None), ((2, 3), 3, None)],
                )
            }
            (Domain::Box(ends), 1 | 2) => bail!("pieces: a box of {} dimensions for {inputs} inputs", ends.len()),
            _ => bail!("pieces: networks of one or two inputs can be cut into pieces, not of {inputs}"),
        };
        let lines = std::iter::once([0.0, 0.0, 1.0]).chain(lines).collect();
        Ok(Self { lines, corners })
    }
}
