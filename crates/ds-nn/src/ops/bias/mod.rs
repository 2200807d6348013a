//! Biases of dense layers and convolutions: their gradient is the sum over all but the channels.

pub(super) mod gpu;

use super::norm_activation::plane_sum;
use candle_core::{Result, Shape};
use ds_core::backend::planes::Planes;
use ds_core::backend::pointwise::channel_sums;
use ds_core::backend::real::Real;

/// ∂y (N, C, …) as planes.
pub(super) fn planes(dy: &Shape) -> Result<Planes> {
    Planes::new(dy, dy.dims().get(1).copied().unwrap_or(0), "bias")
}

/// Σ over all but the channels of ∂y (N, C, …): (C).
pub(super) fn gradient<T: Real>(shape: &Shape, dy: &[T]) -> Result<Vec<T>> {
    Ok(channel_sums(planes(shape)?, 1, |_, plane, sum: &mut [T]| sum[0] += plane_sum(&dy[plane])))
}
