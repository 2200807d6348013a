//! A network is data: a list of named layers. What is done with a network walks that list once.

use crate::layers::{self, Layer, Layers, Mode};
use crate::ops::blocks::to_blocked_layout;
use crate::ops::conv2d;
use candle_core::{DType, Device, Result, Tensor, Var};
use ds_core::activation::{Activation, Spline};
use ds_core::graph::{CandleGraph, Graph};
use ds_core::lipschitz::architecture::{Architecture, Signal};
use ds_core::lipschitz::bv2;
use ds_core::{Parameter, copied};

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
        let x = if flat { x.clone() } else { to_blocked_layout(graph, x)? };
        layers::forward_in(graph, &self.layers, &x, mode)
    }

    /// All trainable parameters, with names that are unique and stable.
    pub fn parameters(&self) -> Vec<Parameter> {
        layers::parameters(&self.layers)
    }

    /// State that is not trained, by name: running statistics.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        layers::buffers(&self.layers)
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.parameters().first().map_or(Device::Cpu, |parameter| parameter.var.device().clone())
    }

    /// The activation layers, from input to output.
    pub fn activations(&self) -> Vec<&Activation> {
        let mut all = Vec::new();
        layers::visit(&self.layers, &mut |layer| {
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
        let parameters = self.parameters();
        let name_of = |spline: &Spline| {
            let id = spline.knot_parameters().id();
            parameters.iter().find(|parameter| parameter.var.id() == id).map(|parameter| parameter.name.clone())
        };
        self.splines().into_iter().filter_map(|spline| Some((name_of(spline)?, spline))).collect()
    }

    /// The number of trainable parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|p| p.var.elem_count()).sum()
    }

    /// The network with what `new` gives in place of each of its parameters and running statistics, by its name in checkpoints: a
    /// copy, or a variable that is found under that name, such as in a `candle_nn::VarMap`.
    ///
    /// # Errors
    /// If a shape does not fit, or those of `new`.
    pub fn map_variables(&self, mut new: impl FnMut(&str, &Var) -> Result<Var>) -> ds_core::Result<Self> {
        Ok(Self { input: self.input, layers: layers::map_variables(&self.layers, &mut new)? })
    }

    /// A copy with parameters and statistics of a type and on a device: f64 for what f32 would round away.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn to(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        self.map_variables(|_, var| copied(var, dtype, device))
    }

    /// Sets the arithmetic of all convolutions on a GPU.
    pub fn set_convolution_options(&mut self, options: conv2d::Options) {
        layers::visit_mut(&mut self.layers, &mut |layer| {
            if let Layer::Conv2d(conv) = layer {
                conv.options = options;
            }
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
