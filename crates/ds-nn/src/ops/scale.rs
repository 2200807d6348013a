//! Multiplication with a constant.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use ds_core::dispatch_real;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{elements, with_elements};

/// x → factor·x.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The factor.
    pub factor: f64,
}

impl CustomOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            let factor = T::from_f64(self.factor);
            let y: Vec<T> = elements::<T>(x, l)?.iter().map(|&x| factor * x).collect();
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        dispatch_real!(x.dtype(), self.name(), T => {
            let factor = T::from_f64(self.factor);
            let dx: Vec<T> = with_elements::<T, _>(dy, |dy| Ok(dy.iter().map(|&dy| factor * dy).collect()))?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}
