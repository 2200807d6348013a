//! Weights divided by a bound of their largest singular value.

mod gpu;

use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, bail};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::real::{Real, to_f64};
use ds_core::lipschitz::certified::TopSingular;
use std::ops::Range;

/// A weight W (O, …), seen as a matrix of O rows → W/σ with σ the certified bound of ‖W‖₂ ([`TopSingular`]).
///
/// W/σ and not W/max(1, σ): the layer then keeps the norm of some direction whatever the size of W. The gradient takes ∂σ
/// from the top singular pair, σ = uᵀWv.
#[derive(Debug, Clone, Copy)]
pub struct SpectralNormalization;

/// (rows, columns) of a weight as a matrix.
fn matrix(weight: &Shape) -> Result<(usize, usize)> {
    match weight.dims() {
        [outputs, rest @ ..] if !rest.is_empty() && weight.elem_count() > 0 => Ok((*outputs, rest.iter().product())),
        _ => bail!("{}: a weight must be (outputs, …) and not empty, got {weight:?}", SpectralNormalization::NAME),
    }
}

impl Op for SpectralNormalization {
    const NAME: &'static str = gpu::NAME;
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        matrix(inputs[0])?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (rows, columns) = matrix(inputs[0].shape())?;
        let w = to_f64(inputs[0].elements::<T>()?);
        let bound = TopSingular::new(rows, columns, &w).bound;
        // A weight of zeros stays one.
        let scale = if bound == 0.0 { 1.0 } else { 1.0 / bound };
        Ok(w.into_iter().map(|w| T::from_f64(w * scale)).collect())
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (rows, columns) = matrix(pass.inputs[0].shape())?;
        let (weight, mut g) = (to_f64(pass.inputs[0].elements::<T>()?), to_f64(pass.dy.elements::<T>()?));
        let TopSingular { bound, left, right } = TopSingular::new(rows, columns, &weight);
        if bound > 0.0 {
            let along = weight.iter().zip(&g).map(|(w, g)| w * g).sum::<f64>() / (bound * bound);
            for (g, left) in g.chunks_exact_mut(columns).zip(&left) {
                for (g, right) in g.iter_mut().zip(&right) {
                    *g = *g / bound - along * left * right;
                }
            }
        }
        Ok(gradient(g.into_iter().map(T::from_f64).collect()))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        inputs[0].of_type(DType::F32, Self::NAME)?;
        gpu::normalised(gpu, matrix(inputs[0].shape())?, &inputs[0])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let weight = &pass.inputs[0];
        Ok(gradient(gpu::gradient(gpu, matrix(weight.shape())?, weight, &pass.dy)?))
    }
}
