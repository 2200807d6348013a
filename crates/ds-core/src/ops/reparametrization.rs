//! Other parameters of the same linear splines, turned into coefficients.
//!
//! Every spline type is evaluated by [`LinearSpline`](super::linear_spline::LinearSpline): a linear term is a linear spline
//! itself, and so is a sum of ReLUs at the knots. These maps touch C·K numbers, nothing of the batch's size.

#[cfg(feature = "cuda")]
use super::gpu::cuda::{CudaGpu, KERNELS, address, address_of, tensor_on};
#[cfg(feature = "cuda")]
use super::gpu::reparametrization as on_gpu;
use super::pointwise::{real_dtype, tensor_of};
use super::real::{elements, with_elements};
use crate::Grid;
use crate::dispatch_real;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};

/// Coefficients c (C, K), weight b1 (C), bias b0 (C) → c_k + b1·x_k + b0.
#[derive(Debug, Clone, Copy)]
pub struct AddLinearTerm {
    /// The grid with the knots x_k.
    pub grid: Grid,
}

/// Slope changes a (C, K−2) at the inner knots, weight b1 (C), bias b0 (C) → the coefficients (C, K) of
/// σ(x) = b1·x + b0 + Σ_k a_k·max(0, x − x_k).
#[derive(Debug, Clone, Copy)]
pub struct SumOfRelus {
    /// The grid with the knots x_k.
    pub grid: Grid,
}

fn check(name: &str, rows: &Shape, width: usize, b1: &Shape, b0: &Shape) -> Result<usize> {
    match rows.dims() {
        &[channels, got] if got == width && b1.dims() == [channels] && b0.dims() == [channels] => Ok(channels),
        _ => bail!("{name}: expected (C, {width}), (C), (C), got {rows:?}, {b1:?}, {b0:?}"),
    }
}

