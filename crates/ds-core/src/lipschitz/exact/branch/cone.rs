//! Whether half-spaces have inner points in common, with a point or a proof that there is none.

use crate::lipschitz::certified::multipliers::inverse;
use crate::lipschitz::larger;
use crate::lipschitz::piecewise_linear::Matrix;

/// Vectors g, each with a bound of the errors of its elements: is there a y with g·y > 0 for all?
#[derive(Debug, Clone, Default)]
pub(super) struct Cone {
    rows: Vec<Vec<f64>>,
    errors: Vec<Vec<f64>>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Inner {
    /// Such a y, but for rounding.
    Point(Vec<f64>),
    /// There is none, which is proven.
    Empty,
    /// Neither was found; by rounding the hull of these vectors holds 0. Those that weigh most come first.
    Unknown(Vec<usize>),
}

impl Cone {
    /// Adds a vector, which is scaled to norm 1; one of norm 0 has no y, which is not proven here.
    pub fn push(&mut self, mut row: Vec<f64>, mut error: Vec<f64>) {
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 0.0 && norm.is_finite() {
            row.iter_mut().for_each(|x| *x /= norm);
            // The division is rounded, too.
            error.iter_mut().zip(&row).for_each(|(e, x)| *e = *e / norm * (1.0 + 1e-12) + x.abs() * 1e-15);
        }
        self.rows.push(row);
        self.errors.push(error);
    }

    /// Wolfe's algorithm (1976) for the point p of least norm in the hull of all g: unless it is 0, g·p ≥ ‖p‖² for all. If it is,
    /// a positive combination of some g is 0, and there is no y.
    pub fn inner(&self) -> Inner {
        let gram = |i: usize, j: usize| dot(&self.rows[i], &self.rows[j]);
        let Some(first) = self.rows.first() else { return Inner::Unknown(Vec::new()) };
        let (mut support, mut weights, mut p) = (vec![0], vec![1.0], first.clone());
        for _ in 0..20 * (self.rows.len() + 10) {
            let products = self.rows.iter().map(|row| dot(row, &p)).enumerate();
            let Some((least, product)) = products.min_by(|a, b| a.1.total_cmp(&b.1)) else { break };
            let square = dot(&p, &p);
            if product > 1e-3 * square && square > 1e-20 {
                return Inner::Point(p);
            }
            if square < 1e-20 || support.contains(&least) {
                break;
            }
            support.push(least);
            weights.push(0.0);
            // To the point of least norm in the plane of the support, or to where a weight becomes 0 on the way.
            loop {
                let n = support.len();
                let system = (0..n * n).map(|k| 1.0 + gram(support[k / n], support[k % n])).collect();
                let Some(inverse) = inverse(&Matrix::new(n, n, system)) else { return self.proven(&support, &weights) };
                let mut target: Vec<f64> = inverse.rows().map(|row| row.iter().sum()).collect();
                let sum: f64 = target.iter().sum();
                target.iter_mut().for_each(|t| *t /= sum);
                let way = |(&w, &t): (&f64, &f64)| if t < 1e-14 { w / (w - t) } else { f64::INFINITY };
                let share = weights.iter().zip(&target).map(way).fold(1.0, f64::min);
                weights.iter_mut().zip(&target).for_each(|(w, t)| *w += share * (t - *w));
                if share >= 1.0 {
                    break;
                }
                let keep: Vec<bool> = weights.iter().map(|w| *w > 1e-14).collect();
                let mut kept = keep.iter();
                support.retain(|_| *kept.next().unwrap_or(&false));
                weights.retain(|w| *w > 1e-14);
            }
            p.fill(0.0);
            for (&k, weight) in support.iter().zip(&weights) {
                p.iter_mut().zip(&self.rows[k]).for_each(|(p, g)| *p += weight * g);
            }
        }
        self.proven(&support, &weights)
    }

