//! The smallest bound that diagonal multipliers prove, by Newton's method on a logarithmic barrier.
//!
//! ‖Y·(v₀, w)‖² ≤ ρ·‖v₀‖² holds for all |w| ≤ |G·(v₀, w)| if there are multipliers t ≥ 0 with
//! X = diag(ρ, …, ρ, t) − Gᵀ·diag(t)·G − Yᵀ·Y positive definite: the S-procedure of LipSDP (Fazlyab et al. 2019), with slopes
//! in intervals of each neuron's own. The derivatives of −ln det X need X⁻¹ only. X is block-diagonal but for Yᵀ·Y, of rank
//! at most the number of outputs, so that an inverse costs the cube of the inputs and neurons before the last layer.

use super::cholesky::{inverse_factor, solve};
use super::composite::Composite;
use crate::lipschitz::piecewise_linear::Matrix;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// ρ is within this share of the least.
    pub gap: f64,
    /// Or ρ is below this number, or cannot come below it.
    pub cutoff: Option<f64>,
    /// The weight τ of ρ against the barrier to begin with, over that for which the gap is ρ.
    pub first_weight: f64,
    /// How near to the centre each weight is left for the next, by Newton's decrement: 0.5 for small gaps.
    pub decrement: f64,
    /// Or this many steps are done.
    pub steps: usize,
}

/// A bound and its multipliers.
#[derive(Debug, Clone)]
pub(super) struct Solution {
    /// The bound of the squared norm.
    pub rho: f64,
    /// A multiplier for each neuron of the composite.
    pub multipliers: Vec<f64>,
    /// For each neuron, the share of the bound that its slope leaves open.
    pub open: Vec<f64>,
    /// For each neuron, from −1 to 1: where between its smallest and largest slope the worst case has it.
    pub worst: Vec<f64>,
}

/// Minimises ρ from a feasible point on; multipliers that are not feasible with this ρ give `None`.
pub(super) fn minimise(composite: &Composite, start: (f64, &[f64]), goal: Goal) -> Option<Solution> {
    // All in units of the start.
    let unit = start.0;
    if !(unit > 0.0 && unit.is_finite()) {
        return None;
    }
    let mut y = composite.y.clone();
    y.data_mut().iter_mut().for_each(|value| *value /= unit.sqrt());
    let barrier = Barrier { composite, y: &y };
    let mut point = Point { rho: 1.0 + 1e-9, t: start.1.iter().map(|t| t / unit).collect() };
    let mut state = barrier.factors(&point)?;
    let degree = (composite.inputs + composite.neurons.len()) as f64;
    let mut tau = degree * goal.first_weight;
    let mut steps = 0;
    let cutoff = goal.cutoff.map(|cutoff| cutoff / unit);
    'path: loop {
        loop {
            let step = barrier.newton(&state, tau);
            if step.decrement < goal.decrement || steps >= goal.steps {
                break;
            }
            steps += 1;
            match barrier.line_search(&point, &step, tau, tau * point.rho - state.log_determinant) {
                Some((next, factors)) => (point, state) = (next, factors),
                // As near the centre as rounding allows.
                None => break,
            }
            if cutoff.is_some_and(|cutoff| point.rho <= cutoff) {
                break 'path;
            }
        }
        let gap = degree / tau;
        let is_above = cutoff.is_some_and(|cutoff| point.rho - 2.0 * gap > cutoff);
        if gap <= goal.gap * point.rho || steps >= goal.steps || is_above {
            break;
        }
        tau *= 10.0;
    }
    let (open, worst) = barrier.undecided(&state, &point.t, tau);
    let multipliers = point.t.iter().map(|t| t * unit).collect();
    Some(Solution { rho: point.rho * unit, multipliers, open, worst })
}

/// (A + shift)⁻¹.
fn shifted_inverse(a: &Matrix, shift: f64) -> Option<Matrix> {
    let mut a = a.clone();
    for k in 0..a.dims().0 {
        a.row_mut(k)[k] += shift;
    }
    super::cholesky::inverse(&a)
}

