//! Fully connected layers: y = x·Wᵀ + b as one op.

use super::product::product;
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};
use ds_core::dispatch_real;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};

/// x (N, I), W (O, I) and, as the op of three arguments, b (O) → (N, O). On a GPU W has the type of x, f32 or bf16, and b is f32.
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    /// Whether ∂x is wanted.
    pub input_gradient: bool,
}

/// Below this many multiplications plain loops beat the preparations of a tuned matrix product.
const PLAIN_BELOW: usize = 16 * 1024;

struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Dense {
    const NAME: &'static str = "dense";

    fn sizes(x: &Shape, w: &Shape, b: Option<&Shape>) -> Result<Sizes> {
        match (x.dims(), w.dims()) {
            (&[rows, inputs], &[outputs, i]) if i == inputs && b.is_none_or(|b| b.dims() == [outputs]) => {
                Ok(Sizes { rows, inputs, outputs })
            }
            _ => bail!("{}: input {x:?}, weight {w:?} and bias {b:?} do not fit (N, I), (O, I), (O)", Self::NAME),
        }
    }

    fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], b: Option<&[T]>) -> Vec<T> {
        let mut y = Vec::with_capacity(s.rows * s.outputs);
        if s.rows * s.inputs * s.outputs < PLAIN_BELOW {
            for x in x.chunks_exact(s.inputs) {
                for (o, w) in w.chunks_exact(s.inputs).enumerate() {
                    let mut sum = b.map_or(T::ZERO, |b| b[o]);
                    for (&x, &w) in x.iter().zip(w) {
                        sum += x * w;
                    }
                    y.push(sum);
                }
            }
            return y;
        }
        for _ in 0..s.rows {
            match b {
                Some(b) => y.extend_from_slice(b),
                None => y.resize(y.len() + s.outputs, T::ZERO),
            }
        }
        product(s.rows, s.outputs, s.inputs, &mut y, true, (x, s.inputs, 1), (w, 1, s.inputs));
        y
    }

    fn backward<T: Real>(&self, s: &Sizes, x: &[T], w: &[T], dy: &[T]) -> (Option<Vec<T>>, Vec<T>, Vec<T>) {
        let mut dw = vec![T::ZERO; s.outputs * s.inputs];
        let mut db = vec![T::ZERO; s.outputs];
        let mut dx = self.input_gradient.then(|| vec![T::ZERO; s.rows * s.inputs]);
        for dy in dy.chunks_exact(s.outputs) {
            for (db, &dy) in db.iter_mut().zip(dy) {
                *db += dy;
            }
        }
        if s.rows * s.inputs * s.outputs < PLAIN_BELOW {
            for (n, (x, dy)) in x.chunks_exact(s.inputs).zip(dy.chunks_exact(s.outputs)).enumerate() {
                for (dw, &dy) in dw.chunks_exact_mut(s.inputs).zip(dy) {
                    for (dw, &x) in dw.iter_mut().zip(x) {
                        *dw += dy * x;
                    }
                }
                let Some(dx) = dx.as_mut() else { continue };
                let dx = &mut dx[n * s.inputs..(n + 1) * s.inputs];
                for (w, &dy) in w.chunks_exact(s.inputs).zip(dy) {
                    for (dx, &w) in dx.iter_mut().zip(w) {
                        *dx += dy * w;
                    }
                }
            }
        } else {
            product(s.outputs, s.inputs, s.rows, &mut dw, false, (dy, 1, s.outputs), (x, s.inputs, 1));
            if let Some(dx) = dx.as_mut() {
                product(s.rows, s.inputs, s.outputs, dx, false, (dy, s.outputs, 1), (w, s.inputs, 1));
            }
        }
        (dx, dw, db)
    }

    /// x·Wᵀ, through cuBLAS.
    #[cfg(feature = "cuda")]
    fn cuda_product(s: &Sizes, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<CudaStorage> {
        x.matmul(w, (1, s.rows, s.outputs, s.inputs), xl, &wl.transpose(0, 1)?)
    }

    fn gradients(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        let s = Self::sizes(x.shape(), w.shape(), None)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.cuda_gradients(x, w, dy);
        }
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let (dx, dw, db) = with_elements::<T, _>(x, |xs| with_elements::<T, _>(w, |w| {
                with_elements::<T, _>(dy, |dy| Ok(self.backward(&s, xs, w, dy)))
            }))?;
            Ok((dx.map(|dx| tensor_of(dx, x.shape())), tensor_of(dw, w.shape()), tensor_of(db, s.outputs)))
        })
    }
}

impl CustomOp2 for Dense {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = Self::sizes(xl.shape(), wl.shape(), None)?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            Ok(T::to_cpu_storage_owned(Self::forward::<T>(&s, elements(x, xl)?, elements(w, wl)?, None)))
        })?;
        Ok((y, Shape::from((s.rows, s.outputs))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        let s = Self::sizes(xl.shape(), wl.shape(), None)?;
        Ok((Self::cuda_product(&s, x, xl, w, wl)?, Shape::from((s.rows, s.outputs))))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.gradients(x, w, dy)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Dense {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = Self::sizes(xl.shape(), wl.shape(), Some(bl.shape()))?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let b = Some(elements(b, bl)?);
            Ok(T::to_cpu_storage_owned(Self::forward::<T>(&s, elements(x, xl)?, elements(w, wl)?, b)))
        })?;
        Ok((y, Shape::from((s.rows, s.outputs))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        w: &CudaStorage,
        wl: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        use ds_core::ops::gpu::{Gpu, cuda};
        let s = Self::sizes(xl.shape(), wl.shape(), Some(bl.shape()))?;
        let y = Self::cuda_product(&s, x, xl, w, wl)?;
        let gpu = cuda::CudaGpu::new(&x.device, &super::gpu::KERNELS)?;
        let planes = ds_core::ops::planes::Planes { outer: s.rows, channels: s.outputs, inner: 1 };
        let bias = cuda::address(b, bl, DType::F32, Self::NAME)?;
        // SAFETY: the product is nobody else's.
        unsafe { super::gpu::pointwise::add_bias(&gpu, planes, x.dtype(), gpu.address(&y)?, bias)? };
        Ok((y, Shape::from((s.rows, s.outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, db) = self.gradients(x, w, dy)?;
        Ok((dx, Some(dw), Some(db)))
    }
}
