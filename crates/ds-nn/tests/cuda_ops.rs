//! The GPU side of the ops on an emulated device, against the CPU's, on random shapes. Most convolutions and matrix products are
//! libraries' and need a GPU (tests/gpu.rs).
#![allow(clippy::unwrap_used)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../../ds-core/tests/cuda/emulated.rs"]
mod emulated;

use candle_core::{CustomOp1, CustomOp2, CustomOp3, DType, Device, Tensor, Var};
use ds_core::graph::Gradients;
use ds_core::ops::gpu::{Address, Gpu};
use ds_core::ops::planes::Planes;
use ds_core::{Grid, Group, L2, Parameter};
use ds_nn::ops::Window;
use ds_nn::ops::conv2d::Conv2d;
use ds_nn::ops::dropout::{Dropout, Key};
use ds_nn::ops::gpu::few_channels::FewChannels;
use ds_nn::ops::gpu::{images, loss, norm, optim, pack, pointwise, pool, put_word};
use ds_nn::ops::images::{Pick, PlaceImages};
use ds_nn::ops::norm_activation::{ChannelParameters, Function, Moments, NormActivation, Statistics};
use ds_nn::ops::pack::{Piece, packed};
use ds_nn::ops::pool::{AveragePool, MaxPool};
use ds_nn::ops::sum::Sum;
use ds_nn::ops::target_loss::{Tally, TargetLoss};
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::rng::hash;
use emulated::{TYPES, device, put, random, random_of, random_shape, rounded, tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex};

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
        let what =
            format!("round {round}, {dtype:?}, {shape:?}, {function:?}, training {training}, residual {with_residual}");
        // A mean far from 0, as a sum of squares would lose it.
        let x = rounded(&(random(rng, &shape) + 5.0).unwrap(), dtype);
        let (r, dy) = (random_of(rng, &shape, dtype), random_of(rng, &shape, dtype));
        let p = random(rng, &[channels, width]);
        let planes = Planes::new(x.shape(), channels, "test").unwrap();
        let running_mean: Vec<f32> = (0..channels).map(|_| rng.random_range(4.0..6.0)).collect();
        let running_variance: Vec<f32> = (0..channels).map(|_| rng.random_range(0.5..2.0)).collect();

        let epsilon = 1e-5;
        let of_batch = Arc::new(Mutex::new(Moments::default()));
        let in_f64 = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let statistics = if training {
            Statistics::Batch(of_batch.clone())
        } else {
            let fixed = Moments { mean: in_f64(&running_mean), variance: in_f64(&running_variance) };
            Statistics::Fixed(Arc::new(fixed))
        };
        let op = NormActivation { statistics, epsilon, function };
        let (y, dx, dr, dp) = if with_residual {
            let y = x.apply_op3_no_bwd(&r, &p, &op).unwrap();
            let (dx, dr, dp) = CustomOp3::bwd(&op, &x, &r, &p, &y, &dy).unwrap();
            (y, dx.unwrap(), dr, dp.unwrap())
        } else {
            let y = x.apply_op2_no_bwd(&p, &op).unwrap();
            let (dx, dp) = CustomOp2::bwd(&op, &x, &p, &y, &dy).unwrap();
            (y, dx.unwrap(), None, dp.unwrap())
        };

        let on_x = put(rng, &gpu, &x, dtype).address();
        let residual = if with_residual { put(rng, &gpu, &r, dtype).address() } else { Address::NONE };
        let inputs = norm::Inputs { dtype, x: on_x, residual, parameters: gpu.put_tensor(&p).address() };
        let (mean, variance) = (gpu.put(&running_mean), gpu.put(&running_variance));
        let constants = norm::Constants { momentum: 0.1, epsilon };
        let running = (mean.address(), variance.address());
        // SAFETY: the arrays are this test's.
        let (ours, moments) =
            unsafe { norm::forward(&gpu, planes, function, inputs, running, training, constants).unwrap() };
        gpu.assert_close(&format!("{what}: y"), &ours, &y, 2e-5, 0);
        if training {
            let (count, moments) = ((x.elem_count() / channels) as f64, of_batch.lock().unwrap());
            let new = |old: &[f32], of_batch: &[f64], factor: f64| {
                let all =
                    old.iter().zip(of_batch).map(|(&old, new)| (0.9 * f64::from(old) + 0.1 * factor * new) as f32);
                tensor(all.collect(), &[channels])
            };
            let unbiased = count / (count - 1.0).max(1.0);
            gpu.assert_close("running mean", &mean, &new(&running_mean, &moments.mean, 1.0), 1e-5, 0);
            let expected = new(&running_variance, &moments.variance, unbiased);
            gpu.assert_close("running variance", &variance, &expected, 1e-5, 0);
        }
        let on_dy = put(rng, &gpu, &dy, dtype).address();
        let all =
            norm::backward(&gpu, planes, function, inputs, (moments.address(), on_dy), training, epsilon).unwrap();
        // With a residual ∂x is made of ∂z as it was stored, and that may be twice as large.
        let tolerance = if with_residual && dtype == DType::BF16 { 2.0 / 256.0 } else { 1e-4 };
        gpu.assert_close(&format!("{what}: ∂x"), &all.x, &dx, tolerance, 5);
        if let Some(dr) = dr {
            gpu.assert_close(&format!("{what}: ∂residual"), &all.residual.unwrap(), &dr, 1e-5, 5);
        }
        gpu.assert_close(&format!("{what}: ∂parameters"), &all.parameters, &dp, 1e-4, 5);
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
            let on = |t: &Tensor| gpu.put_as(&t.flatten_all().unwrap().to_vec1::<f32>().unwrap(), dtype, 0).address();
            let ([on_x, on_w, on_dy], [x, w, dy]) = (all.each_ref().map(on), all.each_ref().map(in_tf32));
            let b = Tensor::zeros(outputs, DType::F32, &Device::Cpu).unwrap();
            let op = Conv2d { window, input_gradient: true, weight_gradient: true };
            let y = x.apply_op3_no_bwd(&w, &b, &op).unwrap();
            let (dx, dw, _) = CustomOp3::bwd(&op, &x, &w, &b, &y, &dy).unwrap();
            gpu.assert_close(&format!("{what}: y"), &ours.forward(&gpu, on_x, on_w).unwrap(), &y, 2e-6, 0);
            let of_x = ours.input_gradient(&gpu, on_w, on_dy).unwrap();
            gpu.assert_close(&format!("{what}: ∂x"), &of_x, &dx.unwrap(), 2e-6, 0);
            let of_w = ours.weight_gradient(&gpu, on_x, on_dy).unwrap();
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
    let Some(gpu) = device(0) else { return };
    for knots in [0, 3, 51] {
        let (channels, width) = (rng.random_range(1..20), 2 + knots);
        let (g, b, c) = (random(rng, &[channels]), random(rng, &[channels]), random(rng, &[channels, knots.max(1)]));
        let of = [&g, &b, &c].map(|t| gpu.put_tensor(t).address());
        let ours = norm::packed(&gpu, channels, width, of).unwrap();
        let expected = if knots == 0 {
            g.apply_op2_no_bwd(&b, &ChannelParameters).unwrap()
        } else {
            g.apply_op3_no_bwd(&b, &c, &ChannelParameters).unwrap()
        };
        gpu.assert_close("packed", &ours, &expected, 0.0, 0);
        let [og, ob, oc] = norm::unpacked(&gpu, channels, width, ours.address()).unwrap();
        gpu.assert_close("γ", &og, &g, 0.0, 0);
        gpu.assert_close("β", &ob, &b, 0.0, 0);
        if knots > 0 {
            gpu.assert_close("c", &oc, &c, 0.0, 0);
        }
    }
    gpu.end();
}

