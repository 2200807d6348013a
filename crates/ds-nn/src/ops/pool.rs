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

impl MaxPool {
    fn planes(&self, shape: &Shape) -> Result<Planes> {
        let p = self.0.planes(shape, "max-pool")?;
        if 2 * self.0.padding > self.0.kernel {
            bail!("max-pool: padding {} is more than half the kernel {}", self.0.padding, self.0.kernel);
        }
        Ok(p)
    }

    /// Calls `f(output position, input position)` for every pixel of the output and every pixel of its window.
    fn each_pixel(&self, p: &Planes, mut f: impl FnMut(usize, usize)) {
        for oy in 0..p.out_height {
            for ox in 0..p.out_width {
                for row in self.0.inside(oy, p.height) {
                    for column in self.0.inside(ox, p.width) {
                        f((oy * p.out_width + ox) * p.lanes, (row * p.width + column) * p.lanes);
                    }
                }
            }
        }
    }

    /// Where in the window of an output pixel each lane has its maximum.
    fn positions<T: Real>(&self, p: &Planes, x: &[T], o: usize, best: &mut [usize]) {
        let (rows, columns) = (self.0.inside(o / p.out_width, p.height), self.0.inside(o % p.out_width, p.width));
        let first = (rows.start * p.width + columns.start) * p.lanes;
        for (lane, best) in best.iter_mut().enumerate() {
            *best = first + lane;
        }
        for row in rows {
            for column in columns.clone() {
                let at = (row * p.width + column) * p.lanes;
                for (lane, best) in best.iter_mut().enumerate() {
                    if x[at + lane] > x[*best] {
                        *best = at + lane;
                    }
                }
            }
        }
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.planes(l.shape())?;
        let (from, to) = plane_sizes(&p);
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let x = elements::<T>(x, l)?;
            let y = map_planes(&p, x, from, to, |_, x, y| {
                y.fill(T::from_f64(f64::NEG_INFINITY));
                self.each_pixel(&p, |o, i| {
                    for (y, &x) in y[o..o + p.lanes].iter_mut().zip(&x[i..i + p.lanes]) {
                        // A NaN stays.
                        *y = if x > *y || x.to_f64().is_nan() { x } else { *y };
                    }
                });
            })?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, output_shape(&p)))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let p = self.planes(x.shape())?;
        let (from, to) = plane_sizes(&p);
        dispatch_real!(x.dtype(), self.name(), T => {
            let dx = with_elements::<T, _>(x, |xs| with_elements::<T, _>(dy, |dy| {
                map_planes(&p, xs, from, from, |plane, x, dx| {
                    dx.fill(T::ZERO);
                    let mut best = vec![0; p.lanes];
                    for (o, dy) in dy[plane * to..(plane + 1) * to].chunks_exact(p.lanes).enumerate() {
                        self.positions(&p, x, o, &mut best);
                        for (&best, &dy) in best.iter().zip(dy) {
                            dx[best] += dy;
                        }
                    }
                })
            }))?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}

impl AveragePool {
    /// Adds `weight` times pixels of `from` to pixels of `to`, for every output and every input of its window.
    fn each_pixel<T: Real>(&self, p: &Planes, from: &[T], to: &mut [T], backward: bool) {
        let weight = T::from_f64(1.0 / (self.0.kernel * self.0.kernel) as f64);
        to.fill(T::ZERO);
        MaxPool(self.0).each_pixel(p, |o, i| {
            let (source, target) = if backward { (o, i) } else { (i, o) };
            for (to, &from) in to[target..target + p.lanes].iter_mut().zip(&from[source..source + p.lanes]) {
                *to += from * weight;
            }
        });
    }
}

impl CustomOp1 for AveragePool {
    fn name(&self) -> &'static str {
        "average-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.0.planes(l.shape(), self.name())?;
        let (from, to) = plane_sizes(&p);
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let y = map_planes(&p, elements::<T>(x, l)?, from, to, |_, x, y| self.each_pixel(&p, x, y, false))?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, output_shape(&p)))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let p = self.0.planes(x.shape(), self.name())?;
        let (from, to) = plane_sizes(&p);
        dispatch_real!(x.dtype(), self.name(), T => {
            let dx = with_elements::<T, _>(dy, |dy| {
                map_planes(&p, dy, to, from, |_, dy, dx| self.each_pixel(&p, dy, dx, true))
            })?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}
