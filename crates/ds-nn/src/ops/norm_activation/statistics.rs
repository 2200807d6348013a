//! The statistics of a batch norm: running ones, those of a batch, and what a forward pass leaves for its backward pass.

use candle_core::{Result, Tensor, bail};
use ds_core::backend::real::in_double_precision;
use ds_core::backend::sync::lock;
use ds_core::variable;
use std::any::Any;
use std::sync::{Arc, Mutex};

/// The name of the op.
pub(super) const OP: &str = "norm-activation";

/// Mean and biased variance of each channel.
#[derive(Debug, Clone, Default)]
pub(super) struct Moments {
    pub(super) mean: Vec<f64>,
    pub(super) variance: Vec<f64>,
}

/// Where μ and σ² come from: in training from the batch, which goes into the running statistics; otherwise from these, and no
/// gradient flows through them.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// The running mean (C).
    pub running_mean: Tensor,
    /// The running variance (C), unbiased.
    pub running_variance: Tensor,
    /// The weight of the batch in the running statistics.
    pub momentum: f64,
    /// Whether μ and σ² are those of the batch.
    pub training: bool,
    /// The moments of the forward pass: [`Moments`] on the CPU, (C, 2) in f64 on a GPU.
    saved: Arc<Mutex<Option<Arc<dyn Any + Send + Sync>>>>,
}

impl Statistics {
    /// The statistics of a layer for one pass.
    pub fn new(running_mean: Tensor, running_variance: Tensor, momentum: f64, training: bool) -> Self {
        Self { running_mean, running_variance, momentum, training, saved: Arc::default() }
    }

    pub(super) fn check(&self, channels: usize) -> Result<()> {
        let (mean, variance) = (self.running_mean.elem_count(), self.running_variance.elem_count());
        if mean != channels || variance != channels {
            bail!("{OP}: running statistics of {mean} channels for {channels}");
        }
        if self.training {
            variable("running_mean", &self.running_mean)?;
            variable("running_variance", &self.running_variance)?;
        }
        Ok(())
    }

    pub(super) fn running(&self) -> Result<Moments> {
        let (mean, variance) = (in_double_precision(&self.running_mean)?, in_double_precision(&self.running_variance)?);
        Ok(Moments { mean, variance })
    }

    /// Puts the statistics of a batch with that many elements a channel into the running ones.
    pub(super) fn update(&self, of_batch: &Moments, count: usize) -> Result<()> {
        let unbiased = count as f64 / (count as f64 - 1.0).max(1.0);
        let update = |running: &Tensor, of_batch: &[f64], factor: f64| {
            let old = in_double_precision(running)?;
            let new = old.into_iter().zip(of_batch);
            let new: Vec<f64> =
                new.map(|(old, new)| (1.0 - self.momentum) * old + self.momentum * (factor * new)).collect();
            variable("running statistics", running)?
                .set(&Tensor::from_vec(new, running.shape(), running.device())?.to_dtype(running.dtype())?)
        };
        update(&self.running_mean, &of_batch.mean, 1.0)?;
        update(&self.running_variance, &of_batch.variance, unbiased)
    }

    pub(super) fn save(&self, moments: impl Any + Send + Sync) {
        *lock(&self.saved) = Some(Arc::new(moments));
    }

    /// Calls `f` with what the forward pass has saved.
    pub(super) fn with_saved<M: Any, R>(&self, f: impl FnOnce(&M) -> Result<R>) -> Result<R> {
        // Not locked while `f` runs: its threads may come here for another backward pass of the same graph.
        let saved = lock(&self.saved).clone();
        match saved.as_deref().and_then(|saved| saved.downcast_ref()) {
            Some(moments) => f(moments),
            None => bail!("{OP}: a backward pass without its forward pass"),
        }
    }
}
