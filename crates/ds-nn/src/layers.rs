//! Layers with parameters: dense, convolution, batch norm. Initial weights come from the run's seeded generator.

use crate::ops::Window;
use crate::ops::cast::cast;
use crate::ops::conv2d::Conv2d;
use crate::ops::dense::Dense;
use crate::ops::dropout::Key;
#[cfg(feature = "cuda")]
use crate::ops::norm_activation::OnDevice;
use crate::ops::norm_activation::{ChannelParameters, Function, Moments, NormActivation, Statistics};
use crate::ops::sum::Sum;
use candle_core::{DType, Device, Result, Tensor, Var};
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::Operator;
use ds_core::{Group, L2, Parameter, copied};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use std::sync::{Arc, Mutex, PoisonError};

/// How weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightInit {
    /// Uniform in ±1/√fan_in, biases too: PyTorch's default.
    Uniform,
    /// Normal with variance 2/fan_out (He et al. 2015); biases 0.
    HeFanOut,
    /// Normal with this standard deviation; biases 0.
    Normal(f64),
}

/// Whether a layer trains or evaluates.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// Batch statistics, and dropout drawn from this key.
    Training {
        /// The key of the step.
        dropout: Key<'a>,
    },
    /// Running statistics, no dropout.
    Evaluation,
}

impl Mode<'static> {
    /// Training, with this key of the step.
    pub fn training(dropout: u64) -> Self {
        Self::Training { dropout: Key::Number(dropout) }
    }
}

pub(crate) fn draw(
    rng: &mut ChaCha8Rng,
    shape: &[usize],
    fan_in: usize,
    fan_out: usize,
    init: WeightInit,
) -> Result<Var> {
    let n = shape.iter().product();
    let data: Vec<f32> = match init {
        WeightInit::Uniform => {
            let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
            (0..n).map(|_| rng.random_range(-bound..bound) as f32).collect()
        }
        WeightInit::HeFanOut | WeightInit::Normal(_) => {
            let deviation = match init {
                WeightInit::Normal(deviation) => deviation,
                _ => (2.0 / fan_out.max(1) as f64).sqrt(),
            };
            let normal = Normal::new(0.0, deviation).map_err(candle_core::Error::wrap)?;
            (0..n).map(|_| normal.sample(rng) as f32).collect()
        }
    };
    Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu)?)
}

fn draw_bias(rng: &mut ChaCha8Rng, outputs: usize, fan_in: usize, init: WeightInit) -> Result<Var> {
    match init {
        WeightInit::Uniform => draw(rng, &[outputs], fan_in, outputs, init),
        _ => Var::zeros(outputs, DType::F32, &Device::Cpu),
    }
}

fn weight_and_bias(prefix: &str, weight: &Var, bias: Option<&Var>) -> Vec<Parameter> {
    let mut all = vec![Parameter::new(format!("{prefix}.weight"), weight, Group::Weights, L2::WeightDecay)];
    all.extend(bias.map(|b| Parameter::new(format!("{prefix}.bias"), b, Group::Weights, L2::WeightDecay)));
    all
}

/// A weight in the type of what it is multiplied with; its gradient keeps its own.
fn weight_for<G: Graph>(graph: &mut G, weight: &Var, x: &G::Value) -> Result<G::Value> {
    let (weight, dtype) = (graph.parameter(weight), graph.tensor(x).dtype());
    cast(graph, &weight, dtype)
}

/// x·Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    /// W (outputs, inputs).
    pub weight: Var,
    /// b (outputs).
    pub bias: Option<Var>,
}

impl Linear {
    /// A layer with drawn weights.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn new(rng: &mut ChaCha8Rng, inputs: usize, outputs: usize, bias: bool, init: WeightInit) -> Result<Self> {
        let weight = draw(rng, &[outputs, inputs], inputs, outputs, init)?;
        let bias = bias.then(|| draw_bias(rng, outputs, inputs, init)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// The layer's output in a graph.
    ///
    /// # Errors
    /// If x is not (N, inputs), or on Candle's errors.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> Result<G::Value> {
        let op = Dense { input_gradient: graph.is_tracked(x) };
        let weight = weight_for(graph, &self.weight, x)?;
        match &self.bias {
            None => graph.apply2(op, x, &weight),
            Some(bias) => {
                let bias = graph.parameter(bias);
                graph.apply3(op, x, &weight, &bias)
            }
        }
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| copied(bias, dtype, device)).transpose()?;
        Ok(Self { weight: copied(&self.weight, dtype, device)?, bias })
    }

    /// The layer as Lipschitz bounds see it.
    pub fn operator(&self) -> Operator {
        Operator::Dense(self.weight.as_detached_tensor())
    }

    /// Weight and bias.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        weight_and_bias(prefix, &self.weight, self.bias.as_ref())
    }
}

/// A 2D convolution.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// W (outputs, inputs, k, k).
    pub weight: Var,
    /// b (outputs).
    pub bias: Option<Var>,
    window: Window,
}

