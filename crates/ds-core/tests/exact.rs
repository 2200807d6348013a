//! Linear pieces and exact constants against points, areas and counts.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device};
use common::{generator, tensor, uniform};
use ds_core::activation::{Activation, PRelu};
use ds_core::lipschitz::architecture::{Architecture, Operator, Signal};
use ds_core::lipschitz::bv2::Exponent;
use ds_core::lipschitz::exact::{Corner, Domain, Piece, constant, pieces};
use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;
use std::sync::Arc;

const NORMS: [Exponent; 3] = [Exponent::One, Exponent::Two, Exponent::Infinity];

/// Layers of random weights, from the widths of all signals and a function for each neuron of a layer.
fn network(
    rng: &mut ChaCha8Rng,
    widths: &[usize],
    mut function: impl FnMut(&mut ChaCha8Rng) -> Function,
) -> PiecewiseLinear {
    let affine = |rng: &mut ChaCha8Rng, inputs: usize, outputs: usize| Affine {
        weight: Matrix::new(outputs, inputs, uniform(rng, outputs * inputs, -1.0, 1.0)),
        bias: uniform(rng, outputs, -0.5, 0.5),
    };
    let (last, hidden) = widths.split_last().unwrap();
    let layers = hidden
        .windows(2)
        .map(|w| Layer {
            affine: affine(rng, w[0], w[1]),
            functions: (0..w[1]).map(|_| Arc::new(function(rng))).collect(),
        })
        .collect();
    PiecewiseLinear { inputs: widths[0], layers, output: affine(rng, hidden[hidden.len() - 1], *last) }
}

fn spline(rng: &mut ChaCha8Rng, knots: usize, step: f64) -> Function {
    let places: Vec<f64> = (0..knots).map(|k| step * (k as f64 - 0.5 * (knots - 1) as f64)).collect();
    Function::new(&places, &uniform(rng, knots + 1, -1.5, 1.5), (0.0, rng.random_range(-0.5..0.5)))
}

fn random_network(rng: &mut ChaCha8Rng, round: usize) -> PiecewiseLinear {
    let mut widths = vec![1 + round % 2];
    (0..rng.random_range(1..=3)).for_each(|_| widths.push(rng.random_range(1..=6)));
    widths.push(rng.random_range(1..=3));
    match round / 2 % 5 {
        0 => network(rng, &widths, |_| Function::rectifier(0.0)),
        1 => network(rng, &widths, |_| Function::absolute()),
        2 => network(rng, &widths, |rng| Function::rectifier(rng.random_range(-1.0..1.0))),
        3 => {
            let knots = rng.random_range(1..=5);
            network(rng, &widths, |rng| spline(rng, knots, 0.4))
        }
        _ => {
            let mut operators = Vec::new();
            let mut inputs = widths[0];
            for width in &widths[1..widths.len() - 1] {
                let width = 2 * width.div_ceil(2).min(2);
                operators.push(Operator::Dense(tensor(uniform(rng, width * inputs, -1.0, 1.0), &[width, inputs])));
                operators.push(Operator::Bias(tensor(uniform(rng, width, -0.5, 0.5), &[width])));
                let prelu = PRelu::new(width, DType::F64, &Device::Cpu).unwrap();
                let pairs = rng.random_bool(0.7);
                operators.push(Operator::Activation(if pairs { Activation::MaxMin } else { Activation::PRelu(prelu) }));
                inputs = width;
            }
            operators.push(Operator::Dense(tensor(uniform(rng, 2 * inputs, -1.0, 1.0), &[2, inputs])));
            PiecewiseLinear::new(&Architecture { input: Signal::vector(widths[0]), operators }).unwrap()
        }
    }
}