#[test]
fn sums_biases_and_dropout() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..20).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let shape = random_shape(rng, 2);
        let what = format!("round {round}, {dtype:?}, {shape:?}");
        let (a, b) = (random_of(rng, &shape, dtype), random_of(rng, &shape, dtype));
        let (n, planes) = (a.elem_count(), Planes::new(a.shape(), shape[1], "test").unwrap());
        let (on_a, on_b) = (put(rng, &gpu, &a, dtype), put(rng, &gpu, &b, dtype).address());
        let ours = pointwise::add(&gpu, dtype, on_a.address(), on_b, n).unwrap();
        gpu.assert_close(&what, &ours, &a.apply_op2_no_bwd(&b, &Sum).unwrap(), 0.0, 0);
        let totals = pointwise::channel_totals(&gpu, planes, dtype, on_a.address()).unwrap();
        let expected = a.reshape((shape[0], shape[1], ())).unwrap().to_dtype(DType::F64).unwrap();
        let expected = expected.sum((0, 2)).unwrap();
        gpu.assert_close(&format!("{what}: totals"), &totals, &expected, 1e-5, 0);
        let (step, layer) = (rng.random(), rng.random_range(0..9));
        let expected = a.apply_op1_no_bwd(&Dropout::of_layer(0.3, Key::Number(step), layer)).unwrap();
        // The key of the step by value, and where it was put.
        let there = gpu.alloc(DType::F64, 1).unwrap().address();
        // SAFETY: the array is this test's.
        unsafe { put_word(&gpu, step, there).unwrap() };
        for (step, key) in [(Address::NONE, hash(step, layer)), (there, layer)] {
            let draw = pointwise::Draw { probability: 0.3, step, key };
            let ours = pointwise::dropout(&gpu, draw, dtype, on_a.address(), n).unwrap();
            gpu.assert_close(&format!("{what}: dropout"), &ours, &expected, 0.0, 0);
        }
        let bias = random(rng, &[shape[1]]);
        // SAFETY: the array is this test's.
        unsafe { pointwise::add_bias(&gpu, planes, dtype, on_a.address(), gpu.put_tensor(&bias).address()).unwrap() };
        let mut as_planes = vec![1; shape.len()];
        as_planes[1] = shape[1];
        let expected = a.broadcast_add(&bias.reshape(as_planes).unwrap()).unwrap();
        gpu.assert_close(&format!("{what}: bias"), &on_a, &expected, 0.0, 0);
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
        let x_there = put(rng, &gpu, &x, dtype).address();
        let what = format!("round {round}, {dtype:?}, {shape:?}, {window:?}");
        for kind in [pool::Kind::Max, pool::Kind::Mean] {
            let (y, shape_of_y) = pool::pool(&gpu, kind, window, x.shape(), dtype, x_there).unwrap();
            let expected = match kind {
                pool::Kind::Max => x.apply_op1_no_bwd(&MaxPool(window)).unwrap(),
                pool::Kind::Mean => x.apply_op1_no_bwd(&AveragePool(window)).unwrap(),
            };
            assert_eq!(&shape_of_y, expected.shape(), "{what}");
            gpu.assert_close(&format!("{what}, {kind:?}"), &y, &expected, 1e-6, 0);
            let dy = random_of(rng, expected.dims(), dtype);
            let on_dy = put(rng, &gpu, &dy, dtype).address();
            let both = (x_there, y.address());
            let ours = pool::pool_gradient(&gpu, kind, window, x.shape(), dtype, both, on_dy).unwrap();
            let dx = match kind {
                pool::Kind::Max => MaxPool(window).bwd(&x, &expected, &dy).unwrap().unwrap(),
                pool::Kind::Mean => AveragePool(window).bwd(&x, &expected, &dy).unwrap().unwrap(),
            };
            gpu.assert_close(&format!("{what}, {kind:?}: ∂x"), &ours, &dx, 1e-6, 0);
        }
        gpu.end();
    }
}

