//! Rectifiers: ReLU and LeakyReLU (one fixed slope) and PReLU (a learned slope per channel, He et al. 2015).
//!
//! The gradient at 0 is that of the negative side, as in PyTorch; Candle's own ReLU has 1 there.

#[cfg(feature = "cuda")]
use super::gpu::cuda::{CudaGpu, KERNELS, address, address_of, address_of_type, tensor_on};
#[cfg(feature = "cuda")]
use super::gpu::pointwise as on_gpu;
use super::parallel::{SharedSlice, filled, for_each_piece};
use super::planes::Planes;
use super::pointwise::{channel_sums, real_dtype, sum_of_pairs, tensor_of};
use super::real::{Real, elements, with_elements};
use crate::dispatch_real;
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};

const PIECE: usize = 16 * 1024;

/// y = x where x > 0, `slope`·x elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Rectifier {
    /// The slope of the negative side: 0 for ReLU.
    pub slope: f64,
}

crate::vectorized! {
    fn rectify<T>(slope: T, x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let negative = slope * x;
            *y = if x > T::ZERO { x } else { negative };
        }
    }
}

crate::vectorized! {
    fn rectify_gradient<T>(slope: T, x: &[T], dy: &[T], dx: &mut [T]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let negative = slope * dy;
            *dx = if x > T::ZERO { dy } else { negative };
        }
    }
}

crate::vectorized! {
    /// Σ ∂y·min(x, 0).
    fn slope_gradient<T>(x: &[T], dy: &[T]) -> T {
        sum_of_pairs(x, dy, |x, dy| if x > T::ZERO { T::ZERO } else { dy * x })
    }
}

/// Calls `f` with the pieces of 0..len and of the output.
fn in_pieces<T: Real>(len: usize, f: impl Fn(std::ops::Range<usize>, &mut [T]) + Send + Sync) -> Result<Vec<T>> {
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(len.div_ceil(PIECE), len, |piece| {
            let range = piece * PIECE..len.min((piece + 1) * PIECE);
            // SAFETY: pieces do not overlap.
            let y = unsafe { y.part(range.start, range.len()) };
            f(range, y);
        });
        Ok(())
    };
    // SAFETY: the pieces cover all elements, which are written only.
    unsafe { filled(len, fill) }
}

impl CustomOp1 for Rectifier {
    fn name(&self) -> &'static str {
        "rectifier"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let (x, slope) = (elements::<T>(x, l)?, T::from_f64(self.slope));
            Ok(T::to_cpu_storage_owned(in_pieces(x.len(), |range, y: &mut [T]| rectify(slope, &x[range], y))?))
        })?;
        Ok((y, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let gpu = CudaGpu::new(&x.device, &KERNELS)?;
        let (dtype, n) = (x.dtype(), l.shape().elem_count());
        let from = address(x, l, dtype, self.name())?;
        Ok((on_gpu::rectifier(&gpu, self.slope, dtype, from, n)?, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(x, &KERNELS)? {
            let (x, dy, dtype) = (x.contiguous()?, grad_y.contiguous()?, x.dtype());
            let of = |tensor| address_of_type(tensor, dtype, self.name());
            let dx = on_gpu::rectifier_gradient(&gpu, self.slope, dtype, of(&x)?, of(&dy)?, x.elem_count())?;
            return Ok(Some(tensor_on(dx, x.shape())));
        }
        dispatch_real!(x.dtype(), self.name(), T => {
            let slope = T::from_f64(self.slope);
            let dx = with_elements::<T, _>(x, |x| {
                with_elements::<T, _>(grad_y, |dy| {
                    in_pieces(x.len(), |range, dx: &mut [T]| rectify_gradient(slope, &x[range.clone()], &dy[range], dx))
                })
            })?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}

/// y = x where x > 0, `slope_c`·x elsewhere: x (N, C, …), slopes (C).
#[derive(Debug, Clone, Copy)]
pub struct ChannelRectifier;

impl CustomOp2 for ChannelRectifier {
    fn name(&self) -> &'static str {
        "channel-rectifier"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, s: &CpuStorage, sl: &Layout) -> Result<(CpuStorage, Shape)> {
        let planes = Planes::new(xl.shape(), sl.shape().elem_count(), self.name())?;
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let (x, slopes) = (elements::<T>(x, xl)?, elements::<T>(s, sl)?);
            Ok(T::to_cpu_storage_owned(per_plane(planes, x, |c, x| if x > T::ZERO { x } else { slopes[c] * x })?))
        })?;
        Ok((y, xl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, s: &CudaStorage, sl: &Layout) -> Result<(CudaStorage, Shape)> {
        let planes = Planes::new(xl.shape(), sl.shape().elem_count(), self.name())?;
        let (gpu, op, dtype) = (CudaGpu::new(&x.device, &KERNELS)?, self.name(), x.dtype());
        let (from, slopes) = (address(x, xl, dtype, op)?, address(s, sl, DType::F32, op)?);
        Ok((on_gpu::channel_rectifier(&gpu, planes, dtype, from, slopes)?, xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, s: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let planes = Planes::new(x.shape(), s.elem_count(), self.name())?;
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(x, &KERNELS)? {
            let (x, s, dy) = (x.contiguous()?, s.contiguous()?, grad_y.contiguous()?);
            let (op, dtype) = (self.name(), x.dtype());
            let (of, slopes) = (|tensor| address_of_type(tensor, dtype, op), address_of(&s, op)?);
            let (dx, ds) = on_gpu::channel_rectifier_gradient(&gpu, planes, dtype, of(&x)?, slopes, of(&dy)?)?;
            return Ok((Some(tensor_on(dx, x.shape())), Some(tensor_on(ds, s.shape()))));
        }
        dispatch_real!(x.dtype(), self.name(), T => {
            let (dx, ds) = with_elements::<T, _>(x, |x| with_elements::<T, _>(s, |s| with_elements::<T, _>(grad_y, |dy| {
                let mut dx = vec![T::ZERO; x.len()];
                let shared = SharedSlice::new(&mut dx);
                let ds = channel_sums(planes, 1, |c, plane, sum: &mut [T]| {
                    // SAFETY: every plane is visited once.
                    let dx = unsafe { shared.part(plane.start, plane.len()) };
                    let (x, dy) = (&x[plane.clone()], &dy[plane]);
                    rectify_gradient(s[c], x, dy, dx);
                    sum[0] += slope_gradient(x, dy);
                });
                Ok((dx, ds))
            })))?;
            Ok((Some(tensor_of(dx, x.shape())), Some(tensor_of(ds, s.shape()))))
        })
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
