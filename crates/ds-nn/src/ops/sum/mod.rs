//! The sum of a residual branch and its shortcut.

mod gpu;

use crate::backend::KERNELS;
use candle_core::{Result, Shape, bail};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradient, Gradients, Op, dyn_op};
use ds_core::backend::parallel::in_pieces;
use ds_core::backend::real::Real;
use std::ops::Range;

/// a + b, of the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Sum;

ds_core::vectorized! {
    fn add<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

impl Op for Sum {
    const NAME: &'static str = "sum";
    const INPUTS: Range<usize> = 2..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        if inputs[0] != inputs[1] {
            bail!("{}: shapes {:?} and {:?} differ", Self::NAME, inputs[0], inputs[1]);
        }
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (a, b) = (inputs[0].elements::<T>()?, inputs[1].elements::<T>()?);
        // SAFETY: an element is written for each of a and b, which have the same shape, and none is read.
        unsafe { in_pieces(a.len(), |range, y: &mut [T]| add(&a[range.clone()], &b[range], y)) }
    }

    fn cpu_backward<T: Real>(&self, _pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        Ok([Gradient::Output, Gradient::Output, Gradient::None])
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [a, b] = [&inputs[0], &inputs[1]];
        gpu::add(gpu, a.dtype, a.address, b.of_type(a.dtype, Self::NAME)?, a.shape().elem_count())
    }

    fn gpu_backward<G: Gpu>(&self, _gpu: &G, _pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        Ok([Gradient::Output, Gradient::Output, Gradient::None])
    }
}
