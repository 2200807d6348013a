//! The linear pieces, one after the other: each polygon is cut by the kinks of the next neuron.

use super::arrangement::Arrangement;
use super::domain::{Domain, Outline};
use super::polygon::{self, Kink, Line, Vertex};
use crate::lipschitz::piecewise_linear::{Affine, Matrix, PiecewiseLinear};
use candle_core::Result;

/// A corner of a piece; the second number is 0 with one input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Corner {
    /// A point.
    Point([f64; 2]),
    /// The direction, of length 1, in which the piece goes on without end.
    Direction([f64; 2]),
}

/// A piece on which a network is an affine map.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The corners of the polygon in order, or the two ends of the interval; rounded.
    pub corners: Vec<Corner>,
    /// The map, W (outputs, inputs).
    pub affine: Affine,
}

/// Shows all linear pieces of a network of one or two inputs, and returns their number. See [`super::constant`] for what
/// counts as one.
///
/// ```
/// use ds_core::lipschitz::exact::{Domain, pieces};
/// use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
/// // |x| + |y|.
/// let affine = Affine { weight: Matrix::identity(2), bias: vec![0.0; 2] };
/// let network = PiecewiseLinear {
///     inputs: 2,
///     layers: vec![Layer { affine, functions: vec![Function::absolute().into(); 2] }],
///     output: Affine { weight: Matrix::new(1, 2, vec![1.0, 1.0]), bias: vec![0.0] },
/// };
/// let count = pieces(&network, &Domain::All, |piece| {
///     assert!(piece.affine.weight.data().iter().all(|slope| slope.abs() == 1.0));
///     Ok(())
/// })?;
/// assert_eq!(count, 4);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the network does not have one or two inputs, its layers do not fit each other, it has numbers that are not finite or knots
/// that do not ascend, the domain has other dimensions or an interval that is empty, or `show` fails.
pub fn pieces(network: &PiecewiseLinear, domain: &Domain, mut show: impl FnMut(&Piece) -> Result<()>) -> Result<u64> {
    let weight = Matrix::zeros(network.outputs(), network.inputs);
    let affine = Affine { weight, bias: vec![0.0; network.outputs()] };
    let mut piece = Piece { corners: Vec::new(), affine };
    enumerate(network, domain, &mut |arrangement, polygon| {
        piece.corners.clear();
        // With one input, polygons lie between y = 0 and y = 1.
        let shown = polygon.iter().filter(|vertex| network.inputs == 2 || vertex.at[1] == 0.0);
        piece.corners.extend(shown.map(corner));
        if network.inputs == 1 {
            let place = |corner: &Corner| match *corner {
                Corner::Point([x, _]) => x,
                Corner::Direction([x, _]) => x * f64::INFINITY,
            };
            piece.corners.sort_by(|a, b| place(a).total_cmp(&place(b)));
            // There can be a point inside, where the whole line has one.
            let inner = 1..piece.corners.len().max(2) - 1;
            piece.corners.drain(inner);
        }
        for (k, (row, _)) in arrangement.rows().enumerate() {
            piece.affine.weight.row_mut(k).copy_from_slice(&row[..network.inputs]);
            piece.affine.bias[k] = row[2];
        }
        show(&piece)
    })
}

fn corner(vertex: &Vertex) -> Corner {
    let [x, y, w] = vertex.at;
    if vertex.infinite {
        let length = x.hypot(y);
        Corner::Direction([x / length, y / length])
    } else {
        Corner::Point([x / w, y / w])
    }
}

/// What is done with a piece: the maps of all layers in it, and its polygon.
pub(super) type Visit<'a> = dyn FnMut(&mut Arrangement, &[Vertex]) -> Result<()> + 'a;

/// Visits all pieces, and returns their number.
pub(super) fn enumerate(network: &PiecewiseLinear, domain: &Domain, visit: &mut Visit) -> Result<u64> {
    let outline = Outline::new(domain, network.inputs)?;
    let mut arrangement = Arrangement::new(network, &outline.lines)?;
    let polygon = outline.polygon(&arrangement);
    arrangement.enter(0);
    let mut pieces = Pieces { arrangement, spare: Vec::new(), count: 0, visit };
    pieces.split(0, 0, polygon)?;
    Ok(pieces.count)
}

struct Pieces<'a, 'v> {
    arrangement: Arrangement<'a>,
    /// Polygons that are not in use.
    spare: Vec<Vec<Vertex>>,
    count: u64,
    visit: &'v mut Visit<'v>,
}

impl Pieces<'_, '_> {
    /// All pieces in a polygon in which the neurons before that one of a layer do not bend.
    fn split(&mut self, mut layer: usize, mut neuron: usize, mut polygon: Vec<Vertex>) -> Result<()> {
        while layer < self.arrangement.depth() {
            if neuron == self.arrangement.width(layer) {
                (layer, neuron) = (layer + 1, 0);
                self.arrangement.enter(layer);
                continue;
            }
            let mut last = 0;
            if self.arrangement.bends(layer, neuron) {
                let first;
                (first, last) = self.arrangement.range(layer, neuron, &mut polygon);
                for piece in first..last {
                    let (mut below, mut above) = (self.empty(), self.empty());
                    let kink = Kink::new(layer, neuron, piece);
                    polygon::cut(&polygon, kink, (&mut below, &mut above), &mut self.arrangement);
                    self.spare.push(std::mem::replace(&mut polygon, above));
                    self.arrangement.choose(layer, neuron, piece);
                    self.split(layer, neuron + 1, below)?;
                }
            }
            self.arrangement.choose(layer, neuron, last);
            neuron += 1;
        }
        self.count += 1;
        (self.visit)(&mut self.arrangement, &polygon)?;
        self.spare.push(polygon);
        Ok(())
    }

    fn empty(&mut self) -> Vec<Vertex> {
        let mut polygon = self.spare.pop().unwrap_or_default();
        polygon.clear();
        polygon
    }
}

/// The lines of a polygon's edges, and on which side of each the polygon lies.
pub(super) fn sides(arrangement: &mut Arrangement, polygon: &[Vertex]) -> Vec<(Line, std::cmp::Ordering)> {
    let mut sides: Vec<(Line, std::cmp::Ordering)> = Vec::with_capacity(polygon.len());
    for line in polygon.iter().map(|vertex| vertex.edge) {
        if line == Line::INFINITY || sides.iter().any(|&(known, _)| known == line) {
            continue;
        }
        let off = polygon.iter().map(|vertex| arrangement.side(vertex, line)).find(|side| side.is_ne());
        sides.extend(off.map(|side| (line, side)));
    }
    sides
}
