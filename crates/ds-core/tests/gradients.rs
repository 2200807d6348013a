//! Gradients of every op and of the norms against central finite differences in f64.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Module;
use common::{Set, assert_close, check_gradients, flat, generator, tensor, uniform, variable};
use ds_core::Grid;
use ds_core::activation::{Init, Spline};
use ds_core::backend::op::Apply;
use ds_core::graph::Gradients;
use ds_core::ops::hinges::Hinges;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::rectifier::{ChannelRectifier, Rectifier};
use ds_core::ops::reparametrization::{AddLinearTerm, SumOfRelus};
use ds_core::regularization::Norm;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Inputs inside and outside a grid, none nearer to a knot than a difference quotient reaches.
fn inputs(rng: &mut ChaCha8Rng, grid: Grid, shape: &[usize]) -> Var {
    let reach = grid.knot(grid.size() - 1) + 2.0 * grid.step();
    let data = (0..shape.iter().product())
        .map(|_| {
            let x: f64 = rng.random_range(-reach..reach);
            let u = x / grid.step();
            let near = (u - u.round()).abs() < 1e-3;
            if near { x + 0.3 * grid.step() } else { x }
        })
        .collect();
    variable(data, shape)
}

const SHAPES: [&[usize]; 7] =
    [&[5, 3], &[1, 1], &[2, 3, 7], &[2, 1, 8], &[3, 2, 3, 11], &[2, 3, 16, 3], &[1, 2, 5, 20]];

#[test]
fn linear_spline() {
    let rng = &mut generator(1);
    for (size, step) in [(3, 0.5), (5, 0.3), (51, 0.16), (201, 0.02)] {
        let grid = Grid::from_step(size, step).unwrap();
        for shape in SHAPES {
            let x = inputs(rng, grid, shape);
            let c = variable(uniform(rng, shape[1] * size, -1.0, 1.0), &[shape[1], size]);
            check_gradients(&format!("spline K={size} {shape:?}"), rng, &[x, c], |arguments| {
                arguments[0].apply_op2(&arguments[1], Apply(LinearSpline::new(grid))).unwrap()
            });
        }
    }
}

#[test]
fn a_resampled_spline_is_the_same_function() {
    let (rng, old) = (&mut generator(7), Grid::from_step(21, 0.2).unwrap());
    let x = tensor(uniform(rng, 3 * 200, -4.0, 4.0), &[200, 3]);
    // Lines and their kink at 0 are on any grid; clones move, too.
    let line = Spline::bspline(3, old, Init::LeakyRelu, DType::F64, &Device::Cpu).unwrap();
    let (clone, before) = (line.clone(), line.forward(&x).unwrap());
    line.resample(Grid::from_step(21, 0.07).unwrap()).unwrap();
    assert_close("leaky ReLU", &flat(&clone.forward(&x).unwrap()), &flat(&before), 1e-12);
    assert_eq!(clone.grid().step(), 0.07);
    // The knots of a grid three times as coarse are knots of the old one: values there stay.
    let rough = Spline::bspline(3, old, Init::Zero, DType::F64, &Device::Cpu).unwrap();
    rough.knot_parameters().set(&tensor(uniform(rng, 63, -1.0, 1.0), &[3, 21])).unwrap();
    let coarse = Grid::from_step(21, 0.6).unwrap();
    let knots = tensor(coarse.knots().flat_map(|x| [x; 3]).collect(), &[21, 3]);
    let before = rough.forward(&knots).unwrap();
    rough.resample(coarse).unwrap();
    assert_close("values at knots", &flat(&rough.forward(&knots).unwrap()), &flat(&before), 1e-12);
    // What cannot be.
    assert!(rough.resample(Grid::from_step(23, 0.1).unwrap()).unwrap_err().to_string().contains("23 knots"));
    let relus = Spline::relu_spline(3, old, Init::Relu, false, DType::F64, &Device::Cpu).unwrap();
    assert!(relus.resample(coarse).unwrap_err().to_string().contains("relu_spline"));
}

#[test]
fn strided_inputs_and_gradients() {
    let rng = &mut generator(2);
    let grid = Grid::from_step(5, 0.5).unwrap();
    let x = inputs(rng, grid, &[4, 9, 3]).transpose(1, 2).unwrap();
    let c = variable(uniform(rng, 15, -1.0, 1.0), &[3, 5]);
    let dy = tensor(uniform(rng, 108, -1.0, 1.0), &[9, 3, 4]).permute((2, 1, 0)).unwrap();
    let op = LinearSpline::new(grid);
    let (dx, dc) = op.backward(&x, &c, &dy).unwrap();
    let (dx2, dc2) = op.backward(&x.contiguous().unwrap(), &c, &dy.contiguous().unwrap()).unwrap();
    assert_eq!((flat(&dx), flat(&dc)), (flat(&dx2), flat(&dc2)));
    assert_eq!(flat(&op.forward(&x, &c).unwrap()), flat(&op.forward(&x.contiguous().unwrap(), &c).unwrap()));
}

