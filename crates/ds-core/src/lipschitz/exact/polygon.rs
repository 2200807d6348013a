//! Convex polygons, bounded or not, whose corners are known as the points in which two lines meet.
//!
//! Points are (x, y, w) with w ≥ 0, which is (x/w, y/w), or the direction (x, y) for w = 0; lines are (a, b, c) with
//! a·x + b·y + c·w = 0.

use super::arrangement::Arrangement;
use std::cmp::Ordering;

/// Where a neuron's pre-activation is at a knot, in the piece of all layers before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kink {
    /// The layer of the neuron.
    pub(super) layer: u32,
    /// Its place in the layer.
    pub(super) neuron: u32,
    /// The number of the knot.
    pub(super) knot: u32,
}

impl Kink {
    pub(super) fn new(layer: usize, neuron: usize, knot: usize) -> Self {
        Self { layer: layer as u32, neuron: neuron as u32, knot: knot as u32 }
    }
}

/// Names of lines, by which their coefficients are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Of the domain; the first is the line at infinity.
    Fixed(u32),
    /// Where a neuron bends.
    Kink(Kink),
    /// Normal to the kinks of a neuron, through the origin.
    Normal {
        /// The layer of the neuron.
        layer: u32,
        /// Its place in the layer.
        neuron: u32,
    },
}

impl Line {
    /// w = 0.
    pub(super) const INFINITY: Self = Self::Fixed(0);
}

/// A corner of a polygon, and the edge from it to the next one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vertex {
    /// (x, y, w).
    pub(super) at: [f64; 3],
    /// How far each of them can be from the truth.
    pub(super) error: [f64; 3],
    /// The lines that meet here.
    pub(super) lines: (Line, Line),
    /// Whether their cross product is −(x, y, w).
    pub(super) reversed: bool,
    /// Whether this is a direction, w = 0.
    pub(super) infinite: bool,
    /// The line of the edge to the next corner.
    pub(super) edge: Line,
    /// Where it lies among the kinks of the neuron that is being looked at: 2k between knots k − 1 and k, 2k + 1 on knot k.
    pub(super) position: u32,
}

/// The position of a direction along the kinks, which is on every one of them.
pub(super) const PARALLEL: u32 = u32::MAX;

/// The position on a knot.
pub(super) fn on_knot(knot: u32) -> u32 {
    2 * knot + 1
}

impl Vertex {
    /// On which side of a kink it lies.
    pub(super) fn side(&self, knot: u32) -> Ordering {
        if self.position == PARALLEL { Ordering::Equal } else { self.position.cmp(&on_knot(knot)) }
    }
}

/// Cuts a polygon that has corners on both sides of a kink.
pub(super) fn cut(
    polygon: &[Vertex],
    kink: Kink,
    (below, above): (&mut Vec<Vertex>, &mut Vec<Vertex>),
    lines: &mut Arrangement,
) {
    let line = Line::Kink(kink);
    for (k, vertex) in polygon.iter().enumerate() {
        let next = &polygon[(k + 1) % polygon.len()];
        let (here, there) = (vertex.side(kink.knot), next.side(kink.knot));
        match here {
            Ordering::Less => below.push(*vertex),
            Ordering::Greater => above.push(*vertex),
            Ordering::Equal => share(vertex, vertex.edge, (line, there), (below, above)),
        }
        if here != Ordering::Equal && there == here.reverse() {
            share(&lines.crossing(vertex, next, kink), vertex.edge, (line, there), (below, above));
        }
    }
    // Two directions do not say where the line between them is.
    let between = |part: &[Vertex]| {
        let next = |k: usize| &part[(k + 1) % part.len()];
        (0..part.len()).find(|&k| part[k].edge == line && part[k].infinite && next(k).infinite)
    };
    if let (Some(first), Some(second)) = (between(below), between(above)) {
        let foot = lines.foot(kink);
        below.insert(first + 1, foot);
        above.insert(second + 1, foot);
    }
}

/// A corner of both parts, the edge after it going on to the side `there`.
fn share(
    vertex: &Vertex,
    edge: Line,
    (cut, there): (Line, Ordering),
    (below, above): (&mut Vec<Vertex>, &mut Vec<Vertex>),
) {
    below.push(Vertex { edge: if there == Ordering::Greater { cut } else { edge }, ..*vertex });
    above.push(Vertex { edge: if there == Ordering::Less { cut } else { edge }, ..*vertex });
}

/// a × b of lines with errors, and the error of each coordinate.
pub(super) fn cross((a, a_error): &([f64; 3], [f64; 3]), (b, b_error): &([f64; 3], [f64; 3])) -> ([f64; 3], [f64; 3]) {
    let (mut at, mut error) = ([0.0; 3], [0.0; 3]);
    for k in 0..3 {
        let (i, j) = ((k + 1) % 3, (k + 2) % 3);
        let (first, second) = (a[i] * b[j], a[j] * b[i]);
        at[k] = first - second;
        let rounding = 2.0 * f64::EPSILON * (first.abs() + second.abs());
        let product = |i: usize, j: usize| a_error[i] * b[j].abs() + (a[i].abs() + a_error[i]) * b_error[j];
        error[k] = 1.01 * (rounding + product(i, j) + product(j, i));
    }
    (at, error)
}
