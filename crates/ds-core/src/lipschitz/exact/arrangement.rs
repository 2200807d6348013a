//! The affine maps of all layers in one piece, in f64 with an error bound for each coefficient, and without rounding where that
//! is asked for.

use super::dyadic::{Dyadic, rounded};
use crate::lipschitz::piecewise_linear::{Function, PiecewiseLinear};
use candle_core::{Result, bail};

/// An affine function of the inputs: a·x + b·y + c.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Map {
    /// (a, b, c).
    pub(super) at: [f64; 3],
    /// The same with all numbers that it is made of positive; the errors are parts of it.
    pub(super) size: [f64; 3],
}

impl Map {
    fn add(&mut self, factor: f64, other: &Self) {
        for k in 0..3 {
            self.at[k] += factor * other.at[k];
            self.size[k] += factor.abs() * other.size[k];
        }
    }
}

/// A layer of the network: a row of weights and a bias for each neuron, and the functions.
#[derive(Debug)]
pub(super) struct Neurons<'a> {
    rows: Vec<&'a [f64]>,
    bias: &'a [f64],
    pub(super) functions: Vec<Bends>,
}

/// A function whose knots ascend strictly.
#[derive(Debug)]
pub(super) struct Bends {
    pub(super) knots: Vec<f64>,
    slopes: Vec<f64>,
    offsets: Vec<f64>,
}

impl Bends {
    fn new(function: &Function) -> Result<Self> {
        let (knots, slopes, offsets) = (function.knots(), function.slopes(), function.offsets());
        let numbers = || knots.iter().chain(slopes).chain(offsets);
        if !numbers().all(|x| x.is_finite()) || !knots.is_sorted() {
            bail!("pieces: a function has knots that do not ascend, or numbers that are not finite");
        }
        let mut bends = Self { knots: Vec::new(), slopes: vec![slopes[0]], offsets: vec![offsets[0]] };
        for (k, &knot) in knots.iter().enumerate() {
            // A piece between equal knots has no points.
            if bends.knots.last() == Some(&knot) {
                bends.slopes.pop();
                bends.offsets.pop();
            } else {
                bends.knots.push(knot);
            }
            bends.slopes.push(slopes[k + 1]);
            bends.offsets.push(offsets[k + 1]);
        }
        Ok(bends)
    }
}

/// What is known of a layer in the current piece.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// The pre-activations.
    pub(super) maps: Vec<Map>,
    /// The piece of each function.
    pieces: Vec<usize>,
    /// The outputs of the functions.
    outputs: Vec<Map>,
    /// Errors are at most this part of `size`.
    pub(super) unit: f64,
    /// The pre-activations without rounding.
    exact: Option<Vec<[Dyadic; 3]>>,
}

/// The layers of a network in the piece that is being looked at.
#[derive(Debug)]
pub(super) struct Arrangement<'a> {
    pub(super) layers: Vec<Neurons<'a>>,
    pub(super) frames: Vec<Frame>,
    /// The lines of the domain.
    pub(super) fixed: Vec<[f64; 3]>,
    /// Whether no number is so large that rounding errors of the smallest numbers could matter.
    pub(super) tame: bool,
    /// Whether a bound of 0 means 0, and is no product that was too small for a number.
    pub(super) zeros: bool,
}

impl<'a> Arrangement<'a> {
    pub(super) fn new(network: &'a PiecewiseLinear, fixed: &[[f64; 3]]) -> Result<Self> {
        let hidden = network.layers.iter().map(|layer| (&layer.affine, &layer.functions[..]));
        let (mut layers, mut frames) = (Vec::new(), Vec::new());
        let (mut roundings, mut inputs) = (0, network.inputs);
        let (mut largest, mut smallest) = (1.0, 1.0);
        for (affine, functions) in hidden.chain([(&network.output, &[][..])]) {
            let (rows, columns) = affine.weight.dims();
            let output = layers.len() == network.layers.len();
            if columns != inputs || affine.bias.len() != rows || (!output && functions.len() != rows) {
                bail!("pieces: layer {} of the network does not fit the one before it", layers.len());
            }
            let functions = functions.iter().map(|f| Bends::new(f)).collect::<Result<Vec<_>>>()?;
            let weights = || affine.weight.data().iter().chain(&affine.bias);
            if !weights().all(|w| w.is_finite()) {
                bail!("pieces: layer {} of the network has weights that are not finite", layers.len());
            }
            let (low, high) = extent(weights());
            let (low_slope, high_slope) =
                extent(functions.iter().flat_map(|f| f.slopes.iter().chain(&f.offsets).chain(&f.knots)));
            smallest *= low.min(1.0) * low_slope.min(1.0);
            largest *= high.max(1.0) * high_slope.max(1.0) * (columns + 2) as f64;
            // The first maps are the weights themselves. What follows: slope, offset, weight, and the sum.
            let unit = roundings as f64 * f64::EPSILON;
            roundings += rows + 4;
            frames.push(Frame {
                maps: vec![Map::default(); rows],
                pieces: vec![0; functions.len()],
                outputs: vec![Map::default(); functions.len()],
                unit,
                exact: None,
            });
            layers.push(Neurons { rows: affine.weight.rows().collect(), bias: &affine.bias, functions });
            inputs = rows;
        }
        let (low, high) = extent(fixed.iter().flatten());
        (largest, smallest) = (largest * high.max(1.0), smallest * low.min(1.0));
        Ok(Self { layers, frames, fixed: fixed.to_vec(), tame: largest < 1e40, zeros: smallest > 1e-80 })
    }

