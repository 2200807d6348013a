//! What is measured of a run.

/// Seconds of what a run consists of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    /// A step.
    pub(super) step: f64,
    /// What a row of metrics holds beside losses.
    pub(super) row: f64,
    /// The evaluation of a sample.
    pub(super) sample: f64,
    /// The search for the lower bound.
    pub(super) lower: f64,
    /// The certified bound.
    pub(super) certified: f64,
    /// The product of the layers' norms.
    pub(super) norms: f64,
    /// What the first steps on a GPU take, once.
    pub(super) first_steps: f64,
}
