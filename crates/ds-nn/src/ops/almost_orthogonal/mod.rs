//! Almost-orthogonal kernels: convolutions that are 1-Lipschitz in ℓ2 (AOL; Prach & Lampert 2022, theorem 2).

mod gpu;
mod sizes;

use super::product::shared_product;
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::real::{Real, to_f64};
use sizes::{NAME, Sizes};
use std::ops::Range;

/// A kernel K (O, I, k, k) → K with input channel i multiplied by d_i = (Σ_{j,p} |(K⋆K)_{ij}(p)|)^{−1/2}, where
/// (K⋆K)_{ij}(p) = Σ_{o,x} K_{oi}(x)·K_{oj}(x+p): the convolution with it, padded by zeros, is 1-Lipschitz in ℓ2.
///
/// With a stride s the input is seen as its s² phases, and the kernel as one of I·s² channels and side ⌈k/s⌉: channel
/// (i, a, b) has the elements K_i(s·q + a, s·r + b), each with a d of its own. Sums are in f64.
#[derive(Debug, Clone, Copy)]
pub struct AlmostOrthogonal {
    /// The stride of the convolution.
    pub stride: usize,
}

/// The kernel as a matrix (O, channels · side²), and where its elements come from.
struct Polyphase {
    sizes: Sizes,
    /// The index within (I, k, k) of each column; `None` where a phase ends before the others.
    source: Vec<Option<usize>>,
    matrix: Vec<f64>,
}

impl AlmostOrthogonal {
    fn polyphase(&self, shape: &Shape, kernel: &[f64]) -> Result<Polyphase> {
        let sizes = Sizes::new(shape, self.stride)?;
        let Sizes { inputs, kernel: k, stride, side, .. } = sizes;
        let mut source = Vec::with_capacity(sizes.columns());
        for i in 0..inputs {
            for phase in 0..stride * stride {
                for tap in 0..side * side {
                    let (y, x) = (tap / side * stride + phase / stride, tap % side * stride + phase % stride);
                    source.push((y < k && x < k).then_some((i * k + y) * k + x));
                }
            }
        }
        let rows = kernel.chunks_exact(sizes.in_row().max(1));
        let matrix = rows.flat_map(|row| source.iter().map(|at| at.map_or(0.0, |at| row[at]))).collect();
        Ok(Polyphase { sizes, source, matrix })
    }
}

impl Polyphase {
    /// Which p = x' − x two taps have, as an index.
    fn offset(&self, x: usize, other: usize) -> usize {
        let (side, span) = (self.sizes.side, 2 * self.sizes.side - 1);
        let (dy, dx) = (other / side + side - 1 - x / side, other % side + side - 1 - x % side);
        dy * span + dx
    }

    /// (K⋆K)_{ij}(p) by (i, j, p).
    fn autocorrelation(&self) -> Vec<f64> {
        let Sizes { outputs, channels, .. } = self.sizes;
        let (columns, taps, span) = (self.sizes.columns(), self.sizes.taps(), self.sizes.shifts());
        let gram = shared_product((columns, columns, outputs), (&self.matrix, 1, columns), (&self.matrix, columns, 1));
        let mut sums = vec![0.0; channels * channels * span];
        for (row, gram) in gram.chunks_exact(columns).enumerate() {
            let (i, x) = (row / taps, row % taps);
            for (column, gram) in gram.iter().enumerate() {
                let (j, other) = (column / taps, column % taps);
                sums[(i * channels + j) * span + self.offset(x, other)] += gram;
            }
        }
        sums
    }

    /// Σ_{j,p} |(K⋆K)_{ij}(p)| of each channel.
    fn totals(&self, autocorrelation: &[f64]) -> Vec<f64> {
        let of_channel = autocorrelation.chunks_exact(self.sizes.channels * self.sizes.shifts());
        of_channel.map(|sums| sums.iter().map(|v| v.abs()).sum()).collect()
    }

