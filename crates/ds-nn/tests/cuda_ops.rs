//! The GPU side of the ops on an emulated device, against the CPU's, on random shapes. Convolutions of libraries need a GPU
//! (tests/gpu.rs).
#![allow(clippy::unwrap_used)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../../ds-core/tests/cuda/emulated.rs"]
mod emulated;

#[path = "cuda/constrained.rs"]
mod constrained;

use candle_core::{DType, Device, Tensor, Var};
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, Init, Spline};
use ds_core::backend::gpu::{Gpu, LaunchDims};
use ds_core::backend::op;
use ds_core::graph::Gradients;
use ds_core::regularization::ProximalTv2;
use ds_core::{Grid, Group, L2, Parameter};
use ds_nn::ops::Window;
use ds_nn::ops::conv2d::few_channels::{self, FewChannels, Weights};
use ds_nn::ops::conv2d::{Conv2d, PackedWeights};
use ds_nn::ops::dense::Dense;
use ds_nn::ops::dropout::{Dropout, Key, StepKey};
use ds_nn::ops::images::{Crop, gather, gather_on};
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::norm_activation::{ChannelParameters, Function, NormActivation, Statistics};
use ds_nn::ops::pack::{Piece, packed, packed_on};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::ops::sum::Sum;
use ds_nn::optim::{Decay, Optimizer, Rule};
use emulated::{
    Array, Emulated, TYPES, Tolerances, check_beginnings, check_foreach, compare, device, labels, put, random,
    random_of, random_shape, rounded, tensor,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

#[test]
fn kernels_wait_for_their_inputs() {
    assert!(check_beginnings(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) > 10);
}

#[test]
fn batch_norm_residual_and_activation() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..48).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        // With two or three numbers a channel the terms of ∂x cancel to what was rounded of them.
        let shape = random_shape(rng, 4);
        let (channels, training, with_residual) = (shape[1], round % 3 != 0, round % 4 < 2);
        let grid = Grid::from_step([3, 21, 51][rng.random_range(0..3)], rng.random_range(0.1..0.3)).unwrap();
        let function = match round % 5 {
            0 => Function::Identity,
            1 => Function::Rectifier { slope: 0.01 },
            _ => Function::Spline(grid),
        };
        let width = if let Function::Spline(grid) = function { 2 + grid.size() } else { 2 };
        let what = &format!(
            "round {round}, {dtype:?}, {shape:?}, {function:?}, training {training}, residual {with_residual}"
        );
        // A mean far from 0, as a sum of squares would lose it.
        let x = rounded(&(random(rng, &shape) + 5.0).unwrap(), dtype);
        let (r, p) = (random_of(rng, &shape, dtype), random(rng, &[channels, width]));
        let running = [4.0..6.0, 0.5..2.0].map(|range: std::ops::Range<f32>| {
            tensor((0..channels).map(|_| rng.random_range(range.clone())).collect(), &[channels])
        });
        let op = || {
            let [mean, variance] = running.each_ref().map(|running| Var::from_tensor(running).unwrap().into_inner());
            NormActivation {
                statistics: Statistics::new(mean, variance, 0.1, training),
                epsilon: 1e-5,
                function,
                sums: None,
            }
        };
        let (on_gpu, on_cpu) = (op(), op());
        // With a residual, or of two gradients, ∂x is made of ∂z as it was stored, and that may be twice as large.
        let of_x = if dtype == DType::BF16 { 2.0 / 256.0 } else { 1e-4 };
        if with_residual {
            let (gradients, inputs) = ([of_x, 1e-5, 1e-4], [(&x, dtype), (&r, dtype), (&p, DType::F32)]);
            let tolerances = Tolerances { result: 2e-5, gradients: &gradients, outliers: 5 };
            compare(rng, &gpu, what, (&on_gpu, &on_cpu), inputs, &tolerances);
        } else {
            let tolerances = Tolerances { result: 2e-5, gradients: &[of_x, 1e-4], outliers: 5 };
            compare(rng, &gpu, what, (&on_gpu, &on_cpu), [(&x, dtype), (&p, DType::F32)], &tolerances);
        }
        let (ours, expected) = (&on_gpu.statistics, &on_cpu.statistics);
        for (ours, expected) in
            [(&ours.running_mean, &expected.running_mean), (&ours.running_variance, &expected.running_variance)]
        {
            gpu.assert_close(&format!("{what}: running statistics"), &gpu.array_of(ours), expected, 1e-5, 0);
        }
        gpu.end();
    }
}

