//! 1-Lipschitz activations: gradients against central differences, and slopes that stay in [−1, 1].
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Module;
use common::{Set, assert_close, check_gradients, flat, generator, tensor, uniform, variable};
use ds_core::Grid;
use ds_core::activation::{Activation, Apl, ClippedPRelu, Householder, Init, LipschitzSpline, PRelu, Spline};
use ds_core::backend::op::Apply;
use ds_core::graph::Gradients;
use ds_core::lipschitz::bv2::bv2_of;
use ds_core::ops::channel_affine::ChannelAffine;
use ds_core::ops::clip::UnitClip;
use ds_core::ops::pairs;
use ds_core::ops::slope_projection::SlopeProjection;
use ds_core::regularization::Norm;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const SHAPES: [&[usize]; 5] = [&[5, 4], &[1, 2], &[2, 4, 7], &[3, 2, 3, 11], &[2, 6, 16, 3]];

/// Coefficients of which some slopes are clipped, none of them near the edge.
fn coefficients(rng: &mut ChaCha8Rng, channels: usize, size: usize, step: f64) -> Vec<f64> {
    let mut rows = Vec::new();
    for _ in 0..channels {
        let mut value = rng.random_range(-1.0..1.0);
        for _ in 0..size {
            rows.push(value);
            let slope: f64 = rng.random_range(-2.0..2.0);
            value += step * if (slope.abs() - 1.0).abs() < 1e-2 { 0.5 * slope } else { slope };
        }
    }
    rows
}

#[test]
fn slope_projection_and_its_argument() {
    let rng = &mut generator(1);
    for size in [2, 3, 4, 5, 8, 31, 50] {
        let projection = SlopeProjection { size, step: 0.3 };
        let c = variable(coefficients(rng, 3, size, 0.3), &[3, size]);
        let log_alpha = variable(uniform(rng, 3, -1.0, 1.0), &[3]);
        let what = format!("K = {size}");
        check_gradients(&what, rng, std::slice::from_ref(&c), |v| v[0].apply_op1(Apply(projection)).unwrap());
        check_gradients(&what, rng, &[c, log_alpha], |v| v[0].apply_op2(&v[1], Apply(projection)).unwrap());
    }
    for shape in SHAPES {
        let x = variable(uniform(rng, shape.iter().product(), -2.0, 2.0), shape);
        let log_alpha = variable(uniform(rng, shape[1], -1.0, 1.0), &[shape[1]]);
        let affine = ChannelAffine { shift: -0.3 };
        check_gradients("x + s", rng, std::slice::from_ref(&x), |v| v[0].apply_op1(Apply(affine)).unwrap());
        check_gradients("α·x + s", rng, &[x, log_alpha], |v| v[0].apply_op2(&v[1], Apply(affine)).unwrap());
    }
}

/// D†·Clip(D·c) + mean(c), with the pseudo-inverse by its definition: the least-norm solution has mean 0.
#[test]
fn the_projection_clips_slopes_and_keeps_means() {
    let rng = &mut generator(2);
    for size in [3, 4, 21, 50] {
        let projection = SlopeProjection { size, step: 0.1 };
        let c = coefficients(rng, 40, size, 0.1);
        let p = flat(&tensor(c.clone(), &[40, size]).apply_op1(Apply(projection)).unwrap());
        let width = if size % 2 == 0 { size + 1 } else { size };
        assert_eq!(p.len(), 40 * width);
        for (c, p) in c.chunks_exact(size).zip(p.chunks_exact(width)) {
            let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
            assert!((mean(c) - mean(&p[..size])).abs() < 1e-12);
            for k in 0..size - 1 {
                let expected = ((c[k + 1] - c[k]) / 0.1).clamp(-1.0, 1.0);
                assert!(((p[k + 1] - p[k]) / 0.1 - expected).abs() < 1e-12);
            }
            if width > size {
                assert!((p[size] - 2.0 * p[size - 1] + p[size - 2]).abs() < 1e-12, "the last slope goes on");
            }
        }
    }
}

