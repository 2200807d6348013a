//! One function, where its inputs lie, and its best approximations by functions of fewer knots.
//!
//! A function of knots S on the indices 0 … K−1 is given by its values at the nodes {0} ∪ S ∪ {K−1}: hat functions between them and
//! straight lines beyond, as splines are evaluated. Its loss Σ_j w_j·(g(x_j) − f(x_j))² over the bins of a histogram has a
//! tridiagonal Hessian, so that a fit takes O(|S|) operations. Without knot s the least loss grows by (a_s·β)²/(a_s·H⁻¹·a_s), β being
//! the fit and a_s its slope change at s; of the inverse only five diagonals are needed (Takahashi's recursion).

/// A function and the weights of its inputs.
#[derive(Debug, Clone)]
pub(super) struct Function {
    /// f at the indices 0 … K−1.
    values: Vec<f64>,
    /// Sums over all bins left of each index, and over all bins.
    below: Vec<Sums>,
    total: Sums,
}

/// Σ of w, w·x, w·x², w·f and w·f·x.
#[derive(Debug, Clone, Copy, Default)]
struct Sums([f64; 5]);

impl Sums {
    fn plus(mut self, w: f64, x: f64, f: f64) -> Self {
        for (sum, term) in self.0.iter_mut().zip([w, w * x, w * x * x, w * f, w * f * x]) {
            *sum += term;
        }
        self
    }

    fn minus(self, other: Self) -> Self {
        Self(std::array::from_fn(|k| self.0[k] - other.0[k]))
    }
}

/// The normal equations of a fit: a symmetric tridiagonal matrix and the right-hand side.
struct NormalEquations {
    diagonal: Vec<f64>,
    /// Of rows i and i + 1.
    beside: Vec<f64>,
    right: Vec<f64>,
}

/// The knots of a function in the order of their removal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Removal {
    pub knot: usize,
    /// By how much the loss grows.
    pub cost: f64,
}

impl Function {
    /// What inputs everywhere on the grid weigh together, relative to those of the histogram: it decides where there are none.
    const PRIOR: f64 = 1e-5;

    /// f by its values at the indices, and bins of weights by position, ascending.
    pub fn new(values: Vec<f64>, bins: &[(f64, f64)]) -> Self {
        let end = (values.len() - 1) as f64;
        let on_grid = |x: f64| (0.0..=end).contains(&x);
        let count = bins.iter().filter(|&&(x, _)| on_grid(x)).count();
        let total: f64 = bins.iter().map(|&(_, w)| w).sum();
        let prior = if total > 0.0 { Self::PRIOR * total } else { 1.0 } / count.max(1) as f64;
        let mut function = Self { below: Vec::with_capacity(values.len()), total: Sums::default(), values };
        for &(x, w) in bins {
            while function.below.len() < function.values.len() && function.below.len() as f64 <= x {
                function.below.push(function.total);
            }
            let w = w + if on_grid(x) { prior } else { 0.0 };
            function.total = function.total.plus(w, x, function.at(x));
        }
        function.below.resize(function.values.len(), function.total);
        function
    }

    fn at(&self, x: f64) -> f64 {
        let i = x.floor().clamp(0.0, (self.values.len() - 2) as f64);
        let (left, right) = (self.values[i as usize], self.values[i as usize + 1]);
        left + (x - i) * (right - left)
    }

    fn last(&self) -> usize {
        self.values.len() - 1
    }

    /// The inner indices.
    pub fn inner(&self) -> std::ops::Range<usize> {
        1..self.last()
    }

    /// The nodes of a function with these knots.
    pub fn nodes(&self, knots: impl IntoIterator<Item = usize>) -> Vec<usize> {
        std::iter::once(0).chain(knots).chain([self.last()]).collect()
    }

