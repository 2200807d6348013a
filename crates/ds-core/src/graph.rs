//! One way to write a layer, two ways to differentiate it.
//!
//! Layers are written against [`Graph`]. With [`CandleGraph`] they build Candle's own graph, so `loss.backward()` works and
//! they mix with any other Candle layer. `ds_nn::tape::Tape` records the same custom ops on a tape of its own, which spares
//! the zeros, additions and look-ups of Candle's generic backward pass.

use crate::Grid;
use crate::backend::op::{Apply, Op};
use candle_core::{DType, Result, Tensor, bail};

/// Applies custom ops and remembers what their gradients need.
pub trait Graph {
    /// A tensor in this graph.
    type Value: Clone;

    /// A tensor that takes no gradient: inputs, fixed tables.
    fn constant(&mut self, tensor: &Tensor) -> Self::Value;

    /// A parameter of a layer: a tensor that takes a gradient if it is a variable, and otherwise a constant.
    fn parameter(&mut self, parameter: &Tensor) -> Self::Value;

    /// Whether variables take gradients in this graph.
    fn has_parameter_gradients(&self) -> bool {
        true
    }

    /// The tensor behind a value.
    fn tensor<'a>(&self, value: &'a Self::Value) -> &'a Tensor;

    /// Whether a gradient flows to this value.
    fn is_tracked(&self, value: &Self::Value) -> bool;

    /// Applies an op.
    fn apply<O: Op, const N: usize>(&mut self, op: O, inputs: [&Self::Value; N]) -> Result<Self::Value>;

    /// The same elements in another shape.
    fn reshape(&mut self, value: &Self::Value, shape: &[usize]) -> Result<Self::Value>;

    /// The elements rounded to another type; itself if it has that type. The gradient keeps the value's type.
    fn to_dtype(&mut self, value: &Self::Value, dtype: DType) -> Result<Self::Value>;

    /// Whether [`forward_hook`](Self::forward_hook) is to see all splines. None is fused with the layer before it then.
    fn has_forward_hook(&self) -> bool {
        false
    }

    /// Is called with the grid, the argument and the result of each spline layer, in their order; what it returns goes on in the
    /// result's place. Like `register_forward_hook` of PyTorch.
    ///
    /// # Errors
    /// Those of the hook.
    fn forward_hook(&mut self, _grid: Grid, _x: &Self::Value, y: Self::Value) -> Result<Self::Value> {
        Ok(y)
    }
}

/// Implements [`Graph`] for Candle's own graph, where a value is a tensor and `Tensor::backward` differentiates.
macro_rules! candle_graph {
    ($name:ty, $has_gradients:literal, $parameter:ident => $value:expr) => {
        impl Graph for $name {
            type Value = Tensor;

            fn constant(&mut self, tensor: &Tensor) -> Tensor {
                tensor.clone()
            }

            fn parameter(&mut self, $parameter: &Tensor) -> Tensor {
                $value
            }

            fn has_parameter_gradients(&self) -> bool {
                $has_gradients
            }

            fn tensor<'a>(&self, value: &'a Tensor) -> &'a Tensor {
                value
            }

            fn is_tracked(&self, value: &Tensor) -> bool {
                value.track_op()
            }

            fn apply<O: Op, const N: usize>(&mut self, op: O, inputs: [&Tensor; N]) -> Result<Tensor> {
                // `contiguous` clones where a tensor is so already, as most are.
                match inputs.as_slice() {
                    [a] => a.contiguous()?.apply_op1(Apply(op)),
                    [a, b] => a.contiguous()?.apply_op2(&b.contiguous()?, Apply(op)),
                    [a, b, c] => a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Apply(op)),
                    _ => bail!("{}: Candle's custom ops take one to three inputs, got {N}", O::NAME),
                }
            }

            fn reshape(&mut self, value: &Tensor, shape: &[usize]) -> Result<Tensor> {
                value.reshape(shape)
            }

            fn to_dtype(&mut self, value: &Tensor, dtype: DType) -> Result<Tensor> {
                value.to_dtype(dtype)
            }
        }
    };
}

/// Candle's own graph.
#[derive(Debug, Default, Clone, Copy)]
pub struct CandleGraph;

candle_graph!(CandleGraph, true, parameter => parameter.clone());

/// Candle's own graph with all parameters as constants: for gradients with respect to inputs only.
#[derive(Debug, Default, Clone, Copy)]
pub struct InputGraph;

candle_graph!(InputGraph, false, parameter => parameter.detach());

/// Gradients by parameter, as a backward pass leaves them.
pub trait Gradients {
    /// The gradient of a parameter, if one flowed to it.
    fn gradient(&self, parameter: &Tensor) -> Option<&Tensor>;

    /// Puts a gradient in place of the one that is there.
    fn set_gradient(&mut self, parameter: &Tensor, gradient: Tensor);
}

impl Gradients for candle_core::backprop::GradStore {
    fn gradient(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.get(parameter)
    }

    fn set_gradient(&mut self, parameter: &Tensor, gradient: Tensor) {
        self.insert(parameter, gradient);
    }
}
