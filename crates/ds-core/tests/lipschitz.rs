//! The bounds of random networks are never below what pairs of points show.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Module;
use common::{Set, generator, tensor, uniform};
use ds_core::Grid;
use ds_core::activation::{Activation, Apl, Init, LipschitzSpline, PRelu, Spline};
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use ds_core::lipschitz::bv2::{self, Exponent};
use ds_core::lipschitz::certified;
use ds_core::lipschitz::empirical::{Search, lower_bound};
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What an operator does, written with Candle's own tensor functions.
fn apply(operators: &[Operator], x: &Tensor) -> Result<Tensor> {
    let padded = |x: &Tensor, padding: usize, value: f64| {
        let (n, c, h, w) = x.dims4()?;
        let full = Tensor::full(value, (n, c, h + 2 * padding, w + 2 * padding), x.device())?;
        full.slice_assign(&[0..n, 0..c, padding..padding + h, padding..padding + w], x)
    };
    let windows = |x: &Tensor, window: &PoolWindow| -> Result<Vec<Vec<Tensor>>> {
        let (_, _, h, w) = x.dims4()?;
        let starts = |n: usize| (0..=n - window.kernel).step_by(window.stride);
        let pixel = |y, x0| x.narrow(2, y, window.kernel)?.narrow(3, x0, window.kernel)?.flatten_from(2);
        starts(h).map(|y| starts(w).map(|x0| pixel(y, x0)).collect()).collect()
    };
    let pooled = |x: &Tensor, window: &PoolWindow, value: f64, f: fn(&Tensor) -> Result<Tensor>| -> Result<Tensor> {
        let rows = windows(&padded(x, window.padding, value)?, window)?;
        let rows = rows.iter().map(|row| Tensor::stack(&row.iter().map(f).collect::<Result<Vec<_>>>()?, 2));
        Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 2)
    };
    let mut x = x.clone();
    for operator in operators {
        x = match operator {
            Operator::Dense(weight) => {
                let x = x.flatten_from(1)?.matmul(&weight.t()?)?;
                x.reshape((x.dim(0)?, (), 1, 1))?
            }
            Operator::Convolution { weight, stride, padding } if !x.track_op() => {
                x.conv2d(weight, *padding, *stride, 1, 1)?
            }
            // Candle's own has no right gradient for every stride.
            Operator::Convolution { weight, stride, padding } => {
                let window = PoolWindow { kernel: weight.dim(2)?, stride: *stride, padding: *padding };
                let weight = weight.flatten_from(1)?.t()?;
                let pixel = |patch: &Tensor| patch.flatten_from(1)?.matmul(&weight);
                let rows = windows(&padded(&x, *padding, 0.0)?, &window)?;
                let rows = rows.iter().map(|row| Tensor::stack(&row.iter().map(pixel).collect::<Result<Vec<_>>>()?, 2));
                Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 2)?
            }
            Operator::ChannelScale(scale) => x.broadcast_mul(&scale.reshape(((), 1, 1))?)?,
            Operator::Bias(bias) => x.broadcast_add(&bias.reshape(((), 1, 1))?)?,
            Operator::Scale(scale) => (x * *scale)?,
            Operator::Activation(activation) => activation.forward(&x.contiguous()?)?,
            Operator::AveragePool(window) => pooled(&x, window, 0.0, |w| w.mean(2))?,
            Operator::MaxPool(window) => pooled(&x, window, -1e9, |w| w.max(2))?,
            Operator::Sum(branches) => {
                let all = branches.iter().map(|branch| apply(branch, &x)).collect::<Result<Vec<_>>>()?;
                all[1..].iter().try_fold(all[0].clone(), |sum, branch| sum + branch)?
            }
        };
    }
    Ok(x)
}

struct Random<'a>(&'a mut ChaCha8Rng);

