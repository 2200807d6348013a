//! argmin ½ Σ_k (c_k − u_k)²/w_k + μ·‖D·c‖₁ with D the second differences, for some functions side by side in the lanes of vectors.
//!
//! The dual is a least-squares problem with a pentadiagonal matrix in a box, min ½ zᵀAz − (D·u)ᵀz with A = D·diag(w)·Dᵀ and |z| ≤ μ,
//! and c = u − diag(w)·Dᵀz. Block principal pivoting (Júdice and Pires 1994) solves it exactly: the equations of the free z by LDLᵀ,
//! then those that break the conditions change sides. Where this goes on too long, only the last one does, which ends (Murty 1974).
//! Some w that differ by 10⁴ and more from knot to knot would take very many passes, and are left to [`interior_point`].

use super::interior_point::{self, second_differences};
use crate::backend::real::Real;
use crate::ops::slope_projection::epsilon;
use crate::regularization::measures::significant_sign;

/// Functions side by side.
const WIDE: usize = 8;
const NARROW: usize = 4;

/// Passes in which all that break a condition change sides.
const BLOCK_PASSES: usize = 12;

/// Passes after which an interior-point method solves what is left.
const MOST_PASSES: usize = 500;

/// What is added to a diagonal with a w of 0, relative to it: a few w may make more equations than they have solutions.
const RIDGE: f64 = 1e-10;

/// How far a condition may be broken, relative to the numbers that it is computed from.
const TOLERANCE: f64 = 1e-12;

/// What the solver works in, for functions of K knots, one row of lanes for each knot.
#[derive(Debug, Clone, Default)]
pub struct Workspace(Vec<f64>);

/// A number of each function.
#[derive(Debug, Clone, Copy)]
struct V<const N: usize>([f64; N]);

impl<const N: usize> V<N> {
    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self([value; N])
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f64::abs))
    }
    /// `size` with the signs of these.
    #[inline(always)]
    fn with_size(self, size: f64) -> Self {
        Self(self.0.map(|sign| size.copysign(sign)))
    }
    /// 1 where a number is above the other one, else 0.
    #[inline(always)]
    fn is_above(self, other: Self) -> Self {
        Self(std::array::from_fn(|l| if self.0[l] > other.0[l] { 1.0 } else { 0.0 }))
    }
}

macro_rules! lanewise {
    ($($trait:ident $method:ident $operator:tt),*) => {$(
        impl<const N: usize> std::ops::$trait for V<N> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(std::array::from_fn(|l| self.0[l] $operator other.0[l]))
            }
        }
    )*};
}
lanewise!(Add add +, Sub sub -, Mul mul *, Div div /);

/// Its rows: K of w, u and c, and of the K−2 inner knots, with two zeros at both ends of what neighbours read.
struct Rows<'a, const N: usize> {
    w: &'a mut [[f64; N]],
    u: &'a mut [[f64; N]],
    c: &'a mut [[f64; N]],
    /// Of A.
    diagonal: &'a mut [[f64; N]],
    /// 1 where z is free, 0 where it is at a bound.
    free: &'a mut [[f64; N]],
    /// The bound that z is at; 0 where it is free.
    bound: &'a mut [[f64; N]],
    z: &'a mut [[f64; N]],
    /// L(k+1, k) and L(k+2, k).
    alpha: &'a mut [[f64; N]],
    beta: &'a mut [[f64; N]],
}

impl<'a, const N: usize> Rows<'a, N> {
    const ARRAYS: usize = 9;

    fn of(workspace: &'a mut Workspace, size: usize) -> Self {
        let padded = size + 2;
        workspace.0.clear();
        workspace.0.resize(Self::ARRAYS * padded * N, 0.0);
        let mut arrays = workspace.0.as_chunks_mut::<N>().0.chunks_exact_mut(padded);
        let mut next = || arrays.next().unwrap_or_default();
        Self {
            w: &mut next()[..size],
            u: &mut next()[..size],
            c: &mut next()[..size],
            diagonal: &mut next()[..size - 2],
            free: next(),
            bound: next(),
            z: next(),
            alpha: next(),
            beta: next(),
        }
    }