struct Barrier<'a> {
    composite: &'a Composite,
    /// Y in units of the start.
    y: &'a Matrix,
}

struct Point {
    rho: f64,
    t: Vec<f64>,
}

impl Point {
    fn moved(&self, step: &Step, length: f64) -> Self {
        let t = self.t.iter().zip(&step.t).map(|(t, d)| t + length * d).collect();
        Self { rho: self.rho + length * step.rho, t }
    }
}

struct Step {
    rho: f64,
    t: Vec<f64>,
    /// √(gᵀ·H⁻¹·g).
    decrement: f64,
}

/// The parts of P = X⁻¹ that derivatives need.
struct Factors {
    /// P (A, A).
    first: Matrix,
    /// P (A, B).
    mixed: Matrix,
    /// P (B, B).
    last: Matrix,
    log_determinant: f64,
}

impl Barrier<'_> {
    /// A and B.
    fn sizes(&self) -> (usize, usize) {
        let a = self.composite.g.dims().1;
        (a, self.y.dims().1 - a)
    }

    /// The best of the lengths 1, 0.7, 0.7², … from the first feasible one on, until one is worse than the one before, each with
    /// the best ρ.
    fn line_search(&self, from: &Point, step: &Step, tau: f64, value: f64) -> Option<(Point, Factors)> {
        let mut best: Option<(f64, Point, Factors)> = None;
        for shortened in 0..80 {
            let moved = from.moved(step, 0.7f64.powi(shortened));
            let Some((next, factors)) = self.centred(moved, from.rho, tau) else { continue };
            let reached = tau * next.rho - factors.log_determinant;
            match &best {
                Some((least, ..)) if reached >= *least => break,
                _ if reached < value => best = Some((reached, next, factors)),
                _ => {}
            }
            // Near the centre, where the whole step is the best.
            if best.is_some() && step.decrement < 1.0 {
                break;
            }
        }
        best.map(|(_, point, factors)| (point, factors))
    }

    /// The point of these multipliers with the ρ that minimises τ·ρ − ln det X: steps of Newton's method alone come nearer and
    /// nearer to the boundary in ρ, and take as many to get away.
    fn centred(&self, Point { rho, t }: Point, before: f64, tau: f64) -> Option<(Point, Factors)> {
        let mut point = Point { rho: rho.max(before), t };
        let factors = [1.0, 2.0, 8.0].into_iter().find_map(|factor| {
            point.rho *= factor;
            self.factors(&point)
        })?;
        // (ρ − P₀)⁻¹ of the input, whose trace is to be τ.
        let inputs = self.composite.inputs;
        let mut block = Matrix::zeros(inputs, inputs);
        for row in 0..inputs {
            block.row_mut(row).copy_from_slice(&factors.first.row(row)[..inputs]);
        }
        let inner = super::cholesky::inverse(&block)?;
        let mut shift = 0.0;
        for _ in 0..30 {
            let inverse = shifted_inverse(&inner, shift)?;
            let trace: f64 = (0..inputs).map(|k| inverse.row(k)[k]).sum();
            if (trace - tau).abs() <= 0.1 * tau {
                break;
            }
            let squares: f64 = inverse.data().iter().map(|p| p * p).sum();
            // Newton's step for 1/trace, which is nearly linear in the shift.
            let mut change = (1.0 / tau - 1.0 / trace) * trace * trace / squares;
            let halvings = (0..60).find(|_| {
                let is_inside = change.is_finite() && shifted_inverse(&inner, shift + change).is_some();
                change *= if is_inside { 1.0 } else { 0.5 };
                is_inside
            });
            halvings?;
            shift += change;
        }
        point.rho += shift;
        let factors = self.factors(&point)?;
        Some((point, factors))
    }

    fn factors(&self, Point { rho, t }: &Point) -> Option<Factors> {
        let inputs = &self.composite.inputs;
        let (a, b) = self.sizes();
        let (t_first, t_last) = t.split_at(t.len() - b);
        if t_last.iter().any(|t| *t <= 0.0) {
            return None;
        }
        let mut k = self.gram(t);
        for i in 0..a {
            k.row_mut(i)[i] += if i < *inputs { *rho } else { t_first[i - inputs] };
        }
        let (l, mut log_determinant) = inverse_factor(&k)?;
        log_determinant += t_last.iter().map(|t| t.ln()).sum::<f64>();
        let k = l.transposed_times(&l);
        // The low rank of the outputs, after Woodbury.
        let outputs = self.y.dims().0;
        let (mut y_first, mut y_last) = (Matrix::zeros(outputs, a), Matrix::zeros(outputs, b));
        for (row, y) in self.y.rows().enumerate() {
            y_first.row_mut(row).copy_from_slice(&y[..a]);
            y_last.row_mut(row).copy_from_slice(&y[a..]);
        }
        let u_first = y_first.times(&k);
        let mut u_last = y_last.clone();
        u_last.scale_columns(&t_last.iter().map(|t| 1.0 / t).collect::<Vec<_>>());
        let mut inner = Matrix::identity(outputs);
        let (from_first, from_last) = (u_first.times_transposed(&y_first), u_last.times_transposed(&y_last));
        for (value, (first, last)) in inner.data_mut().iter_mut().zip(from_first.data().iter().zip(from_last.data())) {
            *value -= first + last;
        }
        let (inner, log) = inverse_factor(&inner)?;
        log_determinant += log;
        let (u_first, u_last) = (inner.times(&u_first), inner.times(&u_last));
        let mut first = u_first.transposed_times(&u_first);
        first.data_mut().iter_mut().zip(k.data()).for_each(|(sum, k)| *sum += k);
        let mut last = u_last.transposed_times(&u_last);
        t_last.iter().enumerate().for_each(|(i, t)| last.row_mut(i)[i] += 1.0 / t);
        Some(Factors { first, mixed: u_first.transposed_times(&u_last), last, log_determinant })
    }

    /// The lower half of −Gᵀ·diag(t)·G; convolutions leave most of G at 0.
    fn gram(&self, t: &[f64]) -> Matrix {
        let g = &self.composite.g;
        let a = g.dims().1;
        let nonzeros: usize = g.rows().map(|row| row.iter().filter(|x| **x != 0.0).count().pow(2)).sum();
        // A product of blocks does some ten times as many operations in the same time.
        if 10 * nonzeros > g.dims().0 * a * a {
            let mut scaled = g.clone();
            scaled.scale_rows(&t.iter().map(|t| -t).collect::<Vec<_>>());
            return g.transposed_times(&scaled);
        }
        let mut k = Matrix::zeros(a, a);
        let mut row_of = Vec::new();
        for (row, t) in g.rows().zip(t) {
            row_of.clear();
            row_of.extend(row.iter().copied().enumerate().filter(|(_, x)| *x != 0.0));
            for (end, &(i, x)) in row_of.iter().enumerate() {
                let to = k.row_mut(i);
                row_of[..=end].iter().for_each(|&(j, y)| to[j] -= t * x * y);
            }
        }
        k
    }

    /// G·P·Gᵀ, and the rows of P·Gᵀ that belong to the input and to the neurons.
    fn products(&self, factors: &Factors) -> (Matrix, Matrix, Matrix) {
        let Composite { inputs, g, .. } = self.composite;
        let of_first = factors.first.times_transposed(g);
        let of_last = factors.mixed.transposed_times(&g.transposed());
        let gpg = g.times(&of_first);
        let n = self.composite.neurons.len();
        let data = of_first.data();
        let of_input = Matrix::new(*inputs, n, data[..inputs * n].to_vec());
        let of_neurons = Matrix::new(n, n, data[inputs * n..].iter().chain(of_last.data()).copied().collect());
        (gpg, of_input, of_neurons)
    }

    fn newton(&self, factors: &Factors, tau: f64) -> Step {
        let inputs = self.composite.inputs;
        let n = self.composite.neurons.len();
        let a = self.sizes().0;
        let (gpg, of_input, of_neurons) = self.products(factors);
        // Variables in the order t, ρ.
        let mut hessian = Matrix::zeros(n + 1, n + 1);
        let mut gradient = vec![0.0; n + 1];
        let p = |i: usize, j: usize| {
            // Of neurons i ≥ j.
            let (i, j) = (i + inputs, j + inputs);
            match (i < a, j < a) {
                (true, _) => factors.first.row(i)[j],
                (false, true) => factors.mixed.row(j)[i - a],
                (false, false) => factors.last.row(i - a)[j - a],
            }
        };
        for i in 0..n {
            let (gpg, of_neuron) = (gpg.row(i), of_neurons.row(i));
            let row = hessian.row_mut(i);
            for j in 0..=i {
                let (p, back) = (p(i, j), of_neurons.row(j)[i]);
                row[j] = p * p - of_neuron[j] * of_neuron[j] - back * back + gpg[j] * gpg[j];
            }
            gradient[i] = gpg[i] - p(i, i);
        }
        let row = hessian.row_mut(n);
        let mut trace = 0.0;
        for v in 0..inputs {
            let p = factors.first.row(v);
            trace += p[v];
            row[n] += p[..inputs].iter().map(|p| p * p).sum::<f64>();
            for (k, h) in row[..n].iter_mut().enumerate() {
                let column = inputs + k;
                let p = if column < a { p[column] } else { factors.mixed.row(v)[column - a] };
                let of_input = of_input.row(v)[k];
                *h += p * p - of_input * of_input;
            }
        }
        gradient[n] = tau - trace;
        self.solved(hessian, &gradient)
    }

    fn solved(&self, mut hessian: Matrix, gradient: &[f64]) -> Step {
        let n = gradient.len() - 1;
        // In units of the diagonal, which t of very different sizes need.
        let scale: Vec<f64> = (0..=n).map(|k| hessian.row(k)[k].max(f64::MIN_POSITIVE).sqrt().recip()).collect();
        hessian.scale_rows(&scale);
        hessian.scale_columns(&scale);
        let gradient: Vec<f64> = gradient.iter().zip(&scale).map(|(g, s)| g * s).collect();
        let mut shift = 1e-14;
        let solution = loop {
            (0..=n).for_each(|k| hessian.row_mut(k)[k] = 1.0 + shift);
            match solve(&hessian, &gradient) {
                Some(solution) => break solution,
                None if shift < 1.0 => shift *= 100.0,
                None => break gradient.clone(),
            }
        };
        let decrement = gradient.iter().zip(&solution).map(|(g, x)| g * x).sum::<f64>().max(0.0).sqrt();
        let mut step: Vec<f64> = solution.iter().zip(&scale).map(|(x, scale)| -x * scale).collect();
        Step { rho: step.pop().unwrap_or_default(), t: step, decrement }
    }

    /// From P/τ, which at the optimum is a mean of x·xᵀ over worst cases: by how much |w·z| falls short of |r·z|², and the
    /// correlation of w and r·z.
    fn undecided(&self, factors: &Factors, t: &[f64], tau: f64) -> (Vec<f64>, Vec<f64>) {
        let (gpg, _, of_neurons) = self.products(factors);
        let each = |k: usize| (t[k], gpg.row(k)[k] / tau, of_neurons.row(k)[k] / tau);
        let open = |k: usize| {
            let (t, zz, wz) = each(k);
            t * (zz - wz.abs()).max(0.0)
        };
        let worst = |k: usize| {
            let (_, zz, wz) = each(k);
            if zz > 0.0 { (wz / zz).clamp(-1.0, 1.0) } else { 0.0 }
        };
        ((0..t.len()).map(open).collect(), (0..t.len()).map(worst).collect())
    }
}