#[test]
fn losses_and_their_sums() {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    for round in 0..18 {
        let Some(gpu) = device(0) else { return };
        let op = [TargetLoss::CrossEntropy, TargetLoss::Binary, TargetLoss::Squared][round % 3];
        let (rows, classes) = (rng.random_range(1..600), if round % 3 == 0 { rng.random_range(2..20) } else { 1 });
        let x = (random(rng, &[rows, classes]) * 4.0).unwrap();
        let (targets, on_gpu) = if op == TargetLoss::CrossEntropy {
            let labels: Vec<u8> = (0..rows).map(|_| rng.random_range(0..classes) as u8).collect();
            let there = gpu.put_u8(&labels).address();
            (Tensor::from_vec(labels, rows, &Device::Cpu).unwrap(), loss::Loss::CrossEntropy { labels: there, classes })
        } else {
            let targets: Vec<f32> = (0..rows).map(|_| f32::from(rng.random_bool(0.5))).collect();
            let there = gpu.put(&targets).address();
            let on_gpu = match op {
                TargetLoss::Binary => loss::Loss::Binary { targets: there },
                _ => loss::Loss::Squared { targets: there },
            };
            (tensor(targets, &[rows]), on_gpu)
        };
        let on_x = gpu.put_tensor(&x).address();
        let what = format!("round {round}, {op:?}, {rows} × {classes}");
        let mean = x.apply_op2_no_bwd(&targets, &op).unwrap();
        gpu.assert_close(&what, &loss::mean(&gpu, on_gpu, on_x, rows).unwrap(), &mean, 1e-6, 0);
        let scale = tensor(vec![0.7], &[]);
        let (dx, _) = op.bwd(&x, &targets, &mean, &scale).unwrap();
        let ours = loss::gradient(&gpu, on_gpu, on_x, gpu.put(&[0.7]).address(), rows).unwrap();
        gpu.assert_close(&format!("{what}: ∂x"), &ours, &dx.unwrap(), 1e-5, 0);
        let (totals, expected) = (gpu.put_f64(&[1.0, 2.0]), Tensor::new(&[1f64, 2.0], &Device::Cpu).unwrap());
        expected.inplace_op3(&x, &targets, &Tally(op)).unwrap();
        // SAFETY: the array is this test's.
        unsafe { loss::tally(&gpu, on_gpu, on_x, totals.address(), rows).unwrap() };
        let (ours, expected) = (gpu.get_f64(&totals), expected.to_vec1::<f64>().unwrap());
        assert!((ours[0] / expected[0] - 1.0).abs() < 1e-6 && ours[1] == expected[1], "{what}: {ours:?}, {expected:?}");
        gpu.end();
    }
}