#[test]
fn stored_slopes_exceed_1_by_rounding_only() {
    let rng = &mut generator(3);
    for size in [3, 10, 51, 200] {
        let spline = LipschitzSpline::new(8, size, 1.0, Init::Zero, size % 2 == 0, DType::F32, &Device::Cpu).unwrap();
        for parameter in spline.parameters("") {
            let n = parameter.var.elem_count();
            let values = tensor(uniform(rng, n, -3.0, 3.0), parameter.var.dims()).to_dtype(DType::F32).unwrap();
            parameter.var.set(&values).unwrap();
        }
        let largest_value = flat(&spline.projected_coefficients().unwrap()).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let alpha = spline.scaling().unwrap().into_iter().fold(0.0, f64::max);
        let margin = 2.0 * alpha * largest_value * f64::from(f32::EPSILON) / spline.step();
        for slope in spline.slopes().unwrap().into_iter().flatten() {
            assert!(slope.abs() <= 1.0 + margin, "{slope} at K = {size}");
        }
    }
}

/// An even number of knots, and scaling, against the definition σ̃(x) = σ(αx)/α.
#[test]
fn a_lipschitz_spline_is_what_its_projected_coefficients_say() {
    let rng = &mut generator(4);
    for size in [3, 4, 10, 21] {
        for scaling in [false, true] {
            let spline = LipschitzSpline::new(2, size, 1.5, Init::Zero, scaling, DType::F64, &Device::Cpu).unwrap();
            let c = coefficients(rng, 2, size, spline.step());
            spline.coefficients().set(&tensor(c, &[2, size])).unwrap();
            if let Some(log_scaling) = spline.log_scaling() {
                log_scaling.set(&tensor(vec![0.7, -0.4], &[2])).unwrap();
            }
            let p = flat(&spline.projected_coefficients().unwrap());
            let alpha = spline.scaling().unwrap();
            let knots: Vec<f64> = spline.knots().collect();
            let x = uniform(rng, 400, -4.0, 4.0);
            let y = flat(&spline.forward(&tensor(x.clone(), &[200, 2])).unwrap());
            let expected: Vec<f64> = x
                .iter()
                .enumerate()
                .map(|(i, x)| {
                    let (p, at) = (&p[i % 2 * size..(i % 2 + 1) * size], alpha[i % 2] * x);
                    let k = (0..size - 2).take_while(|&k| at > knots[k + 1]).count();
                    p[k] + (at - knots[k]) / (knots[k + 1] - knots[k]) * (p[k + 1] - p[k])
                })
                .collect();
            assert_close(&format!("K = {size}"), &y, &expected, 1e-12);
        }
    }
}

#[test]
fn splines_are_max_min_in_another_basis() {
    let rng = &mut generator(12);
    let x = tensor(uniform(rng, 40, -2.0, 2.0), &[20, 2]);
    let turn = (tensor(vec![1.0, 1.0, -1.0, 1.0], &[2, 2]) * 0.5f64.sqrt()).unwrap();
    let back = (tensor(vec![1.0, -1.0, 1.0, 1.0], &[2, 2]) * 0.5f64.sqrt()).unwrap();
    let spline = LipschitzSpline::new(2, 5, 1.0, Init::MaxMin, false, DType::F64, &Device::Cpu).unwrap();
    let y = spline.forward(&x.matmul(&turn).unwrap()).unwrap().matmul(&back).unwrap();
    let expected = x.apply_op1(Apply(pairs::MaxMin)).unwrap();
    assert_close("max-min", &flat(&y), &flat(&expected), 1e-12);
}

