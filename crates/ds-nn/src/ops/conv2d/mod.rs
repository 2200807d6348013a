//! 2D convolution: forward, input gradient and weight gradient, for any window.
//!
//! All three work on blocks of sixteen images (see [`super::blocks`]) and take those as they are; plain images are put into
//! blocks first.

#[cfg(feature = "cuda")]
mod cudnn;
#[cfg(not(feature = "cuda"))]
#[path = "no_cudnn.rs"]
mod cudnn;
pub mod few_channels;
mod gpu;
mod kernel;
mod packed;
mod passes;
mod shapes;

pub use packed::PackedWeights;
pub use shapes::Options;

use self::passes::{Sizes, forward, input_gradient, weight_gradient};
use self::shapes::Shapes;
use super::batch_sums::BatchSums;
use super::bias;
use super::blocks::{LANES, from_blocks, to_blocks};
use super::window::{Planes, Window};
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, Tensor, bail};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op};
use ds_core::backend::real::Real;
use ds_core::backend::simd::instructions;
use std::borrow::Cow;
use std::ops::Range;

/// x (N, I, H, W) or in blocks (N/16, I, H, W, 16), W (O, I, k, k) and, optionally, b (O) → the same with O
/// channels. On a GPU W has the type of x, f32 or bf16, and b is f32.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// The sliding window.
    pub window: Window,
    /// Whether ∂x is wanted; the first layer of a network does without.
    pub input_gradient: bool,
    /// Whether ∂W is wanted; a frozen layer does without.
    pub weight_gradient: bool,
    /// The arithmetic on a GPU.
    pub options: Options,
    /// W as [`PackedWeights`] leaves it, on a GPU. W itself is f32 then; without it W is packed by the op.
    pub packed: Option<Tensor>,
    /// Where sums of the output are left for a batch norm after it, if it has no bias.
    pub sums: Option<BatchSums>,
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
    /// The convolution with both gradients and the default arithmetic.
    pub fn new(window: Window) -> Self {
        let options = Options::default();
        Self { window, input_gradient: true, weight_gradient: true, options, packed: None, sums: None }
    }

    /// The convolution on a GPU.
    fn shapes(&self, dtype: DType, x: &Shape, outputs: usize) -> Result<Shapes> {
        let Planes { images, channels, height, width, out_height, out_width, lanes } =
            self.window.planes(x, Self::NAME)?;
        if lanes != 1 {
            bail!("{}: a GPU takes images as (N, C, H, W), got {x:?}", Self::NAME);
        }
        let Window { kernel, stride, padding } = self.window;
        let output = [images, outputs, out_height, out_width];
        let (input, window) = ([images, channels, height, width], [kernel, stride, padding]);
        Ok(Shapes { dtype, input, output, window, options: self.options })
    }

    fn weight<G: Gpu>(&self, gpu: &G, w: &GpuInput<'_, G>) -> Result<gpu::Weight> {
        let packed = self.packed.as_ref().map(|packed| {
            // Kernels would read behind weights that were packed for the forward pass alone.
            let wanted = PackedWeights { dtype: w.dtype, for_gradient: self.input_gradient }.shape(&[w.shape()])?;
            if *packed.shape() != wanted {
                bail!("{}: packed weights {:?} of {:?}, expected {wanted:?}", Self::NAME, packed.shape(), w.shape());
            }
            gpu.address_of(packed, DType::F32, Self::NAME)
        });
        Ok(gpu::Weight { at: w.address, dtype: w.dtype, packed: packed.transpose()? })
    }

    /// Whether [`packed`](Self::packed) weights serve for inputs like x and `outputs` channels.
    ///
    /// # Errors
    /// If x is no input of the convolution, or the device cannot be asked.
    pub fn takes_packed(&self, x: &Tensor, outputs: usize) -> Result<bool> {
        let Some(gpu) = CudaGpu::of(x, &KERNELS)? else { return Ok(false) };
        Ok(self.shapes(x.dtype(), x.shape(), outputs)?.few_channels(&gpu, &[])?.is_some())
    }

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
}

impl Op for Conv2d {
    const NAME: &'static str = "conv2d";
    const INPUTS: Range<usize> = 2..4;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(self.sizes(inputs[0], inputs[1], inputs.get(2).copied())?.1)
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let [x, w] = [inputs[0], inputs[1]];
        let (s, shape) = self.sizes(x.shape(), w.shape(), None)?;
        let b = inputs.get(2).map(|b| b.elements::<T>()).transpose()?;
        let y = forward(instructions(), &s, &in_blocks(x.elements::<T>()?, x.shape())?, w.elements::<T>()?, b)?;
        as_shaped(y, &shape)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let ([x, w], of_y) = ([pass.inputs[0], pass.inputs[1]], pass.dy.shape());
        let (s, _) = self.sizes(x.shape(), w.shape(), None)?;
        let (with, plain_dy) = (instructions(), pass.dy.elements::<T>()?);
        let dy = in_blocks(plain_dy, of_y)?;
        let of_x = || as_shaped(input_gradient(with, &s, w.elements::<T>()?, &dy)?, x.shape());
        let dx = self.input_gradient.then(of_x).transpose()?;
        let of_w =
            || Ok::<_, candle_core::Error>(weight_gradient(with, &s, &in_blocks(x.elements()?, x.shape())?, &dy));
        let dw = self.weight_gradient.then(of_w).transpose()?;
        let db = (pass.inputs.len() > 2).then(|| bias::gradient(of_y, plain_dy)).transpose()?;
        Ok([dx.into(), dw.into(), db.into()])
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [x, w] = [&inputs[0], &inputs[1]];
        let shapes = self.shapes(x.dtype, x.shape(), w.shape().dims()[0])?;
        let sums = self.sums.as_ref().filter(|_| inputs.len() == 2);
        let y = gpu::forward(gpu, shapes, x.address, self.weight(gpu, w)?, sums)?;
        if let Some(b) = inputs.get(2) {
            let [outer, channels, height, width] = shapes.output;
            let planes = ds_core::backend::planes::Planes { outer, channels, inner: height * width };
            let b = b.of_type(DType::F32, Self::NAME)?;
            // SAFETY: the output is nobody else's.
            unsafe { bias::gpu::add_bias(gpu, planes, x.dtype, gpu.address(&y)?, b)? };
        }
        Ok(y)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let ([x, w], dy) = ([&pass.inputs[0], &pass.inputs[1]], &pass.dy);
        let shapes = self.shapes(x.dtype, x.shape(), w.shape().dims()[0])?;
        let of_x = || gpu::input_gradient(gpu, shapes, self.weight(gpu, w)?, dy.address);
        let dx = self.input_gradient.then(of_x).transpose()?;
        let of_w = || gpu::weight_gradient(gpu, shapes, x.address, dy.address, w.dtype);
        let dw = self.weight_gradient.then(of_w).transpose()?;
        let of_b = || bias::gpu::channel_sums(gpu, bias::planes(dy.shape())?, dy.dtype, dy.address);
        let db = (pass.inputs.len() > 2).then(of_b).transpose()?;
        Ok([dx.into(), dw.into(), db.into()])
    }
}

#[cfg(test)]
mod tests;
