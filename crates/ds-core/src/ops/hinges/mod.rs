//! Adaptive piecewise linear units: y = max(0, x) + Σ_s a_s·max(0, b_s − x), with S hinges a channel (Agostinelli et al.
//! 2015).

mod gpu;

use super::rectifier::per_plane;
use crate::backend::gpu::{Gpu, GpuInput};
use crate::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradients3};
use crate::backend::parallel::SharedSlice;
use crate::backend::planes::Planes;
use crate::backend::pointwise::{channel_sums, sum_of_pairs};
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape, bail};
use std::ops::Range;

/// x (N, C, …), slopes a (C, S), offsets b (C, S) → y like x.
#[derive(Debug, Clone, Copy)]
pub struct Hinges;

impl Hinges {
    /// The planes of x, and S.
    fn sizes(x: &Shape, a: &Shape, b: &Shape) -> Result<(Planes, usize)> {
        match a.dims() {
            &[channels, hinges] if a == b => Ok((Planes::new(x, channels, Self::NAME)?, hinges)),
            _ => bail!("{}: slopes {a:?} and offsets {b:?} must both be (C, S)", Self::NAME),
        }
    }
}

crate::vectorized! {
    /// ∂x of one plane, and Σ ∂y·max(0, b − x) and Σ ∂y·a·[b > x] of each hinge, one after the other, added to `sums`.
    fn gradient<T>(a: &[T], b: &[T], x: &[T], dy: &[T], dx: &mut [T], sums: &mut [T]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = if x > T::ZERO { dy } else { T::ZERO };
        }
        for ((&a, &b), sums) in a.iter().zip(b).zip(sums.as_chunks_mut::<2>().0) {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx -= if b > x { a * dy } else { T::ZERO };
            }
            sums[0] += sum_of_pairs(x, dy, |x, dy| if b > x { dy * (b - x) } else { T::ZERO });
            sums[1] += a * sum_of_pairs(x, dy, |x, dy| if b > x { dy } else { T::ZERO });
        }
    }
}

impl Op for Hinges {
    const NAME: &'static str = "hinges";
    const INPUTS: Range<usize> = 3..4;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Self::sizes(inputs[0], inputs[1], inputs[2])?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (planes, hinges) = Self::sizes(inputs[0].shape(), inputs[1].shape(), inputs[2].shape())?;
        let (x, a, b) = (inputs[0].elements::<T>()?, inputs[1].elements::<T>()?, inputs[2].elements::<T>()?);
        per_plane(planes, x, |c, x| {
            let mut y = if x > T::ZERO { x } else { T::ZERO };
            for s in c * hinges..(c + 1) * hinges {
                if b[s] > x {
                    y += a[s] * (b[s] - x);
                }
            }
            y
        })
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let [x, a, b] = [pass.inputs[0], pass.inputs[1], pass.inputs[2]];
        let (planes, hinges) = Self::sizes(x.shape(), a.shape(), b.shape())?;
        let (x, a, b) = (x.elements::<T>()?, a.elements::<T>()?, b.elements::<T>()?);
        let dy = pass.dy.elements::<T>()?;
        let mut dx = vec![T::ZERO; x.len()];
        let shared = SharedSlice::new(&mut dx);
        let sums = channel_sums(planes, 2 * hinges, |c, plane, sums: &mut [T]| {
            // SAFETY: every plane is visited once.
            let dx = unsafe { shared.part(plane.start, plane.len()) };
            let hinges = c * hinges..(c + 1) * hinges;
            gradient(&a[hinges.clone()], &b[hinges], &x[plane.clone()], &dy[plane], dx, sums);
        });
        let half = |k: usize| sums.iter().skip(k).step_by(2).copied().collect::<Vec<T>>();
        Ok(gradients3(dx, half(0), half(1)))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [x, a, b] = [&inputs[0], &inputs[1], &inputs[2]];
        let (planes, hinges) = Self::sizes(x.shape(), a.shape(), b.shape())?;
        let of_hinges = (a.of_type(DType::F32, Self::NAME)?, b.of_type(DType::F32, Self::NAME)?);
        gpu::hinges(gpu, planes, hinges, x.dtype, x.address, of_hinges)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let [x, a, b] = [&pass.inputs[0], &pass.inputs[1], &pass.inputs[2]];
        let (planes, hinges) = Self::sizes(x.shape(), a.shape(), b.shape())?;
        let of_hinges = (a.of_type(DType::F32, Self::NAME)?, b.of_type(DType::F32, Self::NAME)?);
        let dy = pass.dy.address;
        let (dx, da, db) = gpu::hinges_gradient(gpu, planes, hinges, x.dtype, x.address, of_hinges, dy)?;
        Ok(gradients3(dx, da, db))
    }
}
