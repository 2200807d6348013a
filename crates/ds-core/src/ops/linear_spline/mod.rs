//! The linear spline as one fused op: y = c_i + t·(c_{i+1} − c_i).
//!
//! With u = x/T, i = clamp(⌊u⌋ + (K−1)/2, 0, K−2) and t = u + (K−1)/2 − i, the same formula interpolates inside the grid and
//! extrapolates outside. The backward pass reads x and ∂y once and gives ∂x = ∂y·(c_{i+1} − c_i)/T and
//! ∂c_i += ∂y·(1 − t), ∂c_{i+1} += ∂y·t; nothing is kept from the forward pass but x. At a knot the slope is that of the
//! segment to its right.

mod cpu;
mod gpu;

pub use cpu::{Channels, Normalised, Sums};

use crate::Grid;
use crate::backend::gpu::{Gpu, GpuInput};
use crate::backend::op::{self, Backward, CpuInput, Gradients, Op, dyn_op, gradients2};
use crate::backend::planes::Planes;
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape, Tensor, bail};
use std::ops::Range;

/// σ(x) per channel: x (N, C, …), coefficients (C, K) → y like x. On the CPU f32 or f64, both alike; on a GPU (feature `cuda`)
/// f32, f16 or bf16 with coefficients in f32.
#[derive(Debug, Clone, Copy)]
pub struct LinearSpline {
    grid: Grid,
}

impl LinearSpline {
    /// The op on a grid.
    pub fn new(grid: Grid) -> Self {
        Self { grid }
    }

    /// σ(x) outside any graph.
    ///
    /// # Errors
    /// If shapes, types or devices do not fit.
    pub fn forward(&self, x: &Tensor, coefficients: &Tensor) -> Result<Tensor> {
        op::forward(self, [x, coefficients])
    }

    /// (∂x, ∂c) from x, c and ∂y in one pass.
    ///
    /// # Errors
    /// If shapes, types or devices do not fit.
    pub fn backward(&self, x: &Tensor, coefficients: &Tensor, grad_y: &Tensor) -> Result<(Tensor, Tensor)> {
        // The gradient does not need the result; x has its shape and type.
        match op::backward(self, [x, coefficients], x, grad_y)? {
            [Some(dx), Some(dc), _] => Ok((dx, dc)),
            _ => bail!("{}: no gradient", Self::NAME),
        }
    }

    fn planes(&self, x: &Shape, coefficients: &Shape) -> Result<Planes> {
        let &[channels, size] = coefficients.dims() else {
            bail!("{}: coefficients must be (C, K), got {coefficients:?}", Self::NAME)
        };
        if size != self.grid.size() {
            bail!("{}: {size} coefficients a channel for a grid of {} knots", Self::NAME, self.grid.size());
        }
        Planes::new(x, channels, Self::NAME)
    }
}

impl Op for LinearSpline {
    const NAME: &'static str = gpu::NAME;
    const INPUTS: Range<usize> = 2..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        self.planes(inputs[0], inputs[1])?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let planes = self.planes(inputs[0].shape(), inputs[1].shape())?;
        cpu::forward::<T>(self.grid, planes, inputs[0].elements()?, inputs[1].elements()?)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let [x, c] = [pass.inputs[0], pass.inputs[1]];
        let planes = self.planes(x.shape(), c.shape())?;
        let (dx, dc) = cpu::backward::<T>(self.grid, planes, x.elements()?, c.elements()?, pass.dy.elements()?)?;
        Ok(gradients2(dx, dc))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [x, c] = [&inputs[0], &inputs[1]];
        let planes = self.planes(x.shape(), c.shape())?;
        gpu::forward(gpu, self.grid, planes, x.dtype, (x.address, c.of_type(DType::F32, Self::NAME)?))
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let [x, c] = [&pass.inputs[0], &pass.inputs[1]];
        let planes = self.planes(x.shape(), c.shape())?;
        let of_inputs = (x.address, c.of_type(DType::F32, Self::NAME)?);
        let (dx, dc) = gpu::backward(gpu, self.grid, planes, x.dtype, of_inputs, pass.dy.address)?;
        Ok(gradients2(dx, dc))
    }
}