impl Convolution {
    /// A layer with drawn weights.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn new(
        rng: &mut ChaCha8Rng,
        inputs: usize,
        outputs: usize,
        window: Window,
        bias: bool,
        init: WeightInit,
    ) -> Result<Self> {
        let area = window.kernel * window.kernel;
        let shape = [outputs, inputs, window.kernel, window.kernel];
        let weight = draw(rng, &shape, inputs * area, outputs * area, init)?;
        let bias = bias.then(|| draw_bias(rng, outputs, inputs * area, init)).transpose()?;
        Ok(Self { weight, bias, window })
    }

    /// The layer's output in a graph.
    ///
    /// # Errors
    /// If x is not (N, inputs, H, W), or on Candle's errors.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> Result<G::Value> {
        let weight = weight_for(graph, &self.weight, x)?;
        let (input_gradient, weight_gradient) = (graph.is_tracked(x), graph.is_tracked(&weight));
        let op = Conv2d { window: self.window, input_gradient, weight_gradient };
        match &self.bias {
            None => graph.apply2(op, x, &weight),
            Some(bias) => {
                let bias = graph.parameter(bias);
                graph.apply3(op, x, &weight, &bias)
            }
        }
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| copied(bias, dtype, device)).transpose()?;
        Ok(Self { weight: copied(&self.weight, dtype, device)?, bias, window: self.window })
    }

    /// The layer as Lipschitz bounds see it.
    pub fn operator(&self) -> Operator {
        let Window { stride, padding, .. } = self.window;
        Operator::Convolution { weight: self.weight.as_detached_tensor(), stride, padding }
    }

    /// Weight and bias.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        weight_and_bias(prefix, &self.weight, self.bias.as_ref())
    }
}

/// Batch normalisation with running statistics, as PyTorch's `BatchNorm2d`: momentum 0.1, ε = 1e-5, unbiased running
/// variance.
#[derive(Debug, Clone)]
pub struct Normalization {
    /// γ (C).
    pub scale: Var,
    /// β (C).
    pub shift: Var,
    /// Running mean (C): a buffer, no parameter.
    pub running_mean: Var,
    /// Running variance (C): a buffer, no parameter.
    pub running_variance: Var,
}

impl Normalization {
    const MOMENTUM: f64 = 0.1;
    const EPSILON: f64 = 1e-5;

