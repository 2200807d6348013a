//! Batch normalisation (Ioffe and Szegedy 2015), the sum with a residual branch and the activation as one op.
//!
//! z = γ·(x − μ)/√(σ² + ε) + β + r and y = f(z), channel by channel, so that a channel's elements are still in the cache when
//! the statistics are known. Only x, r and the parameters are kept for the backward pass, which computes z again: its first
//! pass reads x, r and ∂y and gives ∂z, the sums of the channel and ∂c, its second one turns ∂z into ∂x.

mod forward_backward;
mod function;
mod gpu;
mod kernels;
mod parameters;
mod statistics;

pub use function::Function;
pub(super) use kernels::plane_sum;
pub use parameters::ChannelParameters;
pub use statistics::Statistics;

use self::statistics::Moments;
use super::batch_sums::BatchSums;
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, bail};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradient, Gradients, Op, dyn_op};
use ds_core::backend::planes::Planes;
use ds_core::backend::real::Real;
use ds_core::ops::linear_spline::Normalised;
use std::ops::Range;

/// x (N, C, …) and parameters (C, 2) or (C, 2 + K) as [`ChannelParameters`] puts them together → f(normalised x); of x, residual (like
/// x) and parameters → f(normalised x + residual).
#[derive(Debug, Clone)]
pub struct NormActivation {
    /// μ and σ².
    pub statistics: Statistics,
    /// ε.
    pub epsilon: f64,
    /// f.
    pub function: Function,
    /// What the op that made x has left, if anything.
    pub sums: Option<BatchSums>,
}

/// The inputs: x, the residual if there is one, and the parameters.
fn split<I>(inputs: &[I]) -> (&I, Option<&I>, &I) {
    match inputs {
        [x, parameters] => (x, None, parameters),
        _ => (&inputs[0], Some(&inputs[1]), &inputs[2]),
    }
}

impl NormActivation {
    fn planes(&self, inputs: &[&Shape]) -> Result<Planes> {
        let (&x, residual, parameters) = split(inputs);
        let &[channels, width] = parameters.dims() else {
            bail!("{}: parameters must be (C, 2 + K), got {parameters:?}", Self::NAME)
        };
        if width != self.function.width() {
            bail!("{}: {width} parameters a channel, {:?} has {}", Self::NAME, self.function, self.function.width());
        }
        if let Some(residual) = residual.filter(|&&residual| residual != x) {
            bail!("{}: residual {residual:?} does not fit input {x:?}", Self::NAME);
        }
        let planes = Planes::new(x, channels, Self::NAME)?;
        if planes.outer * planes.inner == 0 {
            bail!("{}: empty batch {x:?}", Self::NAME);
        }
        self.statistics.check(channels)?;
        Ok(planes)
    }

    fn inverse_deviation(&self, variance: f64) -> f64 {
        1.0 / (variance + self.epsilon).sqrt()
    }

    /// z as a function of x for a channel with this γ, β, μ and σ².
    fn normalised<'a, T: Real>(
        &self,
        (gamma, beta): (T, T),
        (mean, variance): (f64, f64),
        residual: Option<&'a [T]>,
    ) -> Normalised<'a, T> {
        let scale = gamma.to_f64() * self.inverse_deviation(variance);
        let shift = beta.to_f64() - scale * mean;
        Normalised { scale: T::from_f64(scale), shift: T::from_f64(shift), mean: T::from_f64(mean), residual }
    }
}

impl Op for NormActivation {
    const NAME: &'static str = statistics::OP;
    const INPUTS: Range<usize> = 2..4;

    dyn_op!();
    const TAKES_TWO_GRADIENTS: bool = true;

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        self.planes(inputs)?;
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (x, residual, parameters) = split(inputs);
        let planes = Planes::new(x.shape(), parameters.shape().dims()[0], Self::NAME)?;
        let residual = residual.map(|residual| residual.elements::<T>()).transpose()?;
        let running = if self.statistics.training { None } else { Some(self.statistics.running()?) };
        let (y, moments) = self.forward(planes, running, x.elements::<T>()?, residual, parameters.elements::<T>()?)?;
        if self.statistics.training {
            self.statistics.update(&moments, planes.outer * planes.inner)?;
        }
        self.statistics.save(moments);
        Ok(y)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (x, residual, parameters) = split(pass.inputs);
        let planes = Planes::new(x.shape(), parameters.shape().dims()[0], Self::NAME)?;
        let residual = residual.map(|residual| residual.elements::<T>()).transpose()?;
        let (x, parameters, dy) = (x.elements::<T>()?, parameters.elements::<T>()?, pass.dy.elements::<T>()?);
        let (dx, dr, dp) = self
            .statistics
            .with_saved(|moments: &Moments| self.backward(planes, moments, x, residual, parameters, dy))?;
        Ok(in_order(dx, dr, dp))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let (of, planes) = self.gpu_inputs(inputs)?;
        let Statistics { running_mean, running_variance, momentum, training, .. } = &self.statistics;
        let address = |tensor| gpu.address_of(tensor, DType::F32, Self::NAME);
        let running = (address(running_mean)?, address(running_variance)?);
        let constants = gpu::Constants { momentum: *momentum, epsilon: self.epsilon };
        let left = self.sums.as_ref().and_then(BatchSums::take);
        // SAFETY: the layer is the only one that writes its running statistics.
        let (y, moments) =
            unsafe { gpu::forward(gpu, planes, self.function, of, running, (*training, left), constants)? };
        self.statistics.save(moments);
        Ok(y)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let (of, planes) = self.gpu_inputs(pass.inputs)?;
        let all = self.statistics.with_saved(|moments: &G::Buffer| {
            let more = pass.more.map_or(Ok(Address::NONE), |more| more.of_type(pass.dy.dtype, Self::NAME))?;
            let of_y = (gpu.address(moments)?, pass.dy.address, more);
            gpu::backward(gpu, planes, self.function, of, of_y, self.statistics.training, self.epsilon)
        })?;
        Ok(in_order(all.x, all.residual, all.parameters))
    }
}

impl NormActivation {
    fn gpu_inputs<G: Gpu>(&self, inputs: &[GpuInput<'_, G>]) -> Result<(gpu::Inputs, Planes)> {
        let (x, residual, parameters) = split(inputs);
        let planes = Planes::new(x.shape(), parameters.shape().dims()[0], Self::NAME)?;
        let residual = residual.map_or(Ok(Address::NONE), |residual| residual.of_type(x.dtype, Self::NAME))?;
        let parameters = parameters.of_type(DType::F32, Self::NAME)?;
        Ok((gpu::Inputs { dtype: x.dtype, x: x.address, residual, parameters }, planes))
    }
}

/// The gradients in the order of the inputs.
fn in_order<V>(dx: V, dr: Option<V>, dp: V) -> Gradients<V> {
    let [dx, dp] = [dx, dp].map(Gradient::Value);
    match dr {
        Some(dr) => [dx, Gradient::Value(dr), dp],
        None => [dx, dp, Gradient::None],
    }
}
