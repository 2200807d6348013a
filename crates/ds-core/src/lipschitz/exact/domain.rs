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

/// The lines of a domain, the line at infinity first, and its polygon. A function of one input is one of (x, y) that does not
/// depend on y, for y between 0 and 1.
pub(super) fn of(domain: &Domain, inputs: usize) -> Result<(Vec<[f64; 3]>, impl Fn(&Arrangement) -> Vec<Vertex>)> {
    // The lines x = value and y = value.
    let (x, y) = (|value: f64| [1.0, 0.0, -value], |value: f64| [0.0, 1.0, -value]);
    // Lines whose corners are taken, the line of the edge after each, and the direction of those that are one.
    type Corners = Vec<((u32, u32), u32, Option<[f64; 2]>)>;
    let (lines, corners): (Vec<[f64; 3]>, Corners) = match (domain, inputs) {
        (Domain::All, 1) => (
            vec![y(0.0), y(1.0), x(0.0)],
            vec![((0, 1), 1, Some([-1.0, 0.0])), ((1, 3), 1, None), ((0, 1), 2, Some([1.0, 0.0])), ((2, 3), 2, None)],
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
    let polygon = move |arrangement: &Arrangement| {
        corners.iter().map(|&(lines, edge, towards)| arrangement.corner(lines, edge, towards)).collect()
    };
    Ok((lines, polygon))
}
