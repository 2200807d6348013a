//! Slopes and bounds of regions against what happens at points of them.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{generator, tensor, uniform};
use ds_core::Grid;
use ds_core::activation::{Activation, Init, LipschitzSpline, PRelu, Spline};
use ds_core::lipschitz::architecture::{Architecture, Operator, PoolWindow, Signal};
use ds_core::lipschitz::certified::{LocalBounds, Region, TopSingular, local_bound, slopes};
use ds_core::lipschitz::empirical::lower_bound_in_ball;
use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn function(rng: &mut ChaCha8Rng) -> Function {
    let knots = |rng: &mut ChaCha8Rng, n: usize| {
        let mut knots = uniform(rng, n, -1.5, 1.5);
        knots.sort_by(f64::total_cmp);
        knots
    };
    match rng.random_range(0..6) {
        0 | 1 => Function::rectifier(0.0),
        2 => Function::rectifier(rng.random_range(-1.0..1.0)),
        3 => Function::absolute(),
        4 if rng.random_bool(0.3) => Function::identity(),
        _ => {
            let n = rng.random_range(1..12);
            let (knots, slopes) = (knots(rng, n), uniform(rng, n + 1, -1.2, 1.2));
            Function::new(&knots, &slopes, (rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)))
        }
    }
}

fn affine(rng: &mut ChaCha8Rng, outputs: usize, inputs: usize) -> Affine {
    let scale = rng.random_range(0.3..1.5);
    let mut weights = uniform(rng, outputs * inputs, -scale, scale);
    if rng.random_bool(0.3) {
        weights.iter_mut().for_each(|w| *w *= f64::from(rng.random_bool(0.5)));
    }
    Affine { weight: Matrix::new(outputs, inputs, weights), bias: uniform(rng, outputs, -1.0, 1.0) }
}

#[test]
fn no_local_bound_is_above_that_of_branch_and_bound() {
    // The constant is 2.625; multipliers alone give 5.06.
    let layer = |rows: usize, columns: usize, weight: &[f64], bias: &[f64]| Layer {
        affine: Affine { weight: Matrix::new(rows, columns, weight.to_vec()), bias: bias.to_vec() },
        functions: (0..rows).map(|_| Arc::new(Function::rectifier(0.0))).collect(),
    };
    let network = PiecewiseLinear {
        inputs: 1,
        layers: vec![
            layer(3, 1, &[-1.5, 0.25, -1.5], &[0.25, 0.0, -0.75]),
            layer(2, 3, &[0.75, -0.5, -1.75, 0.0, -1.75, -1.25], &[0.5, -0.25]),
        ],
        output: Affine { weight: Matrix::new(1, 2, vec![1.75, 0.25]), bias: vec![0.0] },
    };
    let bounds = LocalBounds::new(&network).unwrap();
    let near = bounds.on(&Region::Ball { centre: vec![0.0], radius: 0.5 }).unwrap();
    assert!(bounds.everywhere() < 2.6251 && near <= bounds.everywhere(), "{near} of {}", bounds.everywhere());
}

/// Matrices and functions without an architecture.
fn plain(rng: &mut ChaCha8Rng) -> PiecewiseLinear {
    let inputs = rng.random_range(1..=8);
    let (mut width, mut layers) = (inputs, Vec::new());
    for _ in 0..rng.random_range(1..=4) {
        let outputs = rng.random_range(1..=10);
        let functions = if rng.random_bool(0.5) {
            let shared = Arc::new(function(rng));
            vec![shared; outputs]
        } else {
            (0..outputs).map(|_| Arc::new(function(rng))).collect()
        };
        layers.push(Layer { affine: affine(rng, outputs, width), functions });
        width = outputs;
    }
    let outputs = rng.random_range(1..=4);
    PiecewiseLinear { inputs, layers, output: affine(rng, outputs, width) }
}

