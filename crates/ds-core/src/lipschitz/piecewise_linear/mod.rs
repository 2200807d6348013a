//! A network as matrices and piecewise-linear functions of single numbers, in f64: what exact constants, local bounds and
//! multipliers are computed from.
//!
//! Convolutions and means are unrolled into matrices. Pairs of channels and maxima of windows become functions of one number
//! in another basis: max(a, b) = (a + b + |a − b|)/2, and a reflection leaves one direction and takes the absolute value of
//! the other. Branches of a sum run side by side, with the identity where one has fewer layers.

mod function;
mod lower;
mod matrix;
mod product;

pub use function::Function;
pub(crate) use lower::Rounding;
pub use matrix::Matrix;

use std::sync::Arc;

/// A matrix and a vector: x ↦ W·x + b.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// W (outputs, inputs).
    pub weight: Matrix,
    /// b (outputs).
    pub bias: Vec<f64>,
}

impl Affine {
    /// W·x + b.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.weight
            .rows()
            .zip(&self.bias)
            .map(|(row, b)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
            .collect()
    }
}

/// An affine map, and a function of each of its outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The map.
    pub affine: Affine,
    /// One function for each output.
    pub functions: Vec<Arc<Function>>,
}

impl Layer {
    /// Whether its functions are the identity.
    pub(crate) fn is_linear(&self) -> bool {
        self.functions.iter().all(|f| f.knots().is_empty() && f.slopes() == [1.0])
    }
}

/// x ↦ W_L·σ(… W₁·σ(W₀·x + b₀) + b₁ …) + b_L. Built from an architecture with [`PiecewiseLinear::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct PiecewiseLinear {
    /// The number of inputs.
    pub inputs: usize,
    /// The layers with functions, from input to output.
    pub layers: Vec<Layer>,
    /// What follows them.
    pub output: Affine,
}

impl PiecewiseLinear {
    /// f(x).
    ///
    /// # Panics
    /// If x does not have as many elements as there are inputs.
    pub fn value(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.inputs, "inputs of the network");
        let mut signal = x.to_vec();
        for Layer { affine, functions } in &self.layers {
            signal = affine.apply(&signal).iter().zip(functions).map(|(&z, f)| f.value(z)).collect();
        }
        self.output.apply(&signal)
    }

    /// Whether all parameters are finite numbers.
    pub fn is_finite(&self) -> bool {
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        let mut maps = self.layers.iter().map(|layer| &layer.affine).chain([&self.output]);
        let mut functions = self.layers.iter().flat_map(|layer| &layer.functions);
        maps.all(|map| finite(map.weight.data()) && finite(&map.bias))
            && functions.all(|f| finite(f.knots()) && finite(f.slopes()) && finite(f.offsets()))
    }

    /// The number of functions that are no straight lines.
    pub fn bends(&self) -> usize {
        self.layers.iter().flat_map(|layer| &layer.functions).filter(|f| !f.knots().is_empty()).count()
    }

    /// The number of outputs.
    pub fn outputs(&self) -> usize {
        self.output.bias.len()
    }
}
