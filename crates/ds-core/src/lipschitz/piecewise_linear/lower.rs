//! From an architecture to matrices and functions.

use super::product::Product;
use super::{Function, Layer, Matrix, PiecewiseLinear};
use crate::activation::Activation;
use crate::backend::real::in_double_precision;
use crate::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use candle_core::{Error, Result, bail};
use std::sync::Arc;

/// More elements of a matrix than this are refused: 512 MiB.
const MOST_ELEMENTS: usize = 1 << 26;

/// And more than this where layers are kept apart: a search multiplies them thousands of times.
const MOST_ELEMENTS_APART: usize = 1 << 20;

impl PiecewiseLinear {
    /// The network of an architecture.
    ///
    /// # Errors
    /// If layers do not fit each other, or an unrolled layer has more than 2²⁶ elements.
    pub fn new(architecture: &Architecture) -> Result<Self> {
        match Lowering::new(architecture.input, Adjacent::Multiplied).through(&architecture.operators) {
            Ok(lowering) => Ok(lowering.finish().0),
            Err(Failure::Other(error)) => Err(error),
            Err(Failure::TooLarge { inputs, outputs }) => bail!(
                "a layer of {inputs} numbers to {outputs} is too large to be unrolled into a matrix: choose a smaller network, \
                 or `certified::bound`, which does without"
            ),
        }
    }

    /// The same with what rounding can have changed. `None` where matrices are too large.
    pub(crate) fn with_rounding(architecture: &Architecture) -> Result<Option<(Self, Rounding)>> {
        let lowering = Lowering::new(architecture.input, Adjacent::Multiplied).through(&architecture.operators);
        Ok(if_small(lowering)?.map(Lowering::finish))
    }

    /// The same function without rounding: where a product of layers would be rounded, the identity is between them. `None` where
    /// matrices are too large.
    pub(crate) fn apart(architecture: &Architecture) -> Result<Option<Self>> {
        let lowering = Lowering::new(architecture.input, Adjacent::Apart).through(&architecture.operators);
        Ok(if_small(lowering)?.map(|lowering| lowering.finish().0))
    }
}

/// How far a network is from the layers that were multiplied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rounding {
    /// At least ‖W − the product of layers that it is‖₂ for each matrix.
    pub errors: Vec<f64>,
    /// Whether no weight and no bias was rounded.
    pub is_exact: bool,
}

/// Why there is no network.
enum Failure {
    TooLarge { inputs: usize, outputs: usize },
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

type Lowered<T> = std::result::Result<T, Failure>;

fn if_small(lowering: Lowered<Lowering>) -> Result<Option<Lowering>> {
    match lowering {
        Ok(lowering) => Ok(Some(lowering)),
        Err(Failure::TooLarge { .. }) => Ok(None),
        Err(Failure::Other(error)) => Err(error),
    }
}

/// What becomes of linear layers without functions between them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Adjacent {
    /// One matrix.
    Multiplied,
    /// One matrix if it needs no rounding.
    Apart,
}

/// The network so far, the last affine map being its output.
struct Lowering {
    inputs: usize,
    layers: Vec<(Product, Vec<Arc<Function>>)>,
    last: Product,
    signal: Signal,
    adjacent: Adjacent,
}

impl Lowering {
    fn new(signal: Signal, adjacent: Adjacent) -> Self {
        let n = signal.elements();
        Self { inputs: n, layers: Vec::new(), last: Product::identity(n), signal, adjacent }
    }

    fn finish(self) -> (PiecewiseLinear, Rounding) {
        let maps = || self.layers.iter().map(|(map, _)| map).chain([&self.last]);
        let rounding =
            Rounding { errors: maps().map(|map| map.error).collect(), is_exact: maps().all(|map| map.is_exact) };
        let layers = self.layers.into_iter().map(|(map, functions)| Layer { affine: map.affine, functions });
        (PiecewiseLinear { inputs: self.inputs, layers: layers.collect(), output: self.last.affine }, rounding)
    }

    fn check_size(&self, inputs: usize, outputs: usize) -> Lowered<()> {
        let most = if self.adjacent == Adjacent::Apart { MOST_ELEMENTS_APART } else { MOST_ELEMENTS };
        match inputs.checked_mul(outputs) {
            Some(elements) if elements <= most => Ok(()),
            _ => Err(Failure::TooLarge { inputs, outputs }),
        }
    }

