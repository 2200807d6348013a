//! The GPU side of the ops on an emulated device, against the CPU's, on random shapes. What only a GPU can show (speed, the rounding
//! of its units) is left to tests/gpu.rs.
#![allow(clippy::unwrap_used)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "cuda/emulated.rs"]
mod emulated;

use candle_core::{DType, Device, Layout, Tensor, Var};
use ds_core::Grid;
use ds_core::activation::{Init, Kind, LinearTerm, LipschitzSpline, Spline};
use ds_core::backend::gpu::{Argument, Gpu, GpuInput, LaunchDims};
use ds_core::backend::op::{Backward, Gradient, Op};
use ds_core::graph::Gradients;
use ds_core::ops::channel_affine::ChannelAffine;
use ds_core::ops::clip::UnitClip;
use ds_core::ops::hinges::Hinges;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::pairs::{Householder, MaxMin};
use ds_core::ops::rectifier::{ChannelRectifier, Rectifier};
use ds_core::ops::reparametrization::{AddLinearTerm, SumOfRelus};
use ds_core::ops::slope_projection::SlopeProjection;
use ds_core::regularization::{Norm, ProximalTv2, Workspace};
use emulated::{
    TYPES, Tolerances, check_beginnings, check_foreach, compare, device, random, random_of, random_shape, rounded,
    tensor,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

#[test]
fn kernels_wait_for_their_inputs() {
    assert!(check_beginnings(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) > 10);
}

#[test]
fn rectifiers_and_hinges() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..30).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let shape = random_shape(rng, 1);
        let what = &format!("round {round}, {dtype:?}, {shape:?}");
        let x = random_of(rng, &shape, dtype);
        let (slopes, hinges) = (random(rng, &[shape[1]]), [shape[1], rng.random_range(1..6)]);
        let (a, b, f32) = (random(rng, &hinges), random(rng, &hinges), DType::F32);
        let tolerances = |result, gradients| Tolerances { result, gradients, outliers: 0 };
        let op = Rectifier { slope: 0.01 };
        compare(rng, &gpu, what, (&op, &op), [(&x, dtype)], &tolerances(1e-6, &[1e-6]));
        let (op, inputs) = (ChannelRectifier, [(&x, dtype), (&slopes, f32)]);
        compare(rng, &gpu, what, (&op, &op), inputs, &tolerances(1e-6, &[1e-6, 1e-5]));
        let (op, inputs) = (Hinges, [(&x, dtype), (&a, f32), (&b, f32)]);
        compare(rng, &gpu, what, (&op, &op), inputs, &tolerances(1e-5, &[1e-5; 3]));
        gpu.end();
    }
}

#[test]
fn pairs_of_channels() {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..40).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let mut shape = random_shape(rng, 1);
        shape[1] *= 2;
        let what = &format!("round {round}, {dtype:?}, {shape:?}");
        let x = random_of(rng, &shape, dtype);
        let exact = Tolerances { result: 0.0, gradients: &[0.0], outliers: 0 };
        compare(rng, &gpu, what, (&MaxMin, &MaxMin), [(&x, dtype)], &exact);
        let angles = (random(rng, &[shape[1] / 2]) * 2.0).unwrap();
        let tolerances = Tolerances { result: 1e-6, gradients: &[1e-6, 1e-5], outliers: 0 };
        compare(rng, &gpu, what, (&Householder, &Householder), [(&x, dtype), (&angles, DType::F32)], &tolerances);
        gpu.end();
    }
}

#[test]
fn pairs_that_are_equal_or_no_numbers() {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1.5, -1.5, 0.25];
    let (first, second): (Vec<_>, Vec<_>) = values.iter().flat_map(|&a| values.map(|b| (a, b))).unzip();
    for (dtype, in_planes) in TYPES.into_iter().flat_map(|dtype| [(dtype, false), (dtype, true)]) {
        let Some(gpu) = device(0) else { return };
        let planes = tensor([first.clone(), second.clone()].concat(), &[1, 2, 64]);
        let x = if in_planes { planes } else { planes.squeeze(0).unwrap().t().unwrap().contiguous().unwrap() };
        let x = &rounded(&x, dtype);
        let exact = Tolerances { result: 0.0, gradients: &[0.0], outliers: 0 };
        compare(rng, &gpu, "max-min", (&MaxMin, &MaxMin), [(x, dtype)], &exact);
        // π/2 is MaxMin, where equal numbers lie on the line.
        for angle in [0.0, 0.7, std::f32::consts::FRAC_PI_2] {
            let (angles, op) = (tensor(vec![angle], &[1]), Householder);
            let tolerances = Tolerances { result: 1e-6, gradients: &[1e-6; 2], outliers: 0 };
            compare(rng, &gpu, "householder", (&op, &op), [(x, dtype), (&angles, DType::F32)], &tolerances);
        }
        gpu.end();
    }
}

