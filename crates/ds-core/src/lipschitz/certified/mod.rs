//! Bounds of the ℓ2 norm that hold: of matrices and convolutions, and of networks made of them.
//!
//! Nothing here is an estimate. Bounds are of the layers in exact arithmetic, with the weights as they are stored; rounding in
//! the computation of the bound is accounted for.

mod convolution;
mod matrix;
mod network;

pub use convolution::Geometry;
pub use network::bound;

use crate::ops::real::in_double_precision;
use candle_core::{Result, Tensor, bail};
use matrix::Goal;

/// The largest singular value of a matrix (O, I), from above and to within a relative 1e-7: infinite if an element is not
/// finite.
///
/// # Errors
/// If the tensor is no matrix, or on Candle's errors.
pub fn dense_norm(weight: &Tensor) -> Result<f64> {
    let (rows, columns) = weight.dims2()?;
    Ok(dense_norm_of(rows, columns, &in_double_precision(weight)?))
}

pub(super) fn dense_norm_of(rows: usize, columns: usize, weight: &[f64]) -> f64 {
    matrix::largest_singular_value(rows, columns, weight, Goal::within(1e-7)).upper
}

/// An upper bound of the ℓ2 norm of a convolution with a kernel (O, I, k, k), applied with zero padding to a plane of that many
/// rows and columns: the exact norm for small planes, and elsewhere that of the infinite plane, which large planes come near.
///
/// # Errors
/// If the kernel is not (O, I, k, k), or does not fit into the plane, or on Candle's errors.
pub fn convolution_norm(weight: &Tensor, stride: usize, padding: usize, plane: (usize, usize)) -> Result<f64> {
    let (outputs, inputs, kernel, columns) = weight.dims4()?;
    let (height, width) = plane;
    if kernel != columns || stride == 0 || kernel > height.min(width) + 2 * padding {
        bail!(
            "convolution norm: kernel {:?}, stride {stride}, padding {padding} do not fit a plane of {height}×{width}",
            weight.shape()
        );
    }
    let geometry = Geometry { outputs, inputs, kernel, stride, padding, plane };
    Ok(convolution_norm_of(&in_double_precision(weight)?, geometry))
}

pub(super) fn convolution_norm_of(kernel: &[f64], geometry: Geometry) -> f64 {
    convolution::norm(kernel, geometry)
}