    fn normal_equations(&self, nodes: &[usize]) -> NormalEquations {
        let n = nodes.len();
        let mut equations = NormalEquations { diagonal: vec![0.0; n], beside: vec![0.0; n - 1], right: vec![0.0; n] };
        for (i, pair) in nodes.windows(2).enumerate() {
            let from = if i == 0 { Sums::default() } else { self.below[pair[0]] };
            let to = if i == n - 2 { self.total } else { self.below[pair[1]] };
            let Sums([w, wx, wxx, wf, wfx]) = to.minus(from);
            let (a, h) = (pair[0] as f64, (pair[1] - pair[0]) as f64);
            // Moments of t = (x − a)/h.
            let (t, tt, ft) = ((wx - a * w) / h, (wxx - 2.0 * a * wx + a * a * w) / (h * h), (wfx - a * wf) / h);
            equations.diagonal[i] += w - 2.0 * t + tt;
            equations.diagonal[i + 1] += tt;
            equations.beside[i] += t - tt;
            equations.right[i] += wf - ft;
            equations.right[i + 1] += ft;
        }
        equations
    }

    /// The values at the nodes that minimise the loss; with `limit`, among those that rise or fall by no more than it between
    /// neighbouring indices (segments that would exceed it are held at it).
    pub fn fit(&self, nodes: &[usize], limit: Option<f64>) -> Vec<f64> {
        let equations = self.normal_equations(nodes);
        let mut held = vec![None; nodes.len() - 1];
        loop {
            let values = equations.solve_holding(&held);
            let Some(limit) = limit else { return values };
            let mut is_new = false;
            for (i, held) in held.iter_mut().enumerate() {
                let (rise, most) = (values[i + 1] - values[i], limit * (nodes[i + 1] - nodes[i]) as f64);
                if held.is_none() && rise.abs() > most {
                    (*held, is_new) = (Some(most.copysign(rise)), true);
                }
            }
            if !is_new {
                return values;
            }
        }
    }

    /// Removes knots one by one, each time the one without which the loss is least.
    pub fn removals(&self) -> Vec<Removal> {
        let mut nodes: Vec<usize> = (0..self.values.len()).collect();
        let mut removals = Vec::with_capacity(self.inner().len());
        while nodes.len() > 2 {
            let costs = self.normal_equations(&nodes).costs(&nodes);
            let Some((k, cost)) = costs.into_iter().enumerate().min_by(|a, b| a.1.total_cmp(&b.1)) else { break };
            removals.push(Removal { knot: nodes.remove(k + 1), cost });
        }
        removals
    }
}

impl NormalEquations {
    /// The pivots of the factorisation L·D·Lᵀ and the entries of L beside its diagonal.
    fn factors(&self) -> (Vec<f64>, Vec<f64>) {
        let mut pivots = vec![self.diagonal[0]];
        let mut lower = Vec::with_capacity(self.beside.len());
        for (k, &beside) in self.beside.iter().enumerate() {
            let l = beside / pivots[k];
            // Rounding must not make a direction without data indefinite.
            pivots.push((self.diagonal[k + 1] - l * beside).max(f64::EPSILON * self.diagonal[k + 1]));
            lower.push(l);
        }
        (pivots, lower)
    }

    fn solve(&self) -> Vec<f64> {
        let (pivots, lower) = self.factors();
        let mut x = self.right.clone();
        for (k, l) in lower.iter().enumerate() {
            x[k + 1] -= l * x[k];
        }
        x.iter_mut().zip(&pivots).for_each(|(x, pivot)| *x /= pivot);
        for (k, l) in lower.iter().enumerate().rev() {
            x[k] -= l * x[k + 1];
        }
        x
    }