struct Store(Vec<(Var, Tensor)>);

impl Gradients for Store {
    fn gradient(&self, parameter: &Var) -> Option<&Tensor> {
        self.0.iter().find(|(var, _)| var.id() == parameter.id()).map(|(_, gradient)| gradient)
    }
    fn set_gradient(&mut self, parameter: &Var, gradient: Tensor) {
        self.0.push((parameter.clone(), gradient));
    }
}

#[test]
fn optimisers_update_all_parameters_in_one_launch() {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    for rule in [Rule::Sgd { momentum: 0.9 }, Rule::Adam] {
        let Some(gpu) = device(0) else { return };
        let averages = if rule == Rule::Adam { 2 } else { 1 };
        let (mut parameters, mut slots, mut arrays) = (Vec::new(), Vec::new(), Vec::new());
        // More than one launch takes, some larger than a block.
        for k in 0..130 {
            let length = if k % 50 == 0 { 3000 } else { rng.random_range(1..40) };
            let l2 = [L2::WeightDecay, L2::Exempt][k % 2];
            let var = Var::from_tensor(&random(rng, &[length])).unwrap();
            let (theta, state) = (gpu.put_tensor(&var), gpu.put(&vec![0.0; averages * length]));
            let decay = [0.01, 0.0][k % 2];
            let (address, gradient) = (theta.address(), Address::NONE);
            slots.push(optim::Slot { theta: address, gradient, state: state.address(), length, decay });
            parameters.push(Parameter::new(format!("p{k}"), &var, Group::Weights, l2));
            arrays.push(theta);
        }
        let mut optimizer = Optimizer::new(rule, Decay { weights: 0.01, hinges: 0.0 }, parameters.clone()).unwrap();
        let schedule = gpu.put(&[f32::NAN; 2]).address();
        for (step, rate) in [(1, 0.05), (2, 0.05), (3, 0.005)] {
            let mut store = Store(Vec::new());
            for (k, (slot, parameter)) in slots.iter_mut().zip(&parameters).enumerate() {
                slot.gradient = Address::NONE;
                // Now and then there is none.
                if k % 7 != 3 {
                    let gradient = random(rng, &[slot.length]);
                    slot.gradient = gpu.put_tensor(&gradient).address();
                    store.set_gradient(&parameter.var, gradient);
                }
            }
            optimizer.step(&store, rate).unwrap();
            // SAFETY: the arrays are this test's.
            unsafe {
                optim::schedule(&gpu, rule, rate, step, schedule).unwrap();
                optim::step(&gpu, rule, &slots, schedule).unwrap();
            }
        }
        for (parameter, array) in parameters.iter().zip(&arrays) {
            gpu.assert_close(&format!("{rule:?}, {}", parameter.name), array, &parameter.var, 1e-5, 0);
        }
        gpu.end();
    }
}