#[test]
fn arguments_of_lipschitz_splines() {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..20).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let (shape, f32) = (random_shape(rng, 1), DType::F32);
        let what = &format!("round {round}, {dtype:?}, {shape:?}");
        let (x, log_alpha) = (random_of(rng, &shape, dtype), random(rng, &[shape[1]]));
        let op = ChannelAffine { shift: rng.random_range(-0.5..0.5) };
        let tolerances = |gradients| Tolerances { result: 1e-6, gradients, outliers: 0 };
        compare(rng, &gpu, what, (&op, &op), [(&x, dtype)], &tolerances(&[0.0]));
        compare(rng, &gpu, what, (&op, &op), [(&x, dtype), (&log_alpha, f32)], &tolerances(&[1e-6, 1e-5]));
        gpu.end();
    }
}

#[test]
fn projections_and_clipping() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let exact = Tolerances { result: 0.0, gradients: &[0.0], outliers: 0 };
    for round in 0..30 {
        let Some(gpu) = device(round % 2) else { return };
        let (size, channels) = ([2, 3, 4, 5, 20, 51, 300][round % 7], rng.random_range(1..70));
        let (op, f32) = (SlopeProjection { size, step: rng.random_range(0.1..4.0) }, DType::F32);
        let (c, log_alpha) = (random(rng, &[channels, size]), random(rng, &[channels]));
        let what = &format!("round {round}, {op:?}, {channels} channels");
        let tolerances = Tolerances { result: 1e-6, gradients: &[1e-6; 2], outliers: 0 };
        compare(rng, &gpu, what, (&op, &op), [(&c, f32)], &tolerances);
        compare(rng, &gpu, what, (&op, &op), [(&c, f32), (&log_alpha, f32)], &tolerances);
        compare(rng, &gpu, what, (&UnitClip, &UnitClip), [(&c, f32)], &exact);
        gpu.end();
    }
    let Some(gpu) = device(0) else { return };
    let edges = tensor(vec![f32::NAN, 1.0, -1.0, 1.0f32.next_up(), (-1.0f32).next_down(), 0.0, -0.0], &[7]);
    compare(rng, &gpu, "edges", (&UnitClip, &UnitClip), [(&edges, DType::F32)], &exact);
    // Slopes of 1 but for rounding are free.
    let (op, ramp) = (SlopeProjection { size: 50, step: 0.1 }, (0..50).map(|k| 0.1 * k as f32 - 1.7).collect());
    let tolerances = Tolerances { result: 1e-6, gradients: &[1e-6], outliers: 0 };
    compare(rng, &gpu, "ramp", (&op, &op), [(&tensor(ramp, &[1, 50]), DType::F32)], &tolerances);
    gpu.end();
}

#[test]
fn splines() {
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    let types = [DType::F32, DType::F32, DType::BF16, DType::F16];
    for (round, dtype) in types.into_iter().flat_map(|dtype| (0..30).map(move |round| (round, dtype))) {
        let Some(gpu) = device(rng.random_range(0..2)) else { return };
        let inner = [1, 3, 9, 31, 32, 49, 64, 100, 256, 1000][rng.random_range(0..10)];
        let few = if inner > 100 { 3 } else { 4 };
        let outer = [1, 2, 7, 33, 130][rng.random_range(0..few + usize::from(inner <= 100))];
        let shape = [outer, [1, 2, 5, 40][rng.random_range(0..few)], inner];
        let grid =
            Grid::from_step([3, 5, 21, 51, 53, 201][rng.random_range(0..6)], rng.random_range(0.05..0.2)).unwrap();
        let what = &format!("round {round}, {dtype:?}, {shape:?}, K={}", grid.size());
        let (x, c) = (random_of(rng, &shape, dtype), random(rng, &[shape[1], grid.size()]));
        let op = LinearSpline::new(grid);
        let tolerances = Tolerances { result: 1e-5, gradients: &[1e-5; 2], outliers: 0 };
        compare(rng, &gpu, what, (&op, &op), [(&x, dtype), (&c, DType::F32)], &tolerances);
        gpu.end();
    }
}

