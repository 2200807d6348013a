//! The gradients of norms of 1-Lipschitz splines on a GPU.

use crate::backend::gpu::{Address, Argument, Gpu};
use crate::graph::Gradients;
use crate::ops::slope_projection::SlopeProjection;
use crate::regularization::{Norm, address_to_add_to};
use candle_core::{DType, Result, Tensor};

/// The name of the op.
const NAME: &str = "lipschitz-norm-gradient";

/// The parameters of a layer of splines.
pub(super) struct Parameters<'a> {
    pub(super) projection: SlopeProjection,
    pub(super) channels: usize,
    pub(super) coefficients: &'a Tensor,
    pub(super) log_scaling: Option<&'a Tensor>,
}

/// Adds `weight` times the norm's gradient to the gradients of the parameters, in place.
pub(super) fn add_norm_gradient<G: Gpu>(
    gpu: &G,
    spline: &Parameters<'_>,
    norm: Norm,
    weight: f64,
    gradients: &mut impl Gradients,
) -> Result<()> {
    let (c, scaling) = (spline.coefficients, spline.log_scaling);
    let values = norm == Norm::Bv2;
    let log_alpha = scaling.map_or(Ok(Address::NONE), |tensor| gpu.address_of(tensor, DType::F32, NAME))?;
    let dc = address_to_add_to(gpu, c, gradients, NAME)?;
    let d_log_alpha = match scaling {
        Some(tensor) if values => address_to_add_to(gpu, tensor, gradients, NAME)?,
        _ => Address::NONE,
    };
    let (blocks, sizes) = spline.projection.sizes(spline.channels).launch()?;
    let arrays = [gpu.address_of(c, DType::F32, NAME)?, log_alpha, dc, d_log_alpha];
    let mut arguments: Vec<Argument<'_>> = arrays.into_iter().map(Argument::from).collect();
    arguments.extend([weight.into(), Argument::Int(i32::from(values))]);
    arguments.extend(sizes);
    // SAFETY: the kernel's arguments: parameters and gradients of the same shapes, which live until the launch has run.
    unsafe { gpu.launch("lipschitz_norm_gradient", blocks, &arguments) }
}
