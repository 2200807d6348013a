//! Arguments of splines, scaled by channel and shifted: z = α_c·x + s.

use super::rectifier::per_plane;
use crate::backend::gpu::{Gpu, GpuInput, OfChannels, pointwise};
use crate::backend::op::{Backward, CpuInput, Gradient, Gradients, Op, dyn_op, gradients2};
use crate::backend::parallel::SharedSlice;
use crate::backend::planes::Planes;
use crate::backend::pointwise::{channel_sums, sum_of_pairs};
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape};
use std::ops::Range;

/// x (N, C, …), ln α (C) → α_c·x + s; as the op of one argument x + s.
///
/// The scale is given by its logarithm: then it is positive whatever an optimiser does, a step changes it by a factor, and
/// no value of it is without a gradient, as the edge of a clamp would be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelAffine {
    /// s.
    pub shift: f64,
}

/// α in the type that the op multiplies in.
fn scales<T: Real>(log_alpha: &[T]) -> Vec<T> {
    log_alpha.iter().map(|log_alpha| T::from_f64(log_alpha.to_f64().exp())).collect()
}

crate::vectorized! {
    /// ∂x of one plane; returns Σ ∂y·x.
    fn gradient<T>(scale: T, x: &[T], dy: &[T], dx: &mut [T]) -> T {
        for (dx, &dy) in dx.iter_mut().zip(dy) {
            *dx = scale * dy;
        }
        sum_of_pairs(x, dy, |x, dy| x * dy)
    }
}

impl ChannelAffine {
    /// The kernels of α_c·x + s.
    fn on_gpu<G: Gpu>(x: &GpuInput<'_, G>, log_alpha: &GpuInput<'_, G>) -> Result<OfChannels<'static>> {
        let planes = Planes::new(x.shape(), log_alpha.shape().elem_count(), Self::NAME)?;
        let (elements, parameters) = (planes.elements(), log_alpha.of_type(DType::F32, Self::NAME)?);
        Ok(OfChannels { kernel: "channel_affine", planes, elements, dtype: x.dtype, x: x.address, parameters })
    }
}

impl Op for ChannelAffine {
    const NAME: &'static str = "channel-affine";
    const INPUTS: Range<usize> = 1..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let channels = match inputs {
            [x] => x.dims().get(1).copied().unwrap_or_default(),
            [_, a, ..] => a.elem_count(),
            [] => 0,
        };
        Planes::new(inputs[0], channels, Self::NAME)?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (x, shift) = (inputs[0].elements::<T>()?, T::from_f64(self.shift));
        let Some(a) = inputs.get(1) else { return Ok(x.iter().map(|&x| x + shift).collect()) };
        let planes = Planes::new(inputs[0].shape(), a.shape().elem_count(), Self::NAME)?;
        let scales = scales(a.elements::<T>()?);
        per_plane(planes, x, |channel, x| scales[channel] * x + shift)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let &[x, a] = pass.inputs else { return Ok([Gradient::Output, Gradient::None, Gradient::None]) };
        let planes = Planes::new(x.shape(), a.shape().elem_count(), Self::NAME)?;
        let (x, scales, dy) = (x.elements::<T>()?, scales(a.elements::<T>()?), pass.dy.elements::<T>()?);
        let mut dx = vec![T::ZERO; x.len()];
        let shared = SharedSlice::new(&mut dx);
        let mut da = channel_sums(planes, 1, |c, plane, sum: &mut [T]| {
            // SAFETY: every plane is visited once.
            let dx = unsafe { shared.part(plane.start, plane.len()) };
            sum[0] += gradient(scales[c], &x[plane.clone()], &dy[plane], dx);
        });
        da.iter_mut().zip(&scales).for_each(|(da, &scale)| *da *= scale);
        Ok(gradients2(dx, da))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let (x, shift) = (&inputs[0], (self.shift as f32).into());
        match inputs.get(1) {
            // SAFETY: the kernel's arguments.
            None => unsafe { pointwise(gpu, "shift", x.dtype, x.shape().elem_count(), &[x.address], &[shift]) },
            // SAFETY: the kernel's arguments.
            Some(log_alpha) => unsafe { Self::on_gpu(x, log_alpha)?.forward(gpu, &[shift]) },
        }
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let [x, log_alpha] = pass.inputs else { return Ok([Gradient::Output, Gradient::None, Gradient::None]) };
        // SAFETY: the kernel's arguments.
        let (dx, da) = unsafe { Self::on_gpu(x, log_alpha)?.backward(gpu, pass.dy.address)? };
        Ok(gradients2(dx, da))
    }
}
