//! A network whose slopes lie in intervals, as one linear map with unknown factors in a loop.

use super::super::matrix::gamma;
use super::super::region::middle_and_half;
use super::cholesky::factorise;
use crate::lipschitz::piecewise_linear::{Affine, Matrix, PiecewiseLinear};

/// Slopes m ± r of the neurons with r > 0, N in number, and what lies between them.
///
/// A change v₀ of the input changes the k-th of these by z_k before and m_k·z_k + w_k behind its function, with
/// |w_k| ≤ |r_k·z_k|. Then r·z = G·(v₀, w) and the change of the output is Y·(v₀, w). No neuron of the last layer acts on
/// another, so that G has no columns for those.
#[derive(Debug, Clone)]
pub(super) struct Composite {
    /// The size of v₀.
    pub inputs: usize,
    /// Layer and index of each neuron.
    pub neurons: Vec<(usize, usize)>,
    /// G (N, A), with A the inputs and the neurons of all layers but the last.
    pub g: Matrix,
    /// Y (outputs, A + B), with B neurons in the last layer.
    pub y: Matrix,
    /// The number of rounded operations behind each element of G and Y.
    pub operations: usize,
}

impl Composite {
    /// With intervals [α, β] for the slopes of each neuron of each layer.
    pub fn new(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> Self {
        Self::mapped(network, slopes, |value| value)
    }

    /// With all numbers replaced by their absolute values: rounding errors of G and Y are relative to these.
    pub fn absolute(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> Self {
        Self::mapped(network, slopes, f64::abs)
    }

    /// The number of unknown slopes, and of those in the last layer with functions.
    pub fn unknown(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>]) -> (usize, usize) {
        let count = |slopes: &Vec<(f64, f64)>| slopes.iter().filter(|(low, high)| low != high).count();
        let last = network.layers.iter().zip(slopes).rev().find(|(layer, _)| !layer.is_linear());
        (slopes.iter().map(count).sum(), last.map_or(0, |(_, slopes)| count(slopes)))
    }

    fn mapped(network: &PiecewiseLinear, slopes: &[Vec<(f64, f64)>], map: fn(f64) -> f64) -> Self {
        let (count, in_last) = Self::unknown(network, slopes);
        let first = network.layers.first().map_or(&network.output, |layer| &layer.affine);
        let mut signal = shortened(&first.weight);
        signal.data_mut().iter_mut().for_each(|value| *value = map(*value));
        let inputs = signal.dims().1;
        let (a, all) = (inputs + count - in_last, inputs + count);
        signal = widened(&signal, all);
        let (mut g, mut neurons) = (Matrix::zeros(count, a), Vec::with_capacity(count));
        let mut operations = first.weight.dims().1 + 2;
        for (depth, slopes) in slopes.iter().enumerate() {
            let factors: Vec<f64> = slopes.iter().map(|&(low, high)| map(middle_and_half(low, high).0)).collect();
            let mut free = Vec::new();
            for (index, &(low, high)) in slopes.iter().enumerate().filter(|(_, (low, high))| low != high) {
                let radius = middle_and_half(low, high).1;
                let row = g.row_mut(neurons.len());
                row.iter_mut().zip(signal.row(index)).for_each(|(g, z)| *g = radius * z);
                free.push((index, inputs + neurons.len()));
                neurons.push((depth, index));
            }
            signal.scale_rows(&factors);
            for (row, column) in free {
                signal.row_mut(row)[column] = 1.0;
            }
            let mut weight = match network.layers.get(depth + 1) {
                Some(next) => next.affine.weight.clone(),
                None => lowered(&network.output.weight),
            };
            weight.data_mut().iter_mut().for_each(|value| *value = map(*value));
            operations += weight.dims().1 + 4;
            signal = weight.times(&signal);
        }
        Self { inputs, neurons, g, y: signal, operations }
    }
}

/// A matrix of fewer columns whose product with its transposed is no smaller than W·Wᵀ, and larger by rounding only: no
/// Jacobian B·W has a larger norm than B times that.
fn shortened(weight: &Matrix) -> Matrix {
    let (rows, columns) = weight.dims();
    if rows >= columns {
        return weight.clone();
    }
    let mut gram = weight.times_transposed(weight);
    let trace: f64 = (0..rows).map(|k| gram.row(k)[k]).sum();
    // More than what the inner products and the factorisation are rounded by, in the ℓ2 norm.
    let shift = 2.0 * (gamma(columns) + gamma(rows + 1)) * trace;
    (0..rows).for_each(|k| gram.row_mut(k)[k] += shift);
    if shift == 0.0 || !factorise(&mut gram) {
        return weight.clone();
    }
    for k in 0..rows {
        gram.row_mut(k)[k + 1..].fill(0.0);
    }
    gram
}

/// A matrix of no more rows than columns whose transposed times itself is no smaller than Wᵀ·W, and larger by rounding only: no
/// Jacobian W·J has a larger norm than that times J.
fn lowered(weight: &Matrix) -> Matrix {
    let (rows, columns) = weight.dims();
    if rows <= columns { weight.clone() } else { shortened(&weight.transposed()).transposed() }
}

/// A network with Jacobians of norms that are no smaller, and no more outputs than neurons in the last layer with functions.
pub(crate) fn with_few_outputs(mut network: PiecewiseLinear) -> PiecewiseLinear {
    let (rows, columns) = network.output.weight.dims();
    if network.layers.is_empty() || rows <= columns {
        return network;
    }
    let weight = lowered(&network.output.weight);
    network.output = Affine { bias: vec![0.0; weight.dims().0], weight };
    network
}

fn widened(matrix: &Matrix, columns: usize) -> Matrix {
    let mut out = Matrix::zeros(matrix.dims().0, columns);
    for (k, row) in matrix.rows().enumerate() {
        out.row_mut(k)[..row.len()].copy_from_slice(row);
    }
    out
}
