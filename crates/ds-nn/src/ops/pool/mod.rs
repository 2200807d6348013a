//! Max and average pooling with any stride and padding.
//!
//! As in PyTorch: padding is at most half the kernel and never wins a maximum, the first of equal maxima takes the gradient, and
//! an average counts padding as zeros.

mod gpu;

use super::blocks::LANES;
use super::window::{Planes, Window};
use crate::backend::KERNELS;
use candle_core::{Result, Shape};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::backend::real::Real;
use gpu::Kind;
use std::ops::Range;

/// The largest value of each window.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool(pub Window);

/// The mean of each window, padding included.
#[derive(Debug, Clone, Copy)]
pub struct AveragePool(pub Window);

/// Calls `f(input plane, output plane)` or its counterpart for all planes, in parallel.
fn map_planes<T: Real>(
    p: &Planes,
    from: &[T],
    from_plane: usize,
    to_plane: usize,
    f: impl Fn(usize, &[T], &mut [T]) + Send + Sync,
) -> Result<Vec<T>> {
    let planes = p.images * p.channels;
    let fill = |to: &mut [T]| {
        let to = SharedSlice::new(to);
        // Some planes a piece, so that small ones are worth a task.
        let each = (16 * 1024 / (from_plane + to_plane).max(1)).max(1);
        for_each_piece(planes.div_ceil(each), planes * (from_plane + to_plane), |piece| {
            for plane in piece * each..planes.min((piece + 1) * each) {
                // SAFETY: every plane belongs to one piece only.
                let to = unsafe { to.part(plane * to_plane, to_plane) };
                f(plane, &from[plane * from_plane..(plane + 1) * from_plane], to);
            }
        });
        Ok(())
    };
    // SAFETY: all planes are visited, and `f` writes all of each before it reads any of it.
    unsafe { filled(planes * to_plane, fill) }
}

fn output_shape(p: &Planes) -> Shape {
    let mut dims = vec![p.images, p.channels, p.out_height, p.out_width];
    if p.lanes > 1 {
        dims.push(p.lanes);
    }
    Shape::from(dims)
}

/// Elements of an input plane and of an output plane.
fn plane_sizes(p: &Planes) -> (usize, usize) {
    (p.height * p.width * p.lanes, p.out_height * p.out_width * p.lanes)
}

/// The input pixels under the window of output pixel `o`, row by row.
#[inline(always)]
fn covered(window: Window, p: &Planes, o: usize) -> impl Iterator<Item = Range<usize>> {
    let (rows, columns) = (window.inside(o / p.out_width, p.height), window.inside(o % p.out_width, p.width));
    let width = p.width;
    rows.map(move |row| row * width + columns.start..row * width + columns.end)
}

/// A NaN is larger than all, as in PyTorch.
#[inline(always)]
fn maxima<T: Real, const L: usize>(window: Window, p: &Planes, x: &[T], y: &mut [T]) {
    let x = x.as_chunks::<L>().0;
    for (o, y) in y.as_chunks_mut::<L>().0.iter_mut().enumerate() {
        let mut largest = [T::from_f64(f64::NEG_INFINITY); L];
        for x in covered(window, p, o).flat_map(|row| &x[row]) {
            largest = std::array::from_fn(|lane| {
                let (x, y) = (x[lane], largest[lane]);
                if x > y || is_nan(x) { x } else { y }
            });
        }
        *y = largest;
    }
}

#[inline(always)]
fn maxima_gradient<T: Real, const L: usize>(window: Window, p: &Planes, x: &[T], y: &[T], dy: &[T], dx: &mut [T]) {
    dx.fill(T::ZERO);
    let (x, dx) = (x.as_chunks::<L>().0, dx.as_chunks_mut::<L>().0);
    for (o, (y, dy)) in y.as_chunks::<L>().0.iter().zip(dy.as_chunks().0).enumerate() {
        let mut left: [T; L] = *dy;
        for row in covered(window, p, o) {
            for (x, dx) in x[row.clone()].iter().zip(&mut dx[row]) {
                let won: [bool; L] = std::array::from_fn(|lane| x[lane] == y[lane] || is_nan(x[lane]));
                for lane in 0..L {
                    dx[lane] += if won[lane] { left[lane] } else { T::ZERO };
                    left[lane] = if won[lane] { T::ZERO } else { left[lane] };
                }
            }
        }
    }
}

#[inline(always)]
fn is_nan<T: Real>(x: T) -> bool {
    x.partial_cmp(&x).is_none()
}

