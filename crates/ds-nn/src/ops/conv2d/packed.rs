//! Weights in the order of the GPU's kernels, which those of all layers are put into in one launch.

use super::few_channels::{self, Weights};
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, bail};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{self, Backward, CpuInput, Gradient, Gradients, Op, dyn_op};
use ds_core::backend::real::Real;
use std::ops::Range;

/// W (O, I, k, k) in f32 → the factors of [`FewChannels`](few_channels::FewChannels), on a GPU only. No gradient passes: that of W is
/// found by the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedWeights {
    /// The type of the convolution's inputs: f32 or bf16.
    pub dtype: DType,
    /// Whether they are for ∂x, too.
    pub for_gradient: bool,
}

impl PackedWeights {
    fn weights<G: Gpu>(&self, inputs: &[GpuInput<'_, G>]) -> Result<Weights> {
        let w = &inputs[0];
        let (o, i, ky, kx) = w.shape().dims4()?;
        let for_gradient = self.for_gradient;
        Ok(Weights { w: w.of_type(DType::F32, Self::NAME)?, shape: [o, i, ky, kx], for_gradient })
    }
}

impl Op for PackedWeights {
    const NAME: &'static str = "packed-weights";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();
    const FOREACH: bool = true;

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let (o, i, ky, kx) = inputs[0].dims4()?;
        let w = ds_core::backend::gpu::Address::NONE;
        Ok(Shape::from(Weights { w, shape: [o, i, ky, kx], for_gradient: self.for_gradient }.packed_numbers()))
    }

    fn cpu<T: Real>(&self, _inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        bail!("{}: convolutions take weights as they are on the CPU", Self::NAME)
    }

    fn cpu_backward<T: Real>(&self, _pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        Ok([Gradient::None, Gradient::None, Gradient::None])
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        op::only(Self::gpu_foreach(gpu, &[(self, inputs)])?)
    }

    fn gpu_backward<G: Gpu>(&self, _gpu: &G, _pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        Ok([Gradient::None, Gradient::None, Gradient::None])
    }

    fn gpu_foreach<G: Gpu>(gpu: &G, all: &[(&Self, &[GpuInput<'_, G>])]) -> Result<Vec<G::Buffer>> {
        let dtype = all.first().map_or(DType::F32, |(op, _)| op.dtype);
        if all.iter().all(|(op, _)| op.dtype == dtype) {
            let weights = all.iter().map(|(op, inputs)| op.weights(inputs)).collect::<Result<Vec<_>>>()?;
            return few_channels::packed(gpu, dtype, &weights);
        }
        let one = |(op, inputs): &(&Self, &[GpuInput<'_, G>])| op.gpu(gpu, inputs);
        all.iter().map(one).collect()
    }
}