/// As TF32 holds it: ten bits after the point, halves away from 0.
fn in_tf32(tensor: &Tensor) -> Tensor {
    let round = |v: f32| f32::from_bits((v.to_bits() + 0x1000) & !0x1fff);
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(round).collect();
    self::tensor(values, tensor.dims())
}

#[test]
fn convolutions_with_few_channels() {
    let rng = &mut ChaCha8Rng::seed_from_u64(11);
    let windows = [(3, 1, 1), (3, 2, 1), (1, 2, 0)].map(|(kernel, stride, padding)| Window { kernel, stride, padding });
    let [same, strided, shortcut] = windows;
    // Images, inputs, height and width of outputs, outputs: those of ResNet32 and others.
    let mut shapes = vec![
        (same, (2, 3, 32, 32, 16)),
        (same, (2, 16, 32, 32, 16)),
        (same, (2, 32, 16, 16, 32)),
        (same, (3, 64, 8, 8, 64)),
        (strided, (2, 16, 16, 16, 32)),
        (strided, (2, 32, 8, 8, 64)),
        (shortcut, (2, 16, 16, 16, 32)),
        (shortcut, (2, 32, 8, 8, 64)),
    ];
    for round in 0..12 {
        let mut side = |most| rng.random_range(1..=most);
        let window = windows[round % 3];
        shapes.push((window, (side(3), side(64), side(18), 8 * side(4), side(64))));
    }
    for (round, (window, (n, inputs, height, width, outputs))) in shapes.into_iter().enumerate() {
        for (dtype, is_exact) in [(DType::F32, true), (DType::F32, false), (DType::BF16, true)] {
            if !is_exact && round % 4 != 0 {
                continue;
            }
            let Some(gpu) = device(round % 2) else { return };
            let what = format!("({n}, {inputs}) to ({n}, {outputs}, {height}, {width}), {window:?}, {dtype:?}");
            let input = [n, inputs, height * window.stride, width * window.stride];
            let (output, weight) = ([n, outputs, height, width], [outputs, inputs, window.kernel, window.kernel]);
            let ours = FewChannels::new(dtype, input, output, window).unwrap();
            // Numbers that TF32 holds, or that it rounds.
            let of = if is_exact { DType::BF16 } else { DType::F32 };
            let all = [&input, &weight, &output].map(|shape| random_of(rng, shape, of));
            let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let on = |t: &Tensor, dtype| gpu.put_as(&numbers(t), dtype, 0).address();
            let (on_x, on_w, on_dy) = (on(&all[0], dtype), on(&all[1], DType::F32), on(&all[2], dtype));
            let [x, w, dy] = all.each_ref().map(in_tf32);
            let b = Tensor::zeros(outputs, DType::F32, &Device::Cpu).unwrap();
            let op = Conv2d::new(window);
            let y = op::forward(&op, [&x, &w, &b]).unwrap();
            let [dx, dw, _] = op::backward(&op, [&x, &w, &b], &y, &dy).unwrap();
            let weights = Weights { w: on_w, shape: weight, for_gradient: true };
            let packed = op::only(few_channels::packed(&gpu, dtype, &[weights]).unwrap()).unwrap().address();
            let on_y = ours.forward(&gpu, on_x, packed).unwrap();
            gpu.assert_close(&format!("{what}: y"), &on_y, &y, 2e-6, 0);
            check_sums(&gpu, &what, ours.forward_with_sums(&gpu, on_x, packed).unwrap(), &on_y, output);
            let of_x = ours.input_gradient(&gpu, packed, on_dy).unwrap();
            gpu.assert_close(&format!("{what}: ∂x"), &of_x, &dx.unwrap(), 2e-6, 0);
            let of_w = ours.weight_gradient(&gpu, on_x, on_dy, DType::F32).unwrap();
            gpu.assert_close(&format!("{what}: ∂W"), &of_w, &dw.unwrap(), 5e-6, 0);
            gpu.end();
        }
    }
    let new = |input, output, window| FewChannels::new(DType::F32, input, output, window).is_some();
    let image = [2, 16, 32, 32];
    assert!(new(image, image, same));
    assert!(!new([2, 16, 28, 28], [2, 16, 28, 28], same), "rows that are not made of eights");
    assert!(!new([2, 65, 32, 32], image, same), "many channels");
    assert!(!new([2, 16, 31, 31], [2, 16, 16, 16], strided), "half a pixel");
    assert!(!new(image, image, Window { kernel: 5, stride: 1, padding: 2 }), "a large window");
}

