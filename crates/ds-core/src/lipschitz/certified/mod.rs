//! Bounds of the ℓ2 norm that hold: of matrices and convolutions, and of networks made of them, everywhere ([`bound()`]) or on a
//! region of inputs ([`local_bound`]).
//!
//! Nothing here is an estimate. Bounds are of the layers in exact arithmetic, with the weights as they are stored; rounding in
//! the computation of the bound is accounted for. Means, reflections, and the slopes and knots of learned functions are the
//! numbers of f64 that [`piecewise_linear`](super::piecewise_linear) has for them.

mod convolution;
mod local;
mod matrix;
pub(crate) mod multipliers;
mod network;
pub(crate) mod paths;
mod region;
mod relaxation;
mod slopes;

pub(crate) use convolution::Geometry;
pub(crate) use matrix::gamma;
pub(crate) use region::norm_above;

pub use local::{LocalBounds, local_bound};
pub use network::{bound, product_of_norms};
pub use region::Region;
pub use slopes::slopes;

use crate::backend::real::in_double_precision;
use candle_core::{Result, Tensor, bail};
use matrix::Goal;

/// The largest singular value of a matrix (O, I), from above and to within a relative 1e-7: infinite if an element is not
/// finite.
///
/// # Errors
/// If the tensor is no matrix.
pub fn dense_norm(weight: &Tensor) -> Result<f64> {
    let (rows, columns) = weight.dims2()?;
    Ok(dense_norm_of(rows, columns, &in_double_precision(weight)?))
}

/// The largest singular value of a matrix, to within what rounding and equal singular values allow, and its singular vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct TopSingular {
    /// The value, from above.
    pub bound: f64,
    /// The left vector u (rows), of norm 1; 0 for a matrix of zeros.
    pub left: Vec<f64>,
    /// The right vector v (columns).
    pub right: Vec<f64>,
}

impl TopSingular {
    /// Of a matrix (rows, columns), row by row.
    ///
    /// # Panics
    /// If there are not rows·columns elements.
    pub fn new(rows: usize, columns: usize, matrix: &[f64]) -> Self {
        assert_eq!(matrix.len(), rows * columns, "a matrix of {rows} × {columns}");
        let (bracket, near) = matrix::top(rows, columns, matrix, Goal::within(1e-12));
        let near = normalised(near);
        let bound = bracket.upper;
        if columns <= rows {
            let image = matrix.chunks_exact(columns.max(1)).map(|row| row.iter().zip(&near).map(|(w, v)| w * v).sum());
            return Self { bound, left: normalised(image.collect()), right: near };
        }
        let mut image = vec![0.0; columns];
        for (row, u) in matrix.chunks_exact(columns).zip(&near) {
            image.iter_mut().zip(row).for_each(|(image, w)| *image += u * w);
        }
        Self { bound, left: near, right: normalised(image) }
    }
}

fn normalised(mut v: Vec<f64>) -> Vec<f64> {
    let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|v| *v /= norm);
    }
    v
}

pub(super) fn dense_norm_of(rows: usize, columns: usize, weight: &[f64]) -> f64 {
    matrix::largest_singular_value(rows, columns, weight, Goal::within(1e-7)).upper
}

/// An upper bound of the ℓ2 norm of a convolution with a kernel (O, I, k, k), applied with zero padding to a plane of that many
/// rows and columns: the exact norm for small planes, and elsewhere that of the infinite plane, which large planes come near.
///
/// # Errors
/// If the kernel is not (O, I, k, k), or does not fit into the plane.
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
