//! Marching squares: the boundary of a set on a grid of points, as lines.

use std::collections::HashMap;

type Point = (f64, f64);
/// A grid point and the direction of the edge that starts there: along a row, or to the next row.
type Edge = (usize, usize, bool);

/// The lines between the points of a square grid that are inside and those that are not. `at` gives the place of a grid
/// point (column, row), `crossing` the place of the boundary between an inner and an outer one.
pub fn boundary(
    points: usize,
    inside: impl Fn(usize, usize) -> bool,
    crossing: impl Fn((usize, usize), (usize, usize)) -> Point,
) -> Vec<Vec<Point>> {
    let mut neighbours: HashMap<Edge, Vec<Edge>> = HashMap::new();
    let mut order = Vec::new();
    for row in 0..points.saturating_sub(1) {
        for column in 0..points - 1 {
            for (a, b) in segments(column, row, &inside) {
                for (from, to) in [(a, b), (b, a)] {
                    let all = neighbours.entry(from).or_default();
                    if all.is_empty() {
                        order.push(from);
                    }
                    all.push(to);
                }
            }
        }
    }
    // Lines that end at the border first, then the closed ones.
    let (ends, others): (Vec<Edge>, Vec<Edge>) = order.into_iter().partition(|edge| neighbours[edge].len() == 1);
    let mut lines = Vec::new();
    for start in ends.into_iter().chain(others) {
        let mut line = vec![start];
        let mut last = start;
        while let Some(next) = neighbours.get_mut(&last).and_then(Vec::pop) {
            if let Some(back) = neighbours.get_mut(&next)
                && let Some(k) = back.iter().position(|edge| *edge == last)
            {
                back.swap_remove(k);
            }
            line.push(next);
            last = next;
        }
        if line.len() > 1 {
            lines.push(line);
        }
    }
    let place = |(column, row, down): Edge| {
        let (from, to) = ((column, row), if down { (column, row + 1) } else { (column + 1, row) });
        if inside(from.0, from.1) { crossing(from, to) } else { crossing(to, from) }
    };
    lines.into_iter().map(|line| line.into_iter().map(place).collect()).collect()
}

/// The pieces of the boundary in one cell, by the edges that they join.
fn segments(column: usize, row: usize, inside: &impl Fn(usize, usize) -> bool) -> Vec<(Edge, Edge)> {
    let corners = [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)];
    let inner = corners.map(|(column, row)| inside(column, row));
    let edges = [(column, row, false), (column + 1, row, true), (column, row + 1, false), (column, row, true)];
    let crossed: Vec<Edge> = (0..4).filter(|&k| inner[k] != inner[(k + 1) % 4]).map(|k| edges[k]).collect();
    match crossed[..] {
        [a, b] => vec![(a, b)],
        // A saddle: the inner corners are taken for separate.
        [a, b, c, d] => {
            if inner[0] {
                vec![(a, d), (b, c)]
            } else {
                vec![(a, b), (c, d)]
            }
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disc_has_one_closed_line_and_a_half_plane_an_open_one() {
        let at = |k: usize| k as f64 / 10.0 - 1.0;
        let middle = |(a, b): (usize, usize), (c, d): (usize, usize)| ((at(a) + at(c)) / 2.0, (at(b) + at(d)) / 2.0);
        let disc = boundary(21, |x, y| at(x).hypot(at(y)) < 0.55, middle);
        assert_eq!(disc.len(), 1);
        assert_eq!(disc[0].first(), disc[0].last());
        assert!(disc[0].iter().all(|(x, y)| (x.hypot(*y) - 0.55).abs() < 0.08));
        let half = boundary(21, |x, _| at(x) < 0.25, middle);
        assert_eq!((half.len(), half[0].len()), (1, 21));
        assert!(half[0].iter().all(|(x, _)| (x - 0.25).abs() < 1e-9));
    }

    #[test]
    fn a_saddle_is_two_lines() {
        let lines = boundary(2, |x, y| x == y, |(a, b), (c, d)| ((a + c) as f64 / 2.0, (b + d) as f64 / 2.0));
        assert_eq!(lines.len(), 2);
    }
}
