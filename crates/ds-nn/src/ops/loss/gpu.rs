//! Losses on a GPU.

use super::kind::Kind;
use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Argument, Gpu, LaunchDims, int};

/// Predictions (N, C) and N targets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    pub(super) x: Address,
    pub(super) targets: Address,
    pub(super) rows: usize,
    pub(super) classes: usize,
}

impl Inputs {
    /// (labels, targets, [kind, classes, rows]).
    fn arguments(self, kind: Kind) -> Result<(Address, Address, [Argument<'static>; 3])> {
        let (labels, targets, number) = match kind {
            Kind::CrossEntropy => (self.targets, Address::NONE, 0),
            Kind::BinaryCrossEntropy => (Address::NONE, self.targets, 1),
            Kind::MeanSquaredError => (Address::NONE, self.targets, 2),
        };
        Ok((labels, targets, [int(number)?, int(self.classes)?, int(self.rows)?]))
    }
}

/// The mean loss; totals (2, f64), if there are some, += (Σ loss, correct predictions).
///
/// # Safety
/// `totals` must be none, or two numbers that nobody else writes.
pub(super) unsafe fn forward<G: Gpu>(
    gpu: &G,
    kind: Kind,
    margin: f64,
    inputs: Inputs,
    totals: Address,
) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, 1)?;
    let (labels, targets, [kind, classes, rows]) = inputs.arguments(kind)?;
    let to = gpu.address(&out)?.into();
    let margin = margin.into();
    let arguments = [inputs.x.into(), labels.into(), targets.into(), to, totals.into(), kind, margin, classes, rows];
    // SAFETY: the kernel's arguments; it stays below the number of rows.
    unsafe { gpu.launch("loss_forward", LaunchDims::one(8 * LaunchDims::THREADS), &arguments)? };
    Ok(out)
}

/// Its gradient times the number at `dy`.
pub(super) fn backward<G: Gpu>(gpu: &G, kind: Kind, margin: f64, inputs: Inputs, dy: Address) -> Result<G::Buffer> {
    let dx = gpu.alloc(DType::F32, inputs.rows * inputs.classes)?;
    let (labels, targets, [kind, classes, rows]) = inputs.arguments(kind)?;
    let to = gpu.address(&dx)?.into();
    let margin = margin.into();
    let arguments = [inputs.x.into(), labels.into(), targets.into(), dy.into(), to, kind, margin, classes, rows];
    // SAFETY: the kernel's arguments; it stays below the number of rows.
    unsafe { gpu.launch("loss_backward", LaunchDims::for_each(inputs.rows), &arguments)? };
    Ok(dx)
}