    /// Solves the equations of the z that are free.
    #[inline(always)]
    fn factorise_and_solve(&mut self) {
        let inner = self.u.len() - 2;
        let (w, u) = (&self.w[..inner + 2], &self.u[..inner + 2]);
        let (diagonal, free, bound) = (&self.diagonal[..inner], &self.free[..inner + 4], &self.bound[..inner + 4]);
        let (alpha, beta, z) = (&mut self.alpha[..inner], &mut self.beta[..inner], &mut self.z[2..inner + 2]);
        let (zero, one, two) = (V::splat(0.0), V::splat(1.0), V::splat(2.0));
        // Of the row before: α·d, α, β·d, β, and y; of the one before that: β·d, β, y.
        let [mut alpha_d, mut alpha_1, mut beta_d_1, mut beta_1, mut y_1, mut beta_d_2, mut beta_2, mut y_2] =
            [zero; 8];
        for k in 0..inner {
            let [w0, w1, w2] = [V(w[k]), V(w[k + 1]), V(w[k + 2])];
            let f = V(free[k + 2]);
            // Of A beside the diagonal: to the left and to the right.
            let (left, right) = (V::splat(-2.0) * (w0 + w1), V::splat(-2.0) * (w1 + w2));
            let diagonal = f * V(diagonal[k]) + (one - f);
            let of_bounds = w0 * V(bound[k]) + left * V(bound[k + 1]) + right * V(bound[k + 3]) + w2 * V(bound[k + 4]);
            let right_side = f * (V(u[k]) - two * V(u[k + 1]) + V(u[k + 2]) - of_bounds) + V(bound[k + 2]);
            let inverse = one / (diagonal - beta_2 * beta_d_2 - alpha_1 * alpha_d);
            let y = right_side - beta_2 * y_2 - alpha_1 * y_1;
            // L(k+1, k−1)·d(k−1)·L(k, k−1) belongs to the entry beside the diagonal.
            alpha_d = f * V(free[k + 3]) * right - alpha_1 * beta_d_1;
            (beta_d_2, beta_2, y_2) = (beta_d_1, beta_1, y_1);
            beta_d_1 = f * V(free[k + 4]) * w2;
            (alpha_1, beta_1, y_1) = (alpha_d * inverse, beta_d_1 * inverse, y);
            (alpha[k], beta[k], z[k]) = (alpha_1.0, beta_1.0, (y * inverse).0);
        }
        let [mut z_1, mut z_2] = [zero; 2];
        for k in (0..inner).rev() {
            let value = V(z[k]) - V(beta[k]) * z_2 - V(alpha[k]) * z_1;
            (z_2, z_1) = (z_1, value);
            z[k] = value.0;
        }
    }

    /// c = u − diag(w)·Dᵀz.
    #[inline(always)]
    fn primal(&mut self) {
        let size = self.c.len();
        let (u, w, z) = (&self.u[..size], &self.w[..size], &self.z[..size + 2]);
        for (k, c) in self.c.iter_mut().enumerate() {
            *c = (V(u[k]) - V(w[k]) * (V(z[k]) - V::splat(2.0) * V(z[k + 1]) + V(z[k + 2]))).0;
        }
    }

    /// Lets z that break a condition change sides: all, or the last of each function. Where it is not 0, one did.
    #[inline(always)]
    fn exchange(&mut self, mu: f64, only_last: bool) -> V<N> {
        let inner = self.c.len() - 2;
        let (c, z) = (&self.c[..inner + 2], &self.z[2..inner + 2]);
        let (free, bound) = (&mut self.free[2..inner + 2], &mut self.bound[2..inner + 2]);
        let (one, two, most) = (V::splat(1.0), V::splat(2.0), V::splat(mu * (1.0 + TOLERANCE)));
        let (only_last, allowed) = (V::splat(f64::from(u8::from(only_last))), V::splat(mu * TOLERANCE));
        // 1 where it is so, 0 elsewhere.
        let (mut may, mut any) = (one, V::splat(0.0));
        for k in (0..inner).rev() {
            let [c0, c1, c2] = [V(c[k]), V(c[k + 1]), V(c[k + 2])];
            let (f, at, value) = (V(free[k]), V(bound[k]), V(z[k]));
            // A slope change has the sign of its z, or is 0.
            let against = (two * c1 - c0 - c2) * at;
            let is_wrong = against.is_above(allowed * (c0.abs() + two * c1.abs() + c2.abs()));
            let changes = (f * value.abs().is_above(most) + (one - f) * is_wrong) * may;
            may = may * (one - changes * only_last);
            any = any + changes;
            bound[k] = ((one - changes) * at + changes * f * value.with_size(mu)).0;
            free[k] = (f + changes * (one - two * f)).0;
        }
        any
    }

    #[inline(always)]
    fn solve(&mut self, mu: f64) {
        let mut changed = V::splat(0.0);
        for pass in 0..MOST_PASSES {
            self.factorise_and_solve();
            self.primal();
            changed = self.exchange(mu, pass >= BLOCK_PASSES);
            if changed.0 == [0.0; N] {
                return;
            }
        }
        self.solve_singly(mu, changed);
    }

