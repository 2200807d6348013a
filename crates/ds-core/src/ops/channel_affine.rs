//! Arguments of splines, scaled by channel and shifted: z = α_c·x + s.

use super::parallel::SharedSlice;
use super::planes::Planes;
use super::pointwise::{channel_sums, real_dtype, sum_of_pairs, tensor_of};
use super::real::{Real, elements, with_elements};
use super::rectifier::per_plane;
use crate::dispatch_real;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// x (N, C, …), ln α (C) → α_c·x + s; as the op of one argument x + s.
///
/// The scale is given by its logarithm: then it is positive whatever an optimiser does, a step changes it by a factor, and
/// no value of it is without a gradient, as the edge of a clamp would be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelAffine {
    /// s.
    pub shift: f64,
}

impl ChannelAffine {
    const NAME: &'static str = "channel-affine";
}

/// α in the type that the op multiplies in.
fn scales<T: Real>(log_alpha: &[T]) -> Vec<T> {
    log_alpha.iter().map(|log_alpha| T::from_f64(log_alpha.to_f64().exp())).collect()
}

crate::vectorized! {
    /// ∂x of one plane; returns Σ ∂y·x.
    fn gradient<T>(scale: T, x: &[T], dy: &[T], dx: &mut [T]) -> T {
        for (dx, &dy) in dx.iter_mut().zip(dy) {
            *dx = scale * dy;
        }
        sum_of_pairs(x, dy, |x, dy| x * dy)
    }
}

impl CustomOp1 for ChannelAffine {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some(&channels) = l.shape().dims().get(1) else {
            bail!("{}: input must be (N, C, …), got {:?}", Self::NAME, l.shape())
        };
        let planes = Planes::new(l.shape(), channels, Self::NAME)?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let shift = T::from_f64(self.shift);
            Ok(T::to_cpu_storage_owned(per_plane(planes, elements::<T>(x, l)?, |_, x| x + shift)?))
        })?;
        Ok((y, l.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad_y.clone()))
    }
}

impl CustomOp2 for ChannelAffine {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, a: &CpuStorage, al: &Layout) -> Result<(CpuStorage, Shape)> {
        let planes = Planes::new(xl.shape(), al.shape().elem_count(), Self::NAME)?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let (shift, scales) = (T::from_f64(self.shift), scales(elements::<T>(a, al)?));
            let y = per_plane(planes, elements::<T>(x, xl)?, |channel, x| scales[channel] * x + shift)?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, a: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let planes = Planes::new(x.shape(), a.elem_count(), Self::NAME)?;
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let (dx, da) = with_elements::<T, _>(x, |x| with_elements::<T, _>(a, |a| with_elements::<T, _>(grad_y, |dy| {
                let scales = scales(a);
                let mut dx = vec![T::ZERO; x.len()];
                let shared = SharedSlice::new(&mut dx);
                let mut da = channel_sums(planes, 1, |c, plane, sum: &mut [T]| {
                    // SAFETY: every plane is visited once.
                    let dx = unsafe { shared.part(plane.start, plane.len()) };
                    sum[0] += gradient(scales[c], &x[plane.clone()], &dy[plane], dx);
                });
                da.iter_mut().zip(&scales).for_each(|(da, &scale)| *da *= scale);
                Ok((dx, da))
            })))?;
            Ok((Some(tensor_of(dx, x.shape())), Some(tensor_of(da, a.shape()))))
        })
    }
}