/// The Jacobian at a point, row by row, and the pieces of all functions there.
fn jacobian(network: &PiecewiseLinear, x: &[f64]) -> (Vec<Vec<f64>>, Vec<usize>) {
    let mut signal = x.to_vec();
    let mut rows: Vec<Vec<f64>> =
        (0..x.len()).map(|k| (0..x.len()).map(|j| f64::from(u8::from(j == k))).collect()).collect();
    let through = |affine: &Affine, rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let column = |w: &[f64], j: usize| w.iter().zip(rows).map(|(w, row)| w * row[j]).sum();
        affine.weight.rows().map(|w| (0..x.len()).map(|j| column(w, j)).collect()).collect()
    };
    let mut pattern = Vec::new();
    for Layer { affine, functions } in &network.layers {
        rows = through(affine, &rows);
        signal = affine.apply(&signal);
        for ((z, row), f) in signal.iter_mut().zip(&mut rows).zip(functions) {
            let piece = f.piece(*z);
            pattern.push(piece);
            row.iter_mut().for_each(|slope| *slope *= f.slopes()[piece]);
            *z = f.value(*z);
        }
    }
    (through(&network.output, &rows), pattern)
}

fn operator_norm(rows: &[Vec<f64>], p: Exponent) -> f64 {
    let dot = |i: usize, j: usize| rows.iter().map(|row| row[i] * row[j]).sum::<f64>();
    let columns = rows[0].len();
    match p {
        Exponent::One => (0..columns).map(|j| rows.iter().map(|row| row[j].abs()).sum::<f64>()).fold(0.0, f64::max),
        Exponent::Infinity => rows.iter().map(|row| row.iter().map(|x| x.abs()).sum::<f64>()).fold(0.0, f64::max),
        Exponent::Two if columns == 1 => dot(0, 0).sqrt(),
        Exponent::Two => {
            let (a, b, c) = (dot(0, 0), dot(1, 1), dot(0, 1));
            (0.5 * (a + b) + (0.25 * (a - b) * (a - b) + c * c).sqrt()).sqrt()
        }
    }
}