#[test]
fn parameters_side_by_side_and_back() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let (op, f32) = (ChannelParameters, DType::F32);
    let exact = &Tolerances { result: 0.0, gradients: &[0.0; 3], outliers: 0 };
    let Some(gpu) = device(0) else { return };
    for knots in [0, 3, 51] {
        let channels = rng.random_range(1..20);
        let (g, b) = (random(rng, &[channels]), random(rng, &[channels]));
        let what = &format!("{knots} coefficients");
        if knots == 0 {
            compare(rng, &gpu, what, (&op, &op), [(&g, f32), (&b, f32)], exact);
        } else {
            let c = random(rng, &[channels, knots]);
            compare(rng, &gpu, what, (&op, &op), [(&g, f32), (&b, f32), (&c, f32)], exact);
        }
    }
    gpu.end();
}

/// Σy and Σy² of each channel are those of y as it is in memory.
fn check_sums(
    gpu: &Emulated,
    what: &str,
    (y, left): (Array, Option<(Array, usize)>),
    alone: &Array,
    [n, channels, height, width]: [usize; 4],
) {
    let (left, pieces) = left.unwrap();
    let (y, plane) = (gpu.get(&y), height * width);
    assert!(y == gpu.get(alone), "{what}: y with sums");
    let left = gpu.get_f64(&left);
    assert_eq!(left.len(), 2 * pieces * channels, "{what}");
    for channel in 0..channels {
        let of_channel = (0..n).flat_map(|image| &y[(image * channels + channel) * plane..][..plane]);
        let (mut sum, mut squares) = (0.0, 0.0);
        for &y in of_channel {
            (sum, squares) = (sum + f64::from(y), squares + f64::from(y) * f64::from(y));
        }
        let found = |k: usize| (0..pieces).map(|piece| left[2 * (piece * channels + channel) + k]).sum::<f64>();
        let (of_sum, of_squares) = (found(0), found(1));
        let scale = (squares * (n * plane) as f64).sqrt();
        assert!((of_sum - sum).abs() <= 1e-6 * scale, "{what}: Σy of channel {channel}: {of_sum} and {sum}");
        assert!((of_squares - squares).abs() <= 1e-5 * squares, "{what}: Σy²: {of_squares} and {squares}");
    }
}

/// What one launch computes for many layers, more than its arguments have room for, against a launch for each.
#[test]
fn many_layers_in_one_launch() {
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    let Some(gpu) = device(0) else { return };
    let sizes: Vec<_> = (0..200).map(|_| (rng.random_range(1..9), rng.random_range(3..12))).collect();
    let of_channels = sizes
        .iter()
        .map(|&(channels, knots)| (ChannelParameters, [vec![channels], vec![channels], vec![channels, knots]]));
    check_foreach(rng, &gpu, &of_channels.collect::<Vec<_>>());
    for dtype in TYPES {
        let weights = sizes
            .iter()
            .enumerate()
            .map(|(k, &(o, i))| (PackedWeights { dtype, for_gradient: k % 3 > 0 }, [vec![o, i, 3, 3]]));
        check_foreach(rng, &gpu, &weights.collect::<Vec<_>>());
    }
    gpu.end();
}

#[test]
fn sums_dense_layers_and_dropout() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..20).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let shape = random_shape(rng, 2);
        let what = &format!("round {round}, {dtype:?}, {shape:?}");
        let (a, b) = (random_of(rng, &shape, dtype), random_of(rng, &shape, dtype));
        let exact = &Tolerances { result: 0.0, gradients: &[0.0; 2], outliers: 0 };
        compare(rng, &gpu, what, (&Sum, &Sum), [(&a, dtype), (&b, dtype)], exact);
        // The key of the step by value, and where it was put.
        let (step, layer) = (rng.random(), rng.random_range(0..9));
        let there = Tensor::from_vec(vec![u64::cast_signed(step)], 1, &Device::Cpu).unwrap();
        let by_value = Dropout::of_layer(0.3, Key::Number(step), layer);
        compare(rng, &gpu, what, (&by_value, &by_value), [(&a, dtype)], exact);
        let there = StepKey::from_tensor(there);
        let on_device = Dropout::of_layer(0.3, Key::OnDevice(&there), layer);
        compare(rng, &gpu, what, (&on_device, &by_value), [(&a, dtype)], exact);
        // Sums of few products are exact but for their roundings.
        let (inputs, outputs) = (rng.random_range(1..9), rng.random_range(1..9));
        let x = random_of(rng, &[shape[0], inputs], dtype);
        let (w, bias) = (random_of(rng, &[outputs, inputs], dtype), random(rng, &[outputs]));
        // A result is rounded twice where a bias is added to it.
        let result = if dtype == DType::BF16 { 2.0 / 256.0 } else { 1e-5 };
        let tolerances = Tolerances { result, gradients: &[1e-5; 3], outliers: 0 };
        let op = Dense { input_gradient: round % 3 > 0 };
        let inputs = [(&x, dtype), (&w, dtype), (&bias, DType::F32)];
        compare(rng, &gpu, what, (&op, &op), inputs, &tolerances);
        gpu.end();
    }
}