    /// Solves again where the last pass changed something.
    #[cold]
    fn solve_singly(&mut self, mu: f64, changed: V<N>) {
        let of_lane = |rows: &[[f64; N]], l: usize| rows.iter().map(|row| row[l]).collect::<Vec<_>>();
        for l in (0..N).filter(|&l| changed.0[l] != 0.0) {
            let z = interior_point::solve(mu, &of_lane(self.w, l), &of_lane(self.u, l));
            for (k, x) in second_differences(&z).into_iter().enumerate() {
                self.c[k][l] = self.u[k][l] - self.w[k][l] * x;
            }
        }
    }
}

/// The entry of A on its diagonal, and more where it could be 0 after elimination. Where all w are 0, so is what z does to c.
#[inline(always)]
fn diagonal([w0, w1, w2]: [f64; 3]) -> f64 {
    let sum = w0 + 4.0 * w1 + w2;
    match sum == 0.0 {
        true => 1.0,
        false if w0 == 0.0 || w1 == 0.0 || w2 == 0.0 => sum * (1.0 + RIDGE),
        false => sum,
    }
}

/// The next `N` functions or fewer.
#[inline(always)]
fn lanes<T: Real, const N: usize>(
    workspace: &mut Workspace,
    (size, mu): (usize, f64),
    values: &mut [T],
    scale: &[T],
    changes: &[T],
) {
    let mut rows = Rows::<N>::of(workspace, size);
    let (functions, inner) = (values.len() / size, size - 2);
    for l in 0..N {
        // Lanes without a function have 0 everywhere.
        let f = l.min(functions - 1);
        for k in 0..size {
            rows.w[k][l] = scale[f * size + k].to_f64();
            rows.u[k][l] = if l < functions { values[f * size + k].to_f64() } else { 0.0 };
        }
        for k in 0..inner {
            rows.diagonal[k][l] = diagonal([rows.w[k][l], rows.w[k + 1][l], rows.w[k + 2][l]]);
            let change = changes[f * inner + k].to_f64();
            let is_free = change == 0.0 || l >= functions;
            rows.free[k + 2][l] = f64::from(u8::from(is_free));
            rows.bound[k + 2][l] = if is_free { 0.0 } else { mu.copysign(change) };
        }
    }
    rows.solve(mu);
    for (l, values) in values.chunks_exact_mut(size).enumerate() {
        for (k, value) in values.iter_mut().enumerate() {
            *value = T::from_f64(rows.c[k][l]);
        }
    }
}

crate::vectorized! {
    /// Takes each row u of `values` (C, `size`) to argmin ½ Σ (c − u)²/`scale` + `mu`·‖D·c‖₁. The solver starts from the signs of
    /// `changes` (C, `size` − 2); where they are those of D·c it needs one pass.
    pub(super) fn solve<T>(workspace: &mut Workspace, size_and_mu: (usize, f64), values: &mut [T], scale: &[T], changes: &[T]) {
        let size = size_and_mu.0;
        let chunks = values.chunks_mut(WIDE * size).zip(scale.chunks(WIDE * size)).zip(changes.chunks(WIDE * (size - 2)));
        for ((values, scale), changes) in chunks {
            if values.len() <= NARROW * size {
                lanes::<T, NARROW>(workspace, size_and_mu, values, scale, changes);
            } else {
                lanes::<T, WIDE>(workspace, size_and_mu, values, scale, changes);
            }
        }
    }
}

crate::vectorized! {
    /// The signs of the second differences of each row of `values` (C, `size`): 0 where they are rounding.
    pub(super) fn signs<T>(size: usize, values: &[T], changes: &mut [T]) {
        let epsilon = epsilon(T::DTYPE);
        for (values, changes) in values.chunks_exact(size).zip(changes.chunks_exact_mut(size - 2)) {
            for (c, change) in values.windows(3).zip(changes) {
                *change = T::from_f64(significant_sign([c[0], c[1], c[2]].map(T::to_f64), epsilon));
            }
        }
    }
}

crate::vectorized! {
    /// Takes each u of `values` to argmin ½ (a − u)²/`scale` + `weight`·|a|.
    pub(super) fn soft_threshold<T>(weight: T, values: &mut [T], scale: &[T]) {
        for (value, &scale) in values.iter_mut().zip(scale) {
            let size = value.maximum(-*value) - weight * scale;
            // NaN stays, so that a diverged layer is seen.
            *value = if size <= T::ZERO { T::ZERO } else if *value < T::ZERO { -size } else { size };
        }
    }
}
