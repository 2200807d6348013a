//! Activations as modules of candle-nn against their formulas in f64: types, shapes and strides of inputs, and gradients.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Module;
use common::{Set, assert_close, check_gradients, flat, generator, tensor, uniform, variable};
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, ChannelsLast, Init, Kind, LipschitzSpline};

const CHANNELS: usize = 3;

/// Splines of each kind with random parameters, in f64.
fn splines() -> Vec<(&'static str, Activation)> {
    let kinds = [
        ActivationKind::BSpline,
        ActivationKind::ExplicitLinear,
        ActivationKind::ReluSpline,
        ActivationKind::LipschitzSpline,
    ];
    let all = kinds.into_iter().map(|kind| {
        let size = if kind == ActivationKind::LipschitzSpline { 8 } else { 9 };
        let config = ActivationConfig::spline(kind, size, 1.5, Init::Identity);
        let layer = config.build(CHANNELS, false).unwrap().to(DType::F64, &Device::Cpu).unwrap();
        for (k, parameter) in layer.parameters("").iter().enumerate() {
            let values = uniform(&mut generator(k as u64), parameter.var.elem_count(), -0.5, 0.5);
            parameter.var.set(&tensor(values, parameter.var.dims())).unwrap();
        }
        (kind.name(), layer)
    });
    all.collect()
}

/// The line through the two values around x among values at knots with this distance, the middle of which is at 0.
fn interpolated(values: &[f64], step: f64, x: f64) -> f64 {
    let position = x / step + 0.5 * (values.len() - 1) as f64;
    let k = position.floor().clamp(0.0, (values.len() - 2) as f64) as usize;
    values[k] + (position - k as f64) * (values[k + 1] - values[k])
}

/// σ_c(x) by its definition.
fn formula(layer: &Activation, channel: usize, x: f64) -> f64 {
    let row = |t: &Tensor| flat(&t.get(channel).unwrap());
    match layer {
        Activation::Lipschitz(spline) => {
            let alpha = spline.scaling().unwrap()[channel];
            interpolated(&row(&spline.projected_coefficients().unwrap()), spline.step() / alpha, x)
        }
        Activation::Spline(spline) => {
            let grid = spline.grid();
            match spline.kind() {
                Kind::BSpline { coefficients } => interpolated(&row(coefficients), grid.step(), x),
                Kind::ExplicitLinear { coefficients, linear } => {
                    let line = row(&linear.weight)[0] * x + row(&linear.bias)[0];
                    line + interpolated(&row(coefficients), grid.step(), x)
                }
                Kind::ReluSpline { slope_changes, linear } => {
                    let line = row(&linear.weight)[0] * x + row(&linear.bias)[0];
                    let relus = row(slope_changes).into_iter().zip(grid.knots().skip(1));
                    line + relus.map(|(a, knot)| a * (x - knot).max(0.0)).sum::<f64>()
                }
            }
        }
        _ => panic!("no spline"),
    }
}

/// The formula for all elements of (N, C, …).
fn expected(layer: &Activation, x: &Tensor) -> Vec<f64> {
    let inner: usize = x.dims()[2..].iter().product();
    flat(x).iter().enumerate().map(|(k, &x)| formula(layer, k / inner % CHANNELS, x)).collect()
}

fn random(seed: u64, shape: &[usize]) -> Vec<f64> {
    uniform(&mut generator(seed), shape.iter().product(), -2.5, 2.5)
}

#[test]
fn any_shape_and_strides() {
    let shapes: [&[usize]; 5] =
        [&[5, CHANNELS], &[4, CHANNELS, 5], &[2, CHANNELS, 4, 5], &[2, CHANNELS, 2, 3, 4], &[0, CHANNELS, 2]];
    for (name, layer) in splines() {
        for shape in shapes {
            let x = tensor(random(1, shape), shape);
            let y = layer.forward(&x).unwrap();
            assert_eq!(y.dims(), shape, "{name}");
            assert_close(&format!("{name}, {shape:?}"), &flat(&y), &expected(&layer, &x), 1e-12);
            // The same elements in another order in memory, and a part of a larger tensor.
            let swapped = x.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
            let part = Tensor::cat(&[&x, &x], 0).unwrap().narrow(0, shape[0], shape[0]).unwrap();
            for other in [swapped, part] {
                assert_eq!(flat(&layer.forward(&other).unwrap()), flat(&y), "{name}, {shape:?}");
            }
        }
        for shape in [&[][..], &[CHANNELS], &[2, 4], &[2, 4, CHANNELS]] {
            let error = layer.forward(&tensor(random(1, shape), shape)).unwrap_err().to_string();
            assert!(error.contains(&format!("{CHANNELS} channels")), "{name}: {error}");
        }
    }
}

