//! Adaptive piecewise linear units: y = max(0, x) + Σ_s a_s·max(0, b_s − x), with S hinges a channel (Agostinelli et al.
//! 2015).

#[cfg(feature = "cuda")]
use super::gpu::cuda::{CudaGpu, KERNELS, address, address_of, address_of_type, tensor_on};
#[cfg(feature = "cuda")]
use super::gpu::pointwise as on_gpu;
use super::parallel::SharedSlice;
use super::planes::Planes;
use super::pointwise::{channel_sums, real_dtype, sum_of_pairs, tensor_of};
use super::real::{elements, with_elements};
use super::rectifier::per_plane;
use crate::dispatch_real;
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};

/// x (N, C, …), slopes a (C, S), offsets b (C, S) → y like x.
#[derive(Debug, Clone, Copy)]
pub struct Hinges;

impl Hinges {
    fn planes(&self, x: &Shape, a: &Shape, b: &Shape) -> Result<(Planes, usize)> {
        match a.dims() {
            &[channels, hinges] if a == b => Ok((Planes::new(x, channels, self.name())?, hinges)),
            _ => bail!("{}: slopes {a:?} and offsets {b:?} must both be (C, S)", self.name()),
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

impl CustomOp3 for Hinges {
    fn name(&self) -> &'static str {
        "hinges"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (planes, hinges) = self.planes(xl.shape(), al.shape(), bl.shape())?;
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let (x, a, b) = (elements::<T>(x, xl)?, elements::<T>(a, al)?, elements::<T>(b, bl)?);
            let y = per_plane(planes, x, |c, x| {
                let mut y = if x > T::ZERO { x } else { T::ZERO };
                for s in c * hinges..(c + 1) * hinges {
                    if b[s] > x {
                        y += a[s] * (b[s] - x);
                    }
                }
                y
            })?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, xl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (planes, hinges) = self.planes(xl.shape(), al.shape(), bl.shape())?;
        let gpu = CudaGpu::new(&x.device, &KERNELS)?;
        let of = |storage, layout| address(storage, layout, DType::F32, self.name());
        let (dtype, of_hinges) = (x.dtype(), (of(a, al)?, of(b, bl)?));
        let x = address(x, xl, dtype, self.name())?;
        Ok((on_gpu::hinges(&gpu, planes, hinges, dtype, x, of_hinges)?, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (planes, hinges) = self.planes(x.shape(), a.shape(), b.shape())?;
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(x, &KERNELS)? {
            let (x, a, b, dy) = (x.contiguous()?, a.contiguous()?, b.contiguous()?, grad_y.contiguous()?);
            let (op, dtype) = (self.name(), x.dtype());
            let (of, of_hinges) =
                (|tensor| address_of_type(tensor, dtype, op), (address_of(&a, op)?, address_of(&b, op)?));
            let (dx, da, db) = on_gpu::hinges_gradient(&gpu, planes, hinges, dtype, of(&x)?, of_hinges, of(&dy)?)?;
            let (dx, da, db) = (tensor_on(dx, x.shape()), tensor_on(da, a.shape()), tensor_on(db, b.shape()));
            return Ok((Some(dx), Some(da), Some(db)));
        }
        dispatch_real!(x.dtype(), self.name(), T => {
            let (dx, sums) = with_elements::<T, _>(x, |x| with_elements::<T, _>(a, |a| {
                with_elements::<T, _>(b, |b| with_elements::<T, _>(grad_y, |dy| {
                    let mut dx = vec![T::ZERO; x.len()];
                    let shared = SharedSlice::new(&mut dx);
                    let sums = channel_sums(planes, 2 * hinges, |c, plane, sums: &mut [T]| {
                        // SAFETY: every plane is visited once.
                        let dx = unsafe { shared.part(plane.start, plane.len()) };
                        let hinges = c * hinges..(c + 1) * hinges;
                        gradient(&a[hinges.clone()], &b[hinges], &x[plane.clone()], &dy[plane], dx, sums);
                    });
                    Ok((dx, sums))
                }))
            }))?;
            let half = |k: usize| sums.iter().skip(k).step_by(2).copied().collect::<Vec<T>>();
            Ok((
                Some(tensor_of(dx, x.shape())),
                Some(tensor_of(half(0), a.shape())),
                Some(tensor_of(half(1), b.shape())),
            ))
        })
    }
}