fn vector_norm(v: &[f64], p: Exponent) -> f64 {
    match p {
        Exponent::One => v.iter().map(|x| x.abs()).sum(),
        Exponent::Two => v.iter().map(|x| x * x).sum::<f64>().sqrt(),
        Exponent::Infinity => v.iter().fold(0.0, |m, x| m.max(x.abs())),
    }
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Points of a grid over a box.
fn grid(ends: &[(f64, f64)], n: usize) -> impl Iterator<Item = Vec<f64>> {
    let total = n.pow(ends.len() as u32);
    (0..total).map(move |mut k| {
        ends.iter()
            .map(|(low, high)| {
                let place = (k % n) as f64 + 0.5;
                k /= n;
                low + (high - low) * place / n as f64
            })
            .collect()
    })
}

fn points(piece: &Piece) -> Vec<[f64; 2]> {
    let point = |corner: &Corner| match *corner {
        Corner::Point(point) => point,
        Corner::Direction(_) => panic!("a direction in a box"),
    };
    piece.corners.iter().map(point).collect()
}

fn measure(piece: &Piece, inputs: usize) -> f64 {
    let points = points(piece);
    if inputs == 1 {
        return points[1][0] - points[0][0];
    }
    let next = |k: usize| points[(k + 1) % points.len()];
    (0..points.len()).map(|k| points[k][0] * next(k)[1] - points[k][1] * next(k)[0]).sum::<f64>() / 2.0
}

fn middle(piece: &Piece, inputs: usize) -> Vec<f64> {
    let points = points(piece);
    (0..inputs).map(|k| points.iter().map(|p| p[k]).sum::<f64>() / points.len() as f64).collect()
}

#[test]
fn constants_are_the_largest_gradients() {
    let rng = &mut generator(1);
    let (mut near, rounds) = (0, 500);
    for round in 0..rounds {
        let network = random_network(rng, round);
        let (p, inputs) = (NORMS[round % 3], network.inputs);
        let ends: Vec<_> = (0..inputs).map(|_| (rng.random_range(-2.0..-0.5), rng.random_range(0.5..2.0))).collect();
        let exact = constant(&network, p, &Domain::Box(ends.clone())).unwrap();
        let what = format!("round {round}, {p:?}, {exact:?}");
        assert!(exact.lower <= exact.upper && exact.upper <= exact.lower * (1.0 + 1e-6) + 1e-13, "{what}");
        let n = if inputs == 1 { 10_000 } else { 100 };
        let largest = grid(&ends, n).map(|x| operator_norm(&jacobian(&network, &x).0, p)).fold(0.0, f64::max);
        assert!(largest <= exact.upper * (1.0 + 1e-9) + 1e-13, "{what}: {largest} at a point");
        near += usize::from(largest >= exact.lower * (1.0 - 1e-3));
        // The steepest piece is there, with both points in it.
        let (here, there) = (jacobian(&network, &exact.x), jacobian(&network, &exact.y));
        assert_eq!(here.1, there.1, "{what}");
        assert!((operator_norm(&here.0, p) - exact.upper).abs() <= 1e-6 * exact.upper + 1e-13, "{what}");
        for x in [&exact.x, &exact.y] {
            assert!(x.iter().zip(&ends).all(|(x, (low, high))| low < x && x < high), "{what}");
        }
        let (x, y) = (network.value(&exact.x), network.value(&exact.y));
        let (output, input) = (vector_norm(&difference(&x, &y), p), vector_norm(&difference(&exact.x, &exact.y), p));
        let noise = 1e-14 * (1.0 + vector_norm(&x, p)) / input;
        assert!((output / input - exact.lower).abs() <= 1e-9 * exact.lower + noise, "{what}: {}", output / input);
    }
    assert!(near * 100 > rounds * 95, "the grid comes near in {near} of {rounds} networks");
}

#[test]
fn pieces_fill_the_box_once() {
    let rng = &mut generator(2);
    for round in 0..300 {
        let network = random_network(rng, round);
        let inputs = network.inputs;
        let ends: Vec<_> = (0..inputs).map(|_| (rng.random_range(-2.0..-0.5), rng.random_range(0.5..2.0))).collect();
        let (mut total, mut patterns) = (0.0, HashSet::new());
        let count = pieces(&network, &Domain::Box(ends.clone()), |piece| {
            let size = measure(piece, inputs);
            assert!(size > -1e-12, "round {round}: {piece:?}");
            total += size;
            let x = middle(piece, inputs);
            let (rows, pattern) = jacobian(&network, &x);
            if size > 1e-9 {
                assert!(patterns.insert(pattern), "round {round}: a piece comes twice");
                let (rows, ours) = (rows.concat(), piece.affine.weight.data());
                assert!(difference(&rows, ours).iter().all(|d| d.abs() < 1e-12), "round {round}: {rows:?} {ours:?}");
                let (value, ours) = (network.value(&x), piece.affine.apply(&x));
                assert!(difference(&value, &ours).iter().all(|d| d.abs() < 1e-12), "round {round}");
            }
            Ok(())
        })
        .unwrap();
        let whole: f64 = ends.iter().map(|(low, high)| high - low).product();
        assert!((total - whole).abs() < 1e-9 * whole, "round {round}: {total} of {whole}");
        assert!(patterns.len() as u64 <= count);
        for x in grid(&ends, if inputs == 1 { 1000 } else { 40 }) {
            let pattern = jacobian(&network, &x).1;
            assert!(patterns.contains(&pattern) || count > patterns.len() as u64, "round {round}: {pattern:?}");
        }
    }
}

/// One hidden layer, from lines (a, b, c), each a neuron.
fn lines(lines: &[[f64; 3]], function: &Function) -> PiecewiseLinear {
    let weight = Matrix::new(lines.len(), 2, lines.iter().flat_map(|&[a, b, _]| [a, b]).collect());
    let affine = Affine { weight, bias: lines.iter().map(|&[_, _, c]| c).collect() };
    let output = Affine { weight: Matrix::new(1, lines.len(), vec![1.0; lines.len()]), bias: vec![0.0] };
    let functions = lines.iter().map(|_| Arc::new(function.clone())).collect();
    PiecewiseLinear { inputs: 2, layers: vec![Layer { affine, functions }], output }
}

fn count(network: &PiecewiseLinear, domain: &Domain) -> u64 {
    pieces(network, domain, |_| Ok(())).unwrap()
}

fn square(size: f64) -> Domain {
    Domain::Box(vec![(-size, size); 2])
}

#[test]
fn lines_have_as_many_pieces_as_they_cross() {
    let rng = &mut generator(3);
    for round in 0..200 {
        let n = rng.random_range(1..=7);
        let random: Vec<[f64; 3]> = (0..n).map(|_| std::array::from_fn(|_| rng.random_range(-1.0..1.0))).collect();
        let network = lines(&random, &Function::rectifier(0.0));
        assert_eq!(count(&network, &Domain::All), (1 + n + n * (n - 1) / 2) as u64, "round {round}");
        // In the square each line that meets it, and each crossing inside, adds one.
        let value = |l: &[f64; 3], x: f64, y: f64| l[0] * x + l[1] * y + l[2];
        let meets = |l: &[f64; 3]| {
            let corners = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)].map(|(x, y)| value(l, x, y) > 0.0);
            corners.contains(&true) && corners.contains(&false)
        };
        let mut expected = 1 + random.iter().filter(|l| meets(l)).count();
        for (k, a) in random.iter().enumerate() {
            for b in &random[..k] {
                let w = a[0] * b[1] - a[1] * b[0];
                let (x, y) = ((a[1] * b[2] - a[2] * b[1]) / w, (a[2] * b[0] - a[0] * b[2]) / w);
                expected += usize::from(x.abs() < 1.0 && y.abs() < 1.0);
            }
        }
        assert_eq!(count(&network, &square(1.0)), expected as u64, "round {round}");
    }
}