    /// With as many layers, the identity for those that are missing.
    fn lengthened(mut self, layers: usize) -> Lowered<Self> {
        while self.layers.len() < layers {
            self.pass_on()?;
        }
        Ok(self)
    }

    fn through(mut self, operators: &[Operator]) -> Lowered<Self> {
        for operator in operators {
            let output = operator.output(self.signal)?;
            self.check_size(self.signal.elements().max(self.last.dims().1), output.elements())?;
            match operator {
                Operator::Dense(weight) => {
                    let weight = Matrix::new(output.elements(), self.signal.elements(), in_double_precision(weight)?);
                    self.multiply(weight)?;
                }
                Operator::Convolution { weight, stride, padding } => {
                    let kernel = weight.dims4()?.2;
                    let window = PoolWindow { kernel, stride: *stride, padding: *padding };
                    let kernels = in_double_precision(weight)?;
                    self.multiply(unrolled(self.signal, output, window, |o, i| {
                        let area = kernel * kernel;
                        let start = (o * self.signal.channels + i) * area;
                        Some(&kernels[start..start + area])
                    }))?;
                }
                Operator::AveragePool(window) => {
                    let area = window.kernel * window.kernel;
                    let mean = vec![1.0 / area as f64; area];
                    self.multiply(unrolled(self.signal, output, *window, |o, i| (o == i).then_some(&mean[..])))?;
                }
                Operator::ChannelScale(scale) => {
                    self.scale(&self.per_element(in_double_precision(scale)?))?;
                }
                Operator::Scale(scale) => self.scale(&vec![*scale; self.signal.elements()])?,
                Operator::Bias(bias) => self.add(&self.per_element(in_double_precision(bias)?))?,
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
                Operator::MaxPool(window) => self.max_pool(*window, output)?,
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

    fn multiply(&mut self, weight: Matrix) -> Lowered<()> {
        self.append(&Product::exact(weight))
    }

    fn append(&mut self, map: &Product) -> Lowered<()> {
        if self.adjacent == Adjacent::Apart && !self.last.is_exactly_followed_by(&map.affine.weight) {
            self.pass_on()?;
        }
        self.change(|last| *last = last.followed_by(map))
    }

    fn scale(&mut self, factors: &[f64]) -> Lowered<()> {
        self.change(|last| last.scale(factors))
    }

    fn add(&mut self, bias: &[f64]) -> Lowered<()> {
        self.change(|last| last.add(bias))
    }

    /// Changes the last map, or where layers are kept apart, and rounding would come in, what follows it.
    fn change(&mut self, change: impl Fn(&mut Product)) -> Lowered<()> {
        if self.adjacent == Adjacent::Apart {
            let mut changed = self.last.clone();
            change(&mut changed);
            if changed.is_exact {
                self.last = changed;
                return Ok(());
            }
            self.pass_on()?;
        }
        change(&mut self.last);
        Ok(())
    }

    /// The identity between what is there and what follows.
    fn pass_on(&mut self) -> Lowered<()> {
        let n = self.last.dims().0;
        self.check_size(n, n)?;
        let identity = Arc::new(Function::identity());
        self.apply(vec![identity; n]);
        Ok(())
    }

    /// The functions of the signal's elements; what follows starts from them.
    fn apply(&mut self, functions: Vec<Arc<Function>>) {
        let identity = Product::identity(functions.len());
        self.layers.push((std::mem::replace(&mut self.last, identity), functions));
    }

    /// Each pair of channels reflected on one side of a line at that angle: |z·n| with the normal n of the line, and the
    /// part along the line as it is.
    fn pairs(&mut self, angles: &[f64]) -> Lowered<()> {
        let Signal { channels, .. } = self.signal;
        if !channels.is_multiple_of(2) || angles.len() != channels / 2 {
            let message = format!("an activation of {} pairs does not take {channels} channels", angles.len());
            return Err(Error::Msg(message).bt().into());
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
        let back = basis.transposed();
        self.multiply(basis)?;
        self.apply(functions);
        self.multiply(back)
    }

    /// Maxima of two at a time, until one of each window is left.
    fn max_pool(&mut self, window: PoolWindow, output: Signal) -> Lowered<()> {
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
            self.multiply(sparse(width, &before))?;
            if most > 1 {
                self.apply(functions);
                self.multiply(sparse(before.len(), &after))?;
            }
            width = after.len();
            if most <= 2 {
                return Ok(());
            }
        }
    }

    fn sum(&mut self, branches: &[Vec<Operator>], output: Signal) -> Lowered<()> {
        let lower = |branch: &Vec<Operator>| Self::new(self.signal, self.adjacent).through(branch);
        let branches = branches.iter().map(lower).collect::<Lowered<Vec<_>>>()?;
        let depth = branches.iter().map(|branch| branch.layers.len()).max().unwrap_or(0);
        let branches = branches.into_iter().map(|branch| branch.lengthened(depth)).collect::<Lowered<Vec<_>>>()?;
        if branches.is_empty() {
            return Ok(());
        }
        for k in 0..depth {
            let maps: Vec<&Product> = branches.iter().map(|branch| &branch.layers[k].0).collect();
            let rows = maps.iter().map(|map| map.dims().0).sum();
            self.check_size(self.last.dims().0.max(self.last.dims().1), rows)?;
            let joined = if k == 0 { Product::stacked(&maps) } else { Product::side_by_side(&maps) };
            let functions = branches.iter().flat_map(|branch| branch.layers[k].1.iter().cloned()).collect();
            self.append(&joined)?;
            self.apply(functions);
        }
        let maps: Vec<&Product> = branches.iter().map(|branch| &branch.last).collect();
        let (n, width) = (output.elements(), self.last.dims().0);
        self.check_size(n, width)?;
        if depth > 0 {
            self.append(&Product::beside(&maps))?;
            return maps.iter().try_for_each(|map| self.add(&map.affine.bias));
        }
        let sum = Product::sum(&maps);
        if sum.is_exact || self.adjacent == Adjacent::Multiplied {
            return self.append(&sum);
        }
        self.check_size(n * branches.len(), width.max(n))?;
        let mut add = Matrix::zeros(n, n * branches.len());
        for row in 0..n {
            (0..branches.len()).for_each(|branch| add.row_mut(row)[branch * n + row] = 1.0);
        }
        self.append(&Product::stacked(&maps))?;
        self.multiply(add)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn layers_that_are_kept_apart_are_the_same_function_without_rounding() {
        let tensor = |shape: &[usize]| Tensor::rand(-1.0, 1.0, shape, &Device::Cpu).unwrap();
        let convolution = || Operator::Convolution { weight: tensor(&[2, 2, 3, 3]), stride: 1, padding: 1 };
        let block = vec![convolution(), Operator::Bias(tensor(&[2])), Operator::Activation(Activation::MaxMin)];
        let shortcut = vec![Operator::ChannelScale(tensor(&[2])), Operator::Scale(0.3)];
        let pool = PoolWindow { kernel: 3, stride: 1, padding: 1 };
        let architecture = Architecture {
            input: Signal { channels: 2, plane: (3, 3) },
            operators: vec![
                Operator::Sum(vec![block, shortcut, vec![]]),
                Operator::Bias(tensor(&[2])),
                Operator::Bias(tensor(&[2])),
                Operator::Sum(vec![vec![convolution()], vec![convolution()]]),
                Operator::AveragePool(pool),
                Operator::MaxPool(pool),
                Operator::Dense(tensor(&[3, 18])),
            ],
        };
        let (network, rounding) = PiecewiseLinear::with_rounding(&architecture).unwrap().unwrap();
        assert!(!rounding.is_exact && rounding.errors.iter().any(|error| (1e-17..1e-12).contains(error)));
        let apart = Lowering::new(architecture.input, Adjacent::Apart).through(&architecture.operators);
        let (apart, rounding) = if_small(apart).unwrap().unwrap().finish();
        assert!(rounding.is_exact && rounding.errors.iter().all(|error| *error == 0.0), "{rounding:?}");
        assert!(apart.layers.len() > network.layers.len() && apart.bends() == network.bends());
        for k in 0..20 {
            let x: Vec<f64> = (0..18).map(|i| f64::from(7 * i + k).sin()).collect();
            for (y, expected) in apart.value(&x).iter().zip(network.value(&x)) {
                assert!((y - expected).abs() < 1e-12, "{y}, not {expected}");
            }
        }
    }
}
