//! Activations of pairs of channels that keep the ℓ2 norm of gradients: MaxMin and Householder.
//!
//! Channels 2k and 2k+1 are a pair. Both functions are continuous and 1-Lipschitz in ℓ2, and their Jacobian is orthogonal
//! wherever it exists.

mod gpu;

use crate::backend::gpu::{Gpu, GpuInput};
use crate::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient, gradients2};
use crate::backend::parallel::{SharedSlice, filled, for_each_piece};
use crate::backend::planes::Planes;
use crate::backend::pointwise::channel_sums;
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape, bail};
use std::ops::Range;

/// x (N, C, …) → (max, min) of every pair: GroupSort with groups of two (Anil, Lucas, Grosse 2019).
///
/// Where both are equal, the order stays.
#[derive(Debug, Clone, Copy)]
pub struct MaxMin;

/// x (N, C, …), θ (C/2) → every pair z as it is where z₁·sin(θ/2) − z₂·cos(θ/2) > 0, elsewhere reflected on the line at angle
/// θ/2: ((cos θ, sin θ), (sin θ, −cos θ))·z (Singla, Singla, Feizi 2021, section 4). θ = π/2 is [`MaxMin`].
#[derive(Debug, Clone, Copy)]
pub struct Householder;

/// (N, C, …) as N·C/2 planes that hold both channels of a pair, one after the other.
fn pairs(x: &Shape, op: &'static str) -> Result<Planes> {
    match x.dims().get(1) {
        Some(&channels) if channels.is_multiple_of(2) => {
            let planes = Planes::new(x, channels, op)?;
            Ok(Planes { channels: channels / 2, inner: 2 * planes.inner, ..planes })
        }
        _ => bail!("{op}: input of shape {:?} must be (N, C, …) with an even number C of channels", x.dims()),
    }
}