impl Random<'_> {
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let scale = self.0.random_range(0.2..1.0);
        // Some networks have few weights that count, and come near their bounds.
        let kept = *[1.0, 0.3].get(self.0.random_range(0..2)).unwrap();
        let mut values = uniform(self.0, shape.iter().product(), -scale, scale);
        values.iter_mut().for_each(|v| *v *= f64::from(self.0.random_bool(kept)));
        tensor(values, shape)
    }

    fn activation(&mut self, channels: usize) -> Operator {
        let (dtype, device) = (DType::F64, &Device::Cpu);
        let grid = Grid::from_step(9, 0.3).unwrap();
        let activation = match self.0.random_range(0..10) {
            0 => Activation::Relu,
            1 => Activation::LeakyRelu,
            2 => Activation::PRelu(PRelu::new(channels, dtype, device).unwrap()),
            3 => Activation::Apl(Apl::new(channels, 2, dtype, device).unwrap()),
            4 => Activation::Spline(Spline::bspline(channels, grid, Init::Relu, dtype, device).unwrap()),
            5 => {
                let spline = Spline::explicit_linear(channels, grid, Init::EvenOdd, false, dtype, device);
                Activation::Spline(spline.unwrap())
            }
            6 => Activation::Spline(Spline::relu_spline(channels, grid, Init::Relu, false, dtype, device).unwrap()),
            7 => Activation::Absolute,
            8 if channels.is_multiple_of(2) => Activation::MaxMin,
            _ => {
                let size = self.0.random_range(4..8);
                let spline = LipschitzSpline::new(channels, size, 0.8, Init::Identity, true, dtype, device);
                Activation::Lipschitz(spline.unwrap())
            }
        };
        for parameter in activation.parameters("") {
            parameter.var.set(&self.tensor(parameter.var.dims())).unwrap();
        }
        Operator::Activation(activation)
    }

    fn convolution(&mut self, signal: Signal, outputs: usize, stride: usize) -> Operator {
        let padding = self.0.random_range(0..2);
        let kernel = self.0.random_range(1..=3.min(signal.plane.0.min(signal.plane.1) + 2 * padding));
        Operator::Convolution { weight: self.tensor(&[outputs, signal.channels, kernel, kernel]), stride, padding }
    }

    /// A branch that keeps the shape.
    fn block(&mut self, signal: Signal) -> Operator {
        let c = signal.channels;
        let same = |random: &mut Self, kernel: usize| {
            let weight = random.tensor(&[c, c, kernel, kernel]);
            vec![
                Operator::Convolution { weight, stride: 1, padding: kernel / 2 },
                Operator::ChannelScale(random.tensor(&[c])),
            ]
        };
        let mut branch = same(self, 3);
        branch.push(self.activation(c));
        branch.extend(same(self, 3));
        let shortcut = if self.0.random_bool(0.5) { Vec::new() } else { same(self, 1) };
        Operator::Sum(vec![branch, shortcut])
    }

    fn architecture(&mut self) -> Architecture {
        let side = |rng: &mut ChaCha8Rng| rng.random_range(1..7);
        let input = Signal { channels: self.0.random_range(1..4), plane: (side(self.0), side(self.0)) };
        let (mut operators, mut signal) = (Vec::new(), input);
        let mut layers = self.0.random_range(1..5);
        while layers > 0 {
            let outputs = self.0.random_range(1..5);
            let smallest = signal.plane.0.min(signal.plane.1);
            let next = match self.0.random_range(0..9) {
                0 => Operator::Dense(self.tensor(&[outputs, signal.elements()])),
                1 | 2 => {
                    let stride = self.0.random_range(1..3);
                    self.convolution(signal, outputs, stride)
                }
                3 => self.block(signal),
                kind @ (4 | 5) if smallest > 1 => {
                    let kernel = self.0.random_range(1..=3.min(smallest));
                    let window = PoolWindow {
                        kernel,
                        stride: self.0.random_range(1..3),
                        padding: self.0.random_range(0..=kernel / 2),
                    };
                    if kind == 4 { Operator::MaxPool(window) } else { Operator::AveragePool(window) }
                }
                6 => Operator::Scale(self.0.random_range(-2.0..2.0)),
                7 => Operator::Bias(self.tensor(&[signal.channels])),
                _ => self.activation(signal.channels),
            };
            signal = next.output(signal).unwrap();
            operators.push(next);
            if self.0.random_bool(0.6) {
                operators.push(self.activation(signal.channels));
            }
            layers -= 1;
        }
        Architecture { input, operators }
    }
}

fn norms(p: Exponent, x: &Tensor) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = x.flatten_from(1).unwrap().to_vec2().unwrap();
    let norm = |row: Vec<f64>| match p {
        Exponent::One => row.iter().map(|x| x.abs()).sum(),
        Exponent::Two => row.iter().map(|x| x * x).sum::<f64>().sqrt(),
        Exponent::Infinity => row.iter().fold(0.0f64, |m, x| m.max(x.abs())),
    };
    rows.into_iter().map(norm).collect()
}

