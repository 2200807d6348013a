//! Other parameters of the same linear splines, turned into coefficients.
//!
//! Every spline type is evaluated by [`LinearSpline`](super::linear_spline::LinearSpline): a linear term is a linear spline
//! itself, and so is a sum of ReLUs at the knots. These maps touch C·K numbers, nothing of the batch's size.

mod gpu;

use crate::Grid;
use crate::backend::gpu::{Address, Gpu, GpuInput};
use crate::backend::op::{self, Backward, CpuInput, Gradient, Gradients, Op, dyn_op, gradients3};
use crate::backend::real::Real;
use candle_core::{DType, Result, Shape, bail};
use std::ops::Range;

/// Coefficients c (C, K), weight b1 (C), bias b0 (C) → c_k + b1·x_k + b0.
#[derive(Debug, Clone, Copy)]
pub struct AddLinearTerm {
    /// The grid with the knots x_k.
    pub grid: Grid,
}

/// Slope changes a (C, K−2) at the inner knots, weight b1 (C), bias b0 (C) → the coefficients (C, K) of
/// σ(x) = b1·x + b0 + Σ_k a_k·max(0, x − x_k).
#[derive(Debug, Clone, Copy)]
pub struct SumOfRelus {
    /// The grid with the knots x_k.
    pub grid: Grid,
}

/// The channels of knot parameters (C, width), b1 (C) and b0 (C).
fn channels(op: &str, width: usize, inputs: &[&Shape]) -> Result<usize> {
    if let &[rows, b1, b0] = inputs
        && let &[channels, got] = rows.dims()
        && got == width
        && b1.dims() == [channels]
        && b0.dims() == [channels]
    {
        return Ok(channels);
    }
    bail!("{op}: expected (C, {width}), (C), (C), got {inputs:?}")
}

fn addresses<G: Gpu>(inputs: &[GpuInput<'_, G>], op: &str) -> Result<[Address; 3]> {
    let of = |k: usize| inputs[k].of_type(DType::F32, op);
    Ok([of(0)?, of(1)?, of(2)?])
}

impl Op for AddLinearTerm {
    const NAME: &'static str = "add-linear-term";
    const INPUTS: Range<usize> = 3..4;

    dyn_op!();
    const FOREACH: bool = true;

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        channels(Self::NAME, self.grid.size(), inputs)?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (c, b1, b0) = (inputs[0].elements::<T>()?, inputs[1].elements::<T>()?, inputs[2].elements::<T>()?);
        let mut out = Vec::with_capacity(c.len());
        for ((c, b1), b0) in c.chunks_exact(self.grid.size()).zip(b1).zip(b0) {
            let (b1, b0) = (b1.to_f64(), b0.to_f64());
            out.extend(c.iter().zip(self.grid.knots()).map(|(c, x)| T::from_f64(c.to_f64() + b1 * x + b0)));
        }
        Ok(out)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let rows = pass.dy.elements::<T>()?.chunks_exact(self.grid.size());
        let (db1, db0) = rows
            .map(|g| {
                let (mut with_x, mut alone) = (0.0, 0.0);
                for (g, x) in g.iter().zip(self.grid.knots()) {
                    with_x += g.to_f64() * x;
                    alone += g.to_f64();
                }
                (T::from_f64(with_x), T::from_f64(alone))
            })
            .unzip();
        Ok([Gradient::Output, Gradient::Value(db1), Gradient::Value(db0)])
    }

    fn is_same(&self, other: &Self) -> bool {
        self.grid == other.grid
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        op::only(Self::gpu_foreach(gpu, &[(self, inputs)])?)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        op::only(Self::gpu_backward_foreach(gpu, &[(self, *pass)])?)
    }

    fn gpu_foreach<G: Gpu>(gpu: &G, all: &[(&Self, &[GpuInput<'_, G>])]) -> Result<Vec<G::Buffer>> {
        let layer = |(op, inputs): &(&Self, &[GpuInput<'_, G>])| {
            Ok((op.grid, inputs[1].shape().elem_count(), addresses(inputs, Self::NAME)?))
        };
        gpu::add_linear_terms(gpu, &all.iter().map(layer).collect::<Result<Vec<_>>>()?)
    }

    fn gpu_backward_foreach<G: Gpu>(
        gpu: &G,
        all: &[(&Self, Backward<'_, GpuInput<'_, G>>)],
    ) -> Result<Vec<Gradients<G::Buffer>>> {
        let layer = |(op, pass): &(&Self, Backward<'_, GpuInput<'_, G>>)| {
            (op.grid, pass.inputs[1].shape().elem_count(), [pass.dy.address])
        };
        let found = gpu::linear_term_gradients(gpu, &all.iter().map(layer).collect::<Vec<_>>())?;
        let gradients = |(db1, db0)| [Gradient::Output, Gradient::Value(db1), Gradient::Value(db0)];
        Ok(found.into_iter().map(gradients).collect())
    }
}

impl Op for SumOfRelus {
    const NAME: &'static str = "sum-of-relus";
    const INPUTS: Range<usize> = 3..4;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let channels = channels(Self::NAME, self.grid.size() - 2, inputs)?;
        Ok(Shape::from((channels, self.grid.size())))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (size, step) = (self.grid.size(), self.grid.step());
        let (a, b1, b0) = (inputs[0].elements::<T>()?, inputs[1].elements::<T>()?, inputs[2].elements::<T>()?);
        let mut out = Vec::with_capacity(b1.len() * size);
        for ((a, b1), b0) in a.chunks_exact(size - 2).zip(b1).zip(b0) {
            let mut slope = b1.to_f64();
            let mut value = b0.to_f64() + slope * self.grid.knot(0);
            out.push(T::from_f64(value));
            value += slope * step;
            for a in a {
                out.push(T::from_f64(value));
                slope += a.to_f64();
                value += slope * step;
            }
            out.push(T::from_f64(value));
        }
        Ok(out)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (size, step) = (self.grid.size(), self.grid.step());
        let channels = pass.inputs[1].shape().elem_count();
        let (mut da, mut db1, mut db0) =
            (vec![T::ZERO; channels * (size - 2)], Vec::with_capacity(channels), Vec::with_capacity(channels));
        for (g, da) in pass.dy.elements::<T>()?.chunks_exact(size).zip(da.chunks_exact_mut(size - 2)) {
            // From the right: Σ_{k>j} g_k and Σ_{k>j} g_k·(x_k − x_j).
            let (mut sum, mut moment) = (0.0, 0.0);
            for j in (1..size - 1).rev() {
                sum += g[j + 1].to_f64();
                moment += sum * step;
                da[j - 1] = T::from_f64(moment);
            }
            let with_x: f64 = g.iter().zip(self.grid.knots()).map(|(g, x)| g.to_f64() * x).sum();
            db1.push(T::from_f64(with_x));
            db0.push(T::from_f64(g.iter().map(|g| g.to_f64()).sum()));
        }
        Ok(gradients3(da, db1, db0))
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        gpu::sum_of_relus(gpu, self.grid, inputs[1].shape().elem_count(), addresses(inputs, Self::NAME)?)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let channels = pass.inputs[1].shape().elem_count();
        let da = gpu::sum_of_relus_gradient(gpu, self.grid, channels, pass.dy.address)?;
        let linear = gpu::linear_term_gradients(gpu, &[(self.grid, channels, [pass.dy.address])])?;
        let (db1, db0) = op::only(linear)?;
        Ok(gradients3(da, db1, db0))
    }
}
