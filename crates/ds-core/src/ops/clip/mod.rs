//! Parameters that are kept in [−1, 1] by clipping where they are used.

use crate::backend::gpu::{Gpu, GpuInput, pointwise};
use crate::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape};
use std::ops::Range;

/// a → min(max(a, −1), 1). What is clipped takes no gradient.
#[derive(Debug, Clone, Copy)]
pub struct UnitClip;

impl Op for UnitClip {
    const NAME: &'static str = "unit-clip";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let a = inputs[0].elements::<T>()?.iter();
        Ok(a.map(|a| T::from_f64(a.to_f64().clamp(-1.0, 1.0))).collect())
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (a, g) = (pass.inputs[0].elements::<T>()?, pass.dy.elements::<T>()?);
        let free = |a: T| (-T::ONE..=T::ONE).contains(&a);
        Ok(gradient(a.iter().zip(g).map(|(&a, &g)| if free(a) { g } else { T::ZERO }).collect()))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let (a, n) = (inputs[0].of_type(DType::F32, Self::NAME)?, inputs[0].shape().elem_count());
        // SAFETY: the kernel's arguments.
        unsafe { pointwise(gpu, "unit_clip", DType::F32, n, &[a], &[]) }
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let of = |input: &GpuInput<'_, G>| input.of_type(DType::F32, Self::NAME);
        let (arrays, n) = ([of(&pass.inputs[0])?, of(&pass.dy)?], pass.dy.shape().elem_count());
        // SAFETY: the kernel's arguments.
        Ok(gradient(unsafe { pointwise(gpu, "unit_clip_gradient", DType::F32, n, &arrays, &[])? }))
    }
}
