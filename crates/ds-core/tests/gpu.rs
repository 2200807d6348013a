//! The GPU's kernels against the CPU's, on a GPU: `just gpu-test`. Without one it says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "cuda")]

#[path = "cuda/on_card.rs"]
mod on_card;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Module;
use ds_core::Grid;
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, Init, LipschitzSpline, Spline};
use ds_core::backend::op::Apply;
use ds_core::ops::channel_affine::ChannelAffine;
use ds_core::ops::clip::UnitClip;
use ds_core::ops::hinges::Hinges;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::pairs::{Householder, MaxMin};
use ds_core::ops::rectifier::{ChannelRectifier, Rectifier};
use ds_core::ops::reparametrization::{AddLinearTerm, SumOfRelus};
use ds_core::ops::slope_projection::SlopeProjection;
use ds_core::regularization::Norm;
use on_card::device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(rng: &mut ChaCha8Rng, shape: &[usize], reach: f64, dtype: DType) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-reach..reach) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// max|difference| / max|expected|, in f64.
fn error(ours: &Tensor, expected: &Tensor) -> f64 {
    let flat = |t: &Tensor| {
        let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        t.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let (ours, expected) = (flat(ours), flat(expected));
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    ours.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn forward_and_backward_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    on_card::each(0..200, |round| {
        let shape = match round % 4 {
            0 => vec![rng.random_range(1..300), rng.random_range(1..80)],
            1 => vec![rng.random_range(1..9), rng.random_range(1..9), rng.random_range(1..40), rng.random_range(1..40)],
            2 => vec![rng.random_range(1..65), rng.random_range(1..65), 32, 32],
            _ => vec![rng.random_range(1..129), rng.random_range(1..65), 8, 8],
        };
        let grid = Grid::from_step([3, 21, 51, 101, 201][rng.random_range(0..5)], rng.random_range(0.05..0.5)).unwrap();
        let (dtype, tolerance) = [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::BF16, 8e-3)][round % 3];
        let reach = 1.4 * grid.knot(grid.size() - 1);
        let (x, dy) = (random(rng, &shape, reach, dtype), random(rng, &shape, 1.0, dtype));
        let c = random(rng, &[shape[1], grid.size()], 1.0, DType::F32);
        let op = LinearSpline::new(grid);
        let on = |t: &Tensor| t.to_device(&gpu).unwrap();
        let y = op.forward(&on(&x), &on(&c)).unwrap();
        let (dx, dc) = op.backward(&on(&x), &on(&c), &on(&dy)).unwrap();
        // In f32, which decides the segment of an input next to a knot in the same way.
        let (x32, dy32) = (x.to_dtype(DType::F32).unwrap(), dy.to_dtype(DType::F32).unwrap());
        let expected_y = op.forward(&x32, &c).unwrap();
        let (expected_dx, expected_dc) = op.backward(&x32, &c, &dy32).unwrap();
        let what = format!("round {round}, {shape:?}, K={}, {dtype:?}", grid.size());
        for (name, ours, expected, tolerance) in
            [("y", &y, &expected_y, tolerance), ("∂x", &dx, &expected_dx, tolerance), ("∂c", &dc, &expected_dc, 1e-5)]
        {
            let error = error(ours, expected);
            assert!(error <= tolerance, "{what}: {name} is off by {error:e}");
        }
        // Bit for bit.
        let (_, again) = op.backward(&on(&x), &on(&c), &on(&dy)).unwrap();
        assert_eq!(error(&again, &dc), 0.0, "{what}: another ∂c");
    });
}

/// f(arguments) and the gradients of Σ w·f(arguments) in Candle's graph, on a device.
fn derived(device: &Device, arguments: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
    let vars: Vec<Var> = arguments.iter().map(|t| Var::from_tensor(&t.to_device(device).unwrap()).unwrap()).collect();
    let y = f(&vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>());
    // What both types can hold.
    let w = random(&mut ChaCha8Rng::seed_from_u64(9), y.dims(), 1.0, DType::BF16);
    let w = w.to_dtype(y.dtype()).unwrap().to_device(device).unwrap();
    let gradients = (&y * &w).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![y];
    all.extend(vars.iter().map(|var| gradients.get(var).unwrap().clone()));
    all
}

fn check(what: &str, gpu: &Device, arguments: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor) {
    let wide: Vec<Tensor> = arguments.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
    let (ours, expected) = (derived(gpu, arguments, &f), derived(&Device::Cpu, &wide, &f));
    for (k, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
        let error = error(ours, expected);
        // What is bf16 was rounded once.
        let tolerance = if ours.dtype() == DType::BF16 { 1.0 / 256.0 } else { 1e-5 };
        assert!(error < tolerance, "{what}: result {k} is off by {error:e}");
    }
}

