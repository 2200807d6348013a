//! Rectifiers: ReLU and LeakyReLU (one fixed slope) and PReLU (a learned slope per channel, He et al. 2015).
//!
//! The gradient at 0 is that of the negative side, as in PyTorch; Candle's own ReLU has 1 there.

mod gpu;

use crate::backend::gpu::{Gpu, GpuInput};
use crate::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient, gradients2};
use crate::backend::parallel::{SharedSlice, filled, for_each_piece, in_pieces};
use crate::backend::planes::Planes;
use crate::backend::pointwise::{channel_sums, rectified, rectified_gradient, sum_of_pairs};
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape};
use std::ops::Range;

/// y = x where x > 0, `slope`·x elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Rectifier {
    /// The slope of the negative side: 0 for ReLU.
    pub slope: f64,
}

crate::vectorized! {
    fn rectify<T>(slope: T, x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = rectified(slope, x);
        }
    }
}

crate::vectorized! {
    fn rectify_gradient<T>(slope: T, x: &[T], dy: &[T], dx: &mut [T]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = rectified_gradient(slope, x, dy);
        }
    }
}

crate::vectorized! {
    /// Σ ∂y·min(x, 0).
    fn slope_gradient<T>(x: &[T], dy: &[T]) -> T {
        sum_of_pairs(x, dy, |x, dy| if x > T::ZERO { T::ZERO } else { dy * x })
    }
}

impl Op for Rectifier {
    const NAME: &'static str = "rectifier";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (x, slope) = (inputs[0].elements::<T>()?, T::from_f64(self.slope));
        // SAFETY: an element is written for each of x, and none is read.
        unsafe { in_pieces(x.len(), |range, y: &mut [T]| rectify(slope, &x[range], y)) }
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (x, dy, slope) = (pass.inputs[0].elements::<T>()?, pass.dy.elements::<T>()?, T::from_f64(self.slope));
        let of_piece = |range: Range<usize>, dx: &mut [T]| rectify_gradient(slope, &x[range.clone()], &dy[range], dx);
        // SAFETY: an element is written for each of x and dy, which have the same shape, and none is read.
        Ok(gradient(unsafe { in_pieces(x.len(), of_piece)? }))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let x = &inputs[0];
        gpu::rectifier(gpu, self.slope, x.dtype, x.address, x.shape().elem_count())
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let (x, dy) = (&pass.inputs[0], &pass.dy);
        let n = x.shape().elem_count();
        Ok(gradient(gpu::rectifier_gradient(gpu, self.slope, x.dtype, x.address, dy.address, n)?))
    }
}

/// y = x where x > 0, `slope_c`·x elsewhere: x (N, C, …), slopes (C).
#[derive(Debug, Clone, Copy)]
pub struct ChannelRectifier;

impl ChannelRectifier {
    fn planes(x: &Shape, slopes: &Shape) -> Result<Planes> {
        Planes::new(x, slopes.elem_count(), Self::NAME)
    }
}

impl Op for ChannelRectifier {
    const NAME: &'static str = "channel-rectifier";
    const INPUTS: Range<usize> = 2..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Self::planes(inputs[0], inputs[1])?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let planes = Self::planes(inputs[0].shape(), inputs[1].shape())?;
        let (x, slopes) = (inputs[0].elements::<T>()?, inputs[1].elements::<T>()?);
        per_plane(planes, x, |c, x| rectified(slopes[c], x))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let [x, s] = [pass.inputs[0], pass.inputs[1]];
        let planes = Self::planes(x.shape(), s.shape())?;
        let (x, s, dy) = (x.elements::<T>()?, s.elements::<T>()?, pass.dy.elements::<T>()?);
        let mut dx = vec![T::ZERO; x.len()];
        let shared = SharedSlice::new(&mut dx);
        let ds = channel_sums(planes, 1, |c, plane, sum: &mut [T]| {
            // SAFETY: every plane is visited once.
            let dx = unsafe { shared.part(plane.start, plane.len()) };
            let (x, dy) = (&x[plane.clone()], &dy[plane]);
            rectify_gradient(s[c], x, dy, dx);
            sum[0] += slope_gradient(x, dy);
        });
        Ok(gradients2(dx, ds))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [x, slopes] = [&inputs[0], &inputs[1]];
        let planes = Self::planes(x.shape(), slopes.shape())?;
        gpu::channel_rectifier(gpu, planes, x.dtype, x.address, slopes.of_type(DType::F32, Self::NAME)?)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let [x, slopes] = [&pass.inputs[0], &pass.inputs[1]];
        let (planes, dy) = (Self::planes(x.shape(), slopes.shape())?, pass.dy.address);
        let slopes = slopes.of_type(DType::F32, Self::NAME)?;
        let (dx, ds) = gpu::channel_rectifier_gradient(gpu, planes, x.dtype, x.address, slopes, dy)?;
        Ok(gradients2(dx, ds))
    }
}

/// y = f(channel, x) for every element.
pub(super) fn per_plane<T: Real>(planes: Planes, x: &[T], f: impl Fn(usize, T) -> T + Send + Sync) -> Result<Vec<T>> {
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(blocks * planes.channels, x.len(), |piece| {
            let (block, channel) = (piece / planes.channels, piece % planes.channels);
            for n in block * rows..planes.outer.min((block + 1) * rows) {
                let start = planes.offset(n, channel);
                // SAFETY: every plane belongs to one piece only.
                let y = unsafe { y.part(start, planes.inner) };
                for (y, &x) in y.iter_mut().zip(&x[start..start + planes.inner]) {
                    *y = f(channel, x);
                }
            }
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, which are written only.
    unsafe { filled(x.len(), fill) }
}