#[test]
fn inputs_that_are_no_numbers_and_inputs_at_knots() {
    let Some(gpu) = device(0) else { return };
    let grid = Grid::from_step(51, 0.16).unwrap();
    let step = grid.step() as f32;
    // Knots, the numbers just left of them, and what has no segment.
    let mut x: Vec<f32> = (0..64).map(|k| (k / 2 - 15) as f32 * step).collect();
    x.iter_mut().step_by(2).for_each(|x| *x = x.next_down());
    (x[0], x[2], x[4], x[6]) = (f32::NAN, f32::INFINITY, -1e30, f32::NEG_INFINITY);
    let c: Vec<f32> = (0..51).map(|k| (k * k) as f32).collect();
    let arrays = [gpu.put(&x), gpu.put(&c), gpu.put(&[1.0; 64])];
    let layouts = [&[1, 1, 64][..], &[1, 51], &[1, 1, 64]].map(Layout::contiguous);
    let input = |k: usize| GpuInput::new(&gpu, &arrays[k], &layouts[k], DType::F32, "test").unwrap();
    let (op, inputs) = (LinearSpline::new(grid), [input(0), input(1)]);
    let y = gpu.get(&op.gpu(&gpu, &inputs).unwrap());
    assert!(y[0].is_nan() && y[2] == f32::INFINITY && y[4] < -1e28 && y[6] == f32::NEG_INFINITY, "{:?}", &y[..8]);
    let [dx, _, _] =
        op.gpu_backward(&gpu, &Backward { inputs: &inputs, y: input(0), dy: input(2), more: None }).unwrap();
    let Gradient::Value(dx) = dx else { panic!("no gradient") };
    for (k, (x, dx)) in x.iter().zip(&gpu.get(&dx)).enumerate().filter(|(k, _)| *k > 6 || k % 2 == 1) {
        // The quotient as a division rounds it.
        let i = ((x / step).floor() + 25.0) as usize;
        assert!((dx - (c[i + 1] - c[i]) / step).abs() < 1e-2, "{k}: {dx} at {x}");
    }
    gpu.end();
}

#[test]
fn an_empty_batch_has_gradients_of_0() {
    let Some(gpu) = device(0) else { return };
    let (rng, grid) = (&mut ChaCha8Rng::seed_from_u64(5), Grid::from_step(5, 0.5).unwrap());
    let (x, c) = (Tensor::zeros((0, 2, 4), DType::F32, &Device::Cpu).unwrap(), random(rng, &[2, 5]));
    let op = LinearSpline::new(grid);
    let tolerances = Tolerances { result: 0.0, gradients: &[0.0; 2], outliers: 0 };
    compare(rng, &gpu, "empty", (&op, &op), [(&x, DType::F32), (&c, DType::F32)], &tolerances);
    gpu.end();
}

/// More layers than the arguments of one launch have room for.
#[test]
fn linear_terms_of_many_layers() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let Some(gpu) = device(0) else { return };
    let layers = (0..200).map(|_| {
        let (channels, knots) = (rng.random_range(1..9), 2 * rng.random_range(1..6) + 1);
        let grid = Grid::from_step(knots, 0.5).unwrap();
        (AddLinearTerm { grid }, [vec![channels, knots], vec![channels], vec![channels]])
    });
    check_foreach(&mut ChaCha8Rng::seed_from_u64(10), &gpu, &layers.collect::<Vec<_>>());
    gpu.end();
}

#[test]
fn reparametrizations() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for round in 0..12 {
        let Some(gpu) = device(0) else { return };
        let grid = Grid::from_step([3, 5, 51][round % 3], rng.random_range(0.05..0.5)).unwrap();
        let (channels, size, f32) = (rng.random_range(1..40), grid.size(), DType::F32);
        let (b1, b0) = (random(rng, &[channels]), random(rng, &[channels]));
        let (c, a) = (random(rng, &[channels, size]), random(rng, &[channels, size - 2]));
        let tolerances = &Tolerances { result: 1e-6, gradients: &[1e-6; 3], outliers: 0 };
        let op = AddLinearTerm { grid };
        compare(rng, &gpu, "c + b1·x + b0", (&op, &op), [(&c, f32), (&b1, f32), (&b0, f32)], tolerances);
        let op = SumOfRelus { grid };
        compare(rng, &gpu, "Σ ReLU", (&op, &op), [(&a, f32), (&b1, f32), (&b0, f32)], tolerances);
        gpu.end();
    }
}

