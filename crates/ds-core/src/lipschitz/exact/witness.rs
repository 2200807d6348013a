//! Pairs of points inside a piece that have the quotient of its Jacobian.

use super::arrangement::Arrangement;
use super::norm::{norm, steepest};
use super::pieces::sides;
use super::polygon::Vertex;
use crate::lipschitz::bv2::Exponent;

/// Two points of a piece.
#[derive(Debug)]
pub(super) struct Pair {
    /// ‖f(x) − f(y)‖/‖x − y‖ but for rounding, from below.
    pub(super) quotient: f64,
    pub(super) x: Vec<f64>,
    pub(super) y: Vec<f64>,
}

/// A pair along the steepest direction of a piece whose map has those rows, as far apart as the piece allows. Both are inside the
/// piece without any rounding. `None` for pieces too thin for that.
pub(super) fn pair(
    arrangement: &mut Arrangement,
    polygon: &[Vertex],
    rows: &[([f64; 3], [f64; 3])],
    p: Exponent,
    inputs: usize,
) -> Option<Pair> {
    let (middle, reach) = middle(polygon);
    let sides = sides(arrangement, polygon);
    let mut inside = |point: [f64; 2]| {
        point.iter().all(|x| x.is_finite())
            && sides.iter().all(|&(line, side)| arrangement.side_of_point(point, line) == side)
    };
    let direction = steepest(rows.iter().copied(), p);
    let mut distance = 2f64.powi(reach.log2().ceil().clamp(-1000.0, 100.0) as i32);
    // Corners that coincide in f64 have a reach of 0, which no distance falls below.
    while distance > 0.0 && distance >= f64::EPSILON * reach.min(1.0) * 1e-3 {
        // A point of few digits, so that the difference of both is the direction.
        let grid = distance / 1024.0;
        let points = [middle, middle.map(|x| grid * (x / grid).round())];
        for x in points {
            for step in [distance, -distance] {
                let y = [x[0] + step * direction[0], x[1] + step * direction[1]];
                if x != y && inside(x) && inside(y) {
                    let (x, y) = (x[..inputs].to_vec(), y[..inputs].to_vec());
                    return Some(Pair { quotient: quotient(rows, p, &x, &y), x, y });
                }
            }
        }
        distance *= 0.5;
    }
    None
}

/// A point inside a polygon, but for rounding, and how far its corners are from there; where there are none, how far points should
/// be.
fn middle(polygon: &[Vertex]) -> ([f64; 2], f64) {
    let finite = || polygon.iter().filter(|v| !v.infinite).map(|v| [v.at[0] / v.at[2], v.at[1] / v.at[2]]);
    let count = finite().count().max(1) as f64;
    let sum = finite().fold([0.0, 0.0], |sum, [x, y]| [sum[0] + x / count, sum[1] + y / count]);
    let reach = finite().map(|[x, y]| (x - sum[0]).hypot(y - sum[1])).fold(0.0, f64::max);
    let mut directions = polygon.iter().filter(|v| v.infinite).peekable();
    if directions.peek().is_none() {
        return (sum, reach);
    }
    let reach = if reach > 0.0 { reach } else { 1.0 };
    let far = directions.fold(sum, |[x, y], v| {
        let length = v.at[0].hypot(v.at[1]) / reach;
        [x + v.at[0] / length, y + v.at[1] / length]
    });
    (far, reach)
}

/// ‖J·(x − y)‖/‖x − y‖, from below.
fn quotient(rows: &[([f64; 3], [f64; 3])], p: Exponent, x: &[f64], y: &[f64]) -> f64 {
    let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    let along = |row: &[f64; 3]| row.iter().zip(&difference).map(|(slope, d)| slope * d).sum::<f64>();
    let input = length(difference.iter().copied(), p);
    let output = length(rows.iter().map(|(row, _)| along(row)), p);
    let (_, error) = norm(rows.iter().copied(), p);
    // The roundings of the products, of the sums over rows, and of the differences.
    let rounding = 2.0 * (rows.len() as f64 + 8.0) * f64::EPSILON;
    output / input * (1.0 - rounding) - error
}

/// The ℓp norm.
fn length(values: impl Iterator<Item = f64>, p: Exponent) -> f64 {
    values.map(f64::abs).fold(0.0, |length: f64, x| match p {
        Exponent::One => length + x,
        Exponent::Two => length.hypot(x),
        Exponent::Infinity => length.max(x),
    })
}
