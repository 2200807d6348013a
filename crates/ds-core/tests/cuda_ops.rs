//! The GPU side of the ops on an emulated device, against the CPU's, on random shapes.
#![allow(clippy::unwrap_used)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "cuda/emulated.rs"]
mod emulated;

use candle_core::{CustomOp1, CustomOp2, CustomOp3, DType, Device, Tensor, Var};
use ds_core::Grid;
use ds_core::activation::{Init, Kind, LinearTerm, Spline};
use ds_core::graph::Gradients;
use ds_core::ops::gpu::norm::{NormLayer, Parametrization, add_gradients};
use ds_core::ops::gpu::{Address, linear_spline, pointwise, reparametrization};
use ds_core::ops::hinges::Hinges;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::planes::Planes;
use ds_core::ops::rectifier::{ChannelRectifier, Rectifier};
use ds_core::ops::reparametrization::{AddLinearTerm, SumOfRelus};
use ds_core::regularization::Norm;
use emulated::{TYPES, device, put, random, random_of, random_shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn rectifiers_and_hinges() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..30).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let shape = random_shape(rng, 1);
        let what = format!("round {round}, {dtype:?}, {shape:?}");
        let (x, dy) = (random_of(rng, &shape, dtype), random_of(rng, &shape, dtype));
        let (on_x, on_dy) = (put(rng, &gpu, &x, dtype).address(), put(rng, &gpu, &dy, dtype).address());
        let n = x.elem_count();
        let op = Rectifier { slope: 0.01 };
        let y = x.apply_op1_no_bwd(&op).unwrap();
        let ours = pointwise::rectifier(&gpu, 0.01, dtype, on_x, n).unwrap();
        gpu.assert_close(&what, &ours, &y, 1e-6, 0);
        let dx = op.bwd(&x, &y, &dy).unwrap().unwrap();
        let ours = pointwise::rectifier_gradient(&gpu, 0.01, dtype, on_x, on_dy, n).unwrap();
        gpu.assert_close(&what, &ours, &dx, 1e-6, 0);

        let planes = Planes::new(x.shape(), shape[1], "test").unwrap();
        let slopes = random(rng, &[shape[1]]);
        let on_slopes = gpu.put_tensor(&slopes).address();
        let y = x.apply_op2_no_bwd(&slopes, &ChannelRectifier).unwrap();
        let ours = pointwise::channel_rectifier(&gpu, planes, dtype, on_x, on_slopes).unwrap();
        gpu.assert_close(&what, &ours, &y, 1e-6, 0);
        let (dx, ds) = ChannelRectifier.bwd(&x, &slopes, &y, &dy).unwrap();
        let ours = pointwise::channel_rectifier_gradient(&gpu, planes, dtype, on_x, on_slopes, on_dy).unwrap();
        gpu.assert_close(&format!("{what}: PReLU ∂x"), &ours.0, &dx.unwrap(), 1e-6, 0);
        gpu.assert_close(&format!("{what}: PReLU ∂slopes"), &ours.1, &ds.unwrap(), 1e-5, 0);

        let s = rng.random_range(1..6);
        let (a, b) = (random(rng, &[shape[1], s]), random(rng, &[shape[1], s]));
        let (on_a, on_b) = (gpu.put_tensor(&a).address(), gpu.put_tensor(&b).address());
        let y = x.apply_op3_no_bwd(&a, &b, &Hinges).unwrap();
        let ours = pointwise::hinges(&gpu, planes, s, dtype, on_x, (on_a, on_b)).unwrap();
        gpu.assert_close(&format!("{what}: hinges"), &ours, &y, 1e-5, 0);
        let (dx, da, db) = Hinges.bwd(&x, &a, &b, &y, &dy).unwrap();
        let ours = pointwise::hinges_gradient(&gpu, planes, s, dtype, on_x, (on_a, on_b), on_dy).unwrap();
        gpu.assert_close(&format!("{what}: hinges ∂x"), &ours.0, &dx.unwrap(), 1e-5, 0);
        gpu.assert_close(&format!("{what}: hinges ∂a"), &ours.1, &da.unwrap(), 1e-5, 0);
        gpu.assert_close(&format!("{what}: hinges ∂b"), &ours.2, &db.unwrap(), 1e-5, 0);
        gpu.end();
    }
}

