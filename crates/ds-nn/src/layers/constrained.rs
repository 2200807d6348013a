//! Layers that are 1-Lipschitz in ℓ2 whatever their parameters are: dense and convolutional, with free biases.
//!
//! A weight is turned into one of norm at most 1 in every forward pass ([`effective_weight`](ConstrainedLinear::effective_weight)),
//! and the gradient goes through that.

use super::conv2d::convolve;
use super::init::{WeightInit, draw, zeros};
use super::linear::{in_type_of, with_bias};
use super::mode::Mode;
use crate::ops::Window;
use crate::ops::almost_orthogonal::AlmostOrthogonal;
use crate::ops::conv2d;
use crate::ops::dense::Dense;
use crate::ops::orthonormal::{PolarFactor, polar_factor};
use crate::ops::spectral::SpectralNormalization;
use candle_core::{Result, Tensor, Var};
use candle_nn::VarBuilder;
use ds_core::activation::{NewTensor, from_builder};
use ds_core::backend::op::forward;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::Operator;
use ds_core::{Group, L2, Parameter, variable};
use rand_chacha::ChaCha8Rng;

ds_core::named!(
    /// How a dense weight is kept at norm 1 or below.
    Constraint {
        /// Orthonormal rows or columns, whichever are fewer ([`polar_factor`]); training writes them back into the weight, which
        /// is the polar retraction on the Stiefel manifold.
        Orthonormal = "orthonormal",
        /// Divided by a bound of the largest singular value ([`SpectralNormalization`]).
        Spectral = "spectral",
    }
);

/// How a convolution's kernel is kept at norm 1 or below.
#[derive(Debug, Clone, Copy)]
enum KernelConstraint {
    /// As a dense weight.
    Dense(Constraint),
    /// Scaled by input channel, for this stride ([`AlmostOrthogonal`]).
    AlmostOrthogonal { stride: usize },
}

impl Constraint {
    fn apply<G: Graph>(self, graph: &mut G, weight: &Tensor, mode: Mode<'_>) -> Result<G::Value> {
        match self {
            Self::Orthonormal => {
                let parameter = graph.parameter(weight);
                let factor = graph.apply(PolarFactor, [&parameter])?;
                if let Mode::Training { .. } = mode {
                    variable("weight", weight)?.set(graph.tensor(&factor))?;
                }
                Ok(factor)
            }
            Self::Spectral => {
                let weight = graph.parameter(weight);
                graph.apply(SpectralNormalization, [&weight])
            }
        }
    }

    fn effective(self, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Orthonormal => polar_factor(weight),
            Self::Spectral => forward(&SpectralNormalization, [weight]),
        }
    }
}

impl KernelConstraint {
    fn apply<G: Graph>(self, graph: &mut G, weight: &Tensor, mode: Mode<'_>) -> Result<G::Value> {
        match self {
            Self::Dense(constraint) => constraint.apply(graph, weight, mode),
            Self::AlmostOrthogonal { stride } => {
                let weight = graph.parameter(weight);
                graph.apply(AlmostOrthogonal { stride }, [&weight])
            }
        }
    }

    fn effective(self, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(constraint) => constraint.effective(weight),
            Self::AlmostOrthogonal { stride } => forward(&AlmostOrthogonal { stride }, [weight]),
        }
    }
}

/// A constraint leaves nothing of a weight's size for weight decay to act on; biases have theirs.
fn parameters(prefix: &str, weight: &Tensor, bias: &Tensor) -> Vec<Parameter> {
    let all = [("weight", weight, L2::Exempt), ("bias", bias, L2::WeightDecay)];
    let of = |(name, tensor, l2)| Parameter::of(format!("{prefix}.{name}"), tensor, Group::Weights, l2);
    all.into_iter().filter_map(of).collect()
}

/// A random weight with orthonormal rows or columns.
fn draw_orthonormal(rng: &mut ChaCha8Rng, shape: &[usize]) -> Result<Tensor> {
    polar_factor(&draw(rng, shape, 1, 1, WeightInit::Normal(1.0))?)
}

/// x·Ŵᵀ + b, where Ŵ is the weight under its constraint.
#[derive(Debug, Clone)]
pub struct ConstrainedLinear {
    /// W (outputs, inputs), before the constraint.
    pub weight: Tensor,
    /// b (outputs).
    pub bias: Tensor,
    constraint: Constraint,
}

impl ConstrainedLinear {
    /// A layer with random orthonormal weights and biases of 0.
    ///
    /// # Errors
    /// If there are no inputs or outputs.
    pub fn new(rng: &mut ChaCha8Rng, inputs: usize, outputs: usize, constraint: Constraint) -> Result<Self> {
        let weight = Var::from_tensor(&draw_orthonormal(rng, &[outputs, inputs])?)?.into_inner();
        Ok(Self { weight, bias: zeros(outputs)?, constraint })
    }

    /// Ŵ (outputs, inputs), as the forward pass uses it.
    pub fn effective_weight(&self) -> Result<Tensor> {
        self.constraint.effective(&self.weight)
    }