impl CustomOp3 for AddLinearTerm {
    fn name(&self) -> &'static str {
        "add-linear-term"
    }

    fn cpu_fwd(
        &self,
        c: &CpuStorage,
        cl: &Layout,
        b1: &CpuStorage,
        b1l: &Layout,
        b0: &CpuStorage,
        b0l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = self.grid.size();
        check(self.name(), cl.shape(), size, b1l.shape(), b0l.shape())?;
        let out = dispatch_real!(real_dtype(c, self.name())?, self.name(), T => {
            let (c, b1, b0) = (elements::<T>(c, cl)?, elements::<T>(b1, b1l)?, elements::<T>(b0, b0l)?);
            let mut out = Vec::with_capacity(c.len());
            for ((c, b1), b0) in c.chunks_exact(size).zip(b1).zip(b0) {
                let (b1, b0) = (b1.to_f64(), b0.to_f64());
                out.extend(c.iter().zip(self.grid.knots()).map(|(c, x)| T::from_f64(c.to_f64() + b1 * x + b0)));
            }
            Ok(T::to_cpu_storage_owned(out))
        })?;
        Ok((out, cl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        k: &CudaStorage,
        kl: &Layout,
        b1: &CudaStorage,
        b1l: &Layout,
        b0: &CudaStorage,
        b0l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let channels = check(self.name(), kl.shape(), self.grid.size(), b1l.shape(), b0l.shape())?;
        let gpu = CudaGpu::new(&k.device, &KERNELS)?;
        let of = |storage, layout| address(storage, layout, DType::F32, self.name());
        let out = on_gpu::add_linear_term(&gpu, self.grid, channels, of(k, kl)?, of(b1, b1l)?, of(b0, b0l)?)?;
        Ok((out, Shape::from((channels, self.grid.size()))))
    }

    fn bwd(
        &self,
        _c: &Tensor,
        b1: &Tensor,
        b0: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let size = self.grid.size();
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(grad, &KERNELS)? {
            let grad = grad.contiguous()?;
            let (db1, db0) =
                on_gpu::linear_term_gradient(&gpu, self.grid, b1.elem_count(), address_of(&grad, self.name())?)?;
            return Ok((Some(grad), Some(tensor_on(db1, b1.shape())), Some(tensor_on(db0, b0.shape()))));
        }
        dispatch_real!(grad.dtype(), self.name(), T => {
            let (db1, db0) = with_elements::<T, _>(grad, |grad| {
                let rows = grad.chunks_exact(size);
                Ok(rows.map(|g| {
                    let (mut with_x, mut alone) = (0.0, 0.0);
                    for (g, x) in g.iter().zip(self.grid.knots()) {
                        with_x += g.to_f64() * x;
                        alone += g.to_f64();
                    }
                    (T::from_f64(with_x), T::from_f64(alone))
                }).unzip::<_, _, Vec<_>, Vec<_>>())
            })?;
            Ok((Some(grad.clone()), Some(tensor_of(db1, b1.shape())), Some(tensor_of(db0, b0.shape()))))
        })
    }
}

impl CustomOp3 for SumOfRelus {
    fn name(&self) -> &'static str {
        "sum-of-relus"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b1: &CpuStorage,
        b1l: &Layout,
        b0: &CpuStorage,
        b0l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (size, step) = (self.grid.size(), self.grid.step());
        let channels = check(self.name(), al.shape(), size - 2, b1l.shape(), b0l.shape())?;
        let out = dispatch_real!(real_dtype(a, self.name())?, self.name(), T => {
            let (a, b1, b0) = (elements::<T>(a, al)?, elements::<T>(b1, b1l)?, elements::<T>(b0, b0l)?);
            let mut out = Vec::with_capacity(channels * size);
            for ((a, b1), b0) in a.chunks_exact(size - 2).zip(b1).zip(b0) {
                let mut slope = b1.to_f64();
                let mut value = b0.to_f64() + slope * self.grid.knot(0);
                out.push(T::from_f64(value));
                value += slope * step;
                for a in a {
                    out.push(T::from_f64(value));
                    slope += a.to_f64();
                    value += slope * step;
                }
                out.push(T::from_f64(value));
            }
            Ok(T::to_cpu_storage_owned(out))
        })?;
        Ok((out, Shape::from((channels, size))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        k: &CudaStorage,
        kl: &Layout,
        b1: &CudaStorage,
        b1l: &Layout,
        b0: &CudaStorage,
        b0l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let channels = check(self.name(), kl.shape(), self.grid.size() - 2, b1l.shape(), b0l.shape())?;
        let gpu = CudaGpu::new(&k.device, &KERNELS)?;
        let of = |storage, layout| address(storage, layout, DType::F32, self.name());
        let out = on_gpu::sum_of_relus(&gpu, self.grid, channels, of(k, kl)?, of(b1, b1l)?, of(b0, b0l)?)?;
        Ok((out, Shape::from((channels, self.grid.size()))))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b1: &Tensor,
        b0: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (size, step) = (self.grid.size(), self.grid.step());
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(grad, &KERNELS)? {
            let (grad, channels) = (grad.contiguous()?, b1.elem_count());
            let from = address_of(&grad, self.name())?;
            let da = on_gpu::sum_of_relus_gradient(&gpu, self.grid, channels, from)?;
            let (db1, db0) = on_gpu::linear_term_gradient(&gpu, self.grid, channels, from)?;
            let (da, db1, db0) = (tensor_on(da, a.shape()), tensor_on(db1, b1.shape()), tensor_on(db0, b0.shape()));
            return Ok((Some(da), Some(db1), Some(db0)));
        }
        dispatch_real!(grad.dtype(), self.name(), T => {
            let channels = b1.elem_count();
            let (mut da, mut db1, mut db0) =
                (vec![T::ZERO; channels * (size - 2)], Vec::with_capacity(channels), Vec::with_capacity(channels));
            with_elements::<T, _>(grad, |grad| {
                for (g, da) in grad.chunks_exact(size).zip(da.chunks_exact_mut(size - 2)) {
                    // From the right: Σ_{k>j} g_k and Σ_{k>j} g_k·(x_k − x_j).
                    let (mut sum, mut moment) = (0.0, 0.0);
                    for j in (1..size - 1).rev() {
                        sum += g[j + 1].to_f64();
                        moment += sum * step;
                        da[j - 1] = T::from_f64(moment);
                    }
                    let with_x: f64 = g.iter().zip(self.grid.knots()).map(|(g, x)| g.to_f64() * x).sum();
                    db1.push(T::from_f64(with_x));
                    db0.push(T::from_f64(g.iter().map(|g| g.to_f64()).sum()));
                }
                Ok(())
            })?;
            Ok((Some(tensor_of(da, a.shape())), Some(tensor_of(db1, b1.shape())), Some(tensor_of(db0, b0.shape()))))
        })
    }
}
