//! Weights divided by a bound of their largest singular value.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::lipschitz::certified::TopSingular;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{elements, in_double_precision};

/// A weight W (O, …), seen as a matrix of O rows → W/σ with σ the certified bound of ‖W‖₂ ([`TopSingular`]).
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
            let bound = TopSingular::new(rows, columns, &w).bound;
            // A weight of zeros stays one.
            let scale = if bound == 0.0 { 1.0 } else { 1.0 / bound };
            Ok(T::to_cpu_storage_owned(w.into_iter().map(|w| T::from_f64(w * scale)).collect()))
        })?;
        Ok((out, l.shape().clone()))
    }

    fn bwd(&self, w: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (rows, columns) = self.matrix(w.shape())?;
        let (weight, mut g) = (in_double_precision(w)?, in_double_precision(gradient)?);
        let TopSingular { bound, left, right } = TopSingular::new(rows, columns, &weight);
        if bound > 0.0 {
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