#[test]
fn parametrisations() {
    let rng = &mut generator(3);
    for size in [3, 5, 31] {
        let grid = Grid::from_step(size, 0.2).unwrap();
        let mut vector = |n: usize, shape: &[usize]| variable(uniform(rng, n, -1.0, 1.0), shape);
        let (c, a) = (vector(2 * size, &[2, size]), vector(2 * (size - 2), &[2, size - 2]));
        let (b1, b0) = (vector(2, &[2]), vector(2, &[2]));
        let rng = &mut generator(4);
        check_gradients("c + b1·x + b0", rng, &[c, b1.clone(), b0.clone()], |v| {
            v[0].apply_op3(&v[1], &v[2], Apply(AddLinearTerm { grid })).unwrap()
        });
        check_gradients("sum of ReLUs", rng, &[a, b1, b0], |v| {
            v[0].apply_op3(&v[1], &v[2], Apply(SumOfRelus { grid })).unwrap()
        });
    }
}

#[test]
fn a_relu_spline_is_the_sum_of_its_relus() {
    let rng = &mut generator(5);
    let grid = Grid::from_step(9, 0.25).unwrap();
    let spline = Spline::relu_spline(2, grid, Init::LeakyRelu, false, DType::F64, &Device::Cpu).unwrap();
    let a = uniform(rng, 14, -1.0, 1.0);
    spline.knot_parameters().set(&tensor(a.clone(), &[2, 7])).unwrap();
    let linear = spline.linear_term().unwrap();
    linear.weight.set(&tensor(vec![0.5, -0.25], &[2])).unwrap();
    linear.bias.set(&tensor(vec![0.1, 0.2], &[2])).unwrap();
    let x = uniform(rng, 40, -3.0, 3.0);
    let y = flat(&spline.forward(&tensor(x.clone(), &[20, 2])).unwrap());
    let expected: Vec<f64> = x
        .iter()
        .enumerate()
        .map(|(i, &x)| {
            let channel = i % 2;
            let relus = (0..7).map(|k| a[channel * 7 + k] * (x - grid.knot(k + 1)).max(0.0)).sum::<f64>();
            [0.5, -0.25][channel] * x + [0.1, 0.2][channel] + relus
        })
        .collect();
    assert_close("sum of ReLUs", &y, &expected, 1e-12);
}

#[test]
fn rectifiers_and_hinges() {
    let rng = &mut generator(6);
    let away = |rng: &mut ChaCha8Rng, n: usize| -> Vec<f64> {
        uniform(rng, n, 0.01, 2.0).into_iter().map(|v| if rng.random() { v } else { -v }).collect()
    };
    for shape in SHAPES {
        let n = shape.iter().product();
        let x = variable(away(rng, n), shape);
        for slope in [0.0, 0.01] {
            check_gradients("rectifier", rng, std::slice::from_ref(&x), |v| {
                v[0].apply_op1(Apply(Rectifier { slope })).unwrap()
            });
        }
        let slopes = variable(uniform(rng, shape[1], -0.5, 0.5), &[shape[1]]);
        check_gradients("PReLU", rng, &[x.clone(), slopes], |v| {
            v[0].apply_op2(&v[1], Apply(ChannelRectifier)).unwrap()
        });
        for hinges in [1, 3] {
            let a = variable(uniform(rng, shape[1] * hinges, -1.0, 1.0), &[shape[1], hinges]);
            let b = variable(uniform(rng, shape[1] * hinges, -1.0, 1.0), &[shape[1], hinges]);
            check_gradients("APL", rng, &[x.clone(), a, b], |v| v[0].apply_op3(&v[1], &v[2], Apply(Hinges)).unwrap());
        }
    }
}

#[test]
fn the_gradient_at_0_is_that_of_the_negative_side() {
    let x = variable(vec![0.0, -0.0, 1.0], &[3, 1]);
    let y = x.apply_op1(Apply(Rectifier { slope: 0.0 })).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(flat(gradients.get(&x).unwrap()), [0.0, 0.0, 1.0]);
}

