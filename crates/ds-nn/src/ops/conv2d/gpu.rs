//! The convolution on a GPU: by kernels of our own where there are some ([`FewChannels`]) and TF32 is allowed or data are bf16, else
//! through cuDNN.

use super::cudnn;
use super::few_channels::{self, FewChannels};
use super::shapes::{Direction, Shapes, Tensors};
use crate::ops::batch_sums::BatchSums;
use crate::ops::window::Window;
use candle_core::{DType, Result, bail};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::{Address, Gpu};
use ds_core::backend::op;
use std::any::Any;

impl Shapes {
    /// The convolution for kernels of our own, if there are some for it on this device, with arrays at these addresses.
    pub(super) fn few_channels<G: Gpu>(&self, gpu: &G, arrays: &[Address]) -> Result<Option<FewChannels>> {
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

/// W: as it is, and packed for the kernels of our own if it was.
#[derive(Clone, Copy)]
pub(super) struct Weight {
    /// Where it is.
    pub(super) at: Address,
    /// f32, or the type of x.
    pub(super) dtype: DType,
    /// In f32.
    pub(super) packed: Option<Address>,
}

impl Weight {
    /// The weight of a type that cuDNN takes.
    fn of_type(self, shapes: &Shapes) -> Result<Address> {
        if self.dtype != shapes.dtype {
            bail!("conv2d: W is {:?} and x {:?}, {shapes:?}", self.dtype, shapes.dtype);
        }
        Ok(self.at)
    }

    /// Whether it is packed, or can be.
    fn is_packable(self) -> bool {
        self.packed.is_some() || self.dtype == DType::F32
    }

    /// Calls `f` with packed weights.
    fn with_packed<G: Gpu, R>(self, gpu: &G, shapes: &Shapes, f: impl FnOnce(Address) -> Result<R>) -> Result<R> {
        if let Some(packed) = self.packed {
            return f(packed);
        }
        let ([outputs, inputs, kernel], for_gradient) = ([shapes.output[1], shapes.input[1], shapes.window[0]], true);
        let weights = few_channels::Weights { w: self.at, shape: [outputs, inputs, kernel, kernel], for_gradient };
        let packed = op::only(few_channels::packed(gpu, shapes.dtype, &[weights])?)?;
        f(gpu.address(&packed)?)
    }
}

/// y (N, O, H', W'), and what it leaves for a batch norm.
pub(super) fn forward<G: Gpu>(
    gpu: &G,
    shapes: Shapes,
    x: Address,
    w: Weight,
    sums: Option<&BatchSums>,
) -> Result<G::Buffer> {
    if let Some(ours) = shapes.few_channels(gpu, &[x])?.filter(|_| w.is_packable()) {
        let Some(sums) = sums else { return w.with_packed(gpu, &shapes, |packed| ours.forward(gpu, x, packed)) };
        let (y, left) = w.with_packed(gpu, &shapes, |packed| ours.forward_with_sums(gpu, x, packed))?;
        if let Some((partial, pieces)) = left {
            sums.put(partial, pieces);
        }
        return Ok(y);
    }
    let (out, y) = alloc(gpu, shapes.dtype, shapes.output)?;
    shapes.library(gpu, Direction::Forward, Tensors { x, w: w.of_type(&shapes)?, y })?;
    Ok(out)
}

/// ∂x.
pub(super) fn input_gradient<G: Gpu>(gpu: &G, shapes: Shapes, w: Weight, dy: Address) -> Result<G::Buffer> {
    if let Some(ours) = shapes.few_channels(gpu, &[dy])?.filter(|_| w.is_packable()) {
        return w.with_packed(gpu, &shapes, |packed| ours.input_gradient(gpu, packed, dy));
    }
    let (out, x) = alloc(gpu, shapes.dtype, shapes.input)?;
    shapes.library(gpu, Direction::Input, Tensors { x, w: w.of_type(&shapes)?, y: dy })?;
    Ok(out)
}

/// ∂W in the type of W.
pub(super) fn weight_gradient<G: Gpu>(
    gpu: &G,
    shapes: Shapes,
    x: Address,
    dy: Address,
    of_w: DType,
) -> Result<G::Buffer> {
    if let Some(ours) = shapes.few_channels(gpu, &[x, dy])? {
        return ours.weight_gradient(gpu, x, dy, of_w);
    }
    let kernel = shapes.window[0];
    let (out, w) = alloc(gpu, shapes.dtype, [shapes.output[1], shapes.input[1], kernel, kernel])?;
    shapes.library(gpu, Direction::Weight, Tensors { x, w, y: dy })?;
    Ok(out)
}
