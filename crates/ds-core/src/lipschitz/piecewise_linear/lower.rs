//! From an architecture to matrices and functions.

use super::{Affine, Function, Layer, Matrix, PiecewiseLinear};
use crate::activation::Activation;
use crate::backend::real::in_double_precision;
use crate::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use candle_core::{Result, bail};
use std::sync::Arc;

/// More elements of a matrix than this are refused: 512 MiB.
const MOST_ELEMENTS: usize = 1 << 26;

impl PiecewiseLinear {
    /// The network of an architecture.
    ///
    /// # Errors
    /// If layers do not fit each other, a parameter is not f32 or f64, or an unrolled layer has more than 2²⁶ elements.
    pub fn new(architecture: &Architecture) -> Result<Self> {
        Ok(Lowering::new(architecture.input).through(&architecture.operators)?.finish())
    }

    /// Its layers of the same number as `layers`, with the identity for those that are missing.
    fn lengthened(mut self, layers: usize) -> Self {
        while self.layers.len() < layers {
            let n = self.outputs();
            let identity = Arc::new(Function::identity());
            let functions = std::iter::repeat_n(identity, n).collect();
            let identity = Affine { weight: Matrix::identity(n), bias: vec![0.0; n] };
            self.layers.push(Layer { affine: std::mem::replace(&mut self.output, identity), functions });
        }
        self
    }
}

/// The network so far, the last affine map being its output.
struct Lowering {
    inputs: usize,
    layers: Vec<Layer>,
    last: Affine,
    signal: Signal,
}

impl Lowering {
    fn new(signal: Signal) -> Self {
        let n = signal.elements();
        let last = Affine { weight: Matrix::identity(n), bias: vec![0.0; n] };
        Self { inputs: n, layers: Vec::new(), last, signal }
    }

    fn finish(self) -> PiecewiseLinear {
        PiecewiseLinear { inputs: self.inputs, layers: self.layers, output: self.last }
    }

    fn through(mut self, operators: &[Operator]) -> Result<Self> {
        for operator in operators {
            let output = operator.output(self.signal)?;
            let width = self.signal.elements().max(self.last.weight.dims().1);
            if output.elements() * width > MOST_ELEMENTS {
                bail!(
                    "a layer of {} numbers to {} is too large to be unrolled into a matrix: choose a smaller network, or \
                     `certified::bound`, which needs none",
                    self.signal.elements(),
                    output.elements()
                );
            }
            match operator {
                Operator::Dense(weight) => {
                    let weight = Matrix::new(output.elements(), self.signal.elements(), in_double_precision(weight)?);
                    self.multiply(&weight);
                }
                Operator::Convolution { weight, stride, padding } => {
                    let kernel = weight.dims4()?.2;
                    let window = PoolWindow { kernel, stride: *stride, padding: *padding };
                    let kernels = in_double_precision(weight)?;
                    self.multiply(&unrolled(self.signal, output, window, |o, i| {
                        let area = kernel * kernel;
                        let start = (o * self.signal.channels + i) * area;
                        Some(&kernels[start..start + area])
                    }));
                }
                Operator::AveragePool(window) => {
                    let area = window.kernel * window.kernel;
                    let mean = vec![1.0 / area as f64; area];
                    self.multiply(&unrolled(self.signal, output, *window, |o, i| (o == i).then_some(&mean[..])));
                }
                Operator::ChannelScale(scale) => {
                    let scale = self.per_element(in_double_precision(scale)?);
                    self.last.weight.scale_rows(&scale);
                    self.last.bias.iter_mut().zip(scale).for_each(|(bias, scale)| *bias *= scale);
                }
                Operator::Scale(scale) => {
                    self.last.weight.data_mut().iter_mut().for_each(|w| *w *= scale);
                    self.last.bias.iter_mut().for_each(|b| *b *= scale);
                }
                Operator::Bias(bias) => {
                    let bias = self.per_element(in_double_precision(bias)?);
                    self.last.bias.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
                }
                Operator::Activation(Activation::MaxMin) => {
                    // The line on which both are equal.
                    self.pairs(&vec![std::f64::consts::FRAC_PI_4; self.signal.channels / 2])?;
                }
                Operator::Activation(Activation::Householder(householder)) => {
                    let angles = in_double_precision(&householder.angles)?;
                    self.pairs(&angles.into_iter().map(|angle| 0.5 * angle).collect::<Vec<_>>())?;
                }
                Operator::Activation(activation) => {
                    let functions = Function::of(activation, self.signal.channels)?.into_iter().map(Arc::new);
                    let pixels = self.signal.pixels();
                    let functions = functions.flat_map(|f| std::iter::repeat_n(f, pixels)).collect();
                    self.apply(functions);
                }
                Operator::MaxPool(window) => self.max_pool(*window, output),
                Operator::Sum(branches) => self.sum(branches, output)?,
            }
            self.signal = output;
        }
        Ok(self)
    }