/// Gradients by parameter.
#[derive(Default)]
struct Store(Vec<(Tensor, Tensor)>);

impl Gradients for Store {
    fn gradient(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.0.iter().find(|(var, _)| var.id() == parameter.id()).map(|(_, gradient)| gradient)
    }
    fn set_gradient(&mut self, parameter: &Tensor, gradient: Tensor) {
        self.0.retain(|(var, _)| var.id() != parameter.id());
        self.0.push((parameter.clone(), gradient));
    }
}

/// A layer of each parametrisation in turn, and straight lines, whose slope changes are 0 or noise.
fn spline(rng: &mut ChaCha8Rng, k: usize) -> Spline {
    let grid = Grid::from_step([3, 5, 51][k % 3], [0.1, 0.4][k % 2]).unwrap();
    let channels = rng.random_range(1..20);
    if k.is_multiple_of(4) {
        return Spline::bspline(channels, grid, Init::LeakyRelu, DType::F32, &Device::Cpu).unwrap();
    }
    let mut var = |shape: &[usize]| Var::from_tensor(&random(rng, shape)).unwrap().into_inner();
    let knots = var(&[channels, grid.size() - if k % 4 == 3 { 2 } else { 0 }]);
    let linear = LinearTerm { weight: var(&[channels]), bias: var(&[channels]), fixed_bias: k.is_multiple_of(5) };
    let kind = match k % 4 {
        1 => Kind::BSpline { coefficients: knots },
        2 => Kind::ExplicitLinear { coefficients: knots, linear },
        _ => Kind::ReluSpline { slope_changes: knots, linear },
    };
    Spline::from_parameters(grid, kind).unwrap()
}

#[test]
fn norm_gradients_of_all_layers_in_one_launch() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for (norm, with_tv2) in [(Norm::Tv2, true), (Norm::Bv2, true), (Norm::Bv2, false)] {
        let Some(gpu) = device(0) else { return };
        // More than one launch takes.
        let splines: Vec<(Spline, f64)> = (0..40).map(|k| (spline(rng, k), rng.random_range(0.1..1.0))).collect();
        let layers: Vec<(&Spline, f64)> = splines.iter().map(|(spline, weight)| (spline, *weight)).collect();
        let (mut ours, mut expected) = (Store::default(), Store::default());
        for parameter in splines.iter().flat_map(|(spline, _)| spline.parameters("s")) {
            let gradient = random(rng, parameter.var.dims());
            // A copy: the CPU adds in place.
            expected.set_gradient(&parameter.var, gradient.copy().unwrap());
            ours.set_gradient(&parameter.var, gradient);
        }
        norm.add_gradients_on(&gpu, with_tv2, &layers, &mut ours).unwrap();
        if with_tv2 {
            norm.add_gradients(&layers, &mut expected).unwrap();
        } else {
            norm.add_gradients_without_tv2(&layers, &mut expected).unwrap();
        }
        for (k, (spline, _)) in splines.iter().enumerate() {
            for (name, var) in spline.parameters("s").into_iter().map(|p| (p.name, p.var)) {
                // Gradients that the norm does not change need not be on the device.
                if norm == Norm::Tv2 && var.id() != spline.knot_parameters().id() {
                    continue;
                }
                let array = gpu.array_of(ours.gradient(&var).unwrap());
                let expected = expected.gradient(&var).unwrap();
                gpu.assert_close(&format!("{norm:?}, layer {k}, {name}"), &array, expected, 1e-5, 0);
            }
        }
        gpu.end();
    }
}