#[test]
fn all_activations_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    on_card::each(0..50, |round| {
        let plane = [vec![], vec![7, 5], vec![8, 8], vec![32, 32]][round % 4].clone();
        let shape = [vec![rng.random_range(1..70), rng.random_range(1..40)], plane].concat();
        let (channels, hinges) = (shape[1], rng.random_range(1..6));
        let grid = Grid::from_step([3, 21, 51][round % 3], 0.2).unwrap();
        let what = format!("round {round}, {shape:?}");
        let x = random(rng, &shape, 3.0, DType::F32);
        let mut of = |shape: &[usize]| random(rng, shape, 1.0, DType::F32);
        let (slopes, a, b) = (of(&[channels]), of(&[channels, hinges]), of(&[channels, hinges]));
        let (c, changes) = (of(&[channels, grid.size()]), of(&[channels, grid.size() - 2]));
        let (b1, b0) = (of(&[channels]), of(&[channels]));
        for dtype in [DType::F32, DType::BF16] {
            let (what, x) = (format!("{what}, {dtype:?}"), x.to_dtype(dtype).unwrap());
            check(&what, &gpu, std::slice::from_ref(&x), |t| t[0].apply_op1(Apply(Rectifier { slope: 0.01 })).unwrap());
            check(&what, &gpu, &[x.clone(), slopes.clone()], |t| {
                t[0].apply_op2(&t[1], Apply(ChannelRectifier)).unwrap()
            });
            let arguments = [x, a.clone(), b.clone()];
            check(&what, &gpu, &arguments, |t| t[0].apply_op3(&t[1], &t[2], Apply(Hinges)).unwrap());
        }
        let arguments = [c, b1.clone(), b0.clone()];
        check(&what, &gpu, &arguments, |t| t[0].apply_op3(&t[1], &t[2], Apply(AddLinearTerm { grid })).unwrap());
        check(&what, &gpu, &[changes, b1, b0], |t| t[0].apply_op3(&t[1], &t[2], Apply(SumOfRelus { grid })).unwrap());
    });
}

#[test]
fn constrained_activations_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    on_card::each(0..50, |round| {
        let plane = [vec![], vec![7, 5], vec![8, 8], vec![32, 32]][round % 4].clone();
        let shape = [vec![rng.random_range(1..70), 2 * rng.random_range(1..20)], plane].concat();
        let (channels, size) = (shape[1], [3, 10, 51][round % 3]);
        let (affine, projection) = (ChannelAffine { shift: -0.1 }, SlopeProjection { size, step: 0.5 });
        let what = format!("round {round}, {shape:?}, K={size}");
        let x = random(rng, &shape, 3.0, DType::F32);
        let mut of = |shape: &[usize]| random(rng, shape, 2.0, DType::F32);
        let (angles, log_alpha, c) = (of(&[channels / 2]), of(&[channels]), of(&[channels, size]));
        for dtype in [DType::F32, DType::BF16] {
            let (what, x) = (format!("{what}, {dtype:?}"), x.to_dtype(dtype).unwrap());
            check(&what, &gpu, std::slice::from_ref(&x), |t| t[0].apply_op1(Apply(MaxMin)).unwrap());
            check(&what, &gpu, &[x.clone(), angles.clone()], |t| t[0].apply_op2(&t[1], Apply(Householder)).unwrap());
            check(&what, &gpu, std::slice::from_ref(&x), |t| t[0].apply_op1(Apply(affine)).unwrap());
            check(&what, &gpu, &[x, log_alpha.clone()], |t| t[0].apply_op2(&t[1], Apply(affine)).unwrap());
        }
        check(&what, &gpu, std::slice::from_ref(&c), |t| t[0].apply_op1(Apply(UnitClip)).unwrap());
        check(&what, &gpu, std::slice::from_ref(&c), |t| t[0].apply_op1(Apply(projection)).unwrap());
        check(&what, &gpu, &[c, log_alpha], |t| t[0].apply_op2(&t[1], Apply(projection)).unwrap());
    });
}