    /// An element for each pixel from one for each channel.
    fn per_element(&self, channels: Vec<f64>) -> Vec<f64> {
        channels.into_iter().flat_map(|value| std::iter::repeat_n(value, self.signal.pixels())).collect()
    }

    fn multiply(&mut self, weight: &Matrix) {
        let bias = Affine { weight: weight.clone(), bias: vec![0.0; weight.dims().0] }.apply(&self.last.bias);
        self.last = Affine { weight: weight.times(&self.last.weight), bias };
    }

    /// The functions of the signal's elements; what follows starts from them.
    fn apply(&mut self, functions: Vec<Arc<Function>>) {
        let n = functions.len();
        let identity = Affine { weight: Matrix::identity(n), bias: vec![0.0; n] };
        self.layers.push(Layer { affine: std::mem::replace(&mut self.last, identity), functions });
    }

    /// Each pair of channels reflected on one side of a line at that angle: |z·n| with the normal n of the line, and the
    /// part along the line as it is.
    fn pairs(&mut self, angles: &[f64]) -> Result<()> {
        let Signal { channels, .. } = self.signal;
        if !channels.is_multiple_of(2) || angles.len() != channels / 2 {
            bail!("an activation of {} pairs does not take {channels} channels", angles.len());
        }
        let (n, pixels) = (self.signal.elements(), self.signal.pixels());
        let (mut basis, mut functions) = (Matrix::zeros(n, n), Vec::with_capacity(n));
        for (pair, angle) in angles.iter().enumerate() {
            let (first, second) = (2 * pair * pixels, (2 * pair + 1) * pixels);
            for pixel in 0..pixels {
                let (along, across) = (basis_row(first + pixel, second + pixel, *angle), first + pixel);
                for (column, along, normal) in along {
                    basis.row_mut(across)[column] = along;
                    basis.row_mut(second + pixel)[column] = normal;
                }
            }
            functions.extend(std::iter::repeat_n(Arc::new(Function::identity()), pixels));
            functions.extend(std::iter::repeat_n(Arc::new(Function::absolute()), pixels));
        }
        self.multiply(&basis);
        self.apply(functions);
        self.multiply(&basis.transposed());
        Ok(())
    }

    /// Maxima of two at a time, until one of each window is left.
    fn max_pool(&mut self, window: PoolWindow, output: Signal) {
        let mut rows: Vec<Vec<usize>> = Vec::with_capacity(output.elements());
        for channel in 0..output.channels {
            for y in 0..output.plane.0 {
                for x in 0..output.plane.1 {
                    rows.push(
                        pixels_of(window, self.signal, (y, x))
                            .map(|(_, p)| channel * self.signal.pixels() + p)
                            .collect(),
                    );
                }
            }
        }
        let mut width = self.signal.elements();
        loop {
            // (a + b, |a − b|) of each pair, and those that are left over.
            let most = rows.iter().map(Vec::len).max().unwrap_or(0);
            let (mut before, mut functions, mut after) = (Vec::new(), Vec::new(), Vec::new());
            for row in &mut rows {
                let mut next = Vec::with_capacity(row.len().div_ceil(2));
                for pair in row.chunks(2) {
                    next.push(after.len());
                    let sum = before.len();
                    match *pair {
                        [a, b] => {
                            before.extend([vec![(a, 1.0), (b, 1.0)], vec![(a, 1.0), (b, -1.0)]]);
                            functions.extend([Arc::new(Function::identity()), Arc::new(Function::absolute())]);
                            after.push(vec![(sum, 0.5), (sum + 1, 0.5)]);
                        }
                        _ => {
                            before.push(pair.iter().map(|&a| (a, 1.0)).collect());
                            functions.push(Arc::new(Function::identity()));
                            after.push(vec![(sum, 1.0)]);
                        }
                    }
                }
                *row = next;
            }
            self.multiply(&sparse(width, &before));
            if most > 1 {
                self.apply(functions);
                self.multiply(&sparse(before.len(), &after));
            }
            width = after.len();
            if most <= 2 {
                return;
            }
        }
    }

