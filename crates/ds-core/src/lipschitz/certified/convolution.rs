//! Upper bounds of the ℓ2 norm of a convolution with zero padding and stride.
//!
//! Whatever the plane and the padding, a convolution is a part of the convolution on the infinite plane: zeros around the input
//! and outputs left out lower no norm but that one's. With stride s, the input's s×s phases are channels of their own, and the
//! infinite convolution is diagonal in frequency: its norm is the largest of ‖H(ω)‖₂ over all ω, H(ω) = Σ_a K_a·e^{iω·a}.
//!
//! - [`of_frequencies`] takes H on a grid of N×N frequencies. Between them, ‖H(ω)v‖² = M·cos²θ(ω) is a trigonometric polynomial
//!   of degree d = taps − 1 and maximum M in each dimension, for which the Bernstein–Szegő inequality is |θ′| ≤ d/2: at the grid
//!   point next to the largest norm of all, at most π/N away in each dimension, H still has cos(dπ/N) of it. The grid is refined
//!   where the largest can still be.
//! - [`of_absolute_values`] bounds the autocorrelation of the kernel by its absolute values; it is exact for orthogonal
//!   convolutions and for kernels that have one sign, and it is what almost-orthogonal layers make 1 (Prach & Lampert 2022).
//! - [`of_matrix`] has the convolution as the matrix that it is: small planes gain from their borders.

use super::matrix::{Bracket, Goal, exponent_above, gamma, largest_magnitude, largest_singular_value, product_above};
use gemm::c64;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::f64::consts::PI;

/// A convolution as it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Output channels.
    pub outputs: usize,
    /// Input channels.
    pub inputs: usize,
    /// Rows and columns of the square kernel.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Rows and columns of the input.
    pub plane: (usize, usize),
}

impl Geometry {
    /// Rows and columns of the output.
    pub fn output_plane(&self) -> (usize, usize) {
        let side = |n: usize| (n + 2 * self.padding).saturating_sub(self.kernel) / self.stride + 1;
        (side(self.plane.0), side(self.plane.1))
    }
}

/// The smallest of the bounds for a kernel (outputs, inputs, k, k).
pub(super) fn norm(kernel: &[f64], geometry: Geometry) -> f64 {
    let size = largest_magnitude(kernel);
    if size == 0.0 || !size.is_finite() {
        return size;
    }
    // Squares of what is near 1 stay in the range of numbers, and powers of two scale without rounding.
    let scale = 2f64.powi(exponent_above(size));
    let kernel: Vec<f64> = kernel.iter().map(|w| w / scale).collect();
    product_above(norm_near_one(&kernel, geometry), scale)
}

fn norm_near_one(kernel: &[f64], geometry: Geometry) -> f64 {
    let g = geometry;
    let phases = Phases::new(kernel, g);
    let infinite = if phases.taps == 1 {
        // A matrix on pixels, or on patches that do not overlap.
        largest_singular_value(phases.outputs, phases.inputs, &phases.weights, Goal::within(1e-7)).upper
    } else {
        of_absolute_values(&phases).min(of_frequencies(&phases))
    };
    of_matrix(kernel, g).map_or(infinite, |exact| exact.min(infinite))
}

/// The kernel of the convolution with stride 1 that has the phases of the input as channels: weights (a, outputs, inputs) for
/// each tap a of taps × taps.
struct Phases {
    outputs: usize,
    inputs: usize,
    taps: usize,
    weights: Vec<f64>,
}

impl Phases {
    fn new(kernel: &[f64], g: Geometry) -> Self {
        let (k, s) = (g.kernel, g.stride);
        // A stride beyond the kernel leaves phases that nothing reads.
        let used = s.min(k);
        let (taps, inputs) = (k.div_ceil(s), g.inputs * used * used);
        let mut weights = vec![0.0; taps * taps * g.outputs * inputs];
        for (index, &w) in kernel.iter().enumerate() {
            let (column, row) = (index % k, index / k % k);
            let (input, output) = (index / (k * k) % g.inputs, index / (k * k * g.inputs));
            let tap = row / s * taps + column / s;
            let phase = row % s * used + column % s;
            weights[(tap * g.outputs + output) * inputs + input * used * used + phase] = w;
        }
        Self { outputs: g.outputs, inputs, taps, weights }
    }

    /// The matrix of tap (row, column), row by row.
    fn tap(&self, tap: usize) -> &[f64] {
        let size = self.outputs * self.inputs;
        &self.weights[tap * size..(tap + 1) * size]
    }

    /// Σ_a ‖K_a‖_F, which rounding errors are relative to.
    fn size(&self) -> f64 {
        let norm = |tap| self.tap(tap).iter().map(|w| w * w).sum::<f64>().sqrt();
        (0..self.taps * self.taps).map(norm).sum::<f64>() * (1.0 + gamma(self.weights.len()))
    }