    /// The number of layers with functions.
    pub(super) fn depth(&self) -> usize {
        self.layers.len() - 1
    }

    pub(super) fn width(&self, layer: usize) -> usize {
        self.layers[layer].rows.len()
    }

    pub(super) fn bends(&self, layer: usize, neuron: usize) -> bool {
        !self.layers[layer].functions[neuron].knots.is_empty()
    }

    pub(super) fn choose(&mut self, layer: usize, neuron: usize, piece: usize) {
        self.frames[layer].pieces[neuron] = piece;
    }

    /// The maps of a layer, or of the outputs; the ones before it are chosen.
    pub(super) fn enter(&mut self, layer: usize) {
        let (before, rest) = self.frames.split_at_mut(layer);
        let (frame, neurons) = (&mut rest[0], &self.layers[layer]);
        frame.exact = None;
        let Some(before) = before.last_mut() else {
            for ((map, row), &bias) in frame.maps.iter_mut().zip(&neurons.rows).zip(neurons.bias) {
                let at = [row[0], row.get(1).copied().unwrap_or(0.0), bias];
                *map = Map { at, size: at.map(f64::abs) };
            }
            return;
        };
        let functions = &self.layers[layer - 1].functions;
        for (k, function) in functions.iter().enumerate() {
            let (slope, offset) = (function.slopes[before.pieces[k]], function.offsets[before.pieces[k]]);
            let mut output = Map { at: [0.0, 0.0, offset], size: [0.0, 0.0, offset.abs()] };
            output.add(slope, &before.maps[k]);
            before.outputs[k] = output;
        }
        for ((map, row), &bias) in frame.maps.iter_mut().zip(&neurons.rows).zip(neurons.bias) {
            *map = Map { at: [0.0, 0.0, bias], size: [0.0, 0.0, bias.abs()] };
            row.iter().zip(&before.outputs).for_each(|(&weight, output)| map.add(weight, output));
        }
    }

    /// The rows (a, b, c) of the network in this piece, once the outputs are entered, and the errors of each.
    pub(super) fn rows(&self) -> impl Iterator<Item = ([f64; 3], [f64; 3])> {
        let frame = &self.frames[self.layers.len() - 1];
        frame.maps.iter().map(|map| (map.at, map.size.map(|size| frame.unit * size)))
    }

    /// The same, from exact numbers.
    pub(super) fn exact_rows(&mut self) -> Vec<([f64; 3], [f64; 3])> {
        let rows = self.exact_maps(self.layers.len() - 1);
        rows.iter().map(|row| rounded(row, 0)).collect()
    }

    pub(super) fn exact_maps(&mut self, layer: usize) -> &[[Dyadic; 3]] {
        if self.frames[layer].exact.is_none() {
            if layer > 0 {
                self.exact_maps(layer - 1);
            }
            self.frames[layer].exact = Some(self.exactly(layer));
        }
        self.frames[layer].exact.as_deref().unwrap_or_default()
    }

    /// The maps of a layer, from the exact ones of the layer before it.
    fn exactly(&self, layer: usize) -> Vec<[Dyadic; 3]> {
        let neurons = &self.layers[layer];
        let rows = neurons.rows.iter().zip(neurons.bias);
        let Some(before) = layer.checked_sub(1) else {
            let row =
                |(row, &bias): (&&[f64], &f64)| [row[0], row.get(1).copied().unwrap_or(0.0), bias].map(Dyadic::new);
            return rows.map(row).collect();
        };
        let (frame, functions) = (&self.frames[before], &self.layers[before].functions);
        let maps = frame.exact.as_deref().unwrap_or_default();
        let output = |(k, map): (usize, &[Dyadic; 3])| {
            let slope = Dyadic::new(functions[k].slopes[frame.pieces[k]]);
            let [a, b, c] = map.each_ref().map(|x| x.times(&slope));
            [a, b, c.plus(&Dyadic::new(functions[k].offsets[frame.pieces[k]]))]
        };
        let outputs: Vec<[Dyadic; 3]> = maps.iter().enumerate().map(output).collect();
        rows.map(|(row, &bias)| {
            let mut sum = [Dyadic::default(), Dyadic::default(), Dyadic::new(bias)];
            for (&weight, output) in row.iter().zip(&outputs).filter(|&(&weight, _)| weight != 0.0) {
                let weight = Dyadic::new(weight);
                sum.iter_mut().zip(output).for_each(|(sum, x)| *sum = sum.plus(&x.times(&weight)));
            }
            sum
        })
        .collect()
    }
}

/// The smallest and the largest modulus of numbers that are not 0; 1 without such numbers.
fn extent<'a>(numbers: impl Iterator<Item = &'a f64>) -> (f64, f64) {
    let mut moduli = numbers.map(|x| x.abs()).filter(|&x| x > 0.0).peekable();
    if moduli.peek().is_none() {
        return (1.0, 1.0);
    }
    moduli.fold((f64::INFINITY, 0.0), |(low, high), x| (low.min(x), high.max(x)))
}
