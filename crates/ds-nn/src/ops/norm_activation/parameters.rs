//! The parameters of a fused op in one tensor: Candle's custom ops take three arguments at most.

use super::gpu;
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, bail};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, Kernels};
use ds_core::backend::op::{self, Backward, CpuInput, Gradient, Gradients, Op, dyn_op};
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

    dyn_op!();
    const FOREACH: bool = true;

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
        op::only(Self::gpu_foreach(gpu, &[(self, inputs)])?)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        op::only(Self::gpu_backward_foreach(gpu, &[(self, *pass)])?)
    }

    fn gpu_foreach<G: Gpu>(gpu: &G, all: &[(&Self, &[GpuInput<'_, G>])]) -> Result<Vec<G::Buffer>> {
        let layer = |(_, inputs): &(&Self, &[GpuInput<'_, G>])| {
            let of = |k: usize| inputs.get(k).map_or(Ok(Address::NONE), |input| input.of_type(DType::F32, Self::NAME));
            let (channels, knots) = Self::sizes(&inputs.iter().map(|input| input.shape()).collect::<Vec<_>>())?;
            Ok((channels, 2 + knots, [of(0)?, of(1)?, of(2)?]))
        };
        gpu::packed(gpu, &all.iter().map(layer).collect::<Result<Vec<_>>>()?)
    }

    fn gpu_backward_foreach<G: Gpu>(
        gpu: &G,
        all: &[(&Self, Backward<'_, GpuInput<'_, G>>)],
    ) -> Result<Vec<Gradients<G::Buffer>>> {
        let layer = |(_, pass): &(&Self, Backward<'_, GpuInput<'_, G>>)| {
            let dims = pass.dy.shape().dims();
            (dims[0], dims[1], pass.dy.address)
        };
        let found = gpu::unpacked(gpu, &all.iter().map(layer).collect::<Vec<_>>())?;
        let with_coefficients = all.iter().map(|(_, pass)| pass.inputs.len() > 2);
        let gradients = |([dg, db, dc], with_coefficients): ([_; 3], bool)| {
            [Gradient::Value(dg), Gradient::Value(db), with_coefficients.then_some(dc).into()]
        };
        Ok(found.into_iter().zip(with_coefficients).map(gradients).collect())
    }
}