#[test]
fn initial_shapes() {
    let x = tensor(vec![-2.0, -2.0, -0.5, -0.5, 0.25, 0.25, 3.0, 3.0], &[4, 2]);
    let cases = [
        (Init::Identity, [-2.0, -2.0, -0.5, -0.5, 0.25, 0.25, 3.0, 3.0]),
        (Init::Absolute, [2.0, 2.0, 0.5, 0.5, 0.25, 0.25, 3.0, 3.0]),
        (Init::MaxMin, [2.0, -2.0, 0.5, -0.5, 0.25, 0.25, 3.0, 3.0]),
        (Init::Relu, [0.0, 0.0, 0.0, 0.0, 0.25, 0.25, 3.0, 3.0]),
        (Init::Zigzag, [-1.0, 2.0, 0.5, 0.5, 0.25, 0.25, -2.0, -2.0]),
        (Init::Zero, [0.0; 8]),
    ];
    for (init, expected) in cases {
        for scaling in [false, true] {
            let spline = LipschitzSpline::new(2, 21, 1.0, init, scaling, DType::F32, &Device::Cpu).unwrap();
            let y = flat(&spline.forward(&x.to_dtype(DType::F32).unwrap()).unwrap());
            y.iter().zip(expected).for_each(|(y, e)| assert!((y - e).abs() < 1e-6, "{init:?}: {y} for {e}"));
            // A slope of 1 but for rounding is free: the initial shape learns.
            let loss = spline.forward(&x.to_dtype(DType::F32).unwrap()).unwrap().sqr().unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            if init != Init::Zero {
                assert!(flat(gradients.get(spline.coefficients()).unwrap()).iter().filter(|g| **g != 0.0).count() > 20);
            }
        }
        let plain = Spline::bspline(2, Grid::from_step(5, 0.5).unwrap(), init, DType::F64, &Device::Cpu).unwrap();
        assert_close("bspline", &flat(&plain.forward(&x).unwrap()), &expected, 1e-12);
        let linear = Spline::explicit_linear(2, plain.grid(), init, false, DType::F64, &Device::Cpu).unwrap();
        assert_close("explicit_linear", &flat(&linear.forward(&x).unwrap()), &expected, 1e-12);
    }
}

#[test]
fn a_zigzag_has_its_kinks_at_knots_of_every_grid() {
    for size in 3..60 {
        let spline = LipschitzSpline::new(2, size, 1.5, Init::Zigzag, false, DType::F64, &Device::Cpu).unwrap();
        let (slopes, knots): (_, Vec<f64>) = (spline.slopes().unwrap(), spline.knots().collect());
        // With an even size there is a segment around 0, and it is flat.
        let middle = if size % 2 == 0 { Some(size / 2 - 1) } else { None };
        for (channel, slopes) in slopes.iter().enumerate() {
            let are_steep = |(k, slope): (usize, &f64)| Some(k) == middle || (slope.abs() - 1.0).abs() < 1e-9;
            assert!(slopes.iter().enumerate().all(are_steep), "size {size}, channel {channel}: {slopes:?}");
        }
        let turns = |slopes: &[f64]| -> Vec<f64> {
            let turns = slopes.windows(2).zip(&knots[1..]).filter(|(s, _)| s[0] * s[1] < -0.5);
            turns.map(|(_, knot)| *knot).filter(|knot| knot.abs() > 1e-9).collect()
        };
        let (even, odd) = (turns(&slopes[0]), turns(&slopes[1]));
        // Less than five knots have none to turn at.
        if let [fold] = odd[..] {
            assert_close("both sides", &even, &[-fold, fold], 1e-12);
            assert!((fold - 0.75).abs() <= 0.5 * spline.step() + 1e-12, "size {size}: {fold}");
        } else {
            assert!(size < 5 && even.is_empty() && odd.is_empty(), "size {size}: {even:?}, {odd:?}");
        }
    }
}

#[test]
fn pairs_and_clipped_slopes() {
    let rng = &mut generator(5);
    for shape in SHAPES {
        let x = variable(uniform(rng, shape.iter().product(), -2.0, 2.0), shape);
        check_gradients("max-min", rng, std::slice::from_ref(&x), |v| v[0].apply_op1(Apply(pairs::MaxMin)).unwrap());
        let angles = variable(uniform(rng, shape[1] / 2, -3.0, 3.0), &[shape[1] / 2]);
        check_gradients("householder", rng, &[x, angles], |v| {
            v[0].apply_op2(&v[1], Apply(pairs::Householder)).unwrap()
        });
    }
    let slopes = variable(vec![-1.5, -0.5, 0.0, 0.9, 2.0], &[5]);
    check_gradients("clip", rng, std::slice::from_ref(&slopes), |v| v[0].apply_op1(Apply(UnitClip)).unwrap());
    assert_eq!(flat(&slopes.apply_op1(Apply(UnitClip)).unwrap()), [-1.0, -0.5, 0.0, 0.9, 1.0]);
}

