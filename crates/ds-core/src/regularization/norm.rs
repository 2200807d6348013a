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

/// The terms of a norm whose gradient is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// TV² = ‖a‖₁.
    pub(super) tv2: bool,
    /// |σ(0)| + |σ(1)|.
    pub(super) values: bool,
}

impl Terms {
    /// All of a norm.
    pub(super) fn of(norm: Norm) -> Self {
        Self { tv2: true, values: norm == Norm::Bv2 }
    }
}