    /// A matrix (O, columns) with each channel scaled, back in the kernel's layout; `d` goes by channel.
    fn gather(&self, matrix: &[f64], d: &[f64], kernel_elements: usize) -> Vec<f64> {
        let per_output = kernel_elements / self.sizes.outputs.max(1);
        let mut kernel = vec![0.0; kernel_elements];
        for (kernel, row) in
            kernel.chunks_exact_mut(per_output.max(1)).zip(matrix.chunks_exact(self.sizes.columns().max(1)))
        {
            for (column, (at, v)) in self.source.iter().zip(row).enumerate() {
                if let Some(at) = *at {
                    kernel[at] = v * d[column / self.sizes.taps()];
                }
            }
        }
        kernel
    }
}

/// d of a channel; one without weights stays without.
fn scale(total: f64) -> f64 {
    if total == 0.0 { 0.0 } else { 1.0 / total.sqrt() }
}

impl Op for AlmostOrthogonal {
    const NAME: &'static str = NAME;
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let kernel = to_f64(inputs[0].elements::<T>()?);
        let p = self.polyphase(inputs[0].shape(), &kernel)?;
        let d: Vec<f64> = p.totals(&p.autocorrelation()).into_iter().map(scale).collect();
        Ok(p.gather(&p.matrix, &d, kernel.len()).into_iter().map(T::from_f64).collect())
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let w = &pass.inputs[0];
        let (kernel, of_result) = (to_f64(w.elements::<T>()?), to_f64(pass.dy.elements::<T>()?));
        let p = self.polyphase(w.shape(), &kernel)?;
        let g = self.polyphase(w.shape(), &of_result)?.matrix;
        let (columns, taps, channels, span) = (p.sizes.columns(), p.sizes.taps(), p.sizes.channels, p.sizes.shifts());
        let sums = p.autocorrelation();
        let totals = p.totals(&sums);
        let d: Vec<f64> = totals.iter().map(|&total| scale(total)).collect();
        // By way of d_i: ∂total_i = −d_i/(2·total_i)·Σ ∂K'·K over the channel.
        let mut of_totals = vec![0.0; channels];
        for (k, (g, w)) in g.iter().zip(&p.matrix).enumerate() {
            of_totals[k % columns / taps] += g * w;
        }
        for ((of_total, d), total) in of_totals.iter_mut().zip(&d).zip(&totals) {
            *of_total *= if *total == 0.0 { 0.0 } else { -0.5 * d / total };
        }
        // Each product K_i(x)·K_j(x+p) counts in total_i and, from the other side, in total_j.
        let mut signs = vec![0.0; columns * columns];
        for (row, signs) in signs.chunks_exact_mut(columns.max(1)).enumerate() {
            let (i, x) = (row / taps, row % taps);
            for (column, sign) in signs.iter_mut().enumerate() {
                let (j, other) = (column / taps, column % taps);
                let v = sums[(i * channels + j) * span + p.offset(x, other)];
                *sign = if v == 0.0 { 0.0 } else { v.signum() * (of_totals[i] + of_totals[j]) };
            }
        }
        let through_totals =
            shared_product((p.sizes.outputs, columns, columns), (&p.matrix, columns, 1), (&signs, 1, columns));
        let total_gradient: Vec<f64> = (g.iter().zip(&through_totals).enumerate())
            .map(|(k, (g, through))| g * d[k % columns / taps] + through)
            .collect();
        let dw = p.gather(&total_gradient, &vec![1.0; channels], kernel.len());
        Ok(gradient(dw.into_iter().map(T::from_f64).collect()))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        inputs[0].of_type(DType::F32, Self::NAME)?;
        gpu::scaled(gpu, Sizes::new(inputs[0].shape(), self.stride)?, &inputs[0])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let kernel = &pass.inputs[0];
        Ok(gradient(gpu::gradient(gpu, Sizes::new(kernel.shape(), self.stride)?, kernel, &pass.dy)?))
    }
}