#[test]
fn proximal_points_with_step_sizes_of_0() {
    let rng = &mut ChaCha8Rng::seed_from_u64(11);
    let Some(gpu) = device(0) else { return };
    for (round, size) in [3, 5, 21, 51].into_iter().flat_map(|size| (0..4).map(move |round| (round, size))) {
        let (grid, channels) = (Grid::from_step(size, 0.1).unwrap(), 4);
        let spline = Spline::bspline(channels, grid, Init::Zero, DType::F32, &Device::Cpu).unwrap();
        let penalty = ProximalTv2::new(&spline, 1e-2);
        let u: Vec<f64> = (0..channels * size).map(|_| rng.random_range(-1.0..1.0)).collect();
        // None, all, those of some functions, or of the last knots.
        let first = rng.random_range(0..size);
        let is_fixed: Vec<bool> = (0..u.len())
            .map(|k| match round {
                0 => false,
                1 => true,
                2 => k / size % 2 == 0,
                _ => k % size >= first,
            })
            .collect();
        let sizes = is_fixed.iter().map(|&fixed| if fixed { 0.0 } else { rng.random_range(0.01..1.0) });
        let w: Vec<f64> = sizes.collect();
        let mut expected = u.clone();
        penalty.solve(&mut Workspace::default(), &mut expected, &w);
        let (on_gpu, scale) = (gpu.put_f64(&u), gpu.put_f64(&w));
        let work = gpu.alloc(DType::F64, 14 * u.len()).unwrap();
        let [c, scale, work] = [on_gpu, scale, work].map(|array| array.address().into());
        let blocks = LaunchDims { grid: (channels, 1), threads: 8, shared: 4 * 8 };
        let arguments = [c, scale, work, Argument::Int(size as i32), penalty.weight().into()];
        // SAFETY: the arguments of the kernel, and arrays of these lengths.
        unsafe { gpu.launch("trend_filter", blocks, &arguments).unwrap() };
        for (k, (ours, expected)) in gpu.get_f64(&on_gpu).into_iter().zip(expected).enumerate() {
            let allowed = if is_fixed[k] { 0.0 } else { 1e-8 };
            assert!((ours - expected).abs() <= allowed, "K={size}, round {round}, number {k}: {ours} for {expected}");
        }
    }
    gpu.end();
}

#[test]
fn norm_gradients_of_lipschitz_splines() {
    let rng = &mut ChaCha8Rng::seed_from_u64(10);
    for (round, norm) in [Norm::Tv2, Norm::Bv2].into_iter().flat_map(|norm| (0..32).map(move |round| (round, norm))) {
        let Some(gpu) = device(0) else { return };
        let (size, scaling) = ([3, 4, 9, 20, 51][round % 5], round % 2 == 0);
        let (init, channels) = ([Init::Identity, Init::Absolute][round / 2 % 2], rng.random_range(1..40));
        // Differences of coefficients are up to 4: slopes are free, clipped, or both.
        let (range, weight) = ([0.3, 0.25, 1.0][round % 3] * size as f64, if round == 9 { 0.0 } else { 0.7 });
        let (f32, cpu) = (DType::F32, &Device::Cpu);
        let spline = LipschitzSpline::new(channels, size, range, init, scaling, f32, cpu).unwrap();
        let parameters = spline.parameters("s");
        // Some keep their initial shapes, whose slope changes and values are 0.
        for parameter in parameters.iter().filter(|_| round % 4 > 0) {
            parameter.var.set(&random(rng, parameter.var.dims())).unwrap();
        }
        let (mut ours, mut expected) = (Store::default(), Store::default());
        // None flowed to some.
        for parameter in parameters.iter().filter(|_| round % 3 > 0) {
            let gradient = random(rng, parameter.var.dims());
            expected.set_gradient(&parameter.var, gradient.copy().unwrap());
            ours.set_gradient(&parameter.var, gradient);
        }
        spline.add_norm_gradient_on(&gpu, norm, weight, &mut ours).unwrap();
        spline.add_norm_gradient(norm, weight, &mut expected).unwrap();
        for (name, var) in parameters.into_iter().map(|p| (p.name, p.var)) {
            let (ours, expected) = (ours.gradient(&var), expected.gradient(&var));
            assert_eq!(ours.is_some(), expected.is_some(), "{name}");
            let (Some(ours), Some(expected)) = (ours, expected) else { continue };
            // TV² does not change ln α, whose gradient is not on the device then.
            if norm == Norm::Bv2 || var.id() == spline.coefficients().id() {
                let what = format!("{norm:?}, round {round}, K={size}, {name}");
                gpu.assert_close(&what, &gpu.array_of(ours), expected, 1e-6, 0);
            }
        }
        gpu.end();
    }
}
