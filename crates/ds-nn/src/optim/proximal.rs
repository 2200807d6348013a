//! The penalties that proximal steps take care of, and the memory of their solver.

use candle_core::{DType, Device, Result, Tensor};
use ds_core::regularization::{ProximalTv2, Workspace};
use std::cell::RefCell;

/// A penalty that a proximal step takes care of.
pub(super) struct Proximal {
    pub(super) penalty: ProximalTv2,
    pub(super) work: Work,
}

/// What its solver works in.
pub(super) enum Work {
    OnCpu(RefCell<(Workspace<f32>, Vec<f32>)>),
    OnDevice(Tensor),
}

impl Work {
    /// Numbers on a device for each coefficient: the arrays of `TrendFilter` in ds-core's `regularization/proximal/solver.cuh`.
    const ARRAYS: usize = 14;

    pub(super) fn on(device: &Device, penalty: &ProximalTv2) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::OnCpu(RefCell::default()));
        }
        Self::in_memory_of(device, penalty)
    }

    pub(super) fn in_memory_of(device: &Device, penalty: &ProximalTv2) -> Result<Self> {
        let (channels, size) = penalty.shape();
        Tensor::zeros(Self::ARRAYS * channels * size, DType::F64, device).map(Self::OnDevice)
    }
}