#[test]
fn pools() {
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..30).map(move |round| (round, dtype))) {
        let Some(gpu) = device(0) else { return };
        let kernel = rng.random_range(1..5);
        let window = Window { kernel, stride: rng.random_range(1..4), padding: rng.random_range(0..=kernel / 2) };
        let shape = [3, 2, rng.random_range(5..14), rng.random_range(5..14)];
        // Whole numbers, so that there are ties.
        let x = (random(rng, &shape) * 3.0).unwrap().round().unwrap();
        let what = &format!("round {round}, {dtype:?}, {shape:?}, {window:?}");
        let tolerances = &Tolerances { result: 1e-6, gradients: &[1e-6], outliers: 0 };
        compare(rng, &gpu, what, (&MaxPool(window), &MaxPool(window)), [(&x, dtype)], tolerances);
        compare(rng, &gpu, what, (&AveragePool(window), &AveragePool(window)), [(&x, dtype)], tolerances);
        gpu.end();
    }
}

#[test]
fn losses_and_their_totals() {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    for round in 0..18 {
        let Some(gpu) = device(0) else { return };
        let kind = [Kind::CrossEntropy, Kind::BinaryCrossEntropy, Kind::MeanSquaredError][round % 3];
        let (rows, classes) = (rng.random_range(1..600), if round % 3 == 0 { rng.random_range(2..20) } else { 1 });
        let x = (random(rng, &[rows, classes]) * 4.0).unwrap();
        let targets = if kind == Kind::CrossEntropy {
            labels(rng, rows, classes)
        } else {
            tensor((0..rows).map(|_| f32::from(rng.random_bool(0.5))).collect(), &[rows])
        };
        let what = &format!("round {round}, {kind:?}, {rows} × {classes}");
        let margin = if round.is_multiple_of(2) { 0.7 } else { 0.0 };
        let op = |totals| Loss { kind, margin, totals };
        let totals = || Some(Tensor::new(&[1f64, 2.0], &Device::Cpu).unwrap());
        for (on_gpu, on_cpu) in [(op(None), op(None)), (op(totals()), op(totals()))] {
            let tolerances = Tolerances { result: 1e-6, gradients: &[1e-5, 0.0], outliers: 0 };
            let inputs = [(&x, DType::F32), (&targets, targets.dtype())];
            compare(rng, &gpu, what, (&on_gpu, &on_cpu), inputs, &tolerances);
            let (Some(ours), Some(expected)) = (&on_gpu.totals, &on_cpu.totals) else { continue };
            let (ours, expected) = (gpu.get_f64(&gpu.array_of(ours)), expected.to_vec1::<f64>().unwrap());
            assert!(
                (ours[0] / expected[0] - 1.0).abs() < 1e-6 && ours[1] == expected[1],
                "{what}: {ours:?}, {expected:?}"
            );
        }
        gpu.end();
    }
}

struct Store(Vec<(Tensor, Tensor)>);

impl Gradients for Store {
    fn gradient(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.0.iter().find(|(var, _)| var.id() == parameter.id()).map(|(_, gradient)| gradient)
    }
    fn set_gradient(&mut self, parameter: &Tensor, gradient: Tensor) {
        self.0.push((parameter.clone(), gradient));
    }
}

