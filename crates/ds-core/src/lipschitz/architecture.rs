//! A network as its Lipschitz bounds see it: linear layers, activations and pools, one after the other or in branches.

use super::certified::Geometry;
use crate::activation::Activation;
use candle_core::{Result, Tensor, bail};

/// What a network does to a signal, from input to output.
///
/// Biases decide which linear pieces a network has: without its [`Operator::Bias`], it is another network. Only the product of norms and
/// the papers' bound pass over them.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use ds_core::activation::Activation;
/// use ds_core::lipschitz::{architecture::{Architecture, Operator, Signal}, certified};
/// let weight = || Tensor::randn(0f32, 1.0, (8, 8), &Device::Cpu);
/// let network = Architecture {
///     input: Signal::vector(8),
///     // x + W₂·ReLU(W₁·x)
///     operators: vec![Operator::Sum(vec![
///         vec![],
///         vec![Operator::Dense(weight()?), Operator::Activation(Activation::Relu), Operator::Dense(weight()?)],
///     ])],
/// };
/// assert!(certified::bound(&network)? >= 1.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Architecture {
    /// The shape of an input.
    pub input: Signal,
    /// The layers.
    pub operators: Vec<Operator>,
}

/// Channels of planes; a vector's planes have one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// The number of channels.
    pub channels: usize,
    /// Rows and columns of a plane.
    pub plane: (usize, usize),
}

impl Signal {
    /// A vector of that many elements.
    pub fn vector(channels: usize) -> Self {
        Self { channels, plane: (1, 1) }
    }

    /// The pixels of a plane.
    pub fn pixels(&self) -> usize {
        self.plane.0 * self.plane.1
    }

    /// All elements.
    pub fn elements(&self) -> usize {
        self.channels * self.pixels()
    }
}

/// A window that moves over a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolWindow {
    /// Rows and columns.
    pub kernel: usize,
    /// Its step.
    pub stride: usize,
    /// Pixels around the plane that it reaches.
    pub padding: usize,
}

impl PoolWindow {
    /// The number of windows that a pixel can be part of.
    pub fn overlap(&self) -> usize {
        self.kernel.div_ceil(self.stride.max(1)).pow(2)
    }

    fn output(&self, plane: (usize, usize)) -> Result<(usize, usize)> {
        let Self { kernel, stride, padding } = *self;
        let (height, width) = plane;
        if kernel == 0 || stride == 0 || kernel > height.min(width) + 2 * padding {
            bail!("kernel {kernel}, stride {stride}, padding {padding} do not fit a plane of {height}×{width}");
        }
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        Ok((side(height), side(width)))
    }
}

/// A part of a network.
#[derive(Debug, Clone)]
pub enum Operator {
    /// W·x, W (O, I), of all elements of the signal.
    Dense(Tensor),
    /// A convolution with zero padding, kernel (O, I, k, k).
    Convolution {
        /// The kernel.
        weight: Tensor,
        /// The step of the window.
        stride: usize,
        /// Zeros around the input.
        padding: usize,
    },
    /// Every channel times its element of a vector (C): batch norm in evaluation mode, which is γ/√(variance + ε).
    ChannelScale(Tensor),
    /// Every channel plus its element of a vector (C).
    Bias(Tensor),
    /// Everything times a number.
    Scale(f64),
    /// An activation.
    Activation(Activation),
    /// The mean over each window, padding counted as zeros.
    AveragePool(PoolWindow),
    /// The largest of each window.
    MaxPool(PoolWindow),
    /// The sum of branches with the same input; one without operators is the input itself.
    Sum(Vec<Vec<Operator>>),
}

impl Operator {
    /// The shape of what comes out.
    ///
    /// # Errors
    /// If the input does not fit.
    pub fn output(&self, input: Signal) -> Result<Signal> {
        let Signal { channels, plane } = input;
        match self {
            Self::Dense(weight) => match weight.dims() {
                &[outputs, inputs] if inputs == input.elements() => Ok(Signal::vector(outputs)),
                _ => bail!("dense layer: weight {:?} does not take {} elements", weight.shape(), input.elements()),
            },
            Self::Convolution { weight, stride, padding } => match weight.dims() {
                &[outputs, inputs, kernel, columns] if inputs == channels && kernel == columns => {
                    let window = PoolWindow { kernel, stride: *stride, padding: *padding };
                    Ok(Signal { channels: outputs, plane: window.output(plane)? })
                }
                _ => bail!("convolution: kernel {:?} does not take {channels} channels", weight.shape()),
            },
            Self::ChannelScale(scale) if scale.dims() != [channels] => {
                bail!("channel scale: {:?} does not fit {channels} channels", scale.shape())
            }
            Self::Bias(bias) if bias.dims() != [channels] => {
                bail!("bias: {:?} does not fit {channels} channels", bias.shape())
            }
            Self::ChannelScale(_) | Self::Bias(_) | Self::Scale(_) | Self::Activation(_) => Ok(input),
            Self::MaxPool(PoolWindow { kernel, padding, .. }) if padding >= kernel => {
                bail!(
                    "max pool: windows of {kernel} pixels lie in a padding of {padding} alone, where there is no maximum"
                )
            }
            Self::AveragePool(window) | Self::MaxPool(window) => Ok(Signal { channels, plane: window.output(plane)? }),
            Self::Sum(branches) => {
                let mut outputs = branches
                    .iter()
                    .map(|branch| branch.iter().try_fold(input, |signal, operator| operator.output(signal)));
                let first = outputs.next().unwrap_or(Ok(input))?;
                for output in outputs {
                    let output = output?;
                    if output != first {
                        bail!("branches of a sum have the shapes {first:?} and {output:?}");
                    }
                }
                Ok(first)
            }
        }
    }
}

/// The geometry of a convolution, for an input that fits (see [`Operator::output`]).
pub(super) fn geometry(weight: &Tensor, stride: usize, padding: usize, input: Signal) -> Result<Geometry> {
    let (outputs, inputs, kernel, _) = weight.dims4()?;
    Ok(Geometry { outputs, inputs, kernel, stride, padding, plane: input.plane })
}
