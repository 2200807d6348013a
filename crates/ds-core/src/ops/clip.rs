//! Parameters that are kept in [−1, 1] by clipping where they are used.

use super::pointwise::{real_dtype, tensor_of};
use super::real::{elements, with_elements};
use crate::dispatch_real;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// a → min(max(a, −1), 1). What is clipped takes no gradient.
#[derive(Debug, Clone, Copy)]
pub struct UnitClip;

impl CustomOp1 for UnitClip {
    fn name(&self) -> &'static str {
        "unit-clip"
    }

    fn cpu_fwd(&self, a: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = dispatch_real!(real_dtype(a, self.name())?, self.name(), T => {
            let a = elements::<T>(a, l)?.iter();
            let clipped: Vec<T> = a.map(|a| T::from_f64(a.to_f64().clamp(-1.0, 1.0))).collect();
            Ok(T::to_cpu_storage_owned(clipped))
        })?;
        Ok((out, l.shape().clone()))
    }

    fn bwd(&self, a: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        dispatch_real!(a.dtype(), self.name(), T => {
            let da: Vec<T> = with_elements::<T, _>(a, |a| with_elements::<T, _>(gradient, |g| {
                let free = |a: T| (-T::ONE..=T::ONE).contains(&a);
                Ok(a.iter().zip(g).map(|(&a, &g)| if free(a) { g } else { T::ZERO }).collect())
            }))?;
            Ok(Some(tensor_of(da, a.shape())))
        })
    }
}
