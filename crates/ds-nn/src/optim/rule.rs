//! The update rules.

/// The name of a step in errors.
pub(super) const OP: &str = "optimiser-step";

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// v ← μ·v + g; θ ← θ − lr·(g + μ·v): stochastic gradient descent with Nesterov momentum, as PyTorch has it.
    Sgd {
        /// μ; 0 for plain descent.
        momentum: f64,
    },
    /// Adam (Kingma and Ba 2015), bias-corrected, with β = (0.9, 0.999) and ε = 1e-8.
    Adam,
}

impl Rule {
    pub(super) const BETA1: f64 = 0.9;
    pub(super) const BETA2: f64 = 0.999;
    pub(super) const EPSILON: f64 = 1e-8;

    /// What the rule takes from the learning rate and the number of steps, this one included: the rate and nothing, or for Adam the
    /// rate over the first bias correction, and 1/√ of the second one.
    pub(super) fn schedule(self, learning_rate: f64, steps: u64) -> (f32, f32) {
        match self {
            Self::Sgd { .. } => (learning_rate as f32, 0.0),
            Self::Adam => {
                let steps = steps.min(1 << 30) as i32;
                let rate = (learning_rate / (1.0 - Self::BETA1.powi(steps))) as f32;
                (rate, (1.0 / (1.0 - Self::BETA2.powi(steps)).sqrt()) as f32)
            }
        }
    }

    pub(super) fn slots(self) -> usize {
        match self {
            Self::Sgd { .. } => 1,
            Self::Adam => 2,
        }
    }
}