#[inline(always)]
fn means<T: Real, const L: usize>(window: Window, p: &Planes, x: &[T], y: &mut [T]) {
    let (weight, x) = (weight::<T>(window), x.as_chunks::<L>().0);
    for (o, y) in y.as_chunks_mut::<L>().0.iter_mut().enumerate() {
        let mut sum = [T::ZERO; L];
        for x in covered(window, p, o).flat_map(|row| &x[row]) {
            for lane in 0..L {
                sum[lane] += x[lane];
            }
        }
        *y = sum.map(|sum| sum * weight);
    }
}

#[inline(always)]
fn means_gradient<T: Real, const L: usize>(window: Window, p: &Planes, dy: &[T], dx: &mut [T]) {
    dx.fill(T::ZERO);
    let (weight, dx) = (weight::<T>(window), dx.as_chunks_mut::<L>().0);
    for (o, dy) in dy.as_chunks::<L>().0.iter().enumerate() {
        let dy = dy.map(|dy| dy * weight);
        for pixel in covered(window, p, o).flatten() {
            for lane in 0..L {
                dx[pixel][lane] += dy[lane];
            }
        }
    }
}

/// What each pixel of a window has in its mean.
fn weight<T: Real>(window: Window) -> T {
    T::from_f64(1.0 / (window.kernel * window.kernel) as f64)
}

// A plane at a time, so that the loop over a window's pixels is compiled for the machine's vectors with all around it.
macro_rules! planewise {
    ($name:ident, $body:ident, ($($argument:ident),*)) => {
        ds_core::vectorized! {
            fn $name<T>(window: Window, p: &Planes, $($argument: &[T],)* to: &mut [T]) {
                match p.lanes {
                    LANES => $body::<T, LANES>(window, p, $($argument,)* to),
                    _ => $body::<T, 1>(window, p, $($argument,)* to),
                }
            }
        }
    };
}
planewise!(max_plane, maxima, (x));
planewise!(max_plane_gradient, maxima_gradient, (x, y, dy));
planewise!(mean_plane, means, (x));
planewise!(mean_plane_gradient, means_gradient, (dy));

impl Op for MaxPool {
    const NAME: &'static str = "max-pool";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(output_shape(&self.0.planes_of_pool(inputs[0], Self::NAME)?))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let p = self.0.planes_of_pool(inputs[0].shape(), Self::NAME)?;
        let (from, to) = plane_sizes(&p);
        map_planes(&p, inputs[0].elements::<T>()?, from, to, |_, x, y| max_plane(self.0, &p, x, y))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let p = self.0.planes_of_pool(pass.inputs[0].shape(), Self::NAME)?;
        let (from, to) = plane_sizes(&p);
        let (x, y, dy) = (pass.inputs[0].elements::<T>()?, pass.y.elements::<T>()?, pass.dy.elements::<T>()?);
        let dx = map_planes(&p, x, from, from, |plane, x, dx| {
            let of_plane = plane * to..(plane + 1) * to;
            max_plane_gradient(self.0, &p, x, &y[of_plane.clone()], &dy[of_plane], dx);
        })?;
        Ok(gradient(dx))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        gpu::pool(gpu, Kind::Max, self.0, &inputs[0])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let (x, y) = (&pass.inputs[0], pass.y.address);
        let dx = gpu::pool_gradient(gpu, Kind::Max, self.0, x.shape(), (x.address, y), &pass.dy)?;
        Ok(gradient(dx))
    }
}

impl Op for AveragePool {
    const NAME: &'static str = "average-pool";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(output_shape(&self.0.planes_of_pool(inputs[0], Self::NAME)?))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let p = self.0.planes_of_pool(inputs[0].shape(), Self::NAME)?;
        let (from, to) = plane_sizes(&p);
        map_planes(&p, inputs[0].elements::<T>()?, from, to, |_, x, y| mean_plane(self.0, &p, x, y))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let p = self.0.planes_of_pool(pass.inputs[0].shape(), Self::NAME)?;
        let (from, to) = plane_sizes(&p);
        let dy = pass.dy.elements::<T>()?;
        Ok(gradient(map_planes(&p, dy, to, from, |_, dy, dx| mean_plane_gradient(self.0, &p, dy, dx))?))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        gpu::pool(gpu, Kind::Mean, self.0, &inputs[0])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let (x, none) = (&pass.inputs[0], Address::NONE);
        Ok(gradient(gpu::pool_gradient(gpu, Kind::Mean, self.0, x.shape(), (none, none), &pass.dy)?))
    }
}
