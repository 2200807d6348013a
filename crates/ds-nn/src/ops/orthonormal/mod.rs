//! Matrices with orthonormal rows or columns, whichever are fewer: the polar factor of a weight.
//!
//! It is found by Björck's iteration (Björck & Bowie 1971) with the term of second order, W ← W·(I + E/2 + 3E²/8) with
//! E = I − WᵀW, which leaves an E of third order.

mod gpu;
mod tall;

use super::product::shared_product;
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, Tensor};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, forward, gradient};
use ds_core::backend::real::{Real, to_f64};
use std::ops::Range;
use tall::{NAME, Tall};

/// ‖E‖_F from which on one more step leaves less than the rounding of f32: its cube is 1e-9.
const LAST_STEP: f64 = 1e-3;
/// ‖E‖ up to which the iteration converges without a scaling.
const CONVERGES: f64 = 0.9;
/// Enough for singular values of 1e-9 of the largest one.
const MAX_STEPS: usize = 40;

fn frobenius(matrix: &[f64]) -> f64 {
    matrix.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest sum of a row's absolute values, which no eigenvalue of a symmetric matrix exceeds.
fn largest_row(matrix: &[f64], columns: usize) -> f64 {
    let sum = |row: &[f64]| row.iter().map(|v| v.abs()).sum::<f64>();
    matrix.chunks_exact(columns).map(sum).fold(0.0, f64::max)
}

/// I − S, in place.
fn from_identity(s: &mut [f64], columns: usize) {
    s.iter_mut().for_each(|v| *v = -*v);
    for k in 0..columns {
        s[k * columns + k] += 1.0;
    }
}

/// The result of [`PolarFactor`], outside any graph.
///
/// # Errors
/// If the weight is empty, or not f32 or f64; a GPU takes f32.
pub fn polar_factor(weight: &Tensor) -> Result<Tensor> {
    forward(&PolarFactor, [weight])
}

fn orthonormalised(tall: Tall, mut w: Vec<f64>) -> Vec<f64> {
    let n = tall.columns;
    let mut e = tall.inner(&w, &w);
    let gram_bound = frobenius(&e).min(largest_row(&e, n));
    from_identity(&mut e, n);
    if gram_bound == 0.0 {
        return w;
    }
    if frobenius(&e).min(largest_row(&e, n)) > CONVERGES {
        // Singular values of at most 1, to start from.
        let scale = 1.0 / gram_bound.sqrt();
        w.iter_mut().for_each(|w| *w *= scale);
        e = tall.inner(&w, &w);
        from_identity(&mut e, n);
    }
    for _ in 0..MAX_STEPS {
        let is_last = frobenius(&e) <= LAST_STEP;
        // I + E/2 + 3E²/8.
        let mut factor = shared_product((n, n, n), (&e, n, 1), (&e, n, 1));
        for (factor, e) in factor.iter_mut().zip(&e) {
            *factor = 0.375 * *factor + 0.5 * e;
        }
        for k in 0..n {
            factor[k * n + k] += 1.0;
        }
        w = tall.times(&w, &factor);
        if is_last {
            break;
        }
        e = tall.inner(&w, &w);
        from_identity(&mut e, n);
    }
    w
}

/// A weight W (O, …), seen as a matrix of O rows → its polar factor Q.
///
/// No singular value of the result exceeds 1 by more than the rounding to the weight's type, even where the iteration ends early, as
/// for a weight without full rank. Sums are in f64 on the CPU and in f32 on a GPU, which makes a fixed number of steps.
///
/// The gradient is the exact derivative of the polar factor at W = Q, the projection on the tangent space of the Stiefel
/// manifold: ∂W = ∂Q − Q·sym(Qᵀ∂Q) for orthonormal columns, and transposed for rows. Layers write Q back into W in training,
/// so that W is near Q whenever a gradient is taken.
#[derive(Debug, Clone, Copy)]
pub struct PolarFactor;

impl Op for PolarFactor {
    const NAME: &'static str = NAME;
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Tall::of(inputs[0])?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let tall = Tall::of(inputs[0].shape())?;
        let q = orthonormalised(tall, to_f64(inputs[0].elements::<T>()?));
        Ok(q.into_iter().map(T::from_f64).collect())
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let tall = Tall::of(pass.inputs[0].shape())?;
        let n = tall.columns;
        let (q, mut g) = (to_f64(pass.y.elements::<T>()?), to_f64(pass.dy.elements::<T>()?));
        let s = tall.inner(&q, &g);
        let symmetric: Vec<f64> = (0..n * n).map(|k| 0.5 * (s[k] + s[k % n * n + k / n])).collect();
        for (g, normal) in g.iter_mut().zip(tall.times(&q, &symmetric)) {
            *g -= normal;
        }
        Ok(gradient(g.into_iter().map(T::from_f64).collect()))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        inputs[0].of_type(DType::F32, Self::NAME)?;
        gpu::polar_factor(gpu, Tall::of(inputs[0].shape())?, &inputs[0])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let tall = Tall::of(pass.inputs[0].shape())?;
        Ok(gradient(gpu::gradient(gpu, tall, &pass.y, &pass.dy)?))
    }
}