    /// H at frequency 2π·(row, column)/n.
    fn at_frequency(&self, (row, column): (usize, usize), n: usize) -> Vec<c64> {
        let mut h = vec![c64::new(0.0, 0.0); self.outputs * self.inputs];
        for tap in 0..self.taps * self.taps {
            let turns = (tap / self.taps * row + tap % self.taps * column) % n;
            let (sin, cos) = (2.0 * PI * turns as f64 / n as f64).sin_cos();
            for (h, w) in h.iter_mut().zip(self.tap(tap)) {
                h.re += w * cos;
                h.im += w * sin;
            }
        }
        h
    }
}

/// The largest norm over all frequencies, to within 1e-4 or as far as the work is worth it.
fn of_frequencies(phases: &Phases) -> f64 {
    const WANTED: f64 = 1e-4;
    /// Multiplications for the finest grid.
    const WORK: f64 = 1e9;
    let degree = phases.taps - 1;
    let small = phases.outputs.min(phases.inputs) as f64;
    let bracket_work = 4.0 * small * small * (phases.outputs.max(phases.inputs) as f64 + 8.0 * small);
    let rounding = gamma(phases.taps * phases.taps) * phases.size();
    let mut n = 8 * degree;
    // H(−ω) is the conjugate of H(ω): half of the grid is enough.
    let half = |(row, column): (usize, usize), n: usize| (row, column).min(((n - row) % n, (n - column) % n));
    let mut candidates: BTreeSet<_> = (0..n * n).map(|k| half((k / n, k % n), n)).collect();
    let mut bound = f64::INFINITY;
    loop {
        let brackets = at_frequencies(phases, &candidates, n);
        let largest = |value: fn(&Bracket) -> f64| brackets.iter().map(value).fold(0.0, f64::max);
        let kept = (degree as f64 * PI / n as f64).cos();
        bound = f64::min(bound, (largest(|b| b.upper) + rounding) / kept * (1.0 + gamma(4)));
        if kept > 1.0 - WANTED {
            return bound;
        }
        // A point with less is not the one next to the largest of all.
        let least = (largest(|b| b.lower) - rounding).max(0.0) * kept;
        let finer = 3 * n;
        let near = |k: usize, offset: usize| (3 * k + finer + offset - 1) % finer;
        candidates = candidates
            .iter()
            .zip(&brackets)
            .filter(|(_, bracket)| bracket.upper + rounding >= least)
            .flat_map(|(&(row, column), _)| (0..9).map(move |k| (near(row, k / 3), near(column, k % 3))))
            .map(|point| half(point, finer))
            .collect();
        if candidates.len() as f64 * bracket_work > WORK {
            return bound;
        }
        n = finer;
    }
}

/// Brackets that are tight where the largest is.
fn at_frequencies(phases: &Phases, points: &BTreeSet<(usize, usize)>, n: usize) -> Vec<Bracket> {
    let points: Vec<_> = points.iter().copied().collect();
    let bracket = |&point: &(usize, usize), goal: Goal| {
        largest_singular_value(phases.outputs, phases.inputs, &phases.at_frequency(point, n), goal)
    };
    let rough = Goal { tolerance: 1e-5, floor: 0.0, squarings: 2 };
    let mut brackets: Vec<_> = points.par_iter().map(|point| bracket(point, rough)).collect();
    let floor = brackets.iter().map(|b| b.lower).fold(0.0, f64::max);
    let fine = Goal { floor, ..Goal::within(1e-5) };
    brackets.par_iter_mut().zip(&points).for_each(|(known, point)| {
        if known.upper > floor {
            let found = bracket(point, fine);
            *known = Bracket { lower: found.lower.max(known.lower), upper: found.upper.min(known.upper) };
        }
    });
    brackets
}

/// √ρ(M) with M_ij = Σ_p |Σ_{o,a} K_{o,i,a}·K_{o,j,a+p}|, or the same with inputs and outputs exchanged.
fn of_absolute_values(phases: &Phases) -> f64 {
    let rounding = gamma(phases.taps * phases.taps * phases.outputs.max(phases.inputs)) * phases.size().powi(2);
    let sides = [(phases.inputs, true), (phases.outputs, false)];
    let bound = |(channels, of_inputs): (usize, bool)| largest_eigenvalue(channels, &absolute_gram(phases, of_inputs));
    (sides.into_iter().map(bound).fold(f64::INFINITY, f64::min) + rounding).sqrt() * (1.0 + gamma(2))
}

