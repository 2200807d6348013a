//! Trainable parameters, in groups that the type of the layer decides.

use candle_core::{DType, Device, Result, Var};

/// The optimiser that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The parameters of spline activations: coefficients or slopes, and the linear term.
    Splines,
    /// The scalings of 1-Lipschitz splines, which move all knots of a function at once.
    Scalings,
    /// Everything else.
    Weights,
}

/// Which explicit L2 term (λ/2)·‖θ‖² a parameter takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2 {
    /// Weight decay: weights, biases, batch-norm scales and shifts, b1 and b0 of the splines.
    WeightDecay,
    /// The penalty of the hinges of APL units.
    Hinges,
    /// None: coefficients and slopes, which TV² or BV² regularises, slopes of PReLU (He et al. 2015, section 2.1), and
    /// weights whose norm is constrained.
    Exempt,
}

/// A named trainable parameter. Clones share the variable.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name in checkpoints, unique in a network.
    pub name: String,
    /// The variable.
    pub var: Var,
    /// Its optimiser.
    pub group: Group,
    /// Its L2 term.
    pub l2: L2,
}

impl Parameter {
    /// A parameter by its name, group and L2 term.
    pub fn new(name: impl Into<String>, var: &Var, group: Group, l2: L2) -> Self {
        Self { name: name.into(), var: var.clone(), group, l2 }
    }
}

/// A variable of its own with the same values, in a type and on a device.
pub fn copied(var: &Var, dtype: DType, device: &Device) -> Result<Var> {
    // The type and device that it has already would give the same storage.
    Var::from_tensor(&var.as_tensor().copy()?.to_dtype(dtype)?.to_device(device)?)
}