/// Layers of an architecture, among them pairs of channels, splines and pools.
fn unrolled(rng: &mut ChaCha8Rng) -> PiecewiseLinear {
    let (dtype, device) = (DType::F64, &Device::Cpu);
    let random = |rng: &mut ChaCha8Rng, shape: &[usize]| -> Tensor {
        tensor(uniform(rng, shape.iter().product(), -0.8, 0.8), shape)
    };
    let side = rng.random_range(1..=2);
    let input = Signal { channels: rng.random_range(1..=2), plane: (side, side) };
    let (mut operators, mut signal) = (Vec::new(), input);
    for _ in 0..rng.random_range(1..=3) {
        let outputs = 2 * rng.random_range(1..=3);
        let linear = if signal.plane.0 > 1 {
            let weight = random(rng, &[outputs, signal.channels, 3, 3]);
            Operator::Convolution { weight, stride: 1, padding: 1 }
        } else {
            Operator::Dense(random(rng, &[outputs, signal.elements()]))
        };
        signal = linear.output(signal).unwrap();
        operators.extend([linear, Operator::Bias(random(rng, &[outputs]))]);
        let grid = Grid::from_step(9, 0.3).unwrap();
        let activation = match rng.random_range(0..6) {
            0 => Activation::Relu,
            1 => Activation::PRelu(PRelu::new(outputs, dtype, device).unwrap()),
            2 => Activation::Spline(Spline::bspline(outputs, grid, Init::Relu, dtype, device).unwrap()),
            3 => {
                let spline = LipschitzSpline::new(outputs, 6, 0.8, Init::Identity, true, dtype, device);
                Activation::Lipschitz(spline.unwrap())
            }
            4 => Activation::Absolute,
            _ => Activation::MaxMin,
        };
        for parameter in activation.parameters("") {
            parameter.var.set(&random(rng, parameter.var.dims())).unwrap();
        }
        operators.push(Operator::Activation(activation));
        if signal.plane.0 > 1 && rng.random_bool(0.5) {
            let window = PoolWindow { kernel: 2, stride: 1, padding: 0 };
            let pool = if rng.random_bool(0.7) { Operator::MaxPool(window) } else { Operator::AveragePool(window) };
            signal = pool.output(signal).unwrap();
            operators.push(pool);
        }
    }
    operators.push(Operator::Dense(random(rng, &[3, signal.elements()])));
    PiecewiseLinear::new(&Architecture { input, operators }).unwrap()
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn region(rng: &mut ChaCha8Rng, inputs: usize) -> Region {
    let centre = uniform(rng, inputs, -1.5, 1.5);
    let size = [1e-6, 0.01, 0.1, 0.5, 2.0][rng.random_range(0..5)];
    if rng.random_bool(0.5) {
        return Region::Ball { centre, radius: size };
    }
    let mut side = || if rng.random_bool(0.2) { 0.0 } else { size * rng.random_range(0.0..1.0) };
    let low = centre.iter().map(|c| c - side()).collect();
    let high = centre.iter().map(|c| c + side()).collect();
    Region::Box { low, high }
}

/// A point of a region, as often on its border as inside.
fn point(rng: &mut ChaCha8Rng, region: &Region, inputs: usize) -> Vec<f64> {
    match region {
        Region::All => uniform(rng, inputs, -3.0, 3.0),
        Region::Ball { centre, radius } => {
            let direction = uniform(rng, inputs, -1.0, 1.0);
            let inner = if rng.random_bool(0.5) { 1.0 - 1e-12 } else { rng.random_range(0.0..1.0) };
            let scale = radius * inner / norm(&direction).max(1e-12);
            centre.iter().zip(direction).map(|(c, d)| c + scale * d).collect()
        }
        Region::Box { low, high } => {
            let corner = rng.random_bool(0.5);
            let mut share = || if corner { f64::from(rng.random_bool(0.5)) } else { rng.random_range(0.0..1.0) };
            low.iter().zip(high).map(|(low, high)| (low + share() * (high - low)).clamp(*low, *high)).collect()
        }
    }
}

/// The slopes at a point, from its definition.
fn slopes_at(network: &PiecewiseLinear, x: &[f64]) -> Vec<Vec<f64>> {
    let (mut signal, mut all) = (x.to_vec(), Vec::new());
    for Layer { affine, functions } in &network.layers {
        let (mut next, mut slopes) = (Vec::new(), Vec::new());
        for (k, f) in functions.iter().enumerate() {
            let z = affine.bias[k] + affine.weight.row(k).iter().zip(&signal).map(|(w, x)| w * x).sum::<f64>();
            let piece = f.knots().iter().filter(|&&knot| knot < z).count();
            slopes.push(f.slopes()[piece]);
            next.push(f.slopes()[piece] * z + f.offsets()[piece]);
        }
        signal = next;
        all.push(slopes);
    }
    all
}

fn jacobian(network: &PiecewiseLinear, slopes: &[Vec<f64>]) -> Matrix {
    let weights = network.layers[1..].iter().map(|layer| &layer.affine.weight).chain([&network.output.weight]);
    weights.zip(slopes).fold(network.layers[0].affine.weight.clone(), |mut product, (weight, slopes)| {
        product.scale_rows(slopes);
        weight.times(&product)
    })
}

/// ‖J‖₂ from below: what it does to its singular vector.
fn norm_of(jacobian: &Matrix) -> f64 {
    let (rows, columns) = jacobian.dims();
    let right = TopSingular::new(rows, columns, jacobian.data()).right;
    norm(&jacobian.rows().map(|row| row.iter().zip(&right).map(|(w, v)| w * v).sum()).collect::<Vec<f64>>())
}

#[test]
fn points_have_slopes_of_their_intervals_and_jacobians_below_the_bound() {
    let rng = &mut generator(1);
    let (mut known, mut open, mut all, mut ratios) = (0usize, 0usize, 0usize, Vec::new());
    for round in 0..1500 {
        let network = if round % 3 == 0 { unrolled(rng) } else { plain(rng) };
        let region = region(rng, network.inputs);
        let intervals = slopes(&network, &region).unwrap();
        let bounds = LocalBounds::new(&network).unwrap();
        let (bound, everywhere) = (bounds.on(&region).unwrap(), bounds.everywhere());
        assert!(bound <= everywhere * (1.0 + 1e-9), "round {round}: {bound} above {everywhere}");
        let mut largest = 0.0f64;
        for _ in 0..200 {
            let x = point(rng, &region, network.inputs);
            let slopes = slopes_at(&network, &x);
            for (layer, (slopes, intervals)) in slopes.iter().zip(&intervals).enumerate() {
                for (neuron, (slope, (low, high))) in slopes.iter().zip(intervals).enumerate() {
                    assert!(
                        low <= slope && slope <= high,
                        "round {round}, layer {layer}, neuron {neuron}: {slope} outside of [{low}, {high}]: {region:?}"
                    );
                }
            }
            largest = largest.max(norm_of(&jacobian(&network, &slopes)));
        }
        assert!(largest <= bound * (1.0 + 1e-9), "round {round}: {largest} above {bound}: {region:?}");
        if largest > 1e-6 {
            ratios.push(bound / largest);
        }
        for ((low, high), f) in intervals.iter().flatten().zip(network.layers.iter().flat_map(|layer| &layer.functions))
        {
            known += usize::from(low == high && !f.knots().is_empty());
            open += usize::from(low < high);
            all += usize::from(!f.knots().is_empty());
        }
    }
    println!("{known} of {all} slopes known, {open} open; median of bound/found {:.3}", median(&mut ratios));
    // Intervals that know nothing prove nothing.
    assert!(2 * known > all, "{known} of {all} slopes are known");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_region_inside_one_linear_piece_has_the_norm_of_its_jacobian() {
    let rng = &mut generator(2);
    for round in 0..300 {
        let network = if round % 3 == 0 { unrolled(rng) } else { plain(rng) };
        let centre = uniform(rng, network.inputs, -1.5, 1.5);
        let expected = norm_of(&jacobian(&network, &slopes_at(&network, &centre)));
        let bounds = LocalBounds::new(&network).unwrap();
        let bound = bounds.on(&Region::Ball { centre: centre.clone(), radius: 0.0 }).unwrap();
        assert!((bound - expected).abs() <= 1e-6 * expected + 1e-9, "round {round}: {bound}, not {expected}");
        let bound = bounds.on(&Region::Box { low: centre.clone(), high: centre }).unwrap();
        assert!((bound - expected).abs() <= 1e-6 * expected + 1e-9, "round {round}: {bound}, not {expected}");
    }
}

#[test]
fn first_layers_have_exact_intervals() {
    // z = 3x + 4y of a ball of radius 1 is in ±5, that of a box of sides ±1 in ±7.
    let network = |knot: f64| PiecewiseLinear {
        inputs: 2,
        layers: vec![Layer {
            affine: Affine { weight: Matrix::new(1, 2, vec![3.0, 4.0]), bias: vec![0.0] },
            functions: vec![Arc::new(Function::new(&[knot], &[0.0, 1.0], (knot, 0.0)))],
        }],
        output: Affine { weight: Matrix::new(1, 1, vec![1.0]), bias: vec![0.0] },
    };
    let ball = Region::Ball { centre: vec![0.0; 2], radius: 1.0 };
    let cube = Region::Box { low: vec![-1.0; 2], high: vec![1.0; 2] };
    for (region, end) in [(ball, 5.0), (cube, 7.0)] {
        assert_eq!(slopes(&network(end + 1e-12), &region).unwrap(), [[(0.0, 0.0)]]);
        assert_eq!(slopes(&network(end - 1e-12), &region).unwrap(), [[(0.0, 1.0)]]);
        assert_eq!(slopes(&network(-end - 1e-12), &region).unwrap(), [[(1.0, 1.0)]]);
    }
}

/// A network of the size of those for MNIST, with weights of the usual variance.
fn large(rng: &mut ChaCha8Rng, splines: bool) -> PiecewiseLinear {
    let mut affine = |outputs: usize, inputs: usize| {
        // Variance 2/inputs.
        let reach = (6.0 / inputs as f64).sqrt();
        let weight = Matrix::new(outputs, inputs, uniform(rng, outputs * inputs, -reach, reach));
        Affine { weight, bias: uniform(rng, outputs, -0.1, 0.1) }
    };
    let maps = [affine(64, 784), affine(64, 64)];
    let output = affine(10, 64);
    // A ReLU with perturbed coefficients on 21 knots from −4 to 4.
    let spline = |rng: &mut ChaCha8Rng| {
        let knots: Vec<f64> = (0..21).map(|k| -4.0 + 0.4 * f64::from(k)).collect();
        let slopes: Vec<f64> = (0..22).map(|k| f64::from(u8::from(k > 10)) + rng.random_range(-0.25..0.25)).collect();
        Function::new(&knots, &slopes, (0.0, 0.0))
    };
    let layers = maps.into_iter().map(|affine| {
        let function = |_| Arc::new(if splines { spline(rng) } else { Function::rectifier(0.0) });
        Layer { affine, functions: (0..64).map(function).collect() }
    });
    PiecewiseLinear { inputs: 784, layers: layers.collect(), output }
}

#[test]
fn networks_of_the_size_for_mnist_have_bounds_near_what_is_found() {
    let rng = &mut generator(3);
    for splines in [false, true] {
        let network = large(rng, splines);
        let centres: Vec<Vec<f64>> = (0..5).map(|_| uniform(rng, 784, -1.0, 1.0)).collect();
        let local = LocalBounds::new(&network).unwrap();
        for radius in [0.01, 0.1, 0.3, 1.0] {
            let mut ratios: Vec<f64> = Vec::new();
            for centre in &centres {
                let found = lower_bound_in_ball(&network, centre, radius, 240, 0).unwrap().quotient;
                ratios.push(local.on(&Region::Ball { centre: centre.clone(), radius }).unwrap() / found);
            }
            let (median, least) = (median(&mut ratios), ratios[0]);
            println!("splines {splines}, radius {radius}: median of bound/found {median:.3}");
            assert!(least >= 1.0 - 1e-9, "splines {splines}, radius {radius}: {ratios:?}");
            assert!(radius > 0.1 || median <= 3.0, "splines {splines}, radius {radius}: {ratios:?}");
        }
    }
}

#[test]
fn pairs_that_are_found_in_balls_are_in_them_and_below_the_bound() {
    let rng = &mut generator(5);
    let (mut better, rounds) = (0, 300);
    for round in 0..rounds {
        let network = if round % 3 == 0 { unrolled(rng) } else { plain(rng) };
        let (centre, radius) = (uniform(rng, network.inputs, -1.5, 1.5), [1e-3, 0.1, 1.0][round % 3]);
        let ball = Region::Ball { centre: centre.clone(), radius };
        let witness = lower_bound_in_ball(&network, &centre, radius, 60, 1).unwrap();
        let away = |x: &[f64], y: &[f64]| norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>());
        for x in [&witness.x, &witness.y] {
            assert!(away(x, &centre) <= radius * (1.0 + 1e-12), "round {round}");
        }
        let quotient =
            away(&network.value(&witness.x), &network.value(&witness.y)) / away(&witness.x, &witness.y).max(1e-300);
        assert!((quotient - witness.quotient).abs() <= 1e-9 * quotient, "round {round}");
        let bound = local_bound(&network, &ball).unwrap();
        assert!(quotient <= bound * (1.0 + 1e-8) + 1e-9, "round {round}: {quotient} above {bound}");
        let chance = (0..20).map(|_| {
            let x = point(rng, &ball, network.inputs);
            norm_of(&jacobian(&network, &slopes_at(&network, &x)))
        });
        better += usize::from(quotient >= chance.fold(0.0, f64::max) * (1.0 - 1e-6));
    }
    assert!(better * 10 > rounds * 8, "no worse than chance in {better} of {rounds} networks only");
}

#[test]
fn regions_that_are_none_are_named() {
    let network = plain(&mut generator(4));
    let n = network.inputs;
    let error = |region| slopes(&network, &region).unwrap_err().to_string();
    let ball = |centre: Vec<f64>, radius| Region::Ball { centre, radius };
    assert!(error(ball(vec![0.0; n + 1], 1.0)).contains("elements"));
    assert!(error(ball(vec![f64::NAN; n], 1.0)).contains("NaN"));
    assert!(error(ball(vec![0.0; n], -1.0)).contains("radius"));
    assert!(error(ball(vec![0.0; n], f64::NAN)).contains("radius"));
    assert!(error(Region::Box { low: vec![1.0; n], high: vec![0.0; n] }).contains("empty"));
    let mut broken = network.clone();
    broken.output.bias[0] = f64::NAN;
    assert!(slopes(&broken, &Region::All).unwrap_err().to_string().contains("finite"));
}
