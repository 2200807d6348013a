//! The networks of the papers' experiments.

mod area;
mod convnet;
mod nin;
mod resnet;
mod scalar;

pub use area::AreaNet;
pub use convnet::ConvNet;
pub use nin::NetworkInNetwork;
pub use resnet::ResNet32;
pub use scalar::ScalarNet;

use crate::layers::Mode;
use candle_core::{DType, Device, Result, Tensor, Var};
use ds_core::activation::{Activation, Apl, Init, PRelu, Spline};
use ds_core::graph::{CandleGraph, Graph};
use ds_core::{Grid, Parameter};

/// Which activation a network has, before it knows its channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationKind {
    /// max(0, x).
    Relu,
    /// LeakyReLU(0.01).
    LeakyRelu,
    /// A learned negative slope per channel.
    PRelu,
    /// Learned hinges.
    Apl {
        /// S, per channel.
        hinges: usize,
    },
    /// [`Spline::bspline`].
    BSpline {
        /// The knots.
        grid: Grid,
        /// The initial shape.
        init: Init,
    },
    /// [`Spline::explicit_linear`].
    ExplicitLinear {
        /// The knots.
        grid: Grid,
        /// The initial shape.
        init: Init,
        /// Whether b0 is fixed; `None` leaves it to the network.
        fixed_bias: Option<bool>,
    },
    /// [`Spline::relu_spline`].
    ReluSpline {
        /// The knots.
        grid: Grid,
        /// The initial shape.
        init: Init,
        /// Whether b0 is fixed; `None` leaves it to the network.
        fixed_bias: Option<bool>,
    },
}

impl ActivationKind {
    /// A layer of these activations; `fixed_bias` is what the network wants where the kind leaves it open.
    ///
    /// # Errors
    /// Those of the constructors.
    pub fn build(self, channels: usize, fixed_bias: bool) -> ds_core::Result<Activation> {
        let (dtype, device) = (DType::F32, &Device::Cpu);
        Ok(match self {
            Self::Relu => Activation::Relu,
            Self::LeakyRelu => Activation::LeakyRelu,
            Self::PRelu => Activation::PRelu(PRelu::new(channels, dtype, device)?),
            Self::Apl { hinges } => Activation::Apl(Apl::new(channels, hinges, dtype, device)?),
            Self::BSpline { grid, init } => Activation::Spline(Spline::bspline(channels, grid, init, dtype, device)?),
            Self::ExplicitLinear { grid, init, fixed_bias: own } => Activation::Spline(Spline::explicit_linear(
                channels,
                grid,
                init,
                own.unwrap_or(fixed_bias),
                dtype,
                device,
            )?),
            Self::ReluSpline { grid, init, fixed_bias: own } => {
                Activation::Spline(Spline::relu_spline(channels, grid, init, own.unwrap_or(fixed_bias), dtype, device)?)
            }
        })
    }

    /// Whether it is one of the three spline kinds.
    pub fn is_spline(self) -> bool {
        matches!(self, Self::BSpline { .. } | Self::ExplicitLinear { .. } | Self::ReluSpline { .. })
    }
}

/// Any network of this crate.
#[derive(Debug, Clone)]
pub enum Network {
    /// Points of the plane to one logit.
    Area(AreaNet),
    /// One activation on one number.
    Scalar(ScalarNet),
    /// MNIST's small convolutional network.
    ConvNet(ConvNet),
    /// ResNet32 for CIFAR.
    ResNet32(ResNet32),
    /// Network in network for CIFAR.
    Nin(NetworkInNetwork),
}

macro_rules! each {
    ($self:expr, $network:ident => $body:expr) => {
        match $self {
            Network::Area($network) => $body,
            Network::Scalar($network) => $body,
            Network::ConvNet($network) => $body,
            Network::ResNet32($network) => $body,
            Network::Nin($network) => $body,
        }
    };
}

impl Network {
    /// The logits (or prediction) for a batch, in a graph.
    ///
    /// # Errors
    /// If x does not have the network's input shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode) -> Result<G::Value> {
        each!(self, network => network.forward_in(graph, x, mode))
    }

    /// A copy of the network on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Area(network) => Self::Area(network.to_device(device)?),
            Self::Scalar(network) => Self::Scalar(network.to_device(device)?),
            Self::ConvNet(network) => Self::ConvNet(network.to_device(device)?),
            Self::ResNet32(network) => Self::ResNet32(network.to_device(device)?),
            Self::Nin(network) => Self::Nin(network.to_device(device)?),
        })
    }

    /// All trainable parameters, with names that are unique and stable.
    pub fn parameters(&self) -> Vec<Parameter> {
        each!(self, network => network.parameters())
    }

    /// Where its parameters are.
    pub fn device(&self) -> Device {
        self.parameters().first().map_or(Device::Cpu, |parameter| parameter.var.device().clone())
    }

    /// State that is not trained: running statistics.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        match self {
            Self::ResNet32(network) => network.buffers(),
            _ => Vec::new(),
        }
    }

    /// The activation layers, from input to output.
    pub fn activations(&self) -> Vec<&Activation> {
        each!(self, network => network.activations())
    }

    /// The spline layers, from input to output.
    pub fn splines(&self) -> Vec<&Spline> {
        self.activations().into_iter().filter_map(Activation::spline).collect()
    }

    /// The number of trainable parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|p| p.var.elem_count()).sum()
    }

    /// The bound of Aziznejad2020 with p = 1, for networks that are chains; there is none for ResNet32 and NiN.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn lipschitz_bound_l1(&self) -> Result<Option<f64>> {
        match self {
            Self::Area(network) => network.lipschitz_bound_l1().map(Some),
            Self::Scalar(network) => network.lipschitz_bound_l1().map(Some),
            Self::ConvNet(network) => network.lipschitz_bound_l1().map(Some),
            _ => Ok(None),
        }
    }
}

/// In Candle's graph, for use among other Candle modules; training draws its dropout afresh, from no seed.
impl candle_nn::ModuleT for Network {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mode = if train { Mode::Training { dropout: rand::random() } } else { Mode::Evaluation };
        self.forward_in(&mut CandleGraph, &x.contiguous()?, mode)
    }
}