#[test]
fn splines() {
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..30).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let shape = random_shape(rng, 1);
        let grid = Grid::from_step([3, 21, 51][round % 3], rng.random_range(0.05..0.2)).unwrap();
        let what = format!("round {round}, {dtype:?}, {shape:?}, K={}", grid.size());
        let (x, dy) = (random_of(rng, &shape, dtype), random_of(rng, &shape, dtype));
        let c = random(rng, &[shape[1], grid.size()]);
        let planes = Planes::new(x.shape(), shape[1], "test").unwrap();
        let (on_x, on_dy) = (put(rng, &gpu, &x, dtype).address(), put(rng, &gpu, &dy, dtype).address());
        let on_c = gpu.put_tensor(&c).address();
        let op = LinearSpline::new(grid);
        let ours = linear_spline::forward(&gpu, grid, planes, dtype, on_x, on_c).unwrap();
        gpu.assert_close(&what, &ours, &op.forward(&x, &c).unwrap(), 1e-5, 0);
        let (dx, dc) = op.backward(&x, &c, &dy).unwrap();
        let ours = linear_spline::backward(&gpu, grid, planes, dtype, (on_x, on_c), on_dy).unwrap();
        gpu.assert_close(&format!("{what}: ∂x"), &ours.0, &dx, 1e-5, 0);
        gpu.assert_close(&format!("{what}: ∂c"), &ours.1, &dc, 1e-5, 0);
        gpu.end();
    }
}

#[test]
fn reparametrizations() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for round in 0..12 {
        let Some(gpu) = device(0) else { return };
        let grid = Grid::from_step([3, 5, 51][round % 3], rng.random_range(0.05..0.5)).unwrap();
        let (channels, size) = (rng.random_range(1..40), grid.size());
        let (b1, b0, dc) = (random(rng, &[channels]), random(rng, &[channels]), random(rng, &[channels, size]));
        let (on_b1, on_b0) = (gpu.put_tensor(&b1).address(), gpu.put_tensor(&b0).address());
        let on_dc = gpu.put_tensor(&dc).address();
        let c = random(rng, &[channels, size]);
        let op = AddLinearTerm { grid };
        let out = c.apply_op3_no_bwd(&b1, &b0, &op).unwrap();
        let on_c = gpu.put_tensor(&c).address();
        let ours = reparametrization::add_linear_term(&gpu, grid, channels, on_c, on_b1, on_b0).unwrap();
        gpu.assert_close("c + b1·x + b0", &ours, &out, 1e-6, 0);
        let (_, db1, db0) = op.bwd(&c, &b1, &b0, &out, &dc).unwrap();
        let ours = reparametrization::linear_term_gradient(&gpu, grid, channels, on_dc).unwrap();
        gpu.assert_close("∂b1", &ours.0, &db1.unwrap(), 1e-6, 0);
        gpu.assert_close("∂b0", &ours.1, &db0.unwrap(), 1e-6, 0);
        let a = random(rng, &[channels, size - 2]);
        let op = SumOfRelus { grid };
        let out = a.apply_op3_no_bwd(&b1, &b0, &op).unwrap();
        let on_a = gpu.put_tensor(&a).address();
        let ours = reparametrization::sum_of_relus(&gpu, grid, channels, on_a, on_b1, on_b0).unwrap();
        gpu.assert_close("Σ ReLU", &ours, &out, 1e-6, 0);
        let (da, _, _) = op.bwd(&a, &b1, &b0, &out, &dc).unwrap();
        let ours = reparametrization::sum_of_relus_gradient(&gpu, grid, channels, on_dc).unwrap();
        gpu.assert_close("∂a", &ours, &da.unwrap(), 1e-6, 0);
        gpu.end();
    }
}

/// Gradients by parameter.
#[derive(Default)]
struct Store(Vec<(Var, Tensor)>);