#[test]
fn optimisers_update_all_parameters_in_one_launch() {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    for rule in [Rule::Sgd { momentum: 0.9 }, Rule::Adam] {
        let Some(gpu) = device(0) else { return };
        let (mut on_cpu, mut on_gpu) = (Vec::new(), Vec::new());
        // More than one launch takes, some larger than a block.
        for k in 0..130 {
            let length = if k % 50 == 0 { 3000 } else { rng.random_range(1..40) };
            let (initial, l2) = (random(rng, &[length]), [L2::WeightDecay, L2::Exempt][k % 2]);
            for all in [&mut on_cpu, &mut on_gpu] {
                let var = Var::from_tensor(&initial.copy().unwrap()).unwrap();
                all.push(Parameter::new(format!("p{k}"), &var, Group::Weights, l2));
            }
        }
        let optimizer = |parameters: &[Parameter]| {
            Optimizer::new(rule, Decay { weights: 0.01, hinges: 0.0 }, parameters.to_vec()).unwrap()
        };
        let (mut expected, mut ours) = (optimizer(&on_cpu), optimizer(&on_gpu));
        for rate in [0.05, 0.05, 0.005] {
            let (mut of_cpu, mut of_gpu) = (Store(Vec::new()), Store(Vec::new()));
            for (k, (a, b)) in on_cpu.iter().zip(&on_gpu).enumerate() {
                // Now and then there is none.
                if k % 7 != 3 {
                    let gradient = random(rng, a.var.dims());
                    of_cpu.set_gradient(&a.var, gradient.clone());
                    of_gpu.set_gradient(&b.var, gradient);
                }
            }
            expected.step(&of_cpu, rate).unwrap();
            ours.step_on(&gpu, &of_gpu, rate).unwrap();
        }
        for (ours, expected) in on_gpu.iter().zip(&on_cpu) {
            let array = gpu.array_of(&ours.var);
            gpu.assert_close(&format!("{rule:?}, {}", ours.name), &array, &expected.var, 1e-5, 0);
        }
        gpu.end();
    }
}

#[test]
fn proximal_steps_of_all_layers_in_one_launch() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let Some(gpu) = device(0) else { return };
    let kinds = [ActivationKind::BSpline, ActivationKind::ExplicitLinear, ActivationKind::ReluSpline];
    // More than one launch takes, some of more knots than a block has threads.
    let all: Vec<[Spline; 2]> = (0..60)
        .map(|k| {
            let (channels, size) = (1 + k % 9, [3, 21, 51, 161][k / 3 % 4]);
            let config = ActivationConfig::spline(kinds[k % 3], size, 1.0, Init::LeakyRelu);
            [(); 2].map(|()| match config.build(channels, false).unwrap() {
                Activation::Spline(spline) => spline,
                other => panic!("{other:?}"),
            })
        })
        .collect();
    let optimizer = |which: usize| {
        let of = |(k, splines): (usize, &[Spline; 2])| splines[which].parameters(&format!("s{k}"));
        let mut optimizer = Optimizer::new(Rule::Adam, Decay::default(), all.iter().enumerate().flat_map(of)).unwrap();
        // Some without a penalty.
        let penalties = all.iter().enumerate().map(|(k, s)| (s, [1e-2, 1e-4, 0.0][k % 7 % 3]));
        optimizer.set_proximal(penalties.map(|(s, lambda)| ProximalTv2::new(&s[which], lambda))).unwrap();
        optimizer
    };
    let (mut expected, mut ours) = (optimizer(0), optimizer(1));
    for rate in [0.01, 0.01, 0.001] {
        let (mut of_cpu, mut of_gpu) = (Store(Vec::new()), Store(Vec::new()));
        for [a, b] in all.iter().map(|splines| splines.each_ref().map(Spline::knot_parameters)) {
            let gradient = random(rng, a.dims());
            of_cpu.set_gradient(a, gradient.clone());
            of_gpu.set_gradient(b, gradient);
        }
        expected.step(&of_cpu, rate).unwrap();
        ours.step_on(&gpu, &of_gpu, rate).unwrap();
    }
    for (k, splines) in all.iter().enumerate() {
        let [expected, ours] = splines.each_ref().map(Spline::knot_parameters);
        gpu.assert_close(&format!("layer {k}"), &gpu.array_of(ours), expected, 1e-4, 0);
    }
    gpu.end();
}

