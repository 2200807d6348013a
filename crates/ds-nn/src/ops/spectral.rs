//! Weights divided by a bound of their largest singular value.

use super::product::shared_product;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{elements, in_double_precision};

/// Squarings of the Gram matrix: of singular values that differ by 1e-6 of themselves only the larger is left.
const SQUARINGS: usize = 25;

/// What Gram iteration finds of a matrix.
struct Spectrum {
    /// An upper bound of the largest singular value.
    bound: f64,
    /// The power of the smaller Gram matrix that is left, of Frobenius norm 1: nearly v·vᵀ for the top singular vector v of
    /// that side.
    power: Vec<f64>,
}

/// Gram iteration (Delattre et al. 2023): the Frobenius norm of G^(2^t), G the smaller of WᵀW and WWᵀ, is at least
/// ‖W‖₂^(2^(t+1)) and, as t grows, not much more.
fn spectrum(rows: usize, columns: usize, w: &[f64]) -> Spectrum {
    let n = rows.min(columns);
    let mut power = if columns <= rows {
        shared_product((n, n, rows), (w, 1, columns), (w, columns, 1))
    } else {
        shared_product((n, n, columns), (w, columns, 1), (w, 1, columns))
    };
    // ln of the bound of ‖W‖₂, and the exponent that the next norm counts with.
    let (mut log_bound, mut exponent) = (0.0, 0.5);
    for _ in 0..SQUARINGS {
        let norm = power.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm == 0.0 || !norm.is_finite() {
            return Spectrum { bound: norm, power };
        }
        power.iter_mut().for_each(|v| *v /= norm);
        log_bound += exponent * norm.ln();
        // A matrix of rank one is its own square: the norms that follow are 1.
        if exponent < 0.5 && norm > 1.0 - 1e-13 {
            break;
        }
        power = shared_product((n, n, n), (&power, n, 1), (&power, n, 1));
        exponent *= 0.5;
    }
    // Products of matrices of Frobenius norm f are off by rows·ε·f², and f is at most √n times the spectral norm; the
    // squarings add up to no more than the first product.
    let margin = 2.0 * n as f64 * (rows.max(columns) + n + 8) as f64 * f64::EPSILON;
    Spectrum { bound: log_bound.exp() * (1.0 + margin), power }
}

/// A certified upper bound of the largest singular value of a row-major matrix, above it by rounding and, where its largest
/// singular values are many and equal, by n^(1/2^26) at most.
pub fn spectral_norm_bound(rows: usize, columns: usize, w: &[f64]) -> f64 {
    spectrum(rows, columns, w).bound
}

/// A weight W (O, …), seen as a matrix of O rows → W/σ with σ the [`spectral_norm_bound`] of W.
///
/// W/σ and not W/max(1, σ): the layer then keeps the norm of some direction whatever the size of W. The gradient takes ∂σ
/// from the top singular pair, σ = uᵀWv.
#[derive(Debug, Clone, Copy)]
pub struct SpectralNormalization;

impl SpectralNormalization {
    fn matrix(&self, weight: &Shape) -> Result<(usize, usize)> {
        match weight.dims() {
            [outputs, rest @ ..] if !rest.is_empty() && weight.elem_count() > 0 => {
                Ok((*outputs, rest.iter().product()))
            }
            _ => bail!("{}: a weight must be (outputs, …) and not empty, got {weight:?}", self.name()),
        }
    }
}

impl CustomOp1 for SpectralNormalization {
    fn name(&self) -> &'static str {
        "spectral-normalization"
    }

    fn cpu_fwd(&self, w: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = self.matrix(l.shape())?;
        let out = dispatch_real!(real_dtype(w, self.name())?, self.name(), T => {
            let w: Vec<f64> = elements::<T>(w, l)?.iter().map(|w| w.to_f64()).collect();
            let bound = spectral_norm_bound(rows, columns, &w);
            // A weight of zeros stays one.
            let scale = if bound == 0.0 { 1.0 } else { 1.0 / bound };
            Ok(T::to_cpu_storage_owned(w.into_iter().map(|w| T::from_f64(w * scale)).collect()))
        })?;
        Ok((out, l.shape().clone()))
    }

    fn bwd(&self, w: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (rows, columns) = self.matrix(w.shape())?;
        let (weight, mut g) = (in_double_precision(w)?, in_double_precision(gradient)?);
        let Spectrum { bound, power } = spectrum(rows, columns, &weight);
        if bound > 0.0 {
            let (left, right) = top_pair(rows, columns, &weight, &power);
            let along = weight.iter().zip(&g).map(|(w, g)| w * g).sum::<f64>() / (bound * bound);
            for (g, left) in g.chunks_exact_mut(columns).zip(&left) {
                for (g, right) in g.iter_mut().zip(&right) {
                    *g = *g / bound - along * left * right;
                }
            }
        }
        dispatch_real!(w.dtype(), self.name(), T => {
            Ok(Some(tensor_of(g.into_iter().map(T::from_f64).collect::<Vec<T>>(), w.shape())))
        })
    }
}

/// The top singular vectors (u, v), from the power of the smaller Gram matrix.
fn top_pair(rows: usize, columns: usize, w: &[f64], power: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = rows.min(columns);
    // All columns of v·vᵀ are multiples of v; the one with the largest diagonal is the longest.
    let longest = (0..n).max_by(|&a, &b| power[a * n + a].total_cmp(&power[b * n + b])).unwrap_or(0);
    let near = normalised(power[longest * n..(longest + 1) * n].to_vec());
    let other = if columns <= rows {
        w.chunks_exact(columns).map(|row| row.iter().zip(&near).map(|(w, v)| w * v).sum()).collect()
    } else {
        let mut other = vec![0.0; columns];
        for (row, u) in w.chunks_exact(columns).zip(&near) {
            other.iter_mut().zip(row).for_each(|(other, w)| *other += u * w);
        }
        other
    };
    let other = normalised(other);
    if columns <= rows { (other, near) } else { (near, other) }
}

fn normalised(mut v: Vec<f64>) -> Vec<f64> {
    let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|v| *v /= norm);
    }
    v
}