#[test]
fn pairs_against_their_definitions() {
    let x = tensor(vec![1.0, 3.0, 2.0, -1.0, 5.0, 0.0, 5.0, 4.0], &[1, 4, 2]);
    let y = flat(&x.apply_op1(Apply(pairs::MaxMin)).unwrap());
    assert_eq!(y, [2.0, 3.0, 1.0, -1.0, 5.0, 4.0, 5.0, 0.0]);
    let rng = &mut generator(6);
    let angles = uniform(rng, 2, -3.0, 3.0);
    let y = flat(&x.apply_op2(&tensor(angles.clone(), &[2]), Apply(pairs::Householder)).unwrap());
    for (pair, angle) in angles.iter().enumerate() {
        for pixel in 0..2 {
            let at = |v: &[f64], second: usize| v[(2 * pair + second) * 2 + pixel];
            let z = flat(&x);
            let (a, b) = (at(&z, 0), at(&z, 1));
            let (s, c) = ((angle / 2.0).sin(), (angle / 2.0).cos());
            // z − 2·min(0, vᵀz)·v with the unit vector v = (sin θ/2, −cos θ/2).
            let below = (s * a - c * b).min(0.0);
            assert!((at(&y, 0) - (a - 2.0 * below * s)).abs() < 1e-12);
            assert!((at(&y, 1) - (b + 2.0 * below * c)).abs() < 1e-12);
        }
    }
    let odd = tensor(vec![0.0; 6], &[2, 3]);
    let error = odd.apply_op1(Apply(pairs::MaxMin)).unwrap_err().to_string();
    assert!(error.contains("max-min") && error.contains("even"), "{error}");
    let error = Householder::new(3, DType::F64, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("householder") && error.contains("3 is odd"), "{error}");
    let error = LipschitzSpline::new(3, 2, 1.0, Init::Zero, false, DType::F64, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("at least 3"), "{error}");
}

fn randomised(rng: &mut ChaCha8Rng, activation: Activation) -> Activation {
    for parameter in activation.parameters("") {
        let n = parameter.var.elem_count();
        parameter.var.set(&tensor(uniform(rng, n, -2.0, 2.0), parameter.var.dims())).unwrap();
    }
    activation
}

fn lipschitz_spline(size: usize, scaling: bool) -> LipschitzSpline {
    LipschitzSpline::new(4, size, 1.0, Init::Zero, scaling, DType::F64, &Device::Cpu).unwrap()
}

#[test]
fn no_pair_of_points_shows_a_slope_above_1() {
    let rng = &mut generator(7);
    let (dtype, device) = (DType::F64, &Device::Cpu);
    for round in 0..20 {
        let activations = [
            Activation::Relu,
            Activation::LeakyRelu,
            Activation::Absolute,
            Activation::MaxMin,
            Activation::Householder(Householder::new(4, dtype, device).unwrap()),
            Activation::ClippedPRelu(ClippedPRelu::new(4, dtype, device).unwrap()),
            Activation::Lipschitz(lipschitz_spline(9, false)),
            Activation::Lipschitz(lipschitz_spline(10, true)),
        ];
        for activation in activations {
            let activation = randomised(rng, activation);
            for shape in [&[50, 4][..], &[10, 4, 3, 2]] {
                let n = shape.iter().product();
                let x = tensor(uniform(rng, n, -2.0, 2.0), shape);
                for reach in [1e-3, 2.0] {
                    let y = (&x + tensor(uniform(rng, n, -reach, reach), shape)).unwrap();
                    let distance = |a: &Tensor, b: &Tensor| {
                        flat(&(a - b).unwrap().flatten_from(1).unwrap().sqr().unwrap().sum(1).unwrap())
                    };
                    let outputs = distance(&activation.forward(&x).unwrap(), &activation.forward(&y).unwrap());
                    for (input, output) in distance(&x, &y).into_iter().zip(outputs) {
                        assert!(output <= input * (1.0 + 1e-9), "round {round}: {activation:?}");
                    }
                }
            }
            assert!(activation.largest_slopes(4).unwrap().iter().all(|s| *s <= 1.0 + 1e-12));
        }
    }
}

