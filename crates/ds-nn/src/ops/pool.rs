//! Max and average pooling with any stride and padding.
//!
//! As in PyTorch: padding never wins a maximum, the first of equal maxima takes the gradient, and an average counts padding
//! as zeros.

use super::window::{Planes, Window};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::ops::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};

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
    Shape::from((p.images, p.channels, p.out_height, p.out_width))
}

impl MaxPool {
    fn planes(&self, shape: &Shape) -> Result<Planes> {
        let p = self.0.planes(shape, "max-pool")?;
        if 2 * self.0.padding > self.0.kernel {
            bail!("max-pool: padding {} is more than half the kernel {}", self.0.padding, self.0.kernel);
        }
        Ok(p)
    }

    /// The position of the maximum of the window of output (oy, ox).
    fn position<T: Real>(&self, p: &Planes, x: &[T], oy: usize, ox: usize) -> usize {
        let (rows, columns) = (self.0.inside(oy, p.height), self.0.inside(ox, p.width));
        let mut best = rows.start * p.width + columns.start;
        for row in rows {
            for at in row * p.width + columns.start..row * p.width + columns.end {
                if x[at] > x[best] {
                    best = at;
                }
            }
        }
        best
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.planes(l.shape())?;
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let x = elements::<T>(x, l)?;
            let y = map_planes(&p, x, p.height * p.width, p.out_height * p.out_width, |_, x, y| {
                for (o, y) in y.iter_mut().enumerate() {
                    *y = x[self.position(&p, x, o / p.out_width, o % p.out_width)];
                }
            })?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, output_shape(&p)))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let p = self.planes(x.shape())?;
        let out = p.out_height * p.out_width;
        dispatch_real!(x.dtype(), self.name(), T => {
            let dx = with_elements::<T, _>(x, |xs| with_elements::<T, _>(dy, |dy| {
                map_planes(&p, xs, p.height * p.width, p.height * p.width, |plane, x, dx| {
                    dx.fill(T::ZERO);
                    for (o, &dy) in dy[plane * out..(plane + 1) * out].iter().enumerate() {
                        dx[self.position(&p, x, o / p.out_width, o % p.out_width)] += dy;
                    }
                })
            }))?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}

impl CustomOp1 for AveragePool {
    fn name(&self) -> &'static str {
        "average-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.0.planes(l.shape(), self.name())?;
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let scale = T::from_f64(1.0 / (self.0.kernel * self.0.kernel) as f64);
            let x = elements::<T>(x, l)?;
            let y = map_planes(&p, x, p.height * p.width, p.out_height * p.out_width, |_, x, y| {
                for (o, y) in y.iter_mut().enumerate() {
                    let (rows, columns) =
                        (self.0.inside(o / p.out_width, p.height), self.0.inside(o % p.out_width, p.width));
                    let mut sum = T::ZERO;
                    for row in rows {
                        for &x in &x[row * p.width + columns.start..row * p.width + columns.end] {
                            sum += x;
                        }
                    }
                    *y = sum * scale;
                }
            })?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, output_shape(&p)))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let p = self.0.planes(x.shape(), self.name())?;
        dispatch_real!(x.dtype(), self.name(), T => {
            let scale = T::from_f64(1.0 / (self.0.kernel * self.0.kernel) as f64);
            let dx = with_elements::<T, _>(dy, |dy| {
                map_planes(&p, dy, p.out_height * p.out_width, p.height * p.width, |_, dy, dx| {
                    dx.fill(T::ZERO);
                    for (o, &dy) in dy.iter().enumerate() {
                        let (rows, columns) =
                            (self.0.inside(o / p.out_width, p.height), self.0.inside(o % p.out_width, p.width));
                        for row in rows {
                            for dx in &mut dx[row * p.width + columns.start..row * p.width + columns.end] {
                                *dx += dy * scale;
                            }
                        }
                    }
                })
            })?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}