#[test]
fn tiny_networks_have_the_pieces_of_a_fine_grid() {
    let rng = &mut generator(4);
    let mut equal = 0;
    for round in 0..100 {
        let widths = [2, rng.random_range(1..=3), rng.random_range(1..=3), 1];
        let network = network(rng, &widths, |_| Function::absolute());
        let patterns: HashSet<Vec<usize>> = grid(&[(-1.0, 1.0); 2], 250).map(|x| jacobian(&network, &x).1).collect();
        let count = count(&network, &square(1.0));
        assert!(patterns.len() as u64 <= count, "round {round}: {} of {count}", patterns.len());
        equal += usize::from(patterns.len() as u64 == count);
    }
    assert!(equal >= 80, "{equal} of 100 counts");
}

#[test]
fn the_whole_plane_is_a_large_box_and_its_cones() {
    let rng = &mut generator(5);
    for round in 0..200 {
        let network = random_network(rng, round);
        let p = NORMS[round % 3];
        let all = constant(&network, p, &Domain::All).unwrap();
        let far = constant(&network, p, &Domain::Box(vec![(-1e9, 1e9); network.inputs])).unwrap();
        assert_eq!(all.pieces, far.pieces, "round {round}");
        assert!((all.upper - far.upper).abs() <= 1e-12 * all.upper + 1e-13, "round {round}: {all:?} {far:?}");
        // Far out, in every direction.
        for k in 0..360 {
            let (sin, cos) = f64::from(k).to_radians().sin_cos();
            let x: Vec<f64> = [1e7 * cos, 1e7 * sin][..network.inputs].to_vec();
            assert!(operator_norm(&jacobian(&network, &x).0, p) <= all.upper * (1.0 + 1e-9) + 1e-13, "round {round}");
        }
    }
}