#[test]
fn largest_slopes_are_reached_and_never_exceeded() {
    let rng = &mut generator(8);
    let (dtype, device) = (DType::F64, &Device::Cpu);
    let grid = Grid::from_step(9, 0.3).unwrap();
    for _ in 0..20 {
        let activations = [
            Activation::Relu,
            Activation::Absolute,
            Activation::PRelu(PRelu::new(4, dtype, device).unwrap()),
            Activation::Apl(Apl::new(4, 3, dtype, device).unwrap()),
            Activation::Spline(Spline::bspline(4, grid, Init::Relu, dtype, device).unwrap()),
            Activation::Spline(Spline::explicit_linear(4, grid, Init::Relu, false, dtype, device).unwrap()),
            Activation::Spline(Spline::relu_spline(4, grid, Init::Relu, false, dtype, device).unwrap()),
            Activation::Lipschitz(lipschitz_spline(6, true)),
        ];
        for activation in activations {
            let activation = randomised(rng, activation);
            let bounds = activation.largest_slopes(4).unwrap();
            // Quotients on a grid finer than the pieces.
            let (points, h) = (20_001, 1e-3);
            let x: Vec<f64> = (0..points).flat_map(|k| [h * (k as f64 - 10_000.3); 4]).collect();
            let y = flat(&activation.forward(&tensor(x, &[points, 4])).unwrap());
            for (channel, bound) in bounds.into_iter().enumerate() {
                let quotient = |k: usize| ((y[4 * (k + 1) + channel] - y[4 * k + channel]) / h).abs();
                let largest = (0..points - 1).map(quotient).fold(0.0, f64::max);
                assert!(largest <= bound * (1.0 + 1e-9) && largest >= bound * (1.0 - 1e-9), "{activation:?}");
            }
            assert!(
                activation.largest_slopes(3).is_err() || matches!(activation, Activation::Relu | Activation::Absolute)
            );
        }
    }
}

#[test]
fn whole_lipschitz_splines() {
    let rng = &mut generator(9);
    for (size, scaling) in [(3, false), (8, false), (9, true), (10, true)] {
        let spline = lipschitz_spline(size, scaling);
        spline.coefficients().set(&tensor(coefficients(rng, 4, size, spline.step()), &[4, size])).unwrap();
        if let Some(log_scaling) = spline.log_scaling() {
            log_scaling.set(&tensor(uniform(rng, 4, -0.5, 0.5), &[4])).unwrap();
        }
        let x = variable(uniform(rng, 3 * 4 * 5, -1.5, 1.5), &[3, 4, 5]);
        let mut arguments = vec![x];
        arguments.extend(spline.parameters("").into_iter().map(|p| p.var));
        check_gradients("spline", rng, &arguments, |v| spline.forward(&v[0]).unwrap());
    }
}