const NORMS: [Exponent; 3] = [Exponent::One, Exponent::Two, Exponent::Infinity];

/// The largest quotient over random pairs in each of [`NORMS`]: far ones, near ones, and such that differ in one element.
fn largest_quotients(architecture: &Architecture, rng: &mut ChaCha8Rng) -> [f64; 3] {
    let n = 16;
    let Signal { channels, plane } = architecture.input;
    let shape = [n, channels, plane.0, plane.1];
    let size = n * architecture.input.elements();
    let x = tensor(uniform(rng, size, -1.5, 1.5), &shape);
    // Away from 0, so that rounding is small beside the differences of the outputs.
    let mut difference = uniform(rng, size, 0.3, 1.0);
    difference.iter_mut().for_each(|d| *d *= if rng.random_bool(0.5) { -1.0 } else { 1.0 });
    for (k, row) in difference.chunks_mut(architecture.input.elements()).enumerate() {
        let (scale, only) = ([1.0, 1e-2, 1e-4][k % 3], k % 2 == 0);
        let kept = rng.random_range(0..row.len());
        row.iter_mut().enumerate().for_each(|(i, d)| *d *= if only && i != kept { 0.0 } else { scale });
    }
    let y = (&x + tensor(difference, &shape)).unwrap();
    let outputs = (apply(&architecture.operators, &x).unwrap() - apply(&architecture.operators, &y).unwrap()).unwrap();
    let inputs = (x - y).unwrap();
    NORMS.map(|p| {
        let quotients = norms(p, &inputs).into_iter().zip(norms(p, &outputs)).map(|(input, output)| output / input);
        quotients.fold(0.0, f64::max)
    })
}

/// Of a quotient of differences that are as small as 1e-4.
const ROUNDING: f64 = 1.0 + 1e-9;

#[test]
fn no_pair_beats_a_bound() {
    let rng = &mut generator(1);
    let (mut tight, mut rounds) = (0, 0);
    for round in 0..2000 {
        let architecture = Random(rng).architecture();
        let product = certified::product_of_norms(&architecture).unwrap();
        // Multipliers and subproblems take some seconds where there are many neurons.
        let certified = if round % 100 == 0 { certified::bound(&architecture).unwrap() } else { product };
        assert!(certified <= product, "round {round}: {certified} above the product {product}");
        for (p, quotient) in NORMS.into_iter().zip(largest_quotients(&architecture, rng)) {
            if let Ok(bound) = bv2::bound(&architecture, p) {
                assert!(
                    quotient <= bound * ROUNDING + 1e-9,
                    "round {round}, {p:?}: {quotient} above {bound}: {architecture:?}"
                );
            }
            if p == Exponent::Two {
                assert!(
                    quotient <= certified * ROUNDING + 1e-9,
                    "round {round}: {quotient} above {certified}: {architecture:?}"
                );
                rounds += 1;
                tight += usize::from(quotient >= 0.8 * certified);
            }
        }
    }
    // A bound that is far above everything proves nothing.
    assert!(20 * tight > rounds, "only {tight} of {rounds} quotients come within 20 % of the certified bound");
}

#[test]
fn unrolled_networks_have_the_same_values() {
    let rng = &mut generator(3);
    for round in 0..500 {
        let architecture = Random(rng).architecture();
        let Signal { channels, plane } = architecture.input;
        let unrolled = PiecewiseLinear::new(&architecture).unwrap();
        for _ in 0..4 {
            let x = uniform(rng, unrolled.inputs, -2.0, 2.0);
            let expected =
                apply(&architecture.operators, &tensor(x.clone(), &[1, channels, plane.0, plane.1])).unwrap();
            let expected: Vec<f64> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let size = expected.iter().fold(1.0f64, |m, y| m.max(y.abs()));
            for (y, expected) in unrolled.value(&x).iter().zip(&expected) {
                assert!((y - expected).abs() < 1e-11 * size, "round {round}: {y}, not {expected}: {architecture:?}");
            }
        }
    }
}