#[test]
fn proximal_steps_with_sizes_of_all_orders() {
    let rng = &mut ChaCha8Rng::seed_from_u64(10);
    let Some(gpu) = device(0) else { return };
    let config = ActivationConfig::spline(ActivationKind::BSpline, 51, 1.0, Init::LeakyRelu);
    let splines = [(); 2].map(|()| match config.build(150, false).unwrap() {
        Activation::Spline(spline) => spline,
        other => panic!("{other:?}"),
    });
    // Adam's first step sizes are the rate over the gradients: 1 and 1e-5, for which pivoting may take very many passes.
    let scales: Vec<f32> = (0..150 * 51).map(|_| if rng.random() { 1e-5 } else { 1.0 }).collect();
    let gradient = random(rng, &[150, 51]).mul(&Tensor::from_vec(scales, (150, 51), &Device::Cpu).unwrap()).unwrap();
    for (which, spline) in splines.iter().enumerate() {
        let mut optimizer = Optimizer::new(Rule::Adam, Decay::default(), spline.parameters("")).unwrap();
        optimizer.set_proximal([ProximalTv2::new(spline, 3e-3)]).unwrap();
        let mut store = Store(Vec::new());
        store.set_gradient(spline.knot_parameters(), gradient.clone());
        if which == 0 {
            optimizer.step(&store, 0.01).unwrap();
        } else {
            optimizer.step_on(&gpu, &store, 0.01).unwrap();
        }
    }
    let [expected, ours] = splines.each_ref().map(Spline::knot_parameters);
    gpu.assert_close("coefficients", &gpu.array_of(ours), expected, 1e-4, 0);
    gpu.end();
}

#[test]
fn tensors_are_packed() {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    let Some(gpu) = device(0) else { return };
    // More than one launch takes, some larger than a block.
    for count in [1, 7, 400] {
        let (mut pieces, mut start) = (Vec::new(), 0);
        for k in 0..count {
            let len = if k % 50 == 6 { rng.random_range(1000..3000) } else { rng.random_range(1..40) };
            let from = (k % 5 != 3).then(|| random(rng, &[len]));
            pieces.push(Piece { from, start, len });
            start += len.next_multiple_of(4);
        }
        let expected = packed(&pieces, start, 0.375, &Device::Cpu).unwrap();
        // SAFETY: the pieces have these lengths and do not overlap.
        let ours = unsafe { packed_on(&gpu, &pieces, start, 0.375).unwrap() };
        gpu.assert_close(&format!("{count} pieces"), &ours, &expected, 0.0, 0);
    }
    gpu.end();
}

#[test]
fn images_are_gathered() {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let Some(gpu) = device(0) else { return };
    for (sides, dtype) in [[3, 8, 8], [1, 5, 7]].into_iter().zip(TYPES).chain([([2, 9, 3], DType::BF16)]) {
        let [channels, height, width] = sides;
        let bytes: Vec<u8> = (0..6 * channels * height * width).map(|_| rng.random()).collect();
        let table = random_of(rng, &[channels, 256], dtype);
        let crops: Vec<Crop> = (0..40)
            .map(|_| Crop {
                index: rng.random_range(0..6),
                dy: rng.random_range(-4..=4),
                dx: rng.random_range(-4..=4),
                flip: rng.random(),
            })
            .collect();
        let words: Vec<u32> = crops.iter().copied().flat_map(Crop::words).collect();
        let there =
            (gpu.put_u8(&bytes).address(), put(rng, &gpu, &table, dtype).address(), gpu.put_u32(&words).address());
        let ours = gather_on(&gpu, dtype, there, 6, [40, channels, height, width]).unwrap();
        let set = Tensor::from_vec(bytes, (6, channels, height, width), &Device::Cpu).unwrap();
        let expected = gather(&set, &table.to_dtype(dtype).unwrap(), &crops).unwrap();
        assert_eq!(expected.dtype(), dtype);
        let expected = expected.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(gpu.get(&ours), expected.to_vec1::<f32>().unwrap(), "{sides:?}, {dtype:?}");
    }
    gpu.end();
}

#[test]
fn a_launch_with_wrong_arguments_is_found_here() {
    let Some(gpu) = device(0) else { return };
    let x = gpu.put(&[1.0; 4]).address();
    // SAFETY: the emulation refuses it.
    let launch = unsafe { gpu.launch("add_f32", LaunchDims::one(0), &[x.into(), x.into(), 1f32.into()]) };
    let error = launch.unwrap_err().to_string();
    assert!(error.contains("3 arguments"), "{error}");
    let error = ds_core::backend::gpu::kernel_of("add", DType::F16).unwrap_err().to_string();
    assert!(error.contains("add: ") && error.contains("f32 and bf16, got F16"), "{error}");
    gpu.end();
}
