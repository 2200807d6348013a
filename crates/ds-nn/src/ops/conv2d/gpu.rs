//! The convolution on a GPU: by kernels of our own where there are some ([`FewChannels`]) and TF32 is allowed or data are bf16, else
//! through cuDNN.

use super::cudnn;
use super::few_channels::FewChannels;
use super::shapes::{Direction, Shapes, Tensors};
use crate::ops::window::Window;
use candle_core::{DType, Result, bail};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::{Address, Gpu};
use std::any::Any;

impl Shapes {
    /// The convolution for kernels of our own, if there are some for it on this device, with arrays at these addresses.
    fn few_channels<G: Gpu>(&self, gpu: &G, arrays: &[Address]) -> Result<Option<FewChannels>> {
        let [kernel, stride, padding] = self.window;
        let may_round = self.dtype == DType::BF16 || (self.dtype == DType::F32 && self.options.tf32);
        if !may_round || !arrays.iter().all(|array| array.is_aligned()) || gpu.compute_capability()? < (8, 0) {
            return Ok(None);
        }
        Ok(FewChannels::new(self.dtype, self.input, self.output, Window { kernel, stride, padding }))
    }

    fn library<G: Gpu>(&self, gpu: &G, direction: Direction, tensors: Tensors) -> Result<()> {
        match (gpu as &dyn Any).downcast_ref::<CudaGpu>() {
            Some(cuda) => cudnn::run(cuda, *self, direction, tensors),
            None => bail!("conv2d: {self:?} needs cuDNN, and this device has none"),
        }
    }
}

fn alloc<G: Gpu>(gpu: &G, dtype: DType, dims: [usize; 4]) -> Result<(G::Buffer, Address)> {
    let buffer = gpu.alloc(dtype, dims.iter().product())?;
    let address = gpu.address(&buffer)?;
    Ok((buffer, address))
}

/// y (N, O, H', W').
pub(super) fn forward<G: Gpu>(gpu: &G, shapes: Shapes, x: Address, w: Address) -> Result<G::Buffer> {
    if let Some(ours) = shapes.few_channels(gpu, &[x])? {
        return ours.forward(gpu, x, w);
    }
    let (out, y) = alloc(gpu, shapes.dtype, shapes.output)?;
    shapes.library(gpu, Direction::Forward, Tensors { x, w, y })?;
    Ok(out)
}

/// ∂x.
pub(super) fn input_gradient<G: Gpu>(gpu: &G, shapes: Shapes, w: Address, dy: Address) -> Result<G::Buffer> {
    if let Some(ours) = shapes.few_channels(gpu, &[dy])? {
        return ours.input_gradient(gpu, w, dy);
    }
    let (out, x) = alloc(gpu, shapes.dtype, shapes.input)?;
    shapes.library(gpu, Direction::Input, Tensors { x, w, y: dy })?;
    Ok(out)
}

/// ∂W.
pub(super) fn weight_gradient<G: Gpu>(gpu: &G, shapes: Shapes, x: Address, dy: Address) -> Result<G::Buffer> {
    if let Some(ours) = shapes.few_channels(gpu, &[x, dy])? {
        return ours.weight_gradient(gpu, x, dy);
    }
    let kernel = shapes.window[0];
    let (out, w) = alloc(gpu, shapes.dtype, [shapes.output[1], shapes.input[1], kernel, kernel])?;
    shapes.library(gpu, Direction::Weight, Tensors { x, w, y: dy })?;
    Ok(out)
}