    fn sum(&mut self, branches: &[Vec<Operator>], output: Signal) -> Result<()> {
        let lower = |branch: &Vec<Operator>| Ok(Self::new(self.signal).through(branch)?.finish());
        let branches = branches.iter().map(lower).collect::<Result<Vec<_>>>()?;
        let depth = branches.iter().map(|branch| branch.layers.len()).max().unwrap_or(0);
        let branches: Vec<_> = branches.into_iter().map(|branch| branch.lengthened(depth)).collect();
        if branches.is_empty() {
            return Ok(());
        }
        for k in 0..depth {
            let affine: Vec<&Affine> = branches.iter().map(|branch| &branch.layers[k].affine).collect();
            let joined = if k == 0 { stacked(&affine) } else { side_by_side(&affine) };
            let functions = branches.iter().flat_map(|branch| branch.layers[k].functions.iter().cloned()).collect();
            let bias = joined.bias;
            self.multiply(&joined.weight);
            self.last.bias.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            self.apply(functions);
        }
        let affine: Vec<&Affine> = branches.iter().map(|branch| &branch.output).collect();
        let joined = if depth == 0 { stacked(&affine) } else { side_by_side(&affine) };
        let n = output.elements();
        let mut add = Matrix::zeros(n, n * branches.len());
        for row in 0..n {
            (0..branches.len()).for_each(|branch| add.row_mut(row)[branch * n + row] = 1.0);
        }
        self.multiply(&joined.weight);
        self.last.bias.iter_mut().zip(joined.bias).for_each(|(sum, bias)| *sum += bias);
        self.multiply(&add);
        Ok(())
    }
}

/// (column, along the line at that angle, normal to it) of the two elements of a pair.
fn basis_row(first: usize, second: usize, angle: f64) -> [(usize, f64, f64); 2] {
    let (sin, cos) = angle.sin_cos();
    [(first, cos, sin), (second, sin, -cos)]
}

fn sparse(columns: usize, rows: &[Vec<(usize, f64)>]) -> Matrix {
    let mut matrix = Matrix::zeros(rows.len(), columns);
    for (k, row) in rows.iter().enumerate() {
        row.iter().for_each(|&(column, value)| matrix.row_mut(k)[column] += value);
    }
    matrix
}

/// All rows of maps of the same input.
fn stacked(maps: &[&Affine]) -> Affine {
    let columns = maps.first().map_or(0, |map| map.weight.dims().1);
    let data: Vec<f64> = maps.iter().flat_map(|map| map.weight.data()).copied().collect();
    let bias: Vec<f64> = maps.iter().flat_map(|map| &map.bias).copied().collect();
    Affine { weight: Matrix::new(bias.len(), columns, data), bias }
}

/// Maps of one input after the other.
fn side_by_side(maps: &[&Affine]) -> Affine {
    let bias: Vec<f64> = maps.iter().flat_map(|map| &map.bias).copied().collect();
    let mut weight = Matrix::zeros(bias.len(), maps.iter().map(|map| map.weight.dims().1).sum());
    let (mut row, mut column) = (0, 0);
    for map in maps {
        for values in map.weight.rows() {
            weight.row_mut(row)[column..column + values.len()].copy_from_slice(values);
            row += 1;
        }
        column += map.weight.dims().1;
    }
    Affine { weight, bias }
}

/// The pixels of a plane that a window reaches, each with its place in the kernel.
fn pixels_of(window: PoolWindow, input: Signal, (y, x): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    let PoolWindow { kernel, stride, padding } = window;
    let (height, width) = input.plane;
    (0..kernel * kernel).filter_map(move |place| {
        let row = (y * stride + place / kernel).checked_sub(padding).filter(|&row| row < height)?;
        let column = (x * stride + place % kernel).checked_sub(padding).filter(|&column| column < width)?;
        Some((place, row * width + column))
    })
}

/// A convolution as a matrix of all elements, from the kernels of pairs of channels, `None` for one of zeros.
fn unrolled<'a>(
    input: Signal,
    output: Signal,
    window: PoolWindow,
    kernel: impl Fn(usize, usize) -> Option<&'a [f64]>,
) -> Matrix {
    let mut matrix = Matrix::zeros(output.elements(), input.elements());
    for o in 0..output.channels {
        for (y, x) in (0..output.pixels()).map(|p| (p / output.plane.1, p % output.plane.1)) {
            let row = matrix.row_mut((o * output.plane.0 + y) * output.plane.1 + x);
            for i in 0..input.channels {
                let Some(kernel) = kernel(o, i) else { continue };
                for (place, pixel) in pixels_of(window, input, (y, x)) {
                    row[i * input.pixels() + pixel] = kernel[place];
                }
            }
        }
    }
    matrix
}
