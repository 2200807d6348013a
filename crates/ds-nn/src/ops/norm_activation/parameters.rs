//! The parameters of a fused op in one tensor: Candle's custom ops take three arguments at most.

use super::gpu;
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, bail};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradient, Gradients, Op};
use ds_core::backend::real::Real;
use std::ops::Range;

/// γ (C), β (C) and coefficients (C, K) side by side: (C, 2 + K); (C, 2) without coefficients.
#[derive(Debug, Clone, Copy)]
pub struct ChannelParameters;

impl ChannelParameters {
    /// (channels, coefficients of one).
    fn sizes(inputs: &[&Shape]) -> Result<(usize, usize)> {
        let (gamma, beta, coefficients) = (inputs[0], inputs[1], inputs.get(2));
        let knots = match coefficients.map(|coefficients| coefficients.dims()) {
            None => Some(0),
            Some(&[channels, knots]) if [channels] == gamma.dims() => Some(knots),
            Some(_) => None,
        };
        match (gamma.dims(), knots) {
            (&[channels], Some(knots)) if gamma == beta => Ok((channels, knots)),
            _ => bail!(
                "{}: scale {gamma:?}, shift {beta:?} and coefficients {coefficients:?} must be (C), (C) and (C, K)",
                Self::NAME
            ),
        }
    }

    fn packed<T: Real>(gamma: &[T], beta: &[T], coefficients: &[T], knots: usize) -> Vec<T> {
        let mut packed = Vec::with_capacity(gamma.len() * (2 + knots));
        for (c, (&gamma, &beta)) in gamma.iter().zip(beta).enumerate() {
            packed.extend([gamma, beta]);
            packed.extend_from_slice(&coefficients[c * knots..(c + 1) * knots]);
        }
        packed
    }
}

impl Op for ChannelParameters {
    const NAME: &'static str = "channel-parameters";
    const INPUTS: Range<usize> = 2..4;

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let (channels, knots) = Self::sizes(inputs)?;
        Ok(Shape::from((channels, 2 + knots)))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (gamma, beta) = (inputs[0].elements::<T>()?, inputs[1].elements::<T>()?);
        let coefficients = inputs.get(2).map_or(Ok(&[][..]), |coefficients| coefficients.elements::<T>())?;
        Ok(Self::packed(gamma, beta, coefficients, coefficients.len() / gamma.len().max(1)))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let packed = pass.dy.elements::<T>()?;
        let width = (packed.len() / pass.inputs[0].shape().elem_count().max(1)).max(1);
        let column = |k: usize| packed.chunks_exact(width).map(|row| row[k]).collect::<Vec<T>>();
        let coefficients = || packed.chunks_exact(width).flat_map(|row| row[2..].iter().copied()).collect::<Vec<T>>();
        let of_coefficients = (pass.inputs.len() > 2).then(coefficients);
        Ok([Gradient::Value(column(0)), Gradient::Value(column(1)), of_coefficients.into()])
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let of = |k: usize| inputs.get(k).map_or(Ok(Address::NONE), |input| input.of_type(DType::F32, Self::NAME));
        let (channels, knots) = Self::sizes(&inputs.iter().map(|input| input.shape()).collect::<Vec<_>>())?;
        gpu::packed(gpu, channels, 2 + knots, [of(0)?, of(1)?, of(2)?])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let (channels, width) = (pass.dy.shape().dims()[0], pass.dy.shape().dims()[1]);
        let [dg, db, dc] = gpu::unpacked(gpu, channels, width, pass.dy.address)?;
        let dc = (pass.inputs.len() > 2).then_some(dc);
        Ok([Gradient::Value(dg), Gradient::Value(db), dc.into()])
    }
}
