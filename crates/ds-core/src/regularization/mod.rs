//! The norms that keep splines simple, TV² and BV², with gradients in closed form, and the explicit L2 term.
//!
//! TV²(σ) = ‖a‖₁ with a the slope changes at the inner knots (Bohra-Campos2020, eq. 10); BV²(σ) = TV²(σ) + |σ(0)| + |σ(1)|
//! (Aziznejad2020, section II). No graph is built for them: their subgradients are added to what the backward pass left,
//! with sign(0) = 0.

mod gradient;
pub(crate) mod measures;
pub(crate) mod norm;
mod proximal;

pub(crate) use gradient::address_to_add_to;
pub use measures::{active_knots, bv2, significant_knots, slope_changes, tv2, values_at_0_and_1};
#[doc(hidden)]
pub use measures::{significant_indices, significant_knot_indices};
pub use norm::Norm;
pub use proximal::{ProximalTv2, Workspace, proximal_step};

use crate::backend::real::with_elements;
use crate::dispatch_real;
use crate::parameter::{L2, Parameter};
use candle_core::Result;

/// Σ θ² over the parameters that take part in an L2 term; the term is (weight decay / 2) times this.
pub fn sum_of_squares(parameters: &[Parameter], l2: L2) -> Result<f64> {
    let mut sum = 0.0;
    for parameter in parameters.iter().filter(|p| p.l2 == l2) {
        let var = parameter.var.as_tensor();
        sum += dispatch_real!(var.dtype(), "sum-of-squares", T => {
            with_elements::<T, _>(var, |v| Ok(v.iter().map(|v| v.to_f64().powi(2)).sum::<f64>()))
        })?;
    }
    Ok(sum)
}