#[test]
fn tensors_are_packed() {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    let Some(gpu) = device(0) else { return };
    // More than one launch takes, some larger than a block.
    for count in [1, 7, 400] {
        let (mut pieces, mut there, mut start) = (Vec::new(), Vec::new(), 0);
        for k in 0..count {
            let len = if k % 50 == 6 { rng.random_range(1000..3000) } else { rng.random_range(1..40) };
            let from = (k % 5 != 3).then(|| random(rng, &[len]));
            let address = from.as_ref().map_or(Address::NONE, |from| put(rng, &gpu, from, DType::F32).address());
            there.push(pack::Piece { from: address, start, len });
            pieces.push(Piece { from, start, len });
            start += len.next_multiple_of(4);
        }
        let expected = packed(&pieces, start, 0.375, &Device::Cpu).unwrap();
        // SAFETY: the arrays are this test's.
        let ours = unsafe { pack::packed(&gpu, &there, start, 0.375).unwrap() };
        gpu.assert_close(&format!("{count} pieces"), &ours, &expected, 0.0, 0);
    }
    gpu.end();
}

#[test]
fn images_are_placed() {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let Some(gpu) = device(0) else { return };
    for (sides, dtype) in [[3, 8, 8], [1, 5, 7]].into_iter().zip(TYPES).chain([([2, 9, 3], DType::BF16)]) {
        let [channels, height, width] = sides;
        let bytes: Vec<u8> = (0..6 * channels * height * width).map(|_| rng.random()).collect();
        let table = random_of(rng, &[channels, 256], dtype);
        let picks: Vec<u32> = (0..40)
            .map(|_| Pick {
                index: rng.random_range(0..6),
                dy: rng.random_range(-4..=4),
                dx: rng.random_range(-4..=4),
                flip: rng.random(),
            })
            .flat_map(Pick::words)
            .collect();
        let there =
            (gpu.put_u8(&bytes).address(), put(rng, &gpu, &table, dtype).address(), gpu.put_u32(&picks).address());
        let ours = images::place(&gpu, dtype, there, (6, 40), sides).unwrap();
        let set = Tensor::from_vec(bytes, (6, channels, height, width), &Device::Cpu).unwrap();
        let picks = Tensor::from_vec(picks, (40, 2), &Device::Cpu).unwrap();
        let expected = set.apply_op3_no_bwd(&table.to_dtype(dtype).unwrap(), &picks, &PlaceImages).unwrap();
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
    let blocks = ds_core::ops::gpu::Blocks::one(0);
    // SAFETY: the emulation refuses it.
    let error = unsafe { gpu.launch("add_f32", blocks, &[x.into(), x.into(), 1f32.into()]) }.unwrap_err().to_string();
    assert!(error.contains("3 arguments"), "{error}");
    let error = pointwise::add(&gpu, DType::F16, x, x, 4).unwrap_err().to_string();
    assert!(error.contains("add: ") && error.contains("f32 and bf16, got F16"), "{error}");
    gpu.end();
}