#[test]
fn kinks_may_coincide() {
    let relu = Function::rectifier(0.0);
    let all = |l: &[[f64; 3]]| count(&lines(l, &relu), &Domain::All);
    // Through one point, at numbers that are no exact multiples.
    for n in 1..12u64 {
        let through: Vec<[f64; 3]> = (0..n)
            .map(|k| {
                let (sin, cos) = (0.1 + k as f64 * 3.0 / n as f64).sin_cos();
                [cos, sin, 0.0]
            })
            .collect();
        assert_eq!(all(&through), 2 * n);
        // (3, 5) is on all of these.
        let shifted: Vec<[f64; 3]> = (0..n as i32).map(|k| [5.0 * f64::from(k), -3.0 * f64::from(k), 0.0]).collect();
        let shifted: Vec<[f64; 3]> = shifted.iter().map(|l| [l[0] + 1.0, l[1] + 1.0, -8.0]).collect();
        assert_eq!(all(&shifted), 2 * n);
    }
    // The same line again, the other way round, and times a number.
    assert_eq!(all(&[[0.3, 0.7, 0.1]; 4]), 2);
    assert_eq!(all(&[[0.3, 0.7, 0.1], [-0.3, -0.7, -0.1], [0.6, 1.4, 0.2]]), 2);
    // Parallel, and almost.
    assert_eq!(all(&[[0.3, 0.7, 0.1], [0.3, 0.7, 0.2], [0.3, 0.7, -0.1]]), 4);
    assert_eq!(all(&[[1.0, 1.0, 0.0], [1.0, 1.0 + f64::EPSILON, 0.0]]), 4);
    assert_eq!(all(&[[1.0, 1.0, 1.0], [1.0, 1.0 + f64::EPSILON, 1.0], [1.0, 1.0 - f64::EPSILON, 1.0]]), 6);
    assert_eq!(all(&[[1.0, 1.0, 1.0], [1.0, 1.0 + f64::EPSILON, -1.0], [1.0, 1.0 - f64::EPSILON, 3.0]]), 6);
    assert_eq!(all(&[[1.0, 1.0, 1.0], [1.0, 1.0 + f64::EPSILON, -1.0], [1.0, 1.0 - f64::EPSILON, 4.0]]), 7);
    // A triangle of about one rounding error.
    assert_eq!(all(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, f64::EPSILON]]), 7);
    assert_eq!(all(&[[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [1.0, 1.0, -2.0]]), 6);
    assert_eq!(all(&[[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [1.0, 1.0, -2.0 - 2.0 * f64::EPSILON]]), 7);
    // No lines at all.
    assert_eq!(all(&[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]), 1);
    // Small and large numbers.
    assert_eq!(all(&[[1e-300, 0.0, 1e-310], [0.0, 1e300, 1e290], [1e-320, 1e300, 1.0]]), 7);
}

#[test]
fn bias_free_networks_have_no_pieces_at_the_origin_only() {
    let rng = &mut generator(6);
    for _ in 0..20 {
        let mut network = network(rng, &[2, 6, 6, 6, 6, 1], |_| Function::rectifier(0.0));
        network.layers.iter_mut().for_each(|layer| layer.affine.bias.fill(0.0));
        let mut directions = HashSet::new();
        for k in 0..50_000 {
            let (sin, cos) = (f64::from(k) * std::f64::consts::TAU / 50_000.0 + 1e-7).sin_cos();
            directions.insert(jacobian(&network, &[cos, sin]).1);
        }
        let exact = constant(&network, Exponent::Two, &Domain::All).unwrap();
        let found = directions.len() as u64;
        assert!(found <= exact.pieces && exact.pieces <= found + 2, "{} of {}", found, exact.pieces);
        assert_eq!(count(&network, &square(0.1)), exact.pieces);
        // Moved to a point that no number is: all kinks meet there still, but for rounding in the first biases.
        let at = [0.1, 0.7];
        let first = &mut network.layers[0].affine;
        first.bias = first.apply(&at).iter().map(|b| -b).collect();
        let moved = constant(&network, Exponent::Two, &square(2.0)).unwrap();
        assert!(moved.pieces >= exact.pieces && moved.pieces < exact.pieces + 500, "{moved:?}, {exact:?}");
        // Triangles of that rounding are real, may be steeper, and hold no pair.
        assert!(moved.upper >= exact.upper * (1.0 - 1e-9) && moved.lower >= exact.lower * (1.0 - 1e-9));
    }
}

#[test]
fn signs_from_exact_numbers_are_those_of_rounded_ones() {
    let rng = &mut generator(11);
    for round in 0..40 {
        let inputs = 1 + round % 2;
        let network = network(rng, &[inputs, 4, 3, 2], |_| Function::rectifier(0.0));
        // Numbers this large are not rounded at all; powers of two change nothing.
        let mut scaled = network.clone();
        let large = 2f64.powi(150);
        let Affine { weight, bias } = &mut scaled.layers[0].affine;
        weight.data_mut().iter_mut().chain(bias).for_each(|w| *w *= large);
        scaled.layers[1].affine.weight.data_mut().iter_mut().for_each(|w| *w /= large);
        let domains = [Domain::All, Domain::Box(vec![(-1.0, 2.0); inputs])];
        for (p, domain) in NORMS.iter().flat_map(|&p| domains.each_ref().map(|domain| (p, domain))) {
            let (a, b) = (constant(&network, p, domain).unwrap(), constant(&scaled, p, domain).unwrap());
            assert_eq!(a.pieces, b.pieces, "round {round}");
            assert!((a.lower - b.lower).abs() <= 1e-9 * a.upper && (a.upper - b.upper).abs() <= 1e-9 * a.upper);
        }
    }
}

#[test]
fn dead_and_constant_networks_are_whole() {
    let rng = &mut generator(7);
    let mut dead = network(rng, &[2, 4, 4, 2], |_| Function::rectifier(0.0));
    dead.layers[0].affine.bias.fill(-100.0);
    let exact = constant(&dead, Exponent::Two, &square(1.0)).unwrap();
    assert_eq!((exact.lower, exact.upper, exact.pieces), (0.0, 0.0, 1));
    assert!(exact.x != exact.y);
    let mut constant_network = network(rng, &[2, 3, 1], |_| Function::absolute());
    constant_network.layers[0].affine.weight.data_mut().fill(0.0);
    for domain in [Domain::All, square(3.0)] {
        let exact = constant(&constant_network, Exponent::Infinity, &domain).unwrap();
        assert_eq!((exact.lower, exact.upper, exact.pieces), (0.0, 0.0, 1));
    }
    // On its knot everywhere, and no layers at all.
    constant_network.layers[0].affine.bias.fill(0.0);
    assert_eq!(count(&constant_network, &Domain::All), 1);
    for (bias, knots) in [(0.75, [0.5, 0.75]), (0.75, [0.75, 1.0]), (0.6, [0.5, 0.75]), (3.0, [0.5, 0.75])] {
        let layer = &mut constant_network.layers[0];
        layer.affine.bias.fill(bias);
        layer.functions = vec![Function::new(&knots, &[1.0, 2.0, -1.0], (0.0, 0.0)).into(); 3];
        for domain in [Domain::All, square(3.0)] {
            let shown = |piece: &Piece| {
                let (value, expected) = (piece.affine.bias[0], constant_network.value(&[0.0, 0.0])[0]);
                assert!((value - expected).abs() < 1e-14, "{value}, not {expected}");
                Ok(())
            };
            assert_eq!(pieces(&constant_network, &domain, shown).unwrap(), 1);
        }
    }
    let affine = Affine { weight: Matrix::new(2, 1, vec![3.0, 4.0]), bias: vec![0.0; 2] };
    let line = PiecewiseLinear { inputs: 1, layers: Vec::new(), output: affine };
    for (p, expected) in NORMS.into_iter().zip([7.0, 5.0, 4.0]) {
        let exact = constant(&line, p, &Domain::All).unwrap();
        assert!(exact.upper >= expected && exact.lower > expected * (1.0 - 1e-13), "{exact:?}");
        assert!(exact.upper < expected * (1.0 + 1e-13) && exact.lower <= expected, "{exact:?}");
    }
    // Neurons that cancel but for rounding: 0.1 + 0.2 − 0.3.
    let weight = Matrix::new(3, 2, vec![0.1, 0.0, 0.2, 0.0, 0.3, 0.0]);
    let first = Affine { weight, bias: vec![0.0; 3] };
    let functions = (0..3).map(|_| Arc::new(Function::identity())).collect();
    let second = Affine { weight: Matrix::new(1, 3, vec![1.0, 1.0, -1.0]), bias: vec![0.0] };
    let cancels = PiecewiseLinear {
        inputs: 2,
        layers: vec![
            Layer { affine: first, functions },
            Layer { affine: second, functions: vec![Arc::new(Function::absolute())] },
        ],
        output: Affine { weight: Matrix::identity(1), bias: vec![0.0] },
    };
    let exact = constant(&cancels, Exponent::Two, &Domain::All).unwrap();
    assert_eq!(exact.pieces, 2);
    assert!(exact.lower > 0.0 && exact.upper <= exact.lower * (1.0 + 1e-6) && exact.upper < 1e-16, "{exact:?}");
}

#[test]
fn intervals_are_in_order() {
    let rng = &mut generator(8);
    let network = network(rng, &[1, 3, 2, 1], |rng| spline(rng, 4, 0.5));
    let mut ends = Vec::new();
    let count = pieces(&network, &Domain::All, |piece| {
        let place = |corner: Corner| match corner {
            Corner::Point([x, _]) => x,
            Corner::Direction([x, _]) => x * f64::INFINITY,
        };
        assert_eq!(piece.corners.len(), 2);
        ends.push((place(piece.corners[0]), place(piece.corners[1])));
        Ok(())
    })
    .unwrap();
    assert_eq!(count, ends.len() as u64);
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!((ends[0].0, ends[ends.len() - 1].1), (f64::NEG_INFINITY, f64::INFINITY));
    assert!(ends.windows(2).all(|pair| (pair[0].1 - pair[1].0).abs() < 1e-12), "{ends:?}");
}

#[test]
fn other_networks_are_refused() {
    let rng = &mut generator(9);
    let error =
        |network: &PiecewiseLinear, domain: &Domain| pieces(network, domain, |_| Ok(())).unwrap_err().to_string();
    let wide = network(rng, &[3, 2, 1], |_| Function::absolute());
    assert!(error(&wide, &Domain::All).contains("one or two inputs"));
    let mut plane = network(rng, &[2, 2, 1], |_| Function::absolute());
    assert!(error(&plane, &Domain::Box(vec![(0.0, 1.0)])).contains("1 dimensions for 2 inputs"));
    assert!(error(&plane, &Domain::Box(vec![(0.0, 1.0), (1.0, 1.0)])).contains("empty"));
    plane.layers[0].affine.bias[0] = f64::NAN;
    assert!(error(&plane, &Domain::All).contains("not finite"));
    plane.layers[0].affine.bias.pop();
    assert!(error(&plane, &Domain::All).contains("does not fit"));
}

#[test]
fn splines_of_many_knots_have_many_pieces() {
    let rng = &mut generator(10);
    for scale in [1.0, 3.0] {
        let mut network = network(rng, &[2, 4, 4, 1], |rng| spline(rng, 49, 0.04));
        network.layers[1].affine.weight.data_mut().iter_mut().for_each(|w| *w *= scale);
        let started = std::time::Instant::now();
        let exact = constant(&network, Exponent::Two, &Domain::All).unwrap();
        println!("{} pieces in {:.3} s", exact.pieces, started.elapsed().as_secs_f64());
        assert!(exact.pieces > 10_000 && exact.upper <= exact.lower * (1.0 + 1e-6), "{exact:?}");
    }
}
