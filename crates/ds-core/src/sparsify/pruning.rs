//! Pruning of the splines of a network: one order of removal over all functions, and a fit of what is kept.

use super::function::{Function, Removal};
use super::histogram::Histogram;
use super::kept::KeptKnots;
use super::layer::Layer;
use crate::Result;
use crate::activation::Activation;
use rayon::prelude::*;
use std::collections::BinaryHeap;

crate::named!(
    /// The error of a function that pruning keeps small.
    #[derive(Default)]
    Cost {
        /// The mean squared error over the inputs, of histograms that count each of them as one.
        MeanSquare = "mean_square",
        /// The sum over the inputs of weight times squared error, of histograms of squared gradients of the loss with respect to the
        /// function's value: an estimate of how much the loss changes (Hassibi and Stork 1992, with the empirical Fisher matrix).
        #[default]
        SquaredGradient = "squared_gradient",
    }
);

/// The removal of knots from the splines of a network, cheapest first, by greedy backward elimination.
///
/// The [`Cost`] of a knot is by how much the least error of its function grows without it, with the weights of the function's
/// [`Histogram`]. [`prune`](Self::prune) can be called for any number of knots, in any order: it starts from the functions as they
/// were when this was made.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use ds_core::{Grid, activation::{Activation, Init, Spline}};
/// use ds_core::sparsify::{Cost, Histogram, Pruning};
/// let spline = Spline::bspline(16, Grid::from_range(51, 4.0)?, Init::LeakyRelu, DType::F32, &Device::Cpu)?;
/// let activation = Activation::Spline(spline);
/// let mut histogram = Histogram::of(&activation)?.expect("a spline");
/// histogram.add(&Tensor::randn(0f32, 1.0, (1000, 16), &Device::Cpu)?, None)?;
/// let pruning = Pruning::new([(&activation, &histogram)], Cost::MeanSquare)?;
/// let kept = pruning.prune(16)?; // a LeakyReLU has one knot
/// assert_eq!(kept.count(), 16);
/// # Ok::<(), ds_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Pruning {
    layers: Vec<Layer>,
    functions: Vec<Function>,
    /// The function of each removal and the knot, the first one that goes first.
    order: Vec<(usize, usize)>,
    knots: usize,
}

/// The next removal of a function, the cheapest one greatest.
struct Next {
    cost: f64,
    function: usize,
    index: usize,
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Next {}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.cost.total_cmp(&self.cost).then(other.function.cmp(&self.function))
    }
}

impl Pruning {
    /// The order of removal for splines with the histograms of their inputs; activations that are no splines are left alone.
    ///
    /// # Errors
    /// If a histogram is not that of its layer, or the device fails.
    pub fn new<'a>(layers: impl IntoIterator<Item = (&'a Activation, &'a Histogram)>, cost: Cost) -> Result<Self> {
        let mut all = Vec::new();
        let (mut functions, mut weights) = (Vec::new(), Vec::new());
        for (activation, histogram) in layers {
            let Some(layer) = Layer::of(activation)? else { continue };
            histogram.check(layer.grid, layer.channels)?;
            for (channel, (values, scale)) in layer.functions()?.into_iter().enumerate() {
                let bins = histogram.by_index(channel);
                functions.push(Function::new(values, &bins));
                let total: f64 = bins.iter().map(|&(_, weight)| weight).sum();
                // A function whose values make no difference goes first.
                weights.push(match cost {
                    _ if total <= 0.0 => 0.0,
                    Cost::MeanSquare => scale * scale / total,
                    Cost::SquaredGradient => scale * scale,
                });
            }
            all.push(layer);
        }
        let removals: Vec<Vec<Removal>> = functions.par_iter().map(Function::removals).collect();
        let knots = removals.iter().map(Vec::len).sum();
        let next = |function: usize, index: usize| {
            let removal = removals[function].get(index)?;
            Some(Next { cost: removal.cost * weights[function], function, index })
        };
        let mut candidates: BinaryHeap<Next> = (0..functions.len()).filter_map(|function| next(function, 0)).collect();
        let mut order = Vec::with_capacity(knots);
        while let Some(Next { function, index, .. }) = candidates.pop() {
            order.push((function, removals[function][index].knot));
            candidates.extend(next(function, index + 1));
        }
        Ok(Self { layers: all, functions, order, knots })
    }

    /// The inner knots of all functions.
    pub fn knots(&self) -> usize {
        self.knots
    }

    /// Keeps the last `count` knots of the order and fits all functions to what they were.
    ///
    /// Functions are straight between kept knots: exactly so by the stored coefficients in f64. 1-Lipschitz splines stay so.
    ///
    /// # Errors
    /// If the device fails.
    pub fn prune(&self, count: usize) -> Result<KeptKnots> {
        let mut is_kept: Vec<Vec<bool>> = self.functions.iter().map(|of| vec![true; of.inner().end]).collect();
        for &(function, knot) in &self.order[..self.knots.saturating_sub(count)] {
            is_kept[function][knot] = false;
        }
        let mut kept = is_kept.into_iter().zip(&self.functions);
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let of_layer: Vec<(Vec<usize>, &Function)> = kept
                .by_ref()
                .take(layer.channels)
                .map(|(kept, function)| (function.nodes(function.inner().filter(|&k| kept[k])), function))
                .collect();
            let fitted: Vec<(Vec<usize>, Vec<f64>)> = of_layer
                .into_par_iter()
                .map(|(nodes, function)| {
                    let values = function.fit(&nodes, layer.limit());
                    (nodes, values)
                })
                .collect();
            layers.push((layer.clone(), layer.write(&fitted)?));
        }
        KeptKnots::new(layers)
    }

    /// Puts back the functions as they were when this was made, to the last bit.
    ///
    /// # Errors
    /// If the device fails.
    pub fn restore(&self) -> Result<()> {
        self.layers.iter().try_for_each(Layer::restore)
    }
}
