//! The linear spline as one fused op: y = c_i + t·(c_{i+1} − c_i).
//!
//! With u = x/T, i = clamp(⌊u⌋ + (K−1)/2, 0, K−2) and t = u + (K−1)/2 − i, the same formula interpolates inside the grid and
//! extrapolates outside. The backward pass reads x and ∂y once and gives ∂x = ∂y·(c_{i+1} − c_i)/T and
//! ∂c_i += ∂y·(1 − t), ∂c_{i+1} += ∂y·t; nothing is kept from the forward pass but x. At a knot the slope is that of the
//! segment to its right.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod geometry;

pub use cpu::{Channels, Normalised, Sums};

use crate::Grid;
use crate::dispatch_real;
use crate::ops::planes::Planes;
use crate::ops::real::elements;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// σ(x) per channel: x (N, C, …), coefficients (C, K) → y like x. On the CPU f32 or f64, both alike; on a GPU (feature `cuda`)
/// f32, f16 or bf16 with coefficients in f32.
#[derive(Debug, Clone, Copy)]
pub struct LinearSpline {
    grid: Grid,
}

impl LinearSpline {
    const NAME: &'static str = "linear-spline";

    /// The op on a grid.
    pub fn new(grid: Grid) -> Self {
        Self { grid }
    }

    /// σ(x) outside any graph.
    ///
    /// # Errors
    /// If shapes, types or devices do not fit.
    pub fn forward(&self, x: &Tensor, coefficients: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op2_no_bwd(&coefficients.contiguous()?, self)
    }

    /// (∂x, ∂c) from x, c and ∂y in one pass.
    ///
    /// # Errors
    /// If shapes, types or devices do not fit.
    pub fn backward(&self, x: &Tensor, coefficients: &Tensor, grad_y: &Tensor) -> Result<(Tensor, Tensor)> {
        let planes = self.planes(x.shape(), coefficients.shape())?;
        if grad_y.shape() != x.shape() || grad_y.dtype() != x.dtype() {
            bail!("{}: gradient {:?} does not fit input {:?}", Self::NAME, grad_y.shape(), x.shape());
        }
        let (x, c, dy) = (x.contiguous()?, coefficients.contiguous()?, grad_y.contiguous()?);
        let ((xs, xl), (cs, cl), (ds, dl)) = (x.storage_and_layout(), c.storage_and_layout(), dy.storage_and_layout());
        let (dx, dc) = match (&*xs, &*cs, &*ds) {
            (Storage::Cpu(xs), Storage::Cpu(cs), Storage::Cpu(ds)) => {
                let (dx, dc) = dispatch_real!(x.dtype(), Self::NAME, T => {
                    let (x, c, dy) = (elements(xs, xl)?, elements(cs, cl)?, elements(ds, dl)?);
                    let (dx, dc) = cpu::backward::<T>(self.grid, planes, x, c, dy)?;
                    Ok((T::to_cpu_storage_owned(dx), T::to_cpu_storage_owned(dc)))
                })?;
                (Storage::Cpu(dx), Storage::Cpu(dc))
            }
            #[cfg(feature = "cuda")]
            (Storage::Cuda(xs), Storage::Cuda(cs), Storage::Cuda(ds)) => {
                let (grid, x, c, dy) = (self.grid, (xs, xl), (cs, cl), (ds, dl));
                let (dx, dc) = cuda::backward(grid, planes, x, c, dy)?;
                (Storage::Cuda(dx), Storage::Cuda(dc))
            }
            _ => bail!("{}: no backward pass for {:?}", Self::NAME, x.device().location()),
        };
        let wrap = |storage, shape: &Shape| Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false);
        Ok((wrap(dx, x.shape()), wrap(dc, c.shape())))
    }

    fn planes(&self, x: &Shape, coefficients: &Shape) -> Result<Planes> {
        let &[channels, size] = coefficients.dims() else {
            bail!("{}: coefficients must be (C, K), got {coefficients:?}", Self::NAME)
        };
        if size != self.grid.size() {
            bail!("{}: {size} coefficients a channel for a grid of {} knots", Self::NAME, self.grid.size());
        }
        Planes::new(x, channels, Self::NAME)
    }
}

impl CustomOp2 for LinearSpline {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, c: &CpuStorage, cl: &Layout) -> Result<(CpuStorage, Shape)> {
        let planes = self.planes(xl.shape(), cl.shape())?;
        let dtype = match x {
            CpuStorage::F32(_) => DType::F32,
            CpuStorage::F64(_) => DType::F64,
            _ => bail!("{}: the CPU kernel takes f32 and f64", Self::NAME),
        };
        let y = dispatch_real!(dtype, Self::NAME, T => {
            Ok(T::to_cpu_storage_owned(cpu::forward::<T>(self.grid, planes, elements(x, xl)?, elements(c, cl)?)?))
        })?;
        Ok((y, xl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, c: &CudaStorage, cl: &Layout) -> Result<(CudaStorage, Shape)> {
        let planes = self.planes(xl.shape(), cl.shape())?;
        let y = cuda::forward(self.grid, planes, (x, xl), (c, cl))?;
        Ok((y, xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, c: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dc) = self.backward(x, c, grad_y)?;
        Ok((Some(dx), Some(dc)))
    }
}
