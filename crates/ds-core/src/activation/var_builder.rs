//! Activations whose parameters live where those of candle-nn's layers do: behind a [`VarBuilder`].

use super::{Activation, ActivationConfig, Spline};
use crate::parameter::{Group, Parameter, is_grid_step};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use std::collections::HashSet;

/// A layer of spline activations, as the functions of candle-nn make layers: one function for each of so many channels.
///
/// The parameters have the names `coefficients` (or `slopes`), `b1` and `b0` below the path of the builder, and `grid_step` is the
/// distance of the knots. With a [`VarMap`] they are among its variables; those that are new start with the shape of
/// [`ActivationConfig::init`]. With a file they are constants that are read from it ([`Error::Frozen`] where something would change
/// them), and the distance must be that of the config. They are f32, or f64 if the builder is.
///
/// [`VarMap::load`] into a map whose layers are there already moves their knots to where the file has them.
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
    // Before anything is put into a map.
    if !config.kind.is_spline() {
        return Err(Error::NoSpline(config.kind.name()));
    }
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
    let initial = config.into().build(channels, false)?;
    let found = initial.with_builder(vb)?;
    if let (Activation::Spline(initial), Activation::Spline(found)) = (&initial, &found) {
        let (expected, got) = (initial.grid().step(), found.grid().step());
        // Files of f32 have it rounded. NaN is not the same either.
        let is_same = (got - expected).abs() <= 1e-6 * expected;
        if !is_same {
            return Err(Error::GridStep { got, expected });
        }
    }
    Ok(found)
}

impl Activation {
    /// The activation with the tensors of a builder, by their names there; see [`from_builder`].
    ///
    /// # Errors
    /// If a parameter is missing in a file or has another shape.
    pub fn with_builder(&self, vb: VarBuilder<'_>) -> Result<Self> {
        let linear = self.spline().and_then(Spline::linear_term);
        let has_fixed_bias = linear.is_some_and(|linear| linear.fixed_bias);
        // Those of a frozen layer, too, which `parameters` does not list.
        let is_parameter = |name: &str| !(is_grid_step(name) || has_fixed_bias && name == "b0");
        self.map_tensors(&mut from_builder(&vb, is_parameter))
    }
}

/// Gives layers the tensors of a builder, for [`map_tensors`](Activation::map_tensors). They are f32, or f64 if the builder is, and on
/// its device; a `grid_step` is f64 on the CPU.
///
/// With a [`VarMap`] they are its variables; names that are new there get the values that the layer has. With a file they are what it
/// has: constants, which take no gradients. Only where `is_needed` is false for a name, the layer keeps its value if the file has none.
/// A distance of knots that was cast to f16 or bf16 with the rest of a file, or is 0, is that of the layer.
pub fn from_builder<'a>(
    vb: &'a VarBuilder<'_>,
    is_needed: impl Fn(&str) -> bool + 'a,
) -> impl FnMut(&str, &Tensor) -> candle_core::Result<Tensor> + 'a {
    let of_parameters = if vb.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    move |name, initial| {
        let (vb, dtype) = match is_grid_step(name) {
            true => (vb.clone().set_device(Device::Cpu), DType::F64),
            false => (vb.clone(), of_parameters),
        };
        let is_new = !vb.contains_tensor(name);
        let values = || initial.detach().to_dtype(dtype)?.to_device(vb.device());
        match vb.get_with_hints_dtype(initial.shape(), name, candle_nn::Init::Const(0.0), dtype) {
            Err(_) if is_new && !is_needed(name) => values(),
            Ok(tensor) if is_new && tensor.is_variable() => {
                Var::from_tensor(&tensor)?.set(&values()?)?;
                Ok(tensor)
            }
            Ok(step) if is_grid_step(name) && !step.is_variable() && stands_for(&step, initial)? => values(),
            found => found,
        }
    }
}

/// Whether a distance of knots in a file is that of the layer in f16 or bf16, or 0, which `VarBuilder::zeros` has for all.
fn stands_for(found: &Tensor, of_layer: &Tensor) -> candle_core::Result<bool> {
    let (found, step) = (found.to_scalar::<f64>()?, of_layer.to_dtype(DType::F64)?);
    let rounded = |dtype| step.to_dtype(dtype)?.to_dtype(DType::F64)?.to_scalar::<f64>();
    Ok(found == 0.0 || found == rounded(DType::F16)? || found == rounded(DType::BF16)?)
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
    /// knots are in no group. Parameters that are not in the map, as those of [`Spline::bspline`], are in their groups all the same.
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
            if is_grid_step(name) {
                continue;
            }
            let var = &data[name];
            let group = parameters.iter().find(|p| p.var.id() == var.id()).map_or(Group::Weights, |p| p.group);
            groups.of_group(group).push(var.clone());
        }
        drop(data);
        // Layers that were made without a builder.
        let all = [&groups.weights, &groups.splines, &groups.scalings].into_iter().flatten();
        let mut known: HashSet<_> = all.map(|var| var.id()).collect();
        for parameter in parameters {
            // Clones of a layer share its parameters.
            if known.insert(parameter.var.id()) {
                groups.of_group(parameter.group).push(parameter.var.clone());
            }
        }
        groups
    }

    fn of_group(&mut self, group: Group) -> &mut Vec<Var> {
        match group {
            Group::Weights => &mut self.weights,
            Group::Splines => &mut self.splines,
            Group::Scalings => &mut self.scalings,
        }
    }
}
