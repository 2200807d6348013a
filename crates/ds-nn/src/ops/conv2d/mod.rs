//! 2D convolution: forward, input gradient and weight gradient, for any window.
//!
//! All three work on blocks of sixteen images (see [`super::blocks`]) and take those as they are; plain images are put into
//! blocks first.

#[cfg(feature = "cuda")]
mod cuda;
mod kernel;
mod passes;

use self::passes::{Sizes, forward, input_gradient, weight_gradient};
use super::blocks::{LANES, from_blocks, to_blocks};
use super::window::{Planes, Window};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};
use ds_core::ops::simd::instructions;
use std::borrow::Cow;

/// x (N, I, H, W) or in blocks (N/16, I, H, W, 16), W (O, I, k, k) and, as the op of three arguments, b (O) → the same with O
/// channels. On a GPU W has the type of x, f32 or bf16, and b is f32.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    /// The sliding window.
    pub window: Window,
    /// Whether ∂x is wanted; the first layer of a network does without.
    pub input_gradient: bool,
    /// Whether ∂W is wanted; a frozen layer does without.
    pub weight_gradient: bool,
}

/// (images, features of one) of a shape that is not in blocks.
fn plain(shape: &Shape) -> Option<(usize, usize)> {
    match shape.dims() {
        &[images, channels, height, width] => Some((images, channels * height * width)),
        _ => None,
    }
}

/// The elements in blocks, whatever the layout of `shape`.
fn in_blocks<'a, T: Real>(x: &'a [T], shape: &Shape) -> Result<Cow<'a, [T]>> {
    match plain(shape) {
        Some((images, features)) => Ok(Cow::Owned(to_blocks(x, images, features)?)),
        None => Ok(Cow::Borrowed(x)),
    }
}

/// The elements in the layout of `shape`, from blocks.
fn as_shaped<T: Real>(y: Vec<T>, shape: &Shape) -> Result<Vec<T>> {
    match plain(shape) {
        Some((images, features)) => from_blocks(&y, images, features),
        None => Ok(y),
    }
}

impl Conv2d {
    const NAME: &'static str = "conv2d";

    /// (sizes over blocks, shape of the output).
    fn sizes(&self, x: &Shape, w: &Shape, b: Option<&Shape>) -> Result<(Sizes, Shape)> {
        let p: Planes = self.window.planes(x, Self::NAME)?;
        let &[outputs, inputs, ky, kx] = w.dims() else {
            bail!("{}: weight must be (O, I, k, k), got {w:?}", Self::NAME)
        };
        let fits = inputs == p.channels && ky == self.window.kernel && kx == ky;
        if !fits || b.is_some_and(|b| b.dims() != [outputs]) {
            bail!("{}: input {x:?}, weight {w:?}, bias {b:?} and {:?} do not fit", Self::NAME, self.window);
        }
        let (height, width, out_height, out_width) = (p.height, p.width, p.out_height, p.out_width);
        let blocks = if p.lanes == 1 { p.images.div_ceil(LANES) } else { p.images };
        let mut output = vec![p.images, outputs, out_height, out_width];
        if p.lanes == LANES {
            output.push(LANES);
        } else if p.lanes != 1 {
            bail!("{}: blocks must hold {LANES} images, got {x:?}", Self::NAME);
        }
        let window = self.window;
        Ok((Sizes { blocks, inputs, outputs, height, width, out_height, out_width, window }, Shape::from(output)))
    }

    fn output<T: Real>(
        &self,
        (x, xl): (&CpuStorage, &Layout),
        (w, wl): (&CpuStorage, &Layout),
        b: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (s, shape) = self.sizes(xl.shape(), wl.shape(), b.map(|(_, l)| l.shape()))?;
        let b = b.map(|(b, l)| elements::<T>(b, l)).transpose()?;
        let y = forward(instructions(), &s, &in_blocks(elements::<T>(x, xl)?, xl.shape())?, elements::<T>(w, wl)?, b)?;
        Ok((T::to_cpu_storage_owned(as_shaped(y, &shape)?), shape))
    }

    fn gradients(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (s, shape) = self.sizes(x.shape(), w.shape(), None)?;
        if dy.shape() != &shape {
            bail!("{}: gradient {:?} does not fit the output {shape:?}", Self::NAME, dy.shape());
        }
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.cuda_gradients(x, w, dy);
        }
        dispatch_real!(x.dtype(), Self::NAME, T => with_elements::<T, _>(dy, |dys| {
            let (with, dys) = (instructions(), in_blocks(dys, &shape)?);
            let dx = self.input_gradient.then(|| with_elements::<T, _>(w, |w| {
                as_shaped(input_gradient(with, &s, w, &dys)?, x.shape())
            }));
            let dw = self.weight_gradient.then(|| with_elements::<T, _>(x, |xs| {
                Ok(weight_gradient(with, &s, &in_blocks(xs, x.shape())?, &dys))
            }));
            let dx = dx.transpose()?.map(|dx| tensor_of(dx, x.shape()));
            Ok((dx, dw.transpose()?.map(|dw| tensor_of(dw, w.shape()))))
        }))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => self.output::<T>((x, xl), (w, wl), None))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda_output((x, xl), (w, wl), None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, w, dy)
    }
}

impl CustomOp3 for Conv2d {
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
        dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => self.output::<T>((x, xl), (w, wl), Some((b, bl))))
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
        self.cuda_output((x, xl), (w, wl), Some((b, bl)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(x, w, dy)?;
        let db = super::channel_totals(dy)?.reshape(b.shape())?;
        Ok((dx, dw, Some(db)))
    }
}

#[cfg(test)]
mod tests;
