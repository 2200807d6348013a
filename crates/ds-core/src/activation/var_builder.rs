//! Activations whose parameters live where those of candle-nn's layers do: behind a [`VarBuilder`].

use super::{Activation, ActivationConfig, Spline};
use crate::parameter::{Group, Parameter};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};

/// The name of the distance of the knots, beside the parameters of a spline.
const GRID_STEP: &str = "grid_step";

/// A layer of spline activations, as the functions of candle-nn make layers: one function for each of so many channels.
///
/// The parameters have the names `coefficients` (or `slopes`), `b1` and `b0` below the path of the builder, and `grid_step` is the
/// distance of the knots. With a [`VarMap`] they are among its variables; those that are new start with the shape of
/// [`ActivationConfig::init`]. With a file they are read from it. They are f32, or f64 if the builder is.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap};
/// use ds_core::activation::{ActivationConfig, spline};
/// let map = VarMap::new();
/// let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
/// let conv = candle_nn::conv2d(3, 16, 3, Default::default(), vb.pp("conv1"))?;
/// let activation = spline(16, ActivationConfig { size: 21, range: 3.0, ..Default::default() }, vb.pp("act1"))?;
/// let y = activation.forward(&conv.forward(&Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu)?)?)?;
/// assert_eq!(y.dims(), [1, 16, 6, 6]);
/// assert!(map.data().lock().unwrap().contains_key("act1.coefficients"));
/// # Ok::<(), ds_core::Error>(())
/// ```
///
/// # Errors
/// If the config is not of a spline without a constraint, a tensor of the file is missing or has another shape, or its knots have
/// another distance.
pub fn spline(channels: usize, config: impl Into<ActivationConfig>, vb: VarBuilder<'_>) -> Result<Spline> {
    let config = config.into();
    match activation(channels, config, vb)? {
        Activation::Spline(spline) => Ok(spline),
        _ => Err(Error::NoSpline(config.kind.name())),
    }
}

/// The same for any activation: `slopes`, `offsets`, `angles`, `coefficients` and `log_scaling` are the names of the other
/// parameters.
///
/// # Errors
/// Those of [`ActivationConfig::build`], or as for [`spline`].
pub fn activation(channels: usize, config: impl Into<ActivationConfig>, vb: VarBuilder<'_>) -> Result<Activation> {
    let dtype = if vb.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let initial = config.into().build(channels, false)?.to(dtype, &Device::Cpu)?;
    if let Activation::Spline(spline) = &initial {
        check_step(spline, &vb)?;
    }
    initial.map_variables(&mut |name, initial| variable(&vb, name, initial))
}

/// The variable of a name: that of the builder, with the initial values if it is new there.
fn variable(vb: &VarBuilder<'_>, name: &str, initial: &Var) -> candle_core::Result<Var> {
    let is_new = !vb.contains_tensor(name);
    let hint = candle_nn::Init::Const(0.0);
    let tensor = vb.get_with_hints_dtype(initial.shape(), name, hint, initial.dtype())?;
    // One that is a variable already stays the same one.
    let var = Var::from_tensor(&tensor)?;
    if is_new {
        var.set(&initial.as_tensor().to_device(var.device())?)?;
    }
    Ok(var)
}

/// Refuses parameters of a file for knots at other distances; files of others do not tell theirs.
fn check_step(spline: &Spline, vb: &VarBuilder<'_>) -> Result<()> {
    let step = spline.grid().step();
    let is_new = !vb.contains_tensor(GRID_STEP);
    let hint = candle_nn::Init::Const(step);
    match vb.get_with_hints_dtype((), GRID_STEP, hint, DType::F64) {
        Err(_) if is_new => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) if is_new => Ok(()),
        Ok(stored) => same_step(&stored, step),
    }
}

fn same_step(stored: &Tensor, step: f64) -> Result<()> {
    let stored = stored.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    // Files of f32 have it rounded.
    if (stored - step).abs() <= 1e-6 * step { Ok(()) } else { Err(Error::GridStep { got: stored, expected: step }) }
}

/// The variables of a map by the optimiser that they belong to.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// All that is in no other group: for the optimiser of the network, with its weight decay.
    pub weights: Vec<Var>,
    /// Parameters of splines: for an optimiser of their own, Adam in the papers.
    pub splines: Vec<Var>,
    /// Scalings of 1-Lipschitz splines.
    pub scalings: Vec<Var>,
}

impl Groups {
    /// Groups of a map, given the parameters of all spline layers in it, as their `parameters` methods list them. The distances of
    /// knots are in no group.
    ///
    /// ```
    /// # use candle_core::{DType, Device};
    /// # use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD, VarBuilder, VarMap};
    /// # use ds_core::activation::{ActivationConfig, Groups, spline};
    /// # let map = VarMap::new();
    /// # let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    /// let linear = candle_nn::linear(2, 4, vb.pp("linear"))?;
    /// let activation = spline(4, ActivationConfig::default(), vb.pp("act"))?;
    /// let groups = Groups::of(&map, &activation.parameters("act"));
    /// let mut weights = SGD::new(groups.weights, 0.1)?;
    /// let mut splines = AdamW::new(groups.splines, ParamsAdamW { lr: 1e-3, weight_decay: 0.0, ..Default::default() })?;
    /// # Ok::<(), ds_core::Error>(())
    /// ```
    pub fn of(map: &VarMap, parameters: &[Parameter]) -> Self {
        let mut groups = Self::default();
        let data = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut names: Vec<&String> = data.keys().collect();
        // In an order that is the same in every process.
        names.sort();
        for name in names {
            if name == GRID_STEP || name.ends_with(&format!(".{GRID_STEP}")) {
                continue;
            }
            let var = &data[name];
            let group = parameters.iter().find(|p| p.var.id() == var.id()).map_or(Group::Weights, |p| p.group);
            let vars = match group {
                Group::Weights => &mut groups.weights,
                Group::Splines => &mut groups.splines,
                Group::Scalings => &mut groups.scalings,
            };
            vars.push(var.clone());
        }
        groups
    }
}