    /// Whether 0 is inside the simplex of these vectors whatever their errors are: one more than their dimension, of which the
    /// last is a combination of the others with negative factors (a linear system solved with a bound of its error, Rump 2010).
    fn proven(&self, support: &[usize], weights: &[f64]) -> Inner {
        let unknown = || {
            let mut weighed: Vec<(usize, f64)> = support.iter().copied().zip(weights.iter().copied()).collect();
            weighed.sort_by(|a, b| b.1.total_cmp(&a.1));
            Inner::Unknown(weighed.into_iter().map(|(k, _)| k).collect())
        };
        let Some((&last, others)) = support.split_last() else { return unknown() };
        let d = self.rows[last].len();
        if others.len() != d {
            return unknown();
        }
        // Column k is the k-th vector.
        let column = |values: &[Vec<f64>]| {
            let mut matrix = Matrix::zeros(d, d);
            for (k, &row) in others.iter().enumerate() {
                (0..d).for_each(|i| matrix.row_mut(i)[k] = values[row][i]);
            }
            matrix
        };
        let (b, errors) = (column(&self.rows), column(&self.errors));
        // (BᵀB)⁻¹Bᵀ is near B⁻¹.
        let Some(normal) = inverse(&b.transposed_times(&b)) else { return unknown() };
        let c = normal.times_transposed(&b);
        let size: Vec<f64> = c.rows().map(|row| row.iter().map(|x| x.abs()).sum()).collect();
        let rounding = 1e-15 * (d + 4) as f64;
        let identity = c.times(&b);
        let far = (0..d).map(|i| {
            let row = identity.row(i).iter().enumerate().map(|(j, x)| (x - f64::from(u8::from(i == j))).abs());
            let of_errors: f64 = c.row(i).iter().zip(errors.rows()).map(|(c, e)| c.abs() * e.iter().sum::<f64>()).sum();
            row.sum::<f64>() + of_errors + rounding * d as f64 * size[i]
        });
        let far = far.fold(0.0, larger);
        if far.is_nan() || far >= 0.5 {
            return unknown();
        }
        let (g, error) = (&self.rows[last], &self.errors[last]);
        let factors: Vec<f64> = c.rows().map(|row| -dot(row, g)).collect();
        let rest = (0..d).map(|i| {
            let rest = -g[i] - dot(b.row(i), &factors);
            let magnitude: f64 = b.row(i).iter().zip(&factors).map(|(b, f)| (b * f).abs()).sum();
            let of_errors: f64 = errors.row(i).iter().zip(&factors).map(|(e, f)| e * f.abs()).sum();
            rest.abs() + error[i] + of_errors + rounding * (magnitude + g[i].abs())
        });
        let rest: Vec<f64> = rest.collect();
        let error = c.rows().map(|row| row.iter().zip(&rest).map(|(c, r)| c.abs() * r).sum::<f64>()).fold(0.0, larger);
        let error = 1.01 * error / (1.0 - far);
        if factors.iter().all(|factor| *factor > error) { Inner::Empty } else { unknown() }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn points_are_inner_and_proofs_hold() {
        let rng = &mut ChaCha8Rng::seed_from_u64(5);
        let (mut points, mut proofs) = (0, 0);
        for _ in 0..500 {
            let d = rng.random_range(1..7);
            let hidden: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
            let feasible = rng.random_bool(0.5);
            let mut cone = Cone::default();
            for _ in 0..rng.random_range(1..20) {
                let mut row: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
                if feasible && dot(&row, &hidden) < 0.0 {
                    row.iter_mut().for_each(|x| *x = -*x);
                }
                cone.push(row, vec![1e-15; d]);
            }
            match cone.inner() {
                Inner::Point(y) => {
                    assert!(cone.rows.iter().all(|row| dot(row, &y) > 0.0));
                    points += 1;
                }
                Inner::Empty => {
                    assert!(!feasible);
                    proofs += 1;
                }
                Inner::Unknown(_) => assert!(!feasible, "a point was not found"),
            }
        }
        assert!(points > 250 && proofs > 100, "{points} points, {proofs} proofs");
    }
}