/// Calls `f(pair, range of its plane, output of the plane)` for all planes.
fn per_pair<T: Real>(
    planes: Planes,
    f: impl Fn(usize, std::ops::Range<usize>, &mut [T]) + Send + Sync,
) -> Result<Vec<T>> {
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(blocks * planes.channels, planes.elements(), |piece| {
            let (block, pair) = (piece / planes.channels, piece % planes.channels);
            for n in block * rows..planes.outer.min((block + 1) * rows) {
                let start = planes.offset(n, pair);
                // SAFETY: every plane belongs to one piece only.
                f(pair, start..start + planes.inner, unsafe { y.part(start, planes.inner) });
            }
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, and `f` writes its plane.
    unsafe { filled(planes.elements(), fill) }
}

crate::vectorized! {
    fn max_min<T>(x: &[T], y: &mut [T]) {
        let ((first, second), half) = (x.split_at(x.len() / 2), y.len() / 2);
        let (largest, smallest) = y.split_at_mut(half);
        for (((&a, &b), largest), smallest) in first.iter().zip(second).zip(largest).zip(smallest) {
            // Not `larger` and `smaller`, which would hide a NaN.
            let swap = b > a;
            *largest = if swap { b } else { a };
            *smallest = if swap { a } else { b };
        }
    }
}

crate::vectorized! {
    fn max_min_gradient<T>(x: &[T], dy: &[T], dx: &mut [T]) {
        let half = x.len() / 2;
        let ((first, second), (of_largest, of_smallest)) = (x.split_at(half), dy.split_at(half));
        let (of_first, of_second) = dx.split_at_mut(half);
        let gradients = of_largest.iter().zip(of_smallest).zip(of_first.iter_mut().zip(of_second));
        for ((&a, &b), ((&dl, &ds), (da, db))) in first.iter().zip(second).zip(gradients) {
            let swap = b > a;
            *da = if swap { ds } else { dl };
            *db = if swap { dl } else { ds };
        }
    }
}

impl Op for MaxMin {
    const NAME: &'static str = "max-min";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        pairs(inputs[0], Self::NAME)?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (planes, x) = (pairs(inputs[0].shape(), Self::NAME)?, inputs[0].elements::<T>()?);
        per_pair(planes, |_, plane, y: &mut [T]| max_min(&x[plane], y))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let planes = pairs(pass.inputs[0].shape(), Self::NAME)?;
        let (x, dy) = (pass.inputs[0].elements::<T>()?, pass.dy.elements::<T>()?);
        let of_plane = |_, plane: Range<usize>, dx: &mut [T]| max_min_gradient(&x[plane.clone()], &dy[plane], dx);
        Ok(gradient(per_pair(planes, of_plane)?))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let (x, planes) = (&inputs[0], pairs(inputs[0].shape(), Self::NAME)?);
        gpu::max_min(gpu, "max_min", planes, x.dtype, &[x.address])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let (x, planes) = (&pass.inputs[0], pairs(pass.inputs[0].shape(), Self::NAME)?);
        Ok(gradient(gpu::max_min(gpu, "max_min_gradient", planes, x.dtype, &[x.address, pass.dy.address])?))
    }
}

/// What one angle gives: the normal of the line, and cos θ and sin θ.
#[derive(Debug, Clone, Copy)]
struct Reflection<T> {
    normal: (T, T),
    cosine: T,
    sine: T,
}

fn reflections<T: Real>(angles: &[T]) -> Vec<Reflection<T>> {
    let of = |angle: &T| {
        let angle = angle.to_f64();
        let ((s, c), (sine, cosine)) = ((0.5 * angle).sin_cos(), angle.sin_cos());
        Reflection { normal: (T::from_f64(s), T::from_f64(-c)), cosine: T::from_f64(cosine), sine: T::from_f64(sine) }
    };
    angles.iter().map(of).collect()
}

impl<T: Real> Reflection<T> {
    #[inline(always)]
    fn keeps(self, a: T, b: T) -> bool {
        a * self.normal.0 + b * self.normal.1 > T::ZERO
    }

    #[inline(always)]
    fn image(self, a: T, b: T) -> (T, T) {
        (self.cosine * a + self.sine * b, self.sine * a - self.cosine * b)
    }
}

crate::vectorized! {
    fn reflect<T>(r: Reflection<T>, x: &[T], y: &mut [T]) {
        let ((first, second), half) = (x.split_at(x.len() / 2), y.len() / 2);
        let (y1, y2) = y.split_at_mut(half);
        for (((&a, &b), y1), y2) in first.iter().zip(second).zip(y1).zip(y2) {
            let (kept, image) = (r.keeps(a, b), r.image(a, b));
            *y1 = if kept { a } else { image.0 };
            *y2 = if kept { b } else { image.1 };
        }
    }
}

crate::vectorized! {
    /// ∂x of one plane; returns ∂θ.
    fn reflect_gradient<T>(r: Reflection<T>, x: &[T], dy: &[T], dx: &mut [T]) -> T {
        let half = x.len() / 2;
        let ((first, second), (d1, d2)) = (x.split_at(half), dy.split_at(half));
        let (da, db) = dx.split_at_mut(half);
        for (((&a, &b), (&d1, &d2)), (da, db)) in first.iter().zip(second).zip(d1.iter().zip(d2)).zip(da.iter_mut().zip(db)) {
            // A reflection is its own transpose.
            let (kept, image) = (r.keeps(a, b), r.image(d1, d2));
            *da = if kept { d1 } else { image.0 };
            *db = if kept { d2 } else { image.1 };
        }
        // The derivative of the image by θ is the image of the quarter turn: (−sin, cos; cos, sin)·z.
        let mut sum = T::ZERO;
        for ((&a, &b), (&d1, &d2)) in first.iter().zip(second).zip(d1.iter().zip(d2)) {
            let along = d1 * (r.cosine * b - r.sine * a) + d2 * (r.cosine * a + r.sine * b);
            sum += if r.keeps(a, b) { T::ZERO } else { along };
        }
        sum
    }
}

impl Op for Householder {
    const NAME: &'static str = "householder";
    const INPUTS: Range<usize> = 2..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        self.planes(inputs[0], inputs[1])?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let planes = self.planes(inputs[0].shape(), inputs[1].shape())?;
        let (x, reflections) = (inputs[0].elements::<T>()?, reflections(inputs[1].elements::<T>()?));
        per_pair(planes, |pair, plane, y: &mut [T]| reflect(reflections[pair], &x[plane], y))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let [x, angles] = [pass.inputs[0], pass.inputs[1]];
        let planes = self.planes(x.shape(), angles.shape())?;
        let (x, dy, reflections) = (x.elements::<T>()?, pass.dy.elements::<T>()?, reflections(angles.elements::<T>()?));
        let mut dx = vec![T::ZERO; x.len()];
        let shared = SharedSlice::new(&mut dx);
        let da = channel_sums(planes, 1, |pair, plane, sum: &mut [T]| {
            // SAFETY: every plane is visited once.
            let dx = unsafe { shared.part(plane.start, plane.len()) };
            sum[0] += reflect_gradient(reflections[pair], &x[plane.clone()], &dy[plane], dx);
        });
        Ok(gradients2(dx, da))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [x, angles] = [&inputs[0], &inputs[1]];
        let planes = self.planes(x.shape(), angles.shape())?;
        gpu::householder(gpu, planes, x.dtype, x.address, angles.of_type(DType::F32, Self::NAME)?)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let [x, angles] = [&pass.inputs[0], &pass.inputs[1]];
        let (planes, dy) = (self.planes(x.shape(), angles.shape())?, pass.dy.address);
        let angles = angles.of_type(DType::F32, Self::NAME)?;
        let (dx, da) = gpu::householder_gradient(gpu, planes, x.dtype, x.address, angles, dy)?;
        Ok(gradients2(dx, da))
    }
}

impl Householder {
    fn planes(&self, x: &Shape, angles: &Shape) -> Result<Planes> {
        let planes = pairs(x, Self::NAME)?;
        if angles.dims() != [planes.channels] {
            let pairs = planes.channels;
            bail!("{}: {pairs} pairs of channels need angles ({pairs}), got {angles:?}", Self::NAME);
        }
        Ok(planes)
    }
}
