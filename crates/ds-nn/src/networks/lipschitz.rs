//! Networks that are L-Lipschitz in ℓ2 whatever their parameters are: 1-Lipschitz layers and activations, and a factor L at
//! the end (Anil, Lucas, Grosse 2019; Ducotterd et al. 2024).

use super::{ActivationKind, layers_copied};
use crate::constrained::{ConstrainedConvolution, ConstrainedLinear, Constraint};
use crate::layers::Mode;
use crate::ops::Window;
use crate::ops::blocks::{enter, leave};
use crate::ops::scale::Scale;
use candle_core::{DType, Device, Result};
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::{Architecture, Operator, Signal};
use ds_core::{Error, Parameter};
use rand_chacha::ChaCha8Rng;

/// Dense layers with an activation per hidden unit: (N, …) with `inputs` numbers each → (N, outputs).
#[derive(Debug, Clone)]
pub struct LipschitzNet {
    inputs: usize,
    dense: DensePart,
}

/// The dense layers that both networks end with, and the factor.
#[derive(Debug, Clone)]
struct DensePart {
    hidden: Vec<(ConstrainedLinear, Activation)>,
    last: ConstrainedLinear,
    constant: f64,
}

impl DensePart {
    fn new(
        rng: &mut ChaCha8Rng,
        (mut inputs, hidden, outputs): (usize, &[usize], usize),
        weights: Constraint,
        activation: ActivationKind,
        constant: f64,
    ) -> ds_core::Result<Self> {
        let mut layers = Vec::with_capacity(hidden.len());
        for &units in hidden {
            let linear = ConstrainedLinear::new(rng, inputs, units, weights)?;
            layers.push((linear, activation.build(units, false)?));
            inputs = units;
        }
        Ok(Self { hidden: layers, last: ConstrainedLinear::new(rng, inputs, outputs, weights)?, constant })
    }

    fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let mut x = x.clone();
        for (linear, activation) in &self.hidden {
            x = linear.forward_in(graph, &x, mode)?;
            x = activation.forward_in(graph, &x)?;
        }
        let y = self.last.forward_in(graph, &x, mode)?;
        if self.constant == 1.0 { Ok(y) } else { graph.apply1(Scale { factor: self.constant }, &y) }
    }

    fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (depth, (linear, activation)) in self.hidden.iter().enumerate() {
            all.extend(linear.parameters(&format!("hidden{depth}.linear")));
            all.extend(activation.parameters(&format!("hidden{depth}.activation")));
        }
        all.extend(self.last.parameters("last"));
        all
    }

    fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(Self {
            hidden: layers_copied(&self.hidden, ConstrainedLinear::copied, dtype, device)?,
            last: self.last.copied(dtype, device)?,
            constant: self.constant,
        })
    }

    fn operators(&self) -> Result<Vec<Operator>> {
        let mut operators = Vec::new();
        for (linear, activation) in &self.hidden {
            operators.extend([linear.operator()?, Operator::Activation(activation.clone())]);
        }
        operators.extend([self.last.operator()?, Operator::Scale(self.constant)]);
        Ok(operators)
    }

    fn activations(&self) -> impl Iterator<Item = &Activation> {
        self.hidden.iter().map(|(_, activation)| activation)
    }
}

impl LipschitzNet {
    /// A network of `inputs` numbers, with these hidden layers and outputs, whose output is `constant` times what its 1-Lipschitz
    /// layers give; `weights` is orthonormal or spectral.
    ///
    /// # Errors
    /// If a width is 0, or those of the activation's constructor.
    pub fn new(
        rng: &mut ChaCha8Rng,
        (inputs, hidden, outputs): (usize, &[usize], usize),
        weights: Constraint,
        activation: ActivationKind,
        constant: f64,
    ) -> ds_core::Result<Self> {
        let dense = DensePart::new(rng, (inputs, hidden, outputs), weights, activation, constant)?;
        Ok(Self { inputs, dense })
    }

    /// (N, …) with `inputs` numbers each → (N, outputs).
    ///
    /// # Errors
    /// If x has another number of them.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let dims = graph.tensor(x).dims();
        if dims.len() < 2 || dims[1..].iter().product::<usize>() != self.inputs {
            candle_core::bail!("lipschitz network: input of shape {dims:?} does not have {} numbers each", self.inputs);
        }
        let rows = dims[0];
        let x = if dims.len() == 2 { x.clone() } else { graph.reshape(x, &[rows, self.inputs])? };
        self.dense.forward_in(graph, &x, mode)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.dense.parameters()
    }

    /// The activation layers.
    pub fn activations(&self) -> Vec<&Activation> {
        self.dense.activations().collect()
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        Ok(Self { inputs: self.inputs, dense: self.dense.copied(dtype, device)? })
    }

    /// The network as Lipschitz bounds see it.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn architecture(&self) -> Result<Architecture> {
        Ok(Architecture { input: Signal::vector(self.inputs), operators: self.dense.operators()? })
    }

    /// The hidden layers with their activations, from input to output.
    pub fn hidden(&self) -> &[(ConstrainedLinear, Activation)] {
        &self.dense.hidden
    }

    /// The last layer.
    pub fn last(&self) -> &ConstrainedLinear {
        &self.dense.last
    }

    /// The factor L that the last layer's output is multiplied with.
    pub fn constant(&self) -> f64 {
        self.dense.constant
    }
}

