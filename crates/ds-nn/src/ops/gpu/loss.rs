//! Losses, and the sums over an epoch.

use candle_core::{DType, Result};
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu, int};

/// A loss and where its targets are.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    /// Softmax and cross-entropy.
    CrossEntropy {
        /// N classes (u8).
        labels: Address,
        /// C.
        classes: usize,
    },
    /// Sigmoid and binary cross-entropy.
    Binary {
        /// N numbers.
        targets: Address,
    },
    /// Squared error.
    Squared {
        /// N numbers.
        targets: Address,
    },
}

impl Loss {
    /// (labels, targets, [kind, classes]).
    fn arguments(self) -> Result<(Address, Address, [Argument<'static>; 2])> {
        let (labels, targets, kind, classes) = match self {
            Self::CrossEntropy { labels, classes } => (labels, Address::NONE, 0, classes),
            Self::Binary { targets } => (Address::NONE, targets, 1, 1),
            Self::Squared { targets } => (Address::NONE, targets, 2, 1),
        };
        Ok((labels, targets, [int(kind)?, int(classes)?]))
    }
}

const SHARED: usize = 8 * Blocks::THREADS;

/// The mean loss of x (N, C) or (N).
///
/// # Errors
/// Those of the device.
pub fn mean<G: Gpu>(gpu: &G, loss: Loss, x: Address, rows: usize) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, 1)?;
    let (labels, targets, [kind, classes]) = loss.arguments()?;
    let to = gpu.address(&out)?;
    let arguments = [x.into(), labels.into(), targets.into(), to.into(), kind, classes, int(rows)?];
    // SAFETY: the kernel's arguments; it stays below the number of rows.
    unsafe { gpu.launch("loss_forward", Blocks::one(SHARED), &arguments)? };
    Ok(out)
}

/// Its gradient times the number at `gradient`.
///
/// # Errors
/// Those of the device.
pub fn gradient<G: Gpu>(gpu: &G, loss: Loss, x: Address, gradient: Address, rows: usize) -> Result<G::Buffer> {
    let (labels, targets, [kind, classes]) = loss.arguments()?;
    let of_row = if let Loss::CrossEntropy { classes, .. } = loss { classes } else { 1 };
    let dx = gpu.alloc(DType::F32, rows * of_row)?;
    let to = gpu.address(&dx)?;
    let arguments = [x.into(), labels.into(), targets.into(), gradient.into(), to.into(), kind, classes, int(rows)?];
    // SAFETY: the kernel's arguments; it stays below the number of rows.
    unsafe { gpu.launch("loss_backward", Blocks::for_each(rows), &arguments)? };
    Ok(dx)
}

/// totals (2, f64) += (Σ loss, right answers).
///
/// # Safety
/// `totals` must be two numbers that nobody else writes.
///
/// # Errors
/// Those of the device.
pub unsafe fn tally<G: Gpu>(gpu: &G, loss: Loss, x: Address, totals: Address, rows: usize) -> Result<()> {
    let (labels, targets, [kind, classes]) = loss.arguments()?;
    let arguments = [x.into(), labels.into(), targets.into(), totals.into(), kind, classes, int(rows)?];
    // SAFETY: the kernel's arguments; it stays below the number of rows.
    unsafe { gpu.launch("tally", Blocks::one(SHARED), &arguments) }
}