#[test]
fn types_of_inputs() {
    for (name, layer) in splines() {
        let layer = layer.to(DType::F32, &Device::Cpu).unwrap();
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            let shape = [16, CHANNELS, 5];
            let x = Var::from_tensor(&tensor(random(2, &shape), &shape).to_dtype(dtype).unwrap()).unwrap();
            let y = layer.forward(&x).unwrap();
            assert_eq!(y.dtype(), dtype, "{name}");
            assert_close(&format!("{name}, {dtype:?}"), &flat(&y), &expected(&layer, &x), tolerance);
            let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(gradients.get(&x).unwrap().dtype(), dtype, "{name}");
            for parameter in layer.parameters("") {
                assert_eq!(gradients.get(&parameter.var).unwrap().dtype(), DType::F32, "{name}");
            }
        }
        let refused = |layer: &Activation, dtype: DType, taken: &str| {
            let x = Tensor::zeros((2, CHANNELS), dtype, &Device::Cpu).unwrap();
            let error = layer.forward(&x).unwrap_err().to_string();
            assert!(error.contains(dtype.as_str()) && error.contains(taken), "{name}: {error}");
        };
        refused(&layer, DType::F64, "expected f32, f16 or bf16");
        refused(&layer, DType::I64, "expected f32, f16 or bf16");
        for dtype in [DType::F16, DType::BF16] {
            let error = layer.to(dtype, &Device::Cpu).unwrap_err().to_string();
            assert!(error.contains(dtype.as_str()), "{name}: {error}");
        }
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            refused(&layer.to(DType::F64, &Device::Cpu).unwrap(), dtype, "expected f64");
        }
    }
    // Those without parameters take any of the four.
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let x = Tensor::new(&[[-2f32, 4.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let y = Activation::Relu.forward(&x).unwrap();
        assert_eq!((y.dtype(), flat(&y)), (dtype, vec![0.0, 4.0]));
    }
    let x = Var::new(&[[f32::NEG_INFINITY, -1.0, f32::INFINITY]], &Device::Cpu).unwrap();
    let y = Activation::Relu.forward(&x).unwrap();
    assert_eq!(flat(&y), [0.0, 0.0, f64::INFINITY]);
    assert_eq!(flat(y.sum_all().unwrap().backward().unwrap().get(&x).unwrap()), [0.0, 0.0, 1.0]);
    let error = Activation::Relu.forward(&Tensor::zeros((1, 2), DType::U8, &Device::Cpu).unwrap()).unwrap_err();
    assert!(error.to_string().contains("u8"), "{error}");
}

#[test]
fn gradients_of_modules() {
    for (name, layer) in splines() {
        let rng = &mut generator(3);
        for shape in [&[4, CHANNELS][..], &[2, CHANNELS, 2, 2, 3]] {
            let parameters = layer.parameters("").into_iter().map(|parameter| parameter.var);
            let arguments: Vec<Var> = [variable(random(4, shape), shape)].into_iter().chain(parameters).collect();
            check_gradients(name, rng, &arguments, |all| layer.forward(&all[0]).unwrap());
        }
        let shape = [2, 4, CHANNELS];
        let last = ChannelsLast(layer.clone());
        check_gradients(name, rng, &[variable(random(5, &shape), &shape)], |all| last.forward(&all[0]).unwrap());
        // (N, C, T) from (N, T, C), as attention layers turn it.
        let turned = |x: &Tensor| layer.forward(&x.transpose(1, 2).unwrap()).unwrap();
        check_gradients(name, rng, &[variable(random(6, &shape), &shape)], |all| turned(&all[0]));
    }
}

#[test]
fn channels_in_the_last_dimension() {
    for (name, layer) in splines() {
        let last = ChannelsLast(layer.clone());
        for shape in [&[5, CHANNELS][..], &[2, 4, CHANNELS], &[2, 3, 4, CHANNELS], &[0, 4, CHANNELS]] {
            let x = tensor(random(7, shape), shape);
            let y = last.forward(&x).unwrap();
            assert_eq!(y.dims(), shape, "{name}");
            let expected: Vec<f64> =
                flat(&x).iter().enumerate().map(|(k, &x)| formula(&layer, k % CHANNELS, x)).collect();
            assert_close(&format!("{name}, {shape:?}"), &flat(&y), &expected, 1e-12);
        }
        // Sequences that were turned.
        let x = tensor(random(8, &[2, CHANNELS, 4]), &[2, CHANNELS, 4]);
        let y = last.forward(&x.transpose(1, 2).unwrap()).unwrap().transpose(1, 2).unwrap();
        assert_eq!(flat(&y), flat(&layer.forward(&x).unwrap()), "{name}");
        let error = last.forward(&tensor(random(9, &[2, 4]), &[2, 4])).unwrap_err().to_string();
        assert!(error.contains(&format!("{CHANNELS} channels")), "{name}: {error}");
    }
    let spline = LipschitzSpline::new(CHANNELS, 9, 1.0, Init::Absolute, true, DType::F32, &Device::Cpu).unwrap();
    spline.log_scaling().unwrap().set(&Tensor::new(&[0.1f32, 0.2, 0.3], &Device::Cpu).unwrap()).unwrap();
    let x = Tensor::randn(0f32, 1.0, (2, 4, CHANNELS), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
    assert_eq!(ChannelsLast(spline).forward(&x).unwrap().dtype(), DType::BF16);
}