    /// The layer with the tensors of a builder, by their names there; [`from_builder`] says which.
    ///
    /// # Errors
    /// If a tensor is missing in a file or has another shape.
    pub fn with_builder(&self, vb: VarBuilder<'_>) -> Result<Self> {
        self.map_tensors(&mut from_builder(&vb, |_| true))
    }

    /// The layer with what `new` gives in place of each of its tensors.
    pub(super) fn map_tensors(&self, new: &mut NewTensor<'_>) -> Result<Self> {
        Ok(Self { weight: new("weight", &self.weight)?, bias: new("bias", &self.bias)?, ..self.clone() })
    }

    /// The layer as Lipschitz bounds see it.
    pub fn operators(&self) -> Result<Vec<Operator>> {
        Ok(with_bias(Operator::Dense(self.effective_weight()?.detach()), Some(&self.bias)))
    }

    /// The layer's output in a graph; training writes an orthonormal weight back.
    ///
    /// # Errors
    /// If x is not (N, inputs).
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let op = Dense { input_gradient: graph.is_tracked(x) };
        let weight = self.constraint.apply(graph, &self.weight, mode)?;
        let weight = in_type_of(graph, &weight, x)?;
        let bias = graph.parameter(&self.bias);
        graph.apply(op, [x, &weight, &bias])
    }

    /// Weight and bias.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        parameters(prefix, &self.weight, &self.bias)
    }
}

/// A 2D convolution with Ŵ, the kernel under its constraint.
///
/// Where the windows tile the image (kernel = stride, no padding) it is one dense matrix on all patches, which is made
/// orthonormal; elsewhere the kernel is almost orthogonal.
#[derive(Debug, Clone)]
pub struct ConstrainedConv2d {
    /// W (outputs, inputs, k, k), before the constraint.
    pub weight: Tensor,
    /// b (outputs).
    pub bias: Tensor,
    window: Window,
    constraint: KernelConstraint,
    /// How a GPU computes it.
    pub options: conv2d::Options,
}

impl ConstrainedConv2d {
    /// A layer with biases of 0 and random orthonormal weights: of all of a patch, or of the kernel's centre with zeros around
    /// it, which the constraint then leaves nearly as they are.
    ///
    /// # Errors
    /// If there are no inputs or outputs, or the kernel or stride is 0.
    pub fn new(rng: &mut ChaCha8Rng, inputs: usize, outputs: usize, window: Window) -> Result<Self> {
        let Window { kernel, stride, padding } = window;
        if kernel == 0 || stride == 0 {
            candle_core::bail!("convolution: {window:?} has no kernel or stride");
        }
        let (weight, constraint) = if kernel == stride && padding == 0 {
            (
                draw_orthonormal(rng, &[outputs, inputs, kernel, kernel])?,
                KernelConstraint::Dense(Constraint::Orthonormal),
            )
        } else {
            let centre = draw_orthonormal(rng, &[outputs, inputs])?.reshape((outputs, inputs, 1, 1))?;
            let (before, after) = ((kernel - 1) / 2, kernel / 2);
            let weight = centre.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            (weight, KernelConstraint::AlmostOrthogonal { stride })
        };
        let weight = Var::from_tensor(&weight)?.into_inner();
        let options = conv2d::Options::default();
        Ok(Self { weight, bias: zeros(outputs)?, window, constraint, options })
    }

    /// Kernel, stride and padding.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Ŵ (outputs, inputs, k, k), as the forward pass uses it.
    pub fn effective_weight(&self) -> Result<Tensor> {
        self.constraint.effective(&self.weight)
    }

    /// The layer with the tensors of a builder, by their names there; [`from_builder`] says which.
    ///
    /// # Errors
    /// If a tensor is missing in a file or has another shape.
    pub fn with_builder(&self, vb: VarBuilder<'_>) -> Result<Self> {
        self.map_tensors(&mut from_builder(&vb, |_| true))
    }

    /// The layer with what `new` gives in place of each of its tensors.
    pub(super) fn map_tensors(&self, new: &mut NewTensor<'_>) -> Result<Self> {
        Ok(Self { weight: new("weight", &self.weight)?, bias: new("bias", &self.bias)?, ..self.clone() })
    }

    /// The layer as Lipschitz bounds see it.
    pub fn operators(&self) -> Result<Vec<Operator>> {
        let Window { stride, padding, .. } = self.window;
        let weight = self.effective_weight()?.detach();
        Ok(with_bias(Operator::Convolution { weight, stride, padding }, Some(&self.bias)))
    }

    /// The layer's output in a graph; training writes an orthonormal weight back.
    ///
    /// # Errors
    /// If x is not (N, inputs, H, W) or in blocks.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let weight = self.constraint.apply(graph, &self.weight, mode)?;
        let bias = graph.parameter(&self.bias);
        convolve(graph, (self.window, self.options), x, (&weight, Some(&bias)), None)
    }

    /// Weight and bias.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        parameters(prefix, &self.weight, &self.bias)
    }
}