#[test]
fn norms_of_lipschitz_splines() {
    let rng = &mut generator(10);
    for (size, scaling) in [(3, false), (8, true), (9, true), (20, false)] {
        let spline = lipschitz_spline(size, scaling);
        spline.coefficients().set(&tensor(coefficients(rng, 4, size, spline.step()), &[4, size])).unwrap();
        if let Some(log_scaling) = spline.log_scaling() {
            log_scaling.set(&tensor(uniform(rng, 4, -0.5, 0.5), &[4])).unwrap();
        }
        let activation = Activation::Lipschitz(spline.clone());
        // TV² by its definition, from slopes of the function itself.
        let by_slopes: f64 =
            spline.slopes().unwrap().iter().map(|s| s.windows(2).map(|s| (s[1] - s[0]).abs()).sum::<f64>()).sum();
        let tv2 = Norm::Tv2.value_of(&activation).unwrap().unwrap();
        assert!((tv2 - by_slopes).abs() < 1e-9);
        let values = flat(&spline.forward(&tensor([[0.0; 4], [1.0; 4]].concat(), &[2, 4])).unwrap());
        let bv2 = Norm::Bv2.value_of(&activation).unwrap().unwrap();
        assert!((bv2 - tv2 - values.iter().map(|v| v.abs()).sum::<f64>()).abs() < 1e-9);
        assert!((bv2_of(&activation, 4).unwrap().iter().sum::<f64>() - bv2).abs() < 1e-9);
        for norm in [Norm::Tv2, Norm::Bv2] {
            let loss = spline.forward(&tensor(vec![0.3; 4], &[1, 4])).unwrap().sum_all().unwrap();
            let mut gradients = loss.backward().unwrap();
            let before: Vec<Vec<f64>> =
                spline.parameters("").iter().map(|p| flat(gradients.gradient(&p.var).unwrap())).collect();
            norm.add_gradient_of(&activation, 0.7, &mut gradients).unwrap();
            for (parameter, before) in spline.parameters("").into_iter().zip(before) {
                let numeric: Vec<f64> = differences(&parameter.var, || norm.value_of(&activation).unwrap().unwrap())
                    .into_iter()
                    .zip(before)
                    .map(|(d, before)| before + 0.7 * d)
                    .collect();
                let ours = flat(gradients.gradient(&parameter.var).unwrap());
                assert_close(&format!("{norm:?} of {} at K = {size}", parameter.name), &ours, &numeric, 1e-6);
            }
        }
    }
}

fn differences(var: &Var, value: impl Fn() -> f64) -> Vec<f64> {
    let (original, h) = (flat(var), 1e-6);
    let at = |i: usize, shift: f64| {
        let mut moved = original.clone();
        moved[i] += shift;
        var.set(&tensor(moved, var.dims())).unwrap();
        value()
    };
    let numeric = (0..original.len()).map(|i| (at(i, h) - at(i, -h)) / (2.0 * h)).collect();
    var.set(&tensor(original.clone(), var.dims())).unwrap();
    numeric
}

#[test]
fn the_papers_bound_counts_them_or_says_why_not() {
    let (dtype, device) = (DType::F64, &Device::Cpu);
    assert_eq!(bv2_of(&Activation::Absolute, 4).unwrap().iter().sum::<f64>(), 12.0);
    let prelu = ClippedPRelu::new(2, dtype, device).unwrap();
    prelu.slopes.set(&tensor(vec![3.0, -0.5], &[2])).unwrap();
    assert_eq!(bv2_of(&Activation::ClippedPRelu(prelu), 2).unwrap().iter().sum::<f64>(), 1.0 + 2.5);
    for activation in [Activation::MaxMin, Activation::Householder(Householder::new(4, dtype, device).unwrap())] {
        let error = bv2_of(&activation, 4).unwrap_err().to_string();
        assert!(error.contains("pairs"), "{error}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let rng = &mut generator(11);
    let x = variable(uniform(rng, 8 * 4 * 4000, -2.0, 2.0), &[8, 4, 4000]).to_dtype(DType::F32).unwrap();
    let (dtype, device) = (DType::F32, &Device::Cpu);
    let spline = LipschitzSpline::new(4, 20, 1.0, Init::Absolute, true, dtype, device).unwrap();
    let householder = Householder::new(4, dtype, device).unwrap();
    for activation in [Activation::MaxMin, Activation::Householder(householder), Activation::Lipschitz(spline)] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let x = Var::from_tensor(&x).unwrap();
                let y = activation.forward(&x).unwrap();
                let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                let mut all = vec![flat(&y), flat(gradients.get(&x).unwrap())];
                all.extend(activation.parameters("").iter().map(|p| flat(gradients.get(&p.var).unwrap())));
                all
            })
        };
        assert_eq!(run(1), run(3));
    }
}
