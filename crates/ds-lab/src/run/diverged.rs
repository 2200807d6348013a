//! The end of a run whose loss is no number.

/// The loss became infinite or NaN.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the loss is {loss} at step {step} (epoch {epoch}): the run diverged; try a lower optimizer.weights.lr")]
pub struct Diverged {
    /// The loss of the step, or its sum over steps.
    pub loss: f64,
    /// Counted from 1.
    pub step: u64,
    /// Counted from 1.
    pub epoch: usize,
}

/// Refuses a loss, or a sum of losses, that is no number at a step (counted from 1).
pub(super) fn check_finite(loss: f64, step: u64, epoch: usize) -> Result<(), Diverged> {
    if loss.is_finite() { Ok(()) } else { Err(Diverged { loss, step, epoch: epoch + 1 }) }
}