    /// The solution in which given differences of neighbours are held.
    fn solve_holding(&self, held: &[Option<f64>]) -> Vec<f64> {
        if held.iter().all(Option::is_none) {
            return self.solve();
        }
        // Nodes with held differences between them move together: a group with an offset for each of its nodes.
        let (mut groups, mut offsets) = (vec![0], vec![0.0]);
        for (i, held) in held.iter().enumerate() {
            groups.push(groups[i] + usize::from(held.is_none()));
            offsets.push(held.map_or(0.0, |difference| offsets[i] + difference));
        }
        let n = groups[groups.len() - 1] + 1;
        let mut reduced = Self { diagonal: vec![0.0; n], beside: vec![0.0; n - 1], right: vec![0.0; n] };
        for (i, &group) in groups.iter().enumerate() {
            reduced.diagonal[group] += self.diagonal[i];
            reduced.right[group] += self.right[i] - self.diagonal[i] * offsets[i];
        }
        for (i, &beside) in self.beside.iter().enumerate() {
            let (left, right) = (groups[i], groups[i + 1]);
            if left == right {
                reduced.diagonal[left] += 2.0 * beside;
            } else {
                reduced.beside[left] += beside;
            }
            reduced.right[left] -= beside * offsets[i + 1];
            reduced.right[right] -= beside * offsets[i];
        }
        let values = reduced.solve();
        groups.iter().zip(offsets).map(|(&group, offset)| values[group] + offset).collect()
    }

