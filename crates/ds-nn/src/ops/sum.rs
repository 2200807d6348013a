//! The sum of a residual branch and its shortcut.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use ds_core::dispatch_real;
#[cfg(feature = "cuda")]
use ds_core::ops::gpu::cuda::{CudaGpu, address};
use ds_core::ops::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::ops::pointwise::real_dtype;
use ds_core::ops::real::elements;

/// a + b, of the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Sum;

const PIECE: usize = 16 * 1024;

ds_core::vectorized! {
    fn add<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        if al.shape() != bl.shape() {
            bail!("{}: shapes {:?} and {:?} differ", self.name(), al.shape(), bl.shape());
        }
        let sum = dispatch_real!(real_dtype(a, self.name())?, self.name(), T => {
            let (a, b) = (elements::<T>(a, al)?, elements::<T>(b, bl)?);
            let fill = |y: &mut [T]| {
                let y = SharedSlice::new(y);
                for_each_piece(a.len().div_ceil(PIECE), a.len(), |piece| {
                    let range = piece * PIECE..a.len().min((piece + 1) * PIECE);
                    // SAFETY: pieces do not overlap.
                    let y = unsafe { y.part(range.start, range.len()) };
                    add(&a[range.clone()], &b[range], y);
                });
                Ok(())
            };
            // SAFETY: the pieces cover all elements, which are written only.
            Ok(T::to_cpu_storage_owned(unsafe { filled(a.len(), fill)? }))
        })?;
        Ok((sum, al.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Result<(CudaStorage, Shape)> {
        if al.shape() != bl.shape() {
            bail!("{}: shapes {:?} and {:?} differ", self.name(), al.shape(), bl.shape());
        }
        let gpu = CudaGpu::new(&a.device, &super::gpu::KERNELS)?;
        let dtype = a.dtype();
        let of = |storage, layout| address(storage, layout, dtype, self.name());
        let sum = super::gpu::pointwise::add(&gpu, dtype, of(a, al)?, of(b, bl)?, al.shape().elem_count())?;
        Ok((sum, al.shape().clone()))
    }

    fn bwd(&self, _a: &Tensor, _b: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.clone()), Some(dy.clone())))
    }
}