fn random_splines(rng: &mut ChaCha8Rng) -> Vec<Spline> {
    let grid = Grid::from_step(11, 0.17).unwrap();
    let (dtype, device) = (DType::F64, &Device::Cpu);
    let splines = [
        Spline::bspline(3, grid, Init::LeakyRelu, dtype, device).unwrap(),
        Spline::explicit_linear(3, grid, Init::EvenOdd, false, dtype, device).unwrap(),
        Spline::relu_spline(3, grid, Init::Relu, false, dtype, device).unwrap(),
        Spline::explicit_linear(3, grid, Init::Relu, true, dtype, device).unwrap(),
    ];
    for spline in &splines {
        for parameter in spline.parameters("") {
            let shape = parameter.var.dims().to_vec();
            let n = parameter.var.elem_count();
            parameter.var.set(&tensor(uniform(rng, n, -1.0, 1.0), &shape)).unwrap();
        }
    }
    splines.to_vec()
}

#[test]
fn whole_activations() {
    let rng = &mut generator(7);
    for spline in random_splines(rng) {
        let x = inputs(rng, spline.grid(), &[3, 3, 10]);
        let mut arguments = vec![x];
        arguments.extend(spline.parameters("").into_iter().map(|p| p.var));
        check_gradients("activation", rng, &arguments, |v| spline.forward(&v[0]).unwrap());
    }
}

#[test]
fn norms() {
    let rng = &mut generator(8);
    for spline in random_splines(rng) {
        for norm in [Norm::Tv2, Norm::Bv2] {
            let loss = spline.forward(&tensor(vec![0.0; 3], &[1, 3])).unwrap().sum_all().unwrap();
            // On top of gradients that are there, the norm's are added.
            let mut gradients = loss.backward().unwrap();
            let before: Vec<Vec<f64>> =
                spline.parameters("").iter().map(|p| flat(gradients.gradient(&p.var).unwrap())).collect();
            norm.add_gradient(&spline, 0.7, &mut gradients).unwrap();
            for (parameter, before) in spline.parameters("").into_iter().zip(before) {
                let (var, h) = (&parameter.var, 1e-6);
                let original = flat(var);
                let numeric: Vec<f64> = (0..original.len())
                    .map(|i| {
                        let at = |shift: f64| {
                            let mut moved = original.clone();
                            moved[i] += shift;
                            var.set(&tensor(moved, var.dims())).unwrap();
                            norm.value(&spline).unwrap()
                        };
                        before[i] + 0.7 * (at(h) - at(-h)) / (2.0 * h)
                    })
                    .collect();
                var.set(&tensor(original, var.dims())).unwrap();
                let ours = flat(gradients.gradient(var).unwrap());
                assert_close(&format!("{norm:?} of {}", parameter.name), &ours, &numeric, 1e-6);
            }
        }
    }
}

#[test]
fn f32_agrees_with_f64() {
    let rng = &mut generator(9);
    for (size, shape) in [(51, [4, 3, 33]), (201, [2, 5, 64]), (3, [7, 1, 9])] {
        let grid = Grid::from_step(size, 0.1).unwrap();
        let op = LinearSpline::new(grid);
        let x = inputs(rng, grid, &shape).to_dtype(DType::F32).unwrap();
        let c = tensor(uniform(rng, shape[1] * size, -1.0, 1.0), &[shape[1], size]).to_dtype(DType::F32).unwrap();
        let dy = tensor(uniform(rng, x.elem_count(), -1.0, 1.0), &shape).to_dtype(DType::F32).unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        assert_close("y", &flat(&op.forward(&x, &c).unwrap()), &flat(&op.forward(&wide(&x), &wide(&c)).unwrap()), 1e-5);
        let (dx, dc) = op.backward(&x, &c, &dy).unwrap();
        let (dx64, dc64) = op.backward(&wide(&x), &wide(&c), &wide(&dy)).unwrap();
        assert_close("∂x", &flat(&dx), &flat(&dx64), 1e-5);
        assert_close("∂c", &flat(&dc), &flat(&dc64), 1e-5);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let op = LinearSpline::new(Grid::from_step(5, 0.5).unwrap());
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (x, c) in [(&[2usize, 3][..], &[2usize, 5][..]), (&[2, 3], &[3, 7]), (&[3], &[3, 5]), (&[2, 3], &[15])] {
        let error = op.forward(&zeros(x), &zeros(c)).unwrap_err().to_string();
        assert!(error.contains("linear-spline"), "{error}");
    }
    assert!(op.backward(&zeros(&[2, 3]), &zeros(&[3, 5]), &zeros(&[3, 2])).is_err());
    assert!(op.forward(&zeros(&[2, 3]), &zeros(&[3, 5]).to_dtype(DType::F64).unwrap()).is_err());
    for empty in [&[0usize, 3][..], &[2, 3, 0], &[0, 3, 16]] {
        assert_eq!(op.forward(&zeros(empty), &zeros(&[3, 5])).unwrap().dims(), empty);
        let (_, dc) = op.backward(&zeros(empty), &zeros(&[3, 5]), &zeros(empty)).unwrap();
        assert_eq!(flat(&dc), [0.0; 15]);
    }
}