impl Gradients for Store {
    fn gradient(&self, parameter: &Var) -> Option<&Tensor> {
        self.0.iter().find(|(var, _)| var.id() == parameter.id()).map(|(_, gradient)| gradient)
    }
    fn set_gradient(&mut self, parameter: &Var, gradient: Tensor) {
        self.0.retain(|(var, _)| var.id() != parameter.id());
        self.0.push((parameter.clone(), gradient));
    }
}

#[test]
fn norm_gradients_of_all_layers_in_one_launch() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for norm in [Norm::Tv2, Norm::Bv2] {
        let Some(gpu) = device(0) else { return };
        let (mut layers, mut checks) = (Vec::new(), Vec::new());
        // More than one launch takes.
        for k in 0..40 {
            let grid = Grid::from_step([3, 5, 51][k % 3], [0.1, 0.4][k % 2]).unwrap();
            let (channels, weight) = (rng.random_range(1..20), rng.random_range(0.1..1.0));
            let (dtype, cpu) = (DType::F32, &Device::Cpu);
            let spline = match k % 4 {
                // Straight lines, whose slope changes are 0 or noise.
                0 => Spline::bspline(channels, grid, Init::LeakyRelu, dtype, cpu).unwrap(),
                kind => {
                    let of_relus = kind == 3;
                    let width = grid.size() - if of_relus { 2 } else { 0 };
                    let var = |t: Tensor| Var::from_tensor(&t).unwrap();
                    let knots = var(random(rng, &[channels, width]));
                    let linear = LinearTerm {
                        weight: var(random(rng, &[channels])),
                        bias: var(random(rng, &[channels])),
                        fixed_bias: k % 5 == 0,
                    };
                    let kind = match kind {
                        1 => Kind::BSpline { coefficients: knots },
                        2 => Kind::ExplicitLinear { coefficients: knots, linear },
                        _ => Kind::ReluSpline { slopes: knots, linear },
                    };
                    Spline::from_parameters(grid, kind).unwrap()
                }
            };
            let mut store = Store::default();
            for parameter in spline.parameters("s") {
                let gradient = random(rng, parameter.var.dims());
                store.set_gradient(&parameter.var, gradient);
            }
            let put = |store: &Store, var: &Var| gpu.put_tensor(store.gradient(var).unwrap());
            let mut layer = NormLayer {
                parametrization: match spline.kind() {
                    Kind::BSpline { .. } => Parametrization::Coefficients,
                    Kind::ExplicitLinear { .. } => Parametrization::ExplicitLinear,
                    Kind::ReluSpline { .. } => Parametrization::SlopeChanges,
                },
                grid,
                channels,
                weight,
                knots: gpu.put_tensor(spline.knot_parameters()).address(),
                gradient: Address::NONE,
                linear: [Address::NONE; 2],
                linear_gradient: [Address::NONE; 2],
            };
            let mut arrays = vec![(spline.knot_parameters().clone(), put(&store, spline.knot_parameters()))];
            layer.gradient = arrays[0].1.address();
            if let Some(linear) = spline.linear_term() {
                layer.linear = [&linear.weight, &linear.bias].map(|var| gpu.put_tensor(var).address());
                arrays.push((linear.weight.clone(), put(&store, &linear.weight)));
                if norm == Norm::Bv2 {
                    layer.linear_gradient[0] = arrays[1].1.address();
                    if !linear.fixed_bias {
                        arrays.push((linear.bias.clone(), put(&store, &linear.bias)));
                        layer.linear_gradient[1] = arrays[2].1.address();
                    }
                }
            }
            // On copies: the CPU adds in place.
            for (_, gradient) in &mut store.0 {
                *gradient = gradient.copy().unwrap();
            }
            norm.add_gradient(&spline, weight, &mut store).unwrap();
            layers.push(layer);
            checks.push((k, arrays, store));
        }
        // SAFETY: the arrays are those of the layers.
        unsafe { add_gradients(&gpu, &layers, norm == Norm::Bv2).unwrap() };
        for (k, arrays, store) in checks {
            for (var, array) in arrays {
                let expected = store.gradient(&var).unwrap();
                gpu.assert_close(&format!("{norm:?}, layer {k}, {:?}", var.shape()), &array, expected, 1e-5, 0);
            }
        }
        gpu.end();
    }
}
