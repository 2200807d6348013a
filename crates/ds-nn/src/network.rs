//! A network is data: a list of named layers. What is done with a network walks that list once.

use crate::layers::{self, Layer, Layers, Mode};
use crate::ops::blocks::to_blocked_layout;
use crate::ops::conv2d;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use ds_core::activation::{Activation, Spline, from_builder};
use ds_core::graph::{CandleGraph, Graph};
use ds_core::lipschitz::architecture::{Architecture, Signal};
use ds_core::lipschitz::bv2;
use ds_core::{Parameter, copied, variable};
use std::collections::HashSet;

/// A feed-forward network.
#[derive(Debug, Clone)]
pub struct Network {
    /// The shape of an input.
    pub input: Signal,
    /// The layers with their names, from input to output. Names are those of checkpoints.
    pub layers: Layers,
}

impl Network {
    /// A network of layers that have their names as string slices.
    pub fn new<N: Into<String>>(input: Signal, layers: impl IntoIterator<Item = (N, Layer)>) -> Self {
        Self { input, layers: layers.into_iter().map(|(name, layer)| (name.into(), layer)).collect() }
    }

    /// The logits (or prediction) for a batch, in a graph.
    ///
    /// # Errors
    /// If x does not have the network's input shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let flat = matches!(self.layers.first(), Some((_, Layer::Flatten { .. })));
        self.check_input(graph.tensor(x).dims(), flat)?;
        let x = if flat { x.clone() } else { to_blocked_layout(graph, x)? };
        layers::forward_in(graph, &self.layers, &x, mode)
    }

    /// Bounds and exports are for this shape alone.
    fn check_input(&self, dims: &[usize], flat: bool) -> Result<()> {
        let Signal { channels, plane: (height, width) } = self.input;
        let fits = match dims {
            [_, _, ..] if flat || (height, width) == (1, 1) => {
                dims[1..].iter().product::<usize>() == self.input.elements()
            }
            [_, image @ ..] => image == [channels, height, width],
            _ => false,
        };
        if !fits {
            let expected = match self.input.plane {
                (1, 1) => format!("{channels} numbers"),
                (height, width) => format!("({channels}, {height}, {width})"),
            };
            bail!("network: an input of shape {dims:?}, expected a batch of {expected}");
        }
        Ok(())
    }

    /// All trainable parameters, with names that are unique and stable; those that are frozen are left out.
    pub fn parameters(&self) -> Vec<Parameter> {
        layers::parameters(&self.layers)
    }

    /// State that is not trained, by name: running statistics.
    pub fn buffers(&self) -> Vec<(String, Tensor)> {
        layers::buffers(&self.layers)
    }

    /// The device of the parameters and statistics, whether they are variables or constants.
    pub fn device(&self) -> Device {
        let mut device = None;
        // The copy is of no use: all tensors are looked at.
        let _ = self.map_tensors(|name, tensor| {
            // Distances of knots are on the CPU in any network.
            if device.is_none() && !name.ends_with(".grid_step") {
                device = Some(tensor.device().clone());
            }
            Ok(tensor.clone())
        });
        device.unwrap_or(Device::Cpu)
    }

    /// The activation layers, from input to output.
    pub fn activations(&self) -> Vec<&Activation> {
        let mut all = Vec::new();
        layers::visit(&self.layers, &mut |_, layer| {
            if let Layer::Activation(activation) = layer {
                all.push(activation);
            }
        });
        all
    }

    /// The layers of splines without a constraint, from input to output.
    pub fn splines(&self) -> Vec<&Spline> {
        self.activations().into_iter().filter_map(Activation::spline).collect()
    }

    /// The same with the names of their [`knot_parameters`](Spline::knot_parameters) in checkpoints.
    pub fn named_splines(&self) -> Vec<(String, &Spline)> {
        let mut all = Vec::new();
        layers::visit(&self.layers, &mut |name, layer| {
            if let Layer::Activation(Activation::Spline(spline)) = layer {
                all.push((format!("{name}.{}", spline.knot_parameters_name()), spline));
            }
        });
        all
    }

    /// The number of trainable parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|p| p.var.elem_count()).sum()
    }

    /// The network with what `new` gives in place of each of its tensors: parameters and running statistics by their names in
    /// checkpoints, and the distance of the knots of each spline layer, `grid_step` below the name of the layer.
    ///
    /// # Errors
    /// If a shape does not fit, or those of `new`.
    pub fn map_tensors(&self, mut new: impl FnMut(&str, &Tensor) -> Result<Tensor>) -> ds_core::Result<Self> {
        Ok(Self { input: self.input, layers: layers::map_tensors(&self.layers, &mut new)? })
    }

    /// The network with the tensors of a builder: variables of a `candle_nn::VarMap`, which start with the drawn values, or constants of
    /// a file. See [`from_builder`]; [`map_tensors`](Self::map_tensors) has the names. Splines have their knots where a file has them.
    ///
    /// # Errors
    /// If a parameter or statistic is missing in a file, or a shape does not fit.
    pub fn with_builder(&self, vb: VarBuilder<'_>) -> ds_core::Result<Self> {
        let parameters = self.parameters().into_iter().map(|parameter| parameter.name);
        let names: HashSet<String> = parameters.chain(self.buffers().into_iter().map(|(name, _)| name)).collect();
        self.map_tensors(from_builder(&vb, |name| names.contains(name)))
    }

    /// Checks that parameters and statistics can be changed, as loading and training do.
    ///
    /// # Errors
    /// [`ds_core::Error::Frozen`] with the name of one that comes from a file.
    pub fn check_variables(&self) -> ds_core::Result<()> {
        self.map_tensors(|name, tensor| Ok(variable(name, tensor)?.into_inner())).map(|_| ())
    }

    /// A copy with parameters and statistics of a type and on a device: f64 for what f32 would round away.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn to(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        self.map_tensors(|name, tensor| copied(name, tensor, dtype, device))
    }

    /// Sets the arithmetic of all convolutions on a GPU.
    pub fn set_convolution_options(&mut self, options: conv2d::Options) {
        layers::visit_mut(&mut self.layers, &mut |layer| match layer {
            Layer::Conv2d(conv) => conv.options = options,
            Layer::ConstrainedConv2d(conv) => conv.options = options,
            _ => {}
        });
    }

    /// The network in evaluation mode, as Lipschitz bounds see it.
    ///
    /// # Errors
    /// If the layers do not fit each other.
    pub fn architecture(&self) -> Result<Architecture> {
        Ok(Architecture { input: self.input, operators: layers::operators(&self.layers, self.input)? })
    }

    /// The bound of Aziznejad2020 with p = 1, to the largest change of an output (see [`bv2::bound_to_largest`]); there is none
    /// with activations of pairs of channels.
    ///
    /// # Errors
    /// If the layers do not fit each other.
    pub fn lipschitz_bound_l1(&self) -> Result<Option<f64>> {
        if self.activations().iter().any(|activation| activation.takes_pairs()) {
            return Ok(None);
        }
        bv2::bound_to_largest(&self.architecture()?, bv2::Exponent::One).map(Some)
    }
}

/// In Candle's graph, for use among other Candle modules; training draws its dropout afresh, from no seed.
impl candle_nn::ModuleT for Network {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mode = if train { Mode::training(rand::random()) } else { Mode::Evaluation };
        self.forward_in(&mut CandleGraph, &x.contiguous()?, mode)
    }
}
