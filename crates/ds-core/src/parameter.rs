//! Trainable parameters, in groups that the type of the layer decides.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var, bail};

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

    /// The parameter that a tensor of a layer is; `None` if it is frozen, that is, no variable.
    pub fn of(name: impl Into<String>, tensor: &Tensor, group: Group, l2: L2) -> Option<Self> {
        let var = variable("", tensor).ok()?;
        Some(Self::new(name, &var, group, l2))
    }
}

/// The variable that a tensor of a layer is; `what` is its name in the error message.
///
/// # Errors
/// [`Error::Frozen`] if the tensor is no variable.
pub fn variable(what: &str, tensor: &Tensor) -> Result<Var> {
    // Candle would make a new variable of another tensor, and what is written there would not reach the layer.
    if tensor.is_variable() { Ok(Var::from_tensor(tensor)?) } else { Err(Error::Frozen(what.to_owned())) }
}

/// Checks the type of parameters; `what` is their name in the error message.
pub(crate) fn check_is_real(what: &str, dtype: DType) -> candle_core::Result<()> {
    if !matches!(dtype, DType::F32 | DType::F64) {
        bail!("{what} parameters in {}: they are f32 or f64, and inputs may be f16 or bf16", dtype.as_str());
    }
    Ok(())
}

/// A new variable.
pub(crate) fn new_variable(data: Vec<f64>, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    check_is_real("new", dtype)?;
    let tensor = Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    Ok(Var::from_tensor(&tensor)?.into_inner())
}

/// A tensor of its own with the same values, in a type and on a device: a variable if the tensor is one. One with the
/// name `grid_step` keeps its type and device.
pub fn copied(name: &str, tensor: &Tensor, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let copy = tensor.detach().copy()?;
    let copy = if is_grid_step(name) { copy } else { copy.to_dtype(dtype)?.to_device(device)? };
    if tensor.is_variable() { Ok(Var::from_tensor(&copy)?.into_inner()) } else { Ok(copy) }
}

/// The name of the distance of a spline's knots, beside its parameters.
pub(crate) const GRID_STEP: &str = "grid_step";

/// Whether a name in a network is that of a distance of knots.
pub(crate) fn is_grid_step(name: &str) -> bool {
    name.rsplit('.').next() == Some(GRID_STEP)
}