/// The images that a network takes: square, of `channels` planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Images {
    /// C.
    pub channels: usize,
    /// H = W; a multiple of 4.
    pub side: usize,
}

impl Images {
    /// MNIST and Fashion-MNIST.
    pub const MNIST: Self = Self { channels: 1, side: 28 };
    /// CIFAR-10 and CIFAR-100.
    pub const CIFAR: Self = Self { channels: 3, side: 32 };
}

/// A small convolutional network without norms and pools: (N, C, S, S) → (N, classes).
///
/// 3×3 convolution to c channels, 2×2 patches with stride 2 to 2c channels, 3×3 convolution, 2×2 patches to 4c channels, an
/// activation after each; then dense layers. Convolutions are almost orthogonal, patches orthonormal.
#[derive(Debug, Clone)]
pub struct LipschitzConvNet {
    images: Images,
    convolutions: Vec<(ConstrainedConvolution, Activation)>,
    dense: DensePart,
}

impl LipschitzConvNet {
    /// A network of `widths` = [c, hidden units of each dense layer …] whose output is `constant` times what its 1-Lipschitz
    /// layers give; `weights`, orthonormal or spectral, is of the dense layers.
    ///
    /// # Errors
    /// If there is no width or one is 0, the side is no multiple of 4, or those of the activation's constructor.
    pub fn new(
        rng: &mut ChaCha8Rng,
        images: Images,
        (widths, classes): (&[usize], usize),
        weights: Constraint,
        activation: ActivationKind,
        constant: f64,
    ) -> ds_core::Result<Self> {
        let Some((&width, hidden)) = widths.split_first() else { return Err(Error::Empty("the number of widths")) };
        if images.side == 0 || !images.side.is_multiple_of(4) {
            let error = format!("lipschitz network: the side of its images is {}, not a multiple of 4", images.side);
            return Err(candle_core::Error::Msg(error).into());
        }
        let convolution = Window { kernel: 3, stride: 1, padding: 1 };
        let patches = Window { kernel: 2, stride: 2, padding: 0 };
        let (mut convolutions, mut inputs) = (Vec::new(), images.channels);
        for (window, outputs) in
            [(convolution, width), (patches, 2 * width), (convolution, 2 * width), (patches, 4 * width)]
        {
            let layer = ConstrainedConvolution::new(rng, inputs, outputs, window)?;
            convolutions.push((layer, activation.build(outputs, false)?));
            inputs = outputs;
        }
        let features = inputs * (images.side / 4).pow(2);
        let dense = DensePart::new(rng, (features, hidden, classes), weights, activation, constant)?;
        Ok(Self { images, convolutions, dense })
    }

    /// Images (N, C, S, S) → logits (N, classes).
    ///
    /// # Errors
    /// If x has another shape.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value, mode: Mode<'_>) -> Result<G::Value> {
        let Images { channels, side } = self.images;
        let dims = graph.tensor(x).dims();
        if dims.len() != 4 || dims[1..] != [channels, side, side] {
            candle_core::bail!("lipschitz network: expected images (N, {channels}, {side}, {side}), got {dims:?}");
        }
        let mut x = enter(graph, x)?;
        for (convolution, activation) in &self.convolutions {
            x = convolution.forward_in(graph, &x, mode)?;
            x = activation.forward_in(graph, &x)?;
        }
        let x = leave(graph, &x)?;
        self.dense.forward_in(graph, &x, mode)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (depth, (convolution, activation)) in self.convolutions.iter().enumerate() {
            all.extend(convolution.parameters(&format!("block{depth}.conv")));
            all.extend(activation.parameters(&format!("block{depth}.activation")));
        }
        all.extend(self.dense.parameters());
        all
    }

    /// The activation layers.
    pub fn activations(&self) -> Vec<&Activation> {
        self.convolutions.iter().map(|(_, activation)| activation).chain(self.dense.activations()).collect()
    }

    /// A copy with parameters of a type and on a device.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn copied(&self, dtype: DType, device: &Device) -> ds_core::Result<Self> {
        let convolutions = layers_copied(&self.convolutions, ConstrainedConvolution::copied, dtype, device)?;
        Ok(Self { images: self.images, convolutions, dense: self.dense.copied(dtype, device)? })
    }

    /// The network as Lipschitz bounds see it.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn architecture(&self) -> Result<Architecture> {
        let mut operators = Vec::new();
        for (convolution, activation) in &self.convolutions {
            operators.extend([convolution.operator()?, Operator::Activation(activation.clone())]);
        }
        operators.extend(self.dense.operators()?);
        let Images { channels, side } = self.images;
        Ok(Architecture { input: Signal { channels, plane: (side, side) }, operators })
    }

    /// The images that it takes.
    pub fn images(&self) -> Images {
        self.images
    }

    /// The convolutions with their activations, from input to output.
    pub fn convolutions(&self) -> &[(ConstrainedConvolution, Activation)] {
        &self.convolutions
    }

    /// The hidden dense layers with their activations.
    pub fn hidden(&self) -> &[(ConstrainedLinear, Activation)] {
        &self.dense.hidden
    }

    /// The last layer.
    pub fn last(&self) -> &ConstrainedLinear {
        &self.dense.last
    }

    /// The factor L that the last layer's output is multiplied with.
    pub fn constant(&self) -> f64 {
        self.dense.constant
    }
}