    /// By how much the least loss grows without each of the inner nodes.
    fn costs(&self, nodes: &[usize]) -> Vec<f64> {
        let (pivots, lower) = self.factors();
        let values = self.solve();
        let n = values.len();
        // The diagonals of the inverse, from its last row up.
        let (mut own, mut next, mut after) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        own[n - 1] = 1.0 / pivots[n - 1];
        for i in (0..n - 1).rev() {
            let l = lower[i];
            next[i] = -l * own[i + 1];
            after[i] = -l * next[i + 1];
            own[i] = 1.0 / pivots[i] - l * next[i];
        }
        let cost = |i: usize| {
            let [left, right] = [nodes[i] - nodes[i - 1], nodes[i + 1] - nodes[i]].map(|h| 1.0 / h as f64);
            let [a, b, c] = [left, -(left + right), right];
            let change = a * values[i - 1] + b * values[i] + c * values[i + 1];
            let squares = a * a * own[i - 1] + b * b * own[i] + c * c * own[i + 1];
            let products = a * b * next[i - 1] + b * c * next[i] + a * c * after[i - 1];
            let variance = squares + 2.0 * products;
            if variance > 0.0 { change * change / variance } else { 0.0 }
        };
        (1..n - 1).map(cost).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(rng: &mut ChaCha8Rng, size: usize) -> (Vec<f64>, Vec<(f64, f64)>) {
        let values = (0..size).map(|_| rng.random_range(-1.0..1.0)).collect();
        let bins = (-8..4 * size as i32).map(|k| (f64::from(k) / 4.0, rng.random_range(0.0..1.0))).collect();
        (values, bins)
    }

    /// The weights with the prior, as documented.
    fn weights(bins: &[(f64, f64)], size: usize) -> Vec<f64> {
        let on_grid = |x: f64| (0.0..=(size - 1) as f64).contains(&x);
        let count = bins.iter().filter(|bin| on_grid(bin.0)).count() as f64;
        let prior = Function::PRIOR * bins.iter().map(|bin| bin.1).sum::<f64>() / count;
        bins.iter().map(|&(x, w)| w + if on_grid(x) { prior } else { 0.0 }).collect()
    }

    /// The least squares fit in the basis 1, x, max(0, x − s), by Gaussian elimination on the normal equations; returns the values
    /// at the bins and the loss.
    fn dense_fit(function: &Function, bins: &[(f64, f64)], knots: &[usize]) -> (Vec<f64>, f64) {
        let basis = |x: f64| -> Vec<f64> {
            [1.0, x].into_iter().chain(knots.iter().map(|&s| (x - s as f64).max(0.0))).collect()
        };
        let n = knots.len() + 2;
        let weights = weights(bins, function.values.len());
        let mut a = vec![vec![0.0; n + 1]; n];
        for (&(x, _), w) in bins.iter().zip(&weights) {
            let row = basis(x);
            for i in 0..n {
                (0..n).for_each(|j| a[i][j] += w * row[i] * row[j]);
                a[i][n] += w * row[i] * function.at(x);
            }
        }
        for i in 0..n {
            let pivot = (i..n).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs())).unwrap();
            a.swap(i, pivot);
            for j in 0..n {
                if j != i {
                    let factor = a[j][i] / a[i][i];
                    (i..=n).for_each(|k| a[j][k] -= factor * a[i][k]);
                }
            }
        }
        let solution: Vec<f64> = (0..n).map(|i| a[i][n] / a[i][i]).collect();
        let values: Vec<f64> =
            bins.iter().map(|&(x, _)| basis(x).iter().zip(&solution).map(|(b, s)| b * s).sum()).collect();
        let loss = bins.iter().zip(&values).zip(&weights).map(|((&(x, _), v), w)| w * (v - function.at(x)).powi(2));
        let loss = loss.sum();
        (values, loss)
    }

    /// The function by its values at nodes.
    fn at(nodes: &[usize], values: &[f64], x: f64) -> f64 {
        let i = nodes[1..nodes.len() - 1].iter().filter(|&&node| node as f64 <= x).count();
        let t = (x - nodes[i] as f64) / (nodes[i + 1] - nodes[i]) as f64;
        values[i] + t * (values[i + 1] - values[i])
    }

    #[test]
    fn a_fit_is_that_of_least_squares() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let size = rng.random_range(3..12);
            let (values, bins) = random(rng, size);
            let function = Function::new(values, &bins);
            let knots: Vec<usize> = function.inner().filter(|_| rng.random_range(0..2) == 0).collect();
            let nodes = function.nodes(knots.iter().copied());
            let fitted = function.fit(&nodes, None);
            let (expected, _) = dense_fit(&function, &bins, &knots);
            for (&(x, _), expected) in bins.iter().zip(expected) {
                assert!((at(&nodes, &fitted, x) - expected).abs() < 1e-8, "x = {x}: {expected}");
            }
        }
    }

    #[test]
    fn a_removal_costs_what_the_loss_grows_by() {
        let rng = &mut ChaCha8Rng::seed_from_u64(2);
        for _ in 0..30 {
            let size = rng.random_range(3..10);
            let (values, bins) = random(rng, size);
            let function = Function::new(values, &bins);
            let mut knots: Vec<usize> = function.inner().collect();
            let mut loss = 0.0;
            for removal in function.removals() {
                let without = |knot: usize| {
                    let left: Vec<usize> = knots.iter().copied().filter(|&k| k != knot).collect();
                    dense_fit(&function, &bins, &left).1
                };
                let losses: Vec<f64> = knots.iter().map(|&knot| without(knot)).collect();
                let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
                let chosen = without(removal.knot);
                assert!(chosen <= least + 1e-9, "{chosen}, the least is {least}");
                assert!((chosen - loss - removal.cost).abs() < 1e-8, "{} costs {}", chosen - loss, removal.cost);
                loss = chosen;
                knots.retain(|&k| k != removal.knot);
            }
            assert!(knots.is_empty());
        }
    }

    #[test]
    fn a_limit_holds_and_costs_no_more_than_it_must() {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        for _ in 0..100 {
            let size = rng.random_range(3..30);
            let limit = 0.3;
            let mut value = 0.0;
            let values: Vec<f64> = (0..size)
                .map(|_| {
                    value += rng.random_range(-limit..limit);
                    value
                })
                .collect();
            let (_, bins) = random(rng, size);
            let function = Function::new(values, &bins);
            let nodes = function.nodes(function.inner().filter(|k| k % 3 == 0));
            let fitted = function.fit(&nodes, Some(limit));
            for (nodes, values) in nodes.windows(2).zip(fitted.windows(2)) {
                let most = limit * (nodes[1] - nodes[0]) as f64;
                assert!((values[1] - values[0]).abs() <= most * (1.0 + 1e-9));
            }
            // Where nothing has to be held it is the fit without a limit.
            assert_eq!(function.fit(&nodes, Some(10.0)), function.fit(&nodes, None));
        }
    }
}