#[test]
fn lipschitz_splines_and_their_norms_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    let cases = [(Norm::Tv2, 20, false), (Norm::Tv2, 21, true), (Norm::Bv2, 20, true), (Norm::Bv2, 21, false)];
    on_card::each(cases, |(norm, size, scaling)| {
        let here = LipschitzSpline::new(8, size, 1.0, Init::Zero, scaling, DType::F32, &Device::Cpu).unwrap();
        for parameter in here.parameters("s") {
            parameter.var.set(&random(rng, parameter.var.dims(), 0.2, DType::F32)).unwrap();
        }
        let there = here.to(DType::F32, &gpu).unwrap();
        let x = random(rng, &[16, 8, 9, 9], 2.0, DType::F32);
        let gradients = |spline: &LipschitzSpline, device: &Device| {
            let y = spline.forward(&x.to_device(device).unwrap()).unwrap();
            let mut gradients = y.sqr().unwrap().mean_all().unwrap().backward().unwrap();
            spline.add_norm_gradient(norm, 0.3, &mut gradients).unwrap();
            spline.parameters("s").iter().map(|p| gradients.get(&p.var).unwrap().clone()).collect::<Vec<_>>()
        };
        for (ours, expected) in gradients(&there, &gpu).iter().zip(&gradients(&here, &Device::Cpu)) {
            assert!(error(ours, expected) < 1e-5, "{norm:?}, K={size}: off by {:e}", error(ours, expected));
        }
        let (ours, expected) = (there.norms(norm).unwrap(), here.norms(norm).unwrap());
        assert!(ours.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-5), "{norm:?}");
    });
}

#[test]
fn norms_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let kinds = [ActivationKind::BSpline, ActivationKind::ExplicitLinear, ActivationKind::ReluSpline];
    let cases = [Norm::Tv2, Norm::Bv2].into_iter().flat_map(|norm| kinds.map(|kind| (norm, kind)));
    on_card::each(cases, |(norm, kind)| {
        let here = ActivationConfig::spline(kind, 51, 4.0, Init::Relu).build(8, false).unwrap();
        let there = here.to(DType::F32, &gpu).unwrap();
        // The three ways to add a gradient.
        let gradients = |activation: &Activation, way: usize| {
            let spline = activation.spline().unwrap();
            let mut gradients = spline.coefficients().unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
            match way {
                0 => norm.add_gradients(&[(spline, 0.3)], &mut gradients).unwrap(),
                1 => norm.add_gradient(spline, 0.3, &mut gradients).unwrap(),
                _ => norm.add_gradient_of(activation, 0.3, &mut gradients).unwrap(),
            }
            spline.parameters("s").iter().map(|p| gradients.get(&p.var).unwrap().clone()).collect::<Vec<_>>()
        };
        let [ours, expected] = [&there, &here].map(|activation| norm.value_of(activation).unwrap().unwrap());
        assert!((ours / expected - 1.0).abs() < 1e-5, "{norm:?}, {kind:?}");
        for way in 0..3 {
            for (ours, expected) in gradients(&there, way).iter().zip(&gradients(&here, way)) {
                let error = error(ours, expected);
                assert!(error < 1e-5, "{norm:?}, {kind:?}, way {way}: off by {error:e}");
            }
        }
    });
}

#[test]
fn all_modules_take_f16() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    on_card::each(ActivationKind::NAMES, |name| {
        let kind: ActivationKind = name.parse().unwrap();
        let here = ActivationConfig::from(kind).build(8, false).unwrap();
        // With a scaling of 1 no input moves to another segment.
        for parameter in here.parameters("s").iter().filter(|parameter| !parameter.name.ends_with("scaling")) {
            parameter.var.set(&random(rng, parameter.var.dims(), 0.5, DType::F32)).unwrap();
        }
        let there = here.to(DType::F32, &gpu).unwrap();
        let x = random(rng, &[16, 8, 6, 6], 3.0, DType::F16);
        let results = |layer: &Activation, device: &Device| {
            let x = Var::from_tensor(&x.to_device(device).unwrap()).unwrap();
            let y = layer.forward(&x).unwrap();
            // A sum of them may be more than f16 can hold.
            let loss = y.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let vars = [x].into_iter().chain(layer.parameters("s").into_iter().map(|parameter| parameter.var));
            let gradients = vars.map(|var| gradients.get(&var).unwrap().clone());
            [y].into_iter().chain(gradients).collect::<Vec<_>>()
        };
        let (ours, expected) = (results(&there, &gpu), results(&here, &Device::Cpu));
        assert_eq!((ours.len(), ours[0].dtype()), (expected.len(), DType::F16), "{name}");
        for (k, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
            assert_eq!(ours.dtype(), expected.dtype(), "{name}, result {k}");
            let error = error(ours, expected);
            assert!(error < 2e-3, "{name}: result {k} is off by {error:e}");
        }
    });
}

#[test]
fn a_layer_learns_on_the_gpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let grid = Grid::from_range(51, 4.0).unwrap();
    let x = random(rng, &[32, 8, 9, 9], 4.0, DType::F32);
    let loss = |device: &Device| {
        let spline = Spline::bspline(8, grid, Init::LeakyRelu, DType::F32, device).unwrap();
        let y = spline.forward_in(&mut ds_core::graph::CandleGraph, &x.to_device(device).unwrap()).unwrap();
        let gradients = y.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        gradients.get(spline.knot_parameters()).unwrap().clone()
    };
    assert!(error(&loss(&gpu), &loss(&Device::Cpu)) < 1e-5);
}
