//! The kinds of activations.

crate::named!(
    /// The kinds of activations.
    #[derive(Hash)]
    ActivationKind {
        /// A spline by its coefficients at the knots: [`Spline::bspline`](super::Spline::bspline).
        BSpline = "bspline",
        /// A spline by coefficients and a linear term: [`Spline::explicit_linear`](super::Spline::explicit_linear).
        ExplicitLinear = "explicit_linear",
        /// A spline by slope changes and a linear term: [`Spline::relu_spline`](super::Spline::relu_spline).
        ReluSpline = "relu_spline",
        /// max(0, x).
        Relu = "relu",
        /// LeakyReLU(0.01).
        LeakyRelu = "leaky_relu",
        /// A learned negative slope per channel: [`PRelu`](super::PRelu).
        PRelu = "prelu",
        /// Learned hinges: [`Apl`](super::Apl).
        Apl = "apl",
        /// A spline with slopes in [−1, 1]: [`LipschitzSpline`](super::LipschitzSpline).
        LipschitzSpline = "lipschitz_spline",
        /// |x|.
        Absolute = "absolute",
        /// (max, min) of pairs of channels.
        MaxMin = "max_min",
        /// Learned reflections of pairs of channels: [`Householder`](super::Householder).
        Householder = "householder",
        /// PReLU with slopes in [−1, 1]: [`ClippedPRelu`](super::ClippedPRelu).
        ClippedPRelu = "clipped_prelu",
    }
);

impl ActivationKind {
    /// Whether it is one of the three kinds of splines without a constraint.
    pub fn is_spline(self) -> bool {
        matches!(self, Self::BSpline | Self::ExplicitLinear | Self::ReluSpline)
    }

    /// Whether its functions have knots, which pruning removes: splines with and without a constraint.
    pub fn has_knots(self) -> bool {
        self.is_spline() || self == Self::LipschitzSpline
    }

    /// Whether its functions take pairs of channels.
    pub fn takes_pairs(self) -> bool {
        matches!(self, Self::MaxMin | Self::Householder)
    }

    /// Whether it is 1-Lipschitz whatever its parameters are.
    pub fn is_lipschitz(self) -> bool {
        !(self.is_spline() || matches!(self, Self::PRelu | Self::Apl))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::ActivationKind;
    use crate::activation::{Activation, ActivationConfig};

    #[test]
    fn splines_with_and_without_a_constraint_have_knots() {
        for name in ActivationKind::NAMES {
            let kind: ActivationKind = name.parse().unwrap();
            let activation = ActivationConfig::from(kind).build(2, false).unwrap();
            let has_knots = matches!(activation, Activation::Spline(_) | Activation::Lipschitz(_));
            assert_eq!(kind.has_knots(), has_knots, "{name}");
        }
    }
}
