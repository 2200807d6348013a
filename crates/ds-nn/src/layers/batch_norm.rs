//! Batch normalisation, and its fusion with what follows it.

use super::conv2d::Conv2d;
use super::mode::Mode;
use crate::ops::Window;
use crate::ops::batch_sums::BatchSums;
use crate::ops::norm_activation::{ChannelParameters, Function, NormActivation, Statistics};
use crate::ops::sum::Sum;
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use ds_core::activation::{Activation, NewTensor, from_builder};
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::Operator;
use ds_core::{Group, L2, Parameter};

/// Batch normalisation with running statistics, as PyTorch's `BatchNorm2d`: momentum 0.1, ε = 1e-5, unbiased running
/// variance.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// γ (C).
    pub scale: Tensor,
    /// β (C).
    pub shift: Tensor,
    /// Running mean (C): a buffer, no parameter.
    pub running_mean: Tensor,
    /// Running variance (C): a buffer, no parameter.
    pub running_variance: Tensor,
}

impl BatchNorm {
    const MOMENTUM: f64 = 0.1;
    /// ε, added to variances.
    pub const EPSILON: f64 = 1e-5;

    /// γ = 1, β = 0, running mean 0 and variance 1.
    pub fn new(channels: usize) -> Result<Self> {
        let zeros = || Var::zeros(channels, DType::F32, &Device::Cpu).map(Var::into_inner);
        let ones = || Var::ones(channels, DType::F32, &Device::Cpu).map(Var::into_inner);
        Ok(Self { scale: ones()?, shift: zeros()?, running_mean: zeros()?, running_variance: ones()? })
    }