    /// γ = 1, β = 0, running mean 0 and variance 1.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn new(channels: usize) -> Result<Self> {
        let (zeros, ones) =
            (|| Var::zeros(channels, DType::F32, &Device::Cpu), || Var::ones(channels, DType::F32, &Device::Cpu));
        Ok(Self { scale: ones()?, shift: zeros()?, running_mean: zeros()?, running_variance: ones()? })
    }

    /// The layer's output in a graph; training updates the running statistics.
    ///
    /// # Errors
    /// If x is not (N, C, …), or on Candle's errors.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        self.fused(graph, x, None, Function::Identity, None, mode)
    }

    /// The activation of the layer's output, or of its sum with a residual: one op for splines and rectifiers.
    ///
    /// # Errors
    /// As for [`forward_in`](Self::forward_in), or if the residual does not have the shape of x.
    pub fn activated_in<G: Graph>(
        &self,
        graph: &mut G,
        x: &G::Value,
        residual: Option<&G::Value>,
        activation: &Activation,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        let function = match activation {
            Activation::Spline(spline) => {
                let coefficients = spline.coefficients_in(graph)?;
                return self.fused(graph, x, residual, Function::Spline(spline.grid()), Some(coefficients), mode);
            }
            Activation::Relu => Function::Rectifier { slope: 0.0 },
            Activation::LeakyRelu => Function::Rectifier { slope: Activation::LEAKY_SLOPE },
            Activation::Absolute => Function::Rectifier { slope: -1.0 },
            Activation::PRelu(_)
            | Activation::Apl(_)
            | Activation::Lipschitz(_)
            | Activation::MaxMin
            | Activation::Householder(_)
            | Activation::ClippedPRelu(_) => {
                let mut z = self.forward_in(graph, x, mode)?;
                if let Some(residual) = residual {
                    z = graph.apply2(Sum, &z, residual)?;
                }
                return activation.forward_in(graph, &z);
            }
        };
        self.fused(graph, x, residual, function, None, mode)
    }

    fn fused<G: Graph>(
        &self,
        graph: &mut G,
        x: &G::Value,
        residual: Option<&G::Value>,
        function: Function,
        coefficients: Option<G::Value>,
        mode: Mode<'_>,
    ) -> Result<G::Value> {
        let (scale, shift) = (graph.parameter(&self.scale), graph.parameter(&self.shift));
        let parameters = match &coefficients {
            Some(coefficients) => graph.apply3(ChannelParameters, &scale, &shift, coefficients)?,
            None => graph.apply2(ChannelParameters, &scale, &shift)?,
        };
        #[cfg(feature = "cuda")]
        if graph.tensor(x).device().is_cuda() {
            let training = matches!(mode, Mode::Training { .. });
            let (mean, variance) = (self.running_mean.clone(), self.running_variance.clone());
            let on_device = OnDevice::new(mean, variance, Self::MOMENTUM, training);
            let op = NormActivation { statistics: Statistics::OnDevice(on_device), epsilon: Self::EPSILON, function };
            return match residual {
                Some(residual) => graph.apply3(op, x, residual, &parameters),
                None => graph.apply2(op, x, &parameters),
            };
        }
        let of_batch = Arc::new(Mutex::new(Moments::default()));
        let statistics = match mode {
            Mode::Training { .. } => Statistics::Batch(of_batch.clone()),
            Mode::Evaluation => Statistics::Fixed(Arc::new(self.running_moments()?)),
        };
        let op = NormActivation { statistics, epsilon: Self::EPSILON, function };
        let y = match residual {
            Some(residual) => graph.apply3(op, x, residual, &parameters)?,
            None => graph.apply2(op, x, &parameters)?,
        };
        if let Mode::Training { .. } = mode {
            let shape = graph.tensor(x).dims();
            let count = (shape[0] * shape[2..].iter().product::<usize>()) as f64;
            let moments = of_batch.lock().unwrap_or_else(PoisonError::into_inner);
            let unbiased = count / (count - 1.0).max(1.0);
            update(&self.running_mean, moments.mean.iter().copied())?;
            update(&self.running_variance, moments.variance.iter().map(|v| v * unbiased))?;
        }
        Ok(y)
    }

    /// The convolution and then this layer in evaluation mode, as one convolution with other weights and a bias.
    ///
    /// # Errors
    /// If the convolution's outputs are not this layer's channels, or on Candle's errors.
    pub fn folded_into(&self, conv: &Convolution) -> Result<Convolution> {
        let factor = self.factors()?;
        let dtype = conv.weight.dtype();
        let weight = conv.weight.as_tensor().to_dtype(DType::F64)?;
        let weight = weight.broadcast_mul(&factor.reshape(((), 1, 1, 1))?)?.to_dtype(dtype)?;
        let mut mean = self.running_mean.as_tensor().to_dtype(DType::F64)?;
        if let Some(bias) = &conv.bias {
            mean = (mean - bias.as_tensor().to_dtype(DType::F64)?)?;
        }
        let bias = (self.shift.as_tensor().to_dtype(DType::F64)? - (mean * factor)?)?.to_dtype(dtype)?;
        Ok(Convolution {
            weight: Var::from_tensor(&weight.detach())?,
            bias: Some(Var::from_tensor(&bias.detach())?),
            window: conv.window,
        })
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            scale: copied(&self.scale, dtype, device)?,
            shift: copied(&self.shift, dtype, device)?,
            running_mean: copied(&self.running_mean, dtype, device)?,
            running_variance: copied(&self.running_variance, dtype, device)?,
        })
    }

    /// γ/√(variance + ε) in f64: what each channel is multiplied with in evaluation mode.
    fn factors(&self) -> Result<Tensor> {
        let deviation = (self.running_variance.as_detached_tensor().to_dtype(DType::F64)? + Self::EPSILON)?.sqrt()?;
        self.scale.as_detached_tensor().to_dtype(DType::F64)?.div(&deviation)
    }

    /// The convolution and then this layer in evaluation mode, as Lipschitz bounds see them: one convolution.
    ///
    /// # Errors
    /// If the convolution's outputs are not this layer's channels, or on Candle's errors.
    pub fn operator_after(&self, conv: &Convolution) -> Result<Operator> {
        let weight = conv.weight.as_detached_tensor().to_dtype(DType::F64)?;
        let weight = weight.broadcast_mul(&self.factors()?.reshape(((), 1, 1, 1))?)?;
        let Window { stride, padding, .. } = conv.window;
        Ok(Operator::Convolution { weight, stride, padding })
    }

    fn running_moments(&self) -> Result<Moments> {
        Ok(Moments { mean: to_f64(&self.running_mean)?, variance: to_f64(&self.running_variance)? })
    }

    /// Scale and shift.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        vec![
            Parameter::new(format!("{prefix}.scale"), &self.scale, Group::Weights, L2::WeightDecay),
            Parameter::new(format!("{prefix}.shift"), &self.shift, Group::Weights, L2::WeightDecay),
        ]
    }

    /// The running statistics, by name.
    pub fn buffers(&self, prefix: &str) -> Vec<(String, Var)> {
        vec![
            (format!("{prefix}.running_mean"), self.running_mean.clone()),
            (format!("{prefix}.running_variance"), self.running_variance.clone()),
        ]
    }
}

fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.to_vec1()
}

fn update(running: &Var, of_batch: impl Iterator<Item = f64>) -> Result<()> {
    let momentum = Normalization::MOMENTUM;
    let new: Vec<f32> = to_f64(running)?
        .into_iter()
        .zip(of_batch)
        .map(|(old, new)| ((1.0 - momentum) * old + momentum * new) as f32)
        .collect();
    running.set(&Tensor::from_vec(new, running.shape(), running.device())?)
}
