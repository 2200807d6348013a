//! Which norm is penalised.

crate::named!(
    /// Which norm of the splines is penalised.
    Norm {
        /// TV² = ‖a‖₁, the total variation of the slope.
        Tv2 = "tv2",
        /// BV² = TV² + |σ(0)| + |σ(1)|, which also bounds the Lipschitz constant.
        Bv2 = "bv2",
    }
);

/// The subgradient of |x| that all norms take: 0 at 0.
pub(crate) fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}
