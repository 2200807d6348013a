//! Multiplication with a constant.

mod gpu;

use crate::backend::KERNELS;
use candle_core::{Result, Shape};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::real::Real;
use std::ops::Range;

/// x → factor·x.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The factor.
    pub factor: f64,
}

impl Scale {
    fn scaled<T: Real>(&self, x: &[T]) -> Vec<T> {
        let factor = T::from_f64(self.factor);
        x.iter().map(|&x| factor * x).collect()
    }
}

impl Op for Scale {
    const NAME: &'static str = "scale";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        Ok(self.scaled(inputs[0].elements::<T>()?))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        Ok(gradient(self.scaled(pass.dy.elements::<T>()?)))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let x = &inputs[0];
        gpu::scale(gpu, self.factor, x.dtype, x.address, x.shape().elem_count())
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let dy = &pass.dy;
        Ok(gradient(gpu::scale(gpu, self.factor, dy.dtype, dy.address, dy.shape().elem_count())?))
    }
}