#[test]
fn what_is_found_is_below_what_is_certified() {
    let rng = &mut generator(2);
    let search = Search { climbers: 4, steps: 10, ..Search::default() };
    let (mut better, rounds) = (0, 150usize);
    for round in 0..rounds {
        let architecture = Random(rng).architecture();
        let Signal { channels, plane } = architecture.input;
        let points =
            tensor(uniform(rng, 8 * architecture.input.elements(), -1.5, 1.5), &[8, channels, plane.0, plane.1]);
        let network = |x: &Tensor| apply(&architecture.operators, x)?.flatten_from(1);
        let witness = lower_bound(network, &points, search).unwrap();
        let certified = match round % 10 {
            0 => certified::bound(&architecture).unwrap(),
            _ => certified::product_of_norms(&architecture).unwrap(),
        };
        assert!(
            witness.quotient <= certified * ROUNDING + 1e-9,
            "round {round}: {} above {certified}",
            witness.quotient
        );
        // The witness is one.
        let input = |v: &[f64]| tensor(v.to_vec(), &[1, channels, plane.0, plane.1]);
        let (x, y) = (input(&witness.x), input(&witness.y));
        let outputs = (network(&x).unwrap() - network(&y).unwrap()).unwrap();
        let quotient = norms(Exponent::Two, &outputs)[0] / norms(Exponent::Two, &(x - y).unwrap())[0];
        assert!((quotient - witness.quotient).abs() <= 1e-9 * quotient, "{quotient} for {}", witness.quotient);
        // Most often it beats what chance finds.
        let [_, chance, _] = largest_quotients(&architecture, rng);
        better += usize::from(witness.quotient >= chance);
    }
    assert!(better * 10 > rounds * 8, "better than chance in {better} of {rounds} networks only");
}

#[test]
fn linear_networks_have_their_norm() {
    // Two layers without an activation between: the bound is the product of the norms, and the slopes of a spline go into it.
    let first = tensor(vec![3.0, 0.0, 0.0, 0.5], &[2, 2]);
    let spline =
        Spline::bspline(2, Grid::from_step(5, 1.0).unwrap(), Init::Identity, DType::F64, &Device::Cpu).unwrap();
    let knots = vec![-0.4, -0.2, 0.0, 0.2, 0.4, -10.0, -5.0, 0.0, 5.0, 10.0];
    spline.knot_parameters().set(&tensor(knots, &[2, 5])).unwrap();
    let last = tensor(vec![1.0, 0.0, 0.0, 0.25], &[2, 2]);
    let architecture = Architecture {
        input: Signal::vector(2),
        operators: vec![
            Operator::Dense(first),
            Operator::Activation(Activation::Spline(spline)),
            Operator::Dense(last),
        ],
    };
    // ‖diag(1·0.2, 0.25·5)‖·‖diag(3, 0.5)‖, not 5·3.
    let product = certified::product_of_norms(&architecture).unwrap();
    assert!((product - 1.25 * 3.0).abs() < 1e-5, "{product}");
    // The directions are known where layers are taken together.
    let bound = certified::bound(&architecture).unwrap();
    assert!((bound - 1.25 * 0.5).abs() < 1e-6, "{bound}");
    let points = tensor(vec![0.1, 0.2], &[1, 2]);
    let network = |x: &Tensor| apply(&architecture.operators, x)?.flatten_from(1);
    let found = lower_bound(network, &points, Search::default()).unwrap().quotient;
    assert!((found - 1.25 * 0.5).abs() < 1e-6 || (found - 3.0 * 0.2).abs() < 1e-6, "{found}");
    // Σ BV² = 0.2 + 5 (no slope changes, σ(1) = slope), max|W| = 3 and 1.
    let papers = bv2::bound_to_largest(&architecture, Exponent::One).unwrap();
    assert!((papers - 3.0 * 5.2).abs() < 1e-9, "{papers}");
}

#[test]
fn layers_that_do_not_fit_are_named() {
    let dense = Operator::Dense(tensor(vec![1.0; 6], &[2, 3]));
    let convolution = Operator::Convolution { weight: tensor(vec![1.0; 9], &[1, 1, 3, 3]), stride: 1, padding: 0 };
    let bound =
        |operators| certified::bound(&Architecture { input: Signal::vector(2), operators }).unwrap_err().to_string();
    assert!(bound(vec![dense.clone()]).contains("dense layer"), "{}", bound(vec![dense]));
    assert!(bound(vec![convolution.clone()]).contains("convolution"), "{}", bound(vec![convolution]));
    let sum = Operator::Sum(vec![vec![], vec![Operator::Dense(tensor(vec![1.0; 2], &[1, 2]))]]);
    assert!(bound(vec![sum.clone()]).contains("branches"), "{}", bound(vec![sum]));
}
