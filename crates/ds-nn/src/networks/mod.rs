//! The networks of the papers' experiments.

mod area;
mod convnet;
mod lipschitz;
mod nin;
mod resnet;
mod scalar;

pub use area::AreaNet;
pub use convnet::ConvNet;
pub use lipschitz::{Images, LipschitzConvNet, LipschitzNet};
pub use nin::NetworkInNetwork;
pub use resnet::ResNet32;
pub use scalar::ScalarNet;

use crate::layers::Mode;
use candle_core::{DType, Device, Result, Tensor, Var};
use ds_core::activation::{Activation, Apl, ClippedPRelu, Householder, Init, LipschitzSpline, PRelu, Spline};
use ds_core::graph::{CandleGraph, Graph};
use ds_core::lipschitz::architecture::Architecture;
use ds_core::lipschitz::bv2;
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
    /// [`LipschitzSpline`].
    Lipschitz {
        /// K, even or odd.
        size: usize,
        /// The knots lie on [−range, range].
        range: f64,
        /// The initial shape.
        init: Init,
        /// Whether a scaling is learned.
        scaling: bool,
    },
    /// |x|.
    Absolute,
    /// (max, min) of pairs of channels.
    MaxMin,
    /// Learned reflections of pairs of channels.
    Householder,
    /// PReLU with slopes in [−1, 1].
    ClippedPRelu,
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
            Self::Lipschitz { size, range, init, scaling } => {
                Activation::Lipschitz(LipschitzSpline::new(channels, size, range, init, scaling, dtype, device)?)
            }
            Self::Absolute => Activation::Absolute,
            Self::MaxMin if !channels.is_multiple_of(2) => {
                return Err(ds_core::Error::OddChannels { kind: "max_min", channels });
            }
            Self::MaxMin => Activation::MaxMin,
            Self::Householder => Activation::Householder(Householder::new(channels, dtype, device)?),
            Self::ClippedPRelu => Activation::ClippedPRelu(ClippedPRelu::new(channels, dtype, device)?),
        })
    }

    /// Whether it is one of the three kinds of splines without a constraint.
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
    /// Dense, of 1-Lipschitz layers.
    Lipschitz(LipschitzNet),
    /// Convolutional, of 1-Lipschitz layers.
    LipschitzConv(LipschitzConvNet),
}

macro_rules! each {
    ($self:expr, $network:ident => $body:expr) => {
        match $self {
            Network::Area($network) => $body,
            Network::Scalar($network) => $body,
            Network::ConvNet($network) => $body,
            Network::ResNet32($network) => $body,
            Network::Nin($network) => $body,
            Network::Lipschitz($network) => $body,
            Network::LipschitzConv($network) => $body,
        }
    };
}

impl Network {
    /// The logits (or prediction) for a batch, in a graph.
    ///
    /// # Errors
    /// If x does not have the network's input shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        each!(self, network => network.forward_in(graph, x, mode))
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

    /// The layers of splines without a constraint, from input to output.
    pub fn splines(&self) -> Vec<&Spline> {
        self.activations().into_iter().filter_map(Activation::spline).collect()
    }

    /// The number of trainable parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|p| p.var.elem_count()).sum()
    }

    /// A copy with parameters and statistics of a type and on a device: f64 for what f32 would round away.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(match self {
            Self::Area(network) => Self::Area(network.copied(dtype, device)?),
            Self::Scalar(network) => Self::Scalar(network.copied(dtype, device)?),
            Self::ConvNet(network) => Self::ConvNet(network.copied(dtype, device)?),
            Self::ResNet32(network) => Self::ResNet32(network.copied(dtype, device)?),
            Self::Nin(network) => Self::Nin(network.copied(dtype, device)?),
            Self::Lipschitz(network) => Self::Lipschitz(network.copied(dtype, device)?),
            Self::LipschitzConv(network) => Self::LipschitzConv(network.copied(dtype, device)?),
        })
    }

    /// The network in evaluation mode, as Lipschitz bounds see it.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn architecture(&self) -> Result<Architecture> {
        Ok(match self {
            Self::Area(network) => network.architecture(),
            Self::Scalar(network) => network.architecture(),
            Self::ConvNet(network) => network.architecture(),
            Self::ResNet32(network) => network.architecture()?,
            Self::Nin(network) => network.architecture(),
            Self::Lipschitz(network) => network.architecture()?,
            Self::LipschitzConv(network) => network.architecture()?,
        })
    }

    /// The bound of Aziznejad2020 with p = 1, to the largest change of an output (see [`bv2::bound_to_largest`]); there is none
    /// with activations of pairs of channels.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn lipschitz_bound_l1(&self) -> Result<Option<f64>> {
        if self.activations().iter().any(|activation| activation.takes_pairs()) {
            return Ok(None);
        }
        bv2::bound_to_largest(&self.architecture()?, bv2::Exponent::One).map(Some)
    }
}

/// Copies of layers with their activations.
fn layers_copied<L>(
    layers: &[(L, Activation)],
    copied: fn(&L, DType, &Device) -> Result<L>,
    dtype: DType,
    device: &Device,
) -> ds_core::Result<Vec<(L, Activation)>> {
    layers
        .iter()
        .map(|(layer, activation)| Ok((copied(layer, dtype, device)?, activation.copied(dtype, device)?)))
        .collect()
}

/// In Candle's graph, for use among other Candle modules; training draws its dropout afresh, from no seed.
impl candle_nn::ModuleT for Network {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mode = if train { Mode::training(rand::random()) } else { Mode::Evaluation };
        self.forward_in(&mut CandleGraph, &x.contiguous()?, mode)
    }
}
