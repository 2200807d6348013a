//! Batch normalisation (Ioffe and Szegedy 2015), the sum with a residual branch and the activation as one op.
//!
//! z = γ·(x − μ)/√(σ² + ε) + β + r and y = f(z), channel by channel, so that a channel's elements are still in the cache when
//! the statistics are known. Only x, r and the parameters are kept for the backward pass, which computes z again: its first
//! pass reads x, r and ∂y and gives ∂z, the sums of the channel and ∂c, its second one turns ∂z into ∂x.

#[cfg(feature = "cuda")]
mod cuda;
mod loops;
mod parameters;
mod passes;

#[cfg(feature = "cuda")]
pub use cuda::OnDevice;
pub(super) use loops::plane_sum;
pub use parameters::ChannelParameters;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use ds_core::ops::linear_spline::Normalised;
use ds_core::ops::planes::Planes;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};
use ds_core::{Grid, dispatch_real};
use std::sync::{Arc, Mutex, PoisonError};

/// Mean and variance of each channel.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// C means.
    pub mean: Vec<f64>,
    /// C biased variances.
    pub variance: Vec<f64>,
}

/// Where the statistics come from.
#[derive(Debug, Clone)]
pub enum Statistics {
    /// From the batch; the op leaves them here for the running statistics and for its backward pass.
    Batch(Arc<Mutex<Moments>>),
    /// Given, as in evaluation; no gradient flows through them.
    Fixed(Arc<Moments>),
    /// On a GPU: from the batch or the running ones, which stay there.
    #[cfg(feature = "cuda")]
    OnDevice(OnDevice),
}

/// What follows the normalisation.
#[derive(Debug, Clone, Copy)]
pub enum Function {
    /// y = z.
    Identity,
    /// y = z where z > 0, slope·z elsewhere.
    Rectifier {
        /// 0 for ReLU.
        slope: f64,
    },
    /// The linear spline of each channel on this grid.
    Spline(Grid),
}

impl Function {
    /// Parameters of a channel: γ, β and the coefficients.
    fn width(self) -> usize {
        match self {
            Self::Spline(grid) => 2 + grid.size(),
            Self::Identity | Self::Rectifier { .. } => 2,
        }
    }
}

/// x (N, C, …) and parameters (C, 2) or (C, 2 + K) as [`ChannelParameters`] puts them together → f(normalised x); as the op of
/// three arguments x, residual (like x), parameters → f(normalised x + residual).
#[derive(Debug, Clone)]
pub struct NormActivation {
    /// μ and σ².
    pub statistics: Statistics,
    /// ε.
    pub epsilon: f64,
    /// f.
    pub function: Function,
}

impl NormActivation {
    const NAME: &'static str = "norm-activation";

    fn planes(&self, x: &Shape, residual: Option<&Shape>, parameters: &Shape) -> Result<Planes> {
        let &[channels, width] = parameters.dims() else {
            bail!("{}: parameters must be (C, 2 + K), got {parameters:?}", Self::NAME)
        };
        if width != self.function.width() {
            bail!("{}: {width} parameters a channel, {:?} has {}", Self::NAME, self.function, self.function.width());
        }
        if let Some(residual) = residual.filter(|&residual| residual != x) {
            bail!("{}: residual {residual:?} does not fit input {x:?}", Self::NAME);
        }
        let planes = Planes::new(x, channels, Self::NAME)?;
        if planes.outer * planes.inner == 0 {
            bail!("{}: empty batch {x:?}", Self::NAME);
        }
        if let Statistics::Fixed(fixed) = &self.statistics
            && (fixed.mean.len() != channels || fixed.variance.len() != channels)
        {
            bail!("{}: statistics of {} channels for {channels}", Self::NAME, fixed.mean.len());
        }
        Ok(planes)
    }

    fn is_of_batch(&self) -> bool {
        matches!(self.statistics, Statistics::Batch(_))
    }

    fn check_on_cpu(&self) -> Result<()> {
        match self.statistics {
            Statistics::Batch(_) | Statistics::Fixed(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Statistics::OnDevice(_) => bail!("{}: statistics are on a GPU, the input is not", Self::NAME),
        }
    }

    fn moments(&self) -> Moments {
        match &self.statistics {
            Statistics::Batch(of_batch) => of_batch.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Statistics::Fixed(fixed) => fixed.as_ref().clone(),
            // Forward passes on the CPU have refused them.
            #[cfg(feature = "cuda")]
            Statistics::OnDevice(_) => Moments::default(),
        }
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

    fn gradients(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        parameters: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>, Tensor)> {
        let planes = self.planes(x.shape(), residual.map(Tensor::shape), parameters.shape())?;
        if dy.shape() != x.shape() {
            bail!("{}: gradient {:?} does not fit input {:?}", Self::NAME, dy.shape(), x.shape());
        }
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.cuda_gradients(planes, x, residual, parameters, dy);
        }
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let (dx, dr, dp) = with_elements::<T, _>(x, |xs| with_elements::<T, _>(parameters, |p| {
                with_elements::<T, _>(dy, |dy| match residual {
                    Some(r) => with_elements::<T, _>(r, |r| self.backward(planes, xs, Some(r), p, dy)),
                    None => self.backward(planes, xs, None, p, dy),
                })
            }))?;
            Ok((tensor_of(dx, x.shape()), dr.map(|dr| tensor_of(dr, x.shape())), tensor_of(dp, parameters.shape())))
        })
    }
}

impl CustomOp2 for NormActivation {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, p: &CpuStorage, pl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.check_on_cpu()?;
        let planes = self.planes(xl.shape(), None, pl.shape())?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let y = self.forward(planes, elements::<T>(x, xl)?, None, elements::<T>(p, pl)?)?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, xl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, p: &CudaStorage, pl: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda_output((x, xl), None, (p, pl))
    }

    fn bwd(&self, x: &Tensor, p: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, _, dp) = self.gradients(x, None, p, dy)?;
        Ok((Some(dx), Some(dp)))
    }
}

impl CustomOp3 for NormActivation {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        r: &CpuStorage,
        rl: &Layout,
        p: &CpuStorage,
        pl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.check_on_cpu()?;
        let planes = self.planes(xl.shape(), Some(rl.shape()), pl.shape())?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let (x, r) = (elements::<T>(x, xl)?, elements::<T>(r, rl)?);
            Ok(T::to_cpu_storage_owned(self.forward(planes, x, Some(r), elements::<T>(p, pl)?)?))
        })?;
        Ok((y, xl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        r: &CudaStorage,
        rl: &Layout,
        p: &CudaStorage,
        pl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda_output((x, xl), Some((r, rl)), (p, pl))
    }

    fn bwd(
        &self,
        x: &Tensor,
        r: &Tensor,
        p: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dr, dp) = self.gradients(x, Some(r), p, dy)?;
        Ok((Some(dx), dr, Some(dp)))
    }
}