    /// The layer's output in a graph; training updates the running statistics.
    ///
    /// # Errors
    /// If x is not (N, C, …).
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        self.fused(graph, (x, None), None, Function::Identity, None, mode)
    }

    /// The activation of the layer's output, or of its sum with a residual: one op for splines and rectifiers.
    ///
    /// # Errors
    /// As for [`forward_in`](Self::forward_in), or if the residual does not have the shape of x.
    pub fn forward_with_activation<G: Graph>(
        &self,
        graph: &mut G,
        x: &G::Value,
        residual: Option<&G::Value>,
        activation: Option<&Activation>,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        self.forward_with_sums(graph, (x, None), residual, activation, mode)
    }

    /// The same of x with what the layer before has left.
    pub(super) fn forward_with_sums<G: Graph>(
        &self,
        graph: &mut G,
        x: (&G::Value, Option<BatchSums>),
        residual: Option<&G::Value>,
        activation: Option<&Activation>,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        let Some(activation) = activation else {
            return self.fused(graph, x, residual, Function::Identity, None, mode);
        };
        let function = match activation {
            Activation::Spline(spline) if !graph.has_forward_hook() => {
                let coefficients = spline.coefficients_in(graph)?;
                return self.fused(graph, x, residual, Function::Spline(spline.grid()), Some(coefficients), mode);
            }
            Activation::Relu => Function::Rectifier { slope: 0.0 },
            Activation::LeakyRelu => Function::Rectifier { slope: Activation::LEAKY_SLOPE },
            Activation::Absolute => Function::Rectifier { slope: -1.0 },
            Activation::PRelu(_)
            | Activation::Apl(_)
            | Activation::Spline(_)
            | Activation::Lipschitz(_)
            | Activation::MaxMin
            | Activation::Householder(_)
            | Activation::ClippedPRelu(_) => {
                let mut z = self.fused(graph, x, None, Function::Identity, None, mode)?;
                if let Some(residual) = residual {
                    z = graph.apply(Sum, [&z, residual])?;
                }
                return activation.forward_in(graph, &z);
            }
        };
        self.fused(graph, x, residual, function, None, mode)
    }

    fn fused<G: Graph>(
        &self,
        graph: &mut G,
        (x, sums): (&G::Value, Option<BatchSums>),
        residual: Option<&G::Value>,
        function: Function,
        coefficients: Option<G::Value>,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        let (scale, shift) = (graph.parameter(&self.scale), graph.parameter(&self.shift));
        let parameters = match &coefficients {
            Some(coefficients) => graph.apply(ChannelParameters, [&scale, &shift, coefficients])?,
            None => graph.apply(ChannelParameters, [&scale, &shift])?,
        };
        let (mean, variance) = (self.running_mean.clone(), self.running_variance.clone());
        let training = matches!(mode, Mode::Training { .. });
        let statistics = Statistics::new(mean, variance, Self::MOMENTUM, training);
        let op = NormActivation { statistics, epsilon: Self::EPSILON, function, sums };
        match residual {
            Some(residual) => graph.apply(op, [x, residual, &parameters]),
            None => graph.apply(op, [x, &parameters]),
        }
    }

    /// The convolution and then this layer in evaluation mode, as one convolution with other weights and a bias.
    ///
    /// # Errors
    /// If the convolution's outputs are not this layer's channels.
    pub fn folded_into(&self, conv: &Conv2d) -> Result<Conv2d> {
        let dtype = conv.weight.dtype();
        let weight = conv.weight.to_dtype(DType::F64)?;
        let weight = weight.broadcast_mul(&self.factors()?.reshape(((), 1, 1, 1))?)?.to_dtype(dtype)?;
        let bias = self.offsets_after(conv.bias.as_ref())?.to_dtype(dtype)?;
        Ok(Conv2d { weight: weight.detach(), bias: Some(bias.detach()), ..conv.clone() })
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
        Ok(Self {
            scale: new("scale", &self.scale)?,
            shift: new("shift", &self.shift)?,
            running_mean: new("running_mean", &self.running_mean)?,
            running_variance: new("running_variance", &self.running_variance)?,
        })
    }

    /// γ/√(variance + ε) in f64: what each channel is multiplied with in evaluation mode.
    pub(super) fn factors(&self) -> Result<Tensor> {
        let deviation = (self.running_variance.detach().to_dtype(DType::F64)? + Self::EPSILON)?.sqrt()?;
        self.scale.detach().to_dtype(DType::F64)?.div(&deviation)
    }

    /// β − γ·mean/√(variance + ε) in f64: what is added to each channel then, if a bias of that many channels comes before.
    pub(super) fn offsets_after(&self, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut mean = self.running_mean.detach().to_dtype(DType::F64)?;
        if let Some(bias) = bias {
            mean = (mean - bias.detach().to_dtype(DType::F64)?)?;
        }
        self.shift.detach().to_dtype(DType::F64)? - (mean * self.factors()?)?
    }

    /// The convolution and then this layer in evaluation mode, as Lipschitz bounds see them: one convolution and a bias.
    ///
    /// # Errors
    /// If the convolution's outputs are not this layer's channels.
    pub fn operators_after(&self, conv: &Conv2d) -> Result<Vec<Operator>> {
        let weight = conv.weight.detach().to_dtype(DType::F64)?;
        let weight = weight.broadcast_mul(&self.factors()?.reshape(((), 1, 1, 1))?)?;
        let Window { stride, padding, .. } = conv.window;
        let bias = self.offsets_after(conv.bias.as_ref())?;
        Ok(vec![Operator::Convolution { weight, stride, padding }, Operator::Bias(bias)])
    }

    /// Scale and shift.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let all = [("scale", &self.scale), ("shift", &self.shift)];
        let of = |(name, tensor)| Parameter::of(format!("{prefix}.{name}"), tensor, Group::Weights, L2::WeightDecay);
        all.into_iter().filter_map(of).collect()
    }

    /// The running statistics, by name.
    pub fn buffers(&self, prefix: &str) -> Vec<(String, Tensor)> {
        vec![
            (format!("{prefix}.running_mean"), self.running_mean.clone()),
            (format!("{prefix}.running_variance"), self.running_variance.clone()),
        ]
    }
}
