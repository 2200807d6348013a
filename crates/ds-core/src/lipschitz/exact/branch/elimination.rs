//! Proofs in exact arithmetic that half-spaces have no inner points in common, where f64 leaves it open: hyperplanes of neurons
//! that few others act on are parallel, or meet in one line, but for rounding.

use super::super::dyadic::Dyadic;
use super::patterns::{Pattern, Side};
use crate::lipschitz::piecewise_linear::{Layer, PiecewiseLinear};
use std::cmp::Ordering;

/// More half-spaces than this make numbers too long: of more, the first ones count.
const MOST: usize = 9;

/// Whether a combination of the first of these vectors with factors of one sign is exactly 0, so that no y has g·y > 0 for all of them.
pub(super) fn is_empty(network: &PiecewiseLinear, pattern: &Pattern, sides: &[Side]) -> bool {
    // Fewer half-spaces that have no point in common are a proof, too.
    let sides = &sides[..sides.len().min(MOST)];
    let rows = exact_rows(network, pattern, sides).into_iter().zip(sides);
    // A neuron that is constant and on the knot is in the piece left of it.
    let is_met = |row: &[Dyadic], side: &Side| side.sign < 0.0 && row.iter().all(|x| x.sign() == Ordering::Equal);
    let rows: Vec<_> = rows.filter(|(row, side)| !is_met(row, side)).map(|(row, _)| row).collect();
    !rows.is_empty() && combine_to_zero(&rows, rows.len())
}

/// Whether a combination of the vectors, or of some of the first `droppable` and the others, is 0.
fn combine_to_zero(rows: &[Vec<Dyadic>], droppable: usize) -> bool {
    let m = rows.len();
    let Some(columns) = pivots(rows) else {
        // Dependent in more than one way: then one vector is not needed.
        let without = |k: usize| [&rows[..k], &rows[k + 1..]].concat();
        return m > 1 && (0..droppable).any(|k| combine_to_zero(&without(k), k));
    };
    // The determinants of the first columns and the rows of each set, by expansion along the last of the columns.
    let mut determinants = vec![Dyadic::new(0.0); 1 << m];
    determinants[0] = Dyadic::new(1.0);
    for set in 1usize..1 << m {
        let size = set.count_ones() as usize;
        if size == m {
            continue;
        }
        let mut sum = Dyadic::new(0.0);
        for (place, row) in (0..m).filter(|row| set >> row & 1 == 1).enumerate() {
            let term = rows[row][columns[size - 1]].times(&determinants[set & !(1 << row)]);
            sum = if (size - 1 - place).is_multiple_of(2) { sum.plus(&term) } else { sum.minus(&term) };
        }
        determinants[set] = sum;
    }
    // Cramer's rule: the combination that is 0 in these columns.
    let all = (1usize << m) - 1;
    let factor = |row: usize| {
        let minor = determinants[all & !(1 << row)].clone();
        if row.is_multiple_of(2) { minor } else { minor.negated() }
    };
    let factors: Vec<Dyadic> = (0..m).map(factor).collect();
    let signs = || factors.iter().map(Dyadic::sign);
    let is_zero = |column: usize| {
        let terms = rows.iter().zip(&factors).map(|(row, factor)| row[column].times(factor));
        terms.fold(Dyadic::new(0.0), |sum, term| sum.plus(&term)).sign() == Ordering::Equal
    };
    let one_sign = signs().all(|sign| sign != Ordering::Less) || signs().all(|sign| sign != Ordering::Greater);
    one_sign && signs().any(|sign| sign != Ordering::Equal) && (0..rows[0].len()).all(is_zero)
}

/// Vectors of norm 1 are taken as dependent below this pivot; what follows is exact.
const DEPENDENT: f64 = 1e-12;

/// One column fewer than rows, in which the rows without any one of them are far from dependent; `None` if there are not so many.
fn pivots(rows: &[Vec<Dyadic>]) -> Option<Vec<usize>> {
    if rows.len() == 1 {
        return Some(Vec::new());
    }
    let largest = rows.iter().flatten().filter_map(Dyadic::size).max()?;
    let mut values: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|x| x.rounded(largest)).collect()).collect();
    let mut columns = Vec::new();
    for step in 0..rows.len() - 1 {
        let places = (step..rows.len()).flat_map(|row| (0..values[row].len()).map(move |column| (row, column)));
        let (row, column) = places
            .max_by(|a, b| values[a.0][a.1].abs().total_cmp(&values[b.0][b.1].abs()))
            .filter(|&(r, c)| values[r][c].abs() > DEPENDENT)?;
        values.swap(step, row);
        let (above, below) = values.split_at_mut(step + 1);
        let pivot = &above[step];
        for row in below {
            let factor = row[column] / pivot[column];
            row.iter_mut().zip(pivot).for_each(|(x, p)| *x -= factor * p);
            row[column] = 0.0;
        }
        columns.push(column);
    }
    Some(columns)
}

/// The vectors of (x, 1), as the parameters of the network make them.
fn exact_rows(network: &PiecewiseLinear, pattern: &Pattern, sides: &[Side]) -> Vec<Vec<Dyadic>> {
    let n = network.inputs;
    let unit = |k: usize| (0..=n).map(|i| Dyadic::new(f64::from(u8::from(i == k)))).collect::<Vec<_>>();
    let mut rows: Vec<Vec<Dyadic>> = sides.iter().map(|_| unit(n)).collect();
    let depth = sides.iter().filter_map(|side| side.of.map(|(layer, _)| layer + 1)).max().unwrap_or(0);
    let mut signal: Vec<Vec<Dyadic>> = (0..n).map(unit).collect();
    for (layer, (Layer { affine, functions }, pieces)) in network.layers.iter().zip(pattern).enumerate().take(depth) {
        let mut next = Vec::with_capacity(functions.len());
        for ((weights, &bias), (neuron, (f, &(first, _)))) in
            affine.weight.rows().zip(&affine.bias).zip(functions.iter().zip(pieces).enumerate())
        {
            let mut z: Vec<Dyadic> = vec![Dyadic::new(0.0); n + 1];
            z[n] = Dyadic::new(bias);
            for (&w, from) in weights.iter().zip(&signal).filter(|(w, _)| **w != 0.0) {
                let w = Dyadic::new(w);
                z.iter_mut().zip(from).for_each(|(z, x)| *z = z.plus(&w.times(x)));
            }
            for (side, row) in sides.iter().zip(&mut rows).filter(|(side, _)| side.of == Some((layer, neuron))) {
                *row = z.clone();
                row[n] = row[n].minus(&Dyadic::new(side.knot));
                if side.sign < 0.0 {
                    row.iter_mut().for_each(|x| *x = x.clone().negated());
                }
            }
            let (slope, offset) = (Dyadic::new(f.slopes()[first]), Dyadic::new(f.offsets()[first]));
            z.iter_mut().for_each(|z| *z = z.times(&slope));
            z[n] = z[n].plus(&offset);
            next.push(z);
        }
        signal = next;
    }
    rows
}