/// Σ_p |K⋆K (p)| between channels of the inputs, or of the outputs.
fn absolute_gram(phases: &Phases, of_inputs: bool) -> Vec<f64> {
    let (taps, outputs, inputs) = (phases.taps, phases.outputs, phases.inputs);
    let (channels, summed) = if of_inputs { (inputs, outputs) } else { (outputs, inputs) };
    let reach = 2 * taps - 1;
    // Shift and its opposite are transposes of each other.
    let shifts = (0..reach * reach).collect::<Vec<_>>();
    let correlation = |&shift: &usize| {
        let (down, right) =
            ((shift / reach) as isize - taps as isize + 1, (shift % reach) as isize - taps as isize + 1);
        let mut sum = vec![0.0; channels * channels];
        for tap in 0..taps * taps {
            let (row, column) = ((tap / taps) as isize + down, (tap % taps) as isize + right);
            let inside = 0..taps as isize;
            if !inside.contains(&row) || !inside.contains(&column) {
                continue;
            }
            let (a, b) = (phases.tap(tap), phases.tap(row as usize * taps + column as usize));
            let strides = if of_inputs { (1, inputs) } else { (inputs, 1) };
            add_product(channels, summed, &mut sum, a, b, strides);
        }
        sum
    };
    // In a fixed order of additions, however many threads there are.
    let all: Vec<Vec<f64>> = shifts.par_iter().map(correlation).collect();
    let mut total = vec![0.0; channels * channels];
    for one in all {
        total.iter_mut().zip(one).for_each(|(total, x)| *total += x.abs());
    }
    total
}

/// out (n, n) += AᵀB for A and B (k, n), an element (l, i) of which is at l·strides.1 + i·strides.0.
fn add_product(n: usize, k: usize, out: &mut [f64], a: &[f64], b: &[f64], (of_n, of_k): (usize, usize)) {
    assert!(out.len() == n * n && a.len() == n * k && b.len() == n * k);
    // SAFETY: the strides stay inside the slices, whose lengths are as just checked.
    unsafe {
        gemm::gemm(
            n,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.as_ptr(),
            of_k as isize,
            of_n as isize,
            b.as_ptr(),
            of_n as isize,
            of_k as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// An upper bound of the spectral radius of a matrix M without negative elements: max (M·v)_i/v_i of a positive vector
/// (Collatz & Wielandt), for which powers of M by repeated squaring give ever better vectors.
fn largest_eigenvalue(n: usize, m: &[f64]) -> f64 {
    const SQUARINGS: usize = 16;
    let times = |a: &[f64], v: &[f64]| -> Vec<f64> {
        a.chunks_exact(n).map(|row| row.iter().zip(v).map(|(a, v)| a * v).sum()).collect()
    };
    let (mut power, mut bound) = (m.to_vec(), f64::INFINITY);
    for _ in 0..SQUARINGS {
        let largest = power.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            break;
        }
        power.iter_mut().for_each(|x| *x /= largest);
        // A little of everything keeps the vector positive.
        let v: Vec<f64> = times(&power, &vec![1.0; n]).iter().map(|v| v + 1e-12).collect();
        let quotient = times(m, &v).iter().zip(&v).map(|(m, v)| m / v).fold(0.0, f64::max);
        bound = bound.min(quotient);
        let mut square = vec![0.0; n * n];
        // M is symmetric, and so are its powers.
        add_product(n, n, &mut square, &power, &power, (1, n));
        power = square;
    }
    if bound.is_finite() { bound * (1.0 + gamma(n)) } else { 0.0 }
}

/// The norm of the matrix (output pixels, input pixels), where that is small.
fn of_matrix(kernel: &[f64], g: Geometry) -> Option<f64> {
    const SIDE: usize = 1024;
    const ELEMENTS: usize = 8 << 20;
    let ((height, width), (out_height, out_width)) = (g.plane, g.output_plane());
    let (rows, columns) = (g.outputs * out_height * out_width, g.inputs * height * width);
    if rows.min(columns) > SIDE || rows * columns > ELEMENTS {
        return None;
    }
    let mut matrix = vec![0.0; rows * columns];
    for (row, matrix) in matrix.chunks_exact_mut(columns).enumerate() {
        let (output, y, x) = (row / (out_height * out_width), row / out_width % out_height, row % out_width);
        for input in 0..g.inputs {
            for tap in 0..g.kernel * g.kernel {
                let from = |o: usize, tap: usize, size: usize| {
                    (o * g.stride + tap).checked_sub(g.padding).filter(|&from| from < size)
                };
                let place = from(y, tap / g.kernel, height).zip(from(x, tap % g.kernel, width));
                if let Some((y, x)) = place {
                    matrix[(input * height + y) * width + x] =
                        kernel[(output * g.inputs + input) * g.kernel * g.kernel + tap];
                }
            }
        }
    }
    Some(largest_singular_value(rows, columns, &matrix, Goal::within(1e-5)).upper)
}
