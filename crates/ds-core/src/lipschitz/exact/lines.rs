//! On which side of a line a point lies, and where two lines meet.
//!
//! Signs are first taken from f64 with error bounds; those that these leave open are taken from exact numbers.

use super::arrangement::{Arrangement, Map};
use super::dyadic::{self, Dyadic, FLOOR, rounded};
use super::polygon::{self, Kink, Line, PARALLEL, Vertex, on_knot};
use std::cmp::Ordering;

impl Arrangement<'_> {
    /// The coefficients of a line, and their errors.
    fn line(&self, line: Line) -> ([f64; 3], [f64; 3]) {
        let map = |layer: u32, neuron: u32| {
            let frame = &self.frames[layer as usize];
            let Map { at, size } = frame.maps[neuron as usize];
            (at, size.map(|size| frame.unit * size))
        };
        match line {
            Line::Fixed(k) => (self.fixed[k as usize], [0.0; 3]),
            Line::Kink(kink) => {
                let (mut at, mut error) = map(kink.layer, kink.neuron);
                at[2] -= self.knot(kink);
                error[2] += f64::EPSILON * at[2].abs();
                (at, error)
            }
            Line::Normal { layer, neuron } => {
                let ([a, b, _], [a_error, b_error, _]) = map(layer, neuron);
                ([-b, a, 0.0], [b_error, a_error, 0.0])
            }
        }
    }

    fn exact_line(&mut self, line: Line) -> [Dyadic; 3] {
        match line {
            Line::Fixed(k) => self.fixed[k as usize].map(Dyadic::new),
            Line::Kink(kink) => {
                let [a, b, c] = self.exact_maps(kink.layer as usize)[kink.neuron as usize].clone();
                [a, b, c.minus(&Dyadic::new(self.knot(kink)))]
            }
            Line::Normal { layer, neuron } => {
                let [a, b, _] = self.exact_maps(layer as usize)[neuron as usize].clone();
                [b.negated(), a, Dyadic::default()]
            }
        }
    }

    fn knot(&self, Kink { layer, neuron, knot }: Kink) -> f64 {
        self.layers[layer as usize].functions[neuron as usize].knots[knot as usize]
    }

    /// The sign of a number with an error, if that says it.
    fn certain(&self, value: f64, error: f64) -> Option<Ordering> {
        if self.tame && value.abs() > error + FLOOR {
            value.partial_cmp(&0.0)
        } else {
            (self.tame && self.zeros && value == 0.0 && error == 0.0).then_some(Ordering::Equal)
        }
    }

    /// On which side of a line a corner lies.
    pub(super) fn side(&mut self, vertex: &Vertex, line: Line) -> Ordering {
        let (at, error) = self.line(line);
        let (value, error) = product((&at, &error), (&vertex.at, &vertex.error));
        self.certain(value, error).unwrap_or_else(|| self.exact_side(vertex, line))
    }

    fn exact_side(&mut self, vertex: &Vertex, line: Line) -> Ordering {
        if line == vertex.lines.0 || line == vertex.lines.1 {
            return Ordering::Equal;
        }
        let (first, second) = (self.exact_line(vertex.lines.0), self.exact_line(vertex.lines.1));
        let sign = dyadic::dot(&dyadic::cross(&first, &second), &self.exact_line(line)).sign();
        if vertex.reversed { sign.reverse() } else { sign }
    }

    /// On which side of a line a point of numbers as they are lies.
    pub(super) fn side_of_point(&mut self, [x, y]: [f64; 2], line: Line) -> Ordering {
        let (at, error) = self.line(line);
        let (value, error) = product((&at, &error), (&[x, y, 1.0], &[0.0; 3]));
        let tame = x.abs().max(y.abs()) < 1e40;
        self.certain(value, error)
            .filter(|_| tame)
            .unwrap_or_else(|| dyadic::dot(&self.exact_line(line), &[x, y, 1.0].map(Dyadic::new)).sign())
    }

    /// The first and the last piece of a neuron's function that a polygon has inner points in. Notes the positions of its
    /// corners.
    pub(super) fn range(&mut self, layer: usize, neuron: usize, polygon: &mut [Vertex]) -> (usize, usize) {
        let (mut low, mut high) = (u32::MAX, 0);
        for vertex in polygon.iter_mut() {
            vertex.position = self.locate(vertex, layer, neuron);
            if vertex.position != PARALLEL {
                (low, high) = (low.min(vertex.position), high.max(vertex.position));
            }
        }
        if low > high {
            // The whole plane, and a constant.
            low = self.locate_constant(layer, neuron);
            high = low;
        }
        let first = low.div_ceil(2) as usize;
        let last = high as usize / 2;
        // On a knot everywhere: the piece left of it, like [`Function::piece`].
        if first > last { (last, last) } else { (first, last) }
    }

    fn locate_constant(&mut self, layer: usize, neuron: usize) -> u32 {
        let value = self.exact_maps(layer)[neuron][2].clone();
        let knots = &self.layers[layer].functions[neuron].knots;
        let above = |knot: f64| value.minus(&Dyadic::new(knot)).sign();
        let below = knots.partition_point(|&knot| above(knot) == Ordering::Greater);
        let on = knots.get(below).is_some_and(|&knot| above(knot) == Ordering::Equal);
        2 * below as u32 + u32::from(on)
    }

    fn locate(&mut self, vertex: &Vertex, layer: usize, neuron: usize) -> u32 {
        let frame = &self.frames[layer];
        let Map { at, size } = frame.maps[neuron];
        let error = size.map(|size| frame.unit * size);
        let (value, error) = product((&at, &error), (&vertex.at, &vertex.error));
        let kink = |knot: usize| Line::Kink(Kink::new(layer, neuron, knot));
        let count = self.layers[layer].functions[neuron].knots.len();
        if vertex.infinite {
            return match self.certain(value, error).unwrap_or_else(|| self.exact_side(vertex, kink(0))) {
                Ordering::Less => 0,
                Ordering::Equal => PARALLEL,
                Ordering::Greater => 2 * count as u32,
            };
        }
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = usize::midpoint(low, high);
            let knot = self.layers[layer].functions[neuron].knots[middle];
            let level = knot * vertex.at[2];
            let difference = value - level;
            let error = error + knot.abs() * vertex.error[2] + f64::EPSILON * (level.abs() + difference.abs());
            match self.certain(difference, error).unwrap_or_else(|| self.exact_side(vertex, kink(middle))) {
                Ordering::Less => high = middle,
                Ordering::Equal => return on_knot(middle as u32),
                Ordering::Greater => low = middle + 1,
            }
        }
        2 * low as u32
    }

    /// The point of the edge from one corner to the next that is on a kink.
    pub(super) fn crossing(&mut self, from: &Vertex, to: &Vertex, kink: Kink) -> Vertex {
        let infinite = from.infinite && to.infinite;
        let position = if infinite { PARALLEL } else { on_knot(kink.knot) };
        let kink = Line::Kink(kink);
        let (a, b) = (self.line(from.edge), self.line(kink));
        let (mut at, mut error) = polygon::cross(&a, &b);
        let good = error.iter().sum::<f64>() < 1e-9 * at.iter().map(|x| x.abs()).sum::<f64>();
        if !self.tame || !good || (!infinite && self.certain(at[2], error[2]).is_none()) {
            let exact = dyadic::cross(&self.exact_line(from.edge), &self.exact_line(kink));
            let size = exact.iter().filter_map(Dyadic::size).max().unwrap_or(0);
            (at, error) = rounded(&exact, size);
        }
        let reversed = if infinite {
            let along = |v: &Vertex| (v.at[0] * at[0] + v.at[1] * at[1]) / v.at[0].hypot(v.at[1]);
            along(from) + along(to) < 0.0
        } else {
            at[2] < 0.0
        };
        if reversed {
            at = at.map(|x| -x);
        }
        Vertex { at, error, lines: (from.edge, kink), reversed, infinite, edge: kink, position }
    }

    /// The point of a kink that is nearest the origin.
    pub(super) fn foot(&mut self, kink: Kink) -> Vertex {
        let Kink { layer, neuron, knot } = kink;
        let (kink, normal) = (Line::Kink(kink), Line::Normal { layer, neuron });
        let (at, error) = polygon::cross(&self.line(kink), &self.line(normal));
        let vertex = Vertex {
            at,
            error,
            lines: (kink, normal),
            reversed: false,
            infinite: false,
            edge: kink,
            position: on_knot(knot),
        };
        if self.tame && self.certain(at[2], error[2]).is_some() {
            return vertex;
        }
        let exact = dyadic::cross(&self.exact_line(kink), &self.exact_line(normal));
        let size = exact.iter().filter_map(Dyadic::size).max().unwrap_or(0);
        let (at, error) = rounded(&exact, size);
        Vertex { at, error, ..vertex }
    }

    /// A corner of the domain, where two of its lines meet; a direction is that of `towards`.
    pub(super) fn corner(&self, (first, second): (u32, u32), edge: u32, towards: Option<[f64; 2]>) -> Vertex {
        let lines = (Line::Fixed(first), Line::Fixed(second));
        let (at, error) = polygon::cross(&self.line(lines.0), &self.line(lines.1));
        let reversed = towards.map_or(at[2], |[x, y]| at[0] * x + at[1] * y) < 0.0;
        let at = if reversed { at.map(|x| -x) } else { at };
        Vertex { at, error, lines, reversed, infinite: towards.is_some(), edge: Line::Fixed(edge), position: 0 }
    }
}

/// Σ aᵢ·bᵢ of numbers with errors, and its error.
fn product((a, a_error): (&[f64; 3], &[f64; 3]), (b, b_error): (&[f64; 3], &[f64; 3])) -> (f64, f64) {
    let (mut value, mut error) = (0.0, 0.0);
    for k in 0..3 {
        let term = a[k] * b[k];
        value += term;
        error += 2.0 * f64::EPSILON * term.abs() + a_error[k] * (b[k].abs() + b_error[k]) + a[k].abs() * b_error[k];
    }
    (value, 1.01 * error)
}
