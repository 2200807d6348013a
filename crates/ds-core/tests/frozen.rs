//! Layers of a file, whose tensors are no variables, and the distance of knots among the tensors of a layer.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap};
use common::{generator, tensor, uniform};
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, Init, activation, spline};
use ds_core::graph::{CandleGraph, InputGraph};
use ds_core::regularization::proximal_step;
use ds_core::sparsify::{Cost, Histogram, Pruning, eliminate_knots};
use ds_core::{Error, Grid};
use std::collections::HashMap;

const CHANNELS: usize = 4;
const DEVICE: Device = Device::Cpu;

fn points(seed: u64) -> Tensor {
    tensor(uniform(&mut generator(seed), 32 * CHANNELS, -3.0, 3.0), &[32, CHANNELS]).to_dtype(DType::F32).unwrap()
}

fn bits(y: &Tensor) -> Vec<u32> {
    y.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// A map with an activation of each kind whose parameters are not those that a new one has.
fn activations() -> (VarMap, Vec<(ActivationConfig, Activation)>) {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &DEVICE);
    let kinds = ActivationKind::NAMES.iter().map(|name| {
        let kind: ActivationKind = name.parse().unwrap();
        let config = ActivationConfig { kind, fixed_bias: Some(true), ..Default::default() };
        let layer = activation(CHANNELS, config, vb.pp(kind.name())).unwrap();
        (config, layer)
    });
    let all = kinds.collect();
    let mut names: Vec<String> = map.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    for (k, name) in names.iter().filter(|name| !name.ends_with("grid_step")).enumerate() {
        let var = map.data().lock().unwrap()[name].clone();
        let noise = uniform(&mut generator(k as u64), var.elem_count(), -0.3, 0.3);
        let noise = tensor(noise, var.dims()).to_dtype(DType::F32).unwrap();
        var.set(&(var.as_detached_tensor() + noise).unwrap()).unwrap();
    }
    (map, all)
}

#[test]
fn layers_of_a_file_are_constants_with_the_same_values() {
    let (map, all) = activations();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.safetensors");
    map.save(&file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    // SAFETY: nobody writes to the file.
    let mapped = unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &DEVICE) }.unwrap();
    let buffered = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &DEVICE).unwrap();
    let tensors = candle_core::safetensors::load(&file, &DEVICE).unwrap();
    let x = points(1);
    for vb in [mapped, buffered, VarBuilder::from_tensors(tensors, DType::F32, &DEVICE)] {
        for (config, trainable) in &all {
            let name = config.kind.name();
            let frozen = activation(CHANNELS, *config, vb.pp(name)).unwrap();
            let y = frozen.forward(&x).unwrap();
            assert!(!y.track_op(), "{name}");
            assert!(frozen.parameters(name).is_empty(), "{name}");
            assert_eq!(bits(&y), bits(&trainable.forward(&x).unwrap()), "{name}");
            // Copies are frozen, too, and gradients still flow to the input.
            let copy = frozen.to(DType::F64, &DEVICE).unwrap();
            let x = Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap();
            let [ours, expected] = [
                copy.forward_in(&mut CandleGraph, x.as_tensor()),
                trainable.to(DType::F64, &DEVICE).unwrap().forward_in(&mut InputGraph, x.as_tensor()),
            ]
            .map(|y| y.unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap());
            assert_eq!(ours.get_ids().count(), expected.get_ids().count(), "{name}");
            assert_eq!(common::flat(ours.get(&x).unwrap()), common::flat(expected.get(&x).unwrap()), "{name}");
        }
    }
}

#[test]
fn what_would_change_a_frozen_layer_is_refused() {
    let (map, _) = activations();
    let tensors: HashMap<String, Tensor> =
        map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &DEVICE);
    let refused = |result: ds_core::Result<()>, name: &str| match result {
        Err(Error::Frozen(of)) => {
            assert_eq!(of, name);
            assert!(Error::Frozen(of).to_string().contains("VarMap"));
        }
        other => panic!("{other:?}"),
    };
    for (kind, name) in [
        (ActivationKind::BSpline, "coefficients"),
        (ActivationKind::ExplicitLinear, "coefficients"),
        (ActivationKind::ReluSpline, "slopes"),
        (ActivationKind::LipschitzSpline, "coefficients"),
    ] {
        let layer = activation(CHANNELS, kind, vb.pp(kind.name())).unwrap();
        let mut histogram = Histogram::of(&layer).unwrap().unwrap();
        histogram.add(&points(2), None).unwrap();
        refused(Pruning::new([(&layer, &histogram)], Cost::MeanSquare).map(|_| ()), name);
        let Some(spline) = layer.spline() else { continue };
        let grid = Grid::from_range(51, 3.0).unwrap();
        if kind != ActivationKind::ReluSpline {
            refused(spline.resample(grid), name);
        }
        refused(spline.set_grid(grid), "grid_step");
        refused(eliminate_knots(spline, 0.1).map(|_| ()), name);
        let sizes = spline.knot_parameters().ones_like().unwrap();
        let error = proximal_step(spline, 0.1, &sizes).unwrap_err().to_string();
        assert!(error.contains("no variable"), "{error}");
    }
}

#[test]
fn a_fixed_bias_need_not_be_in_a_file() {
    let (map, _) = activations();
    let mut tensors: HashMap<String, Tensor> =
        map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    tensors.remove("explicit_linear.b0");
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &DEVICE).pp("explicit_linear");
    let config = ActivationConfig { kind: ActivationKind::ExplicitLinear, ..Default::default() };
    let fixed = spline(CHANNELS, ActivationConfig { fixed_bias: Some(true), ..config }, vb.clone()).unwrap();
    assert!(!fixed.forward(&points(1)).unwrap().track_op());
    assert!(spline(CHANNELS, config, vb).unwrap_err().to_string().contains("b0"));
}

#[test]
fn a_frozen_layer_takes_no_file_without_a_parameter() {
    let (map, all) = activations();
    let of_layer = |name: &str| -> HashMap<String, Tensor> {
        let prefix = format!("{name}.");
        let data = map.data().lock().unwrap();
        let tensor =
            |(full, var): (&String, &Var)| Some((full.strip_prefix(&prefix)?.to_owned(), var.as_detached_tensor()));
        data.iter().filter_map(tensor).collect()
    };
    for (config, trainable) in all {
        let name = config.kind.name();
        let tensors = of_layer(name);
        let builder = |tensors| VarBuilder::from_tensors(tensors, DType::F32, &DEVICE);
        let frozen = trainable.with_builder(builder(tensors.clone())).unwrap();
        assert!(frozen.parameters("").is_empty(), "{name}");
        for missing in tensors.keys() {
            let mut others = tensors.clone();
            others.remove(missing);
            // b0 is fixed here, and the distance of the knots is no parameter.
            let is_optional = ["grid_step", "b0"].contains(&missing.as_str());
            for layer in [&trainable, &frozen] {
                match layer.with_builder(builder(others.clone())) {
                    Ok(_) => assert!(is_optional, "{name} without {missing}"),
                    Err(error) => assert!(!is_optional && error.to_string().contains(missing), "{name}: {error}"),
                }
            }
        }
    }
}

#[test]
fn knots_move_with_the_coefficients_that_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.safetensors");
    let layer = |range: f64| {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &DEVICE);
        let config = ActivationConfig::spline(ActivationKind::BSpline, 21, range, Init::EvenOdd);
        let layer = spline(CHANNELS, config, vb.pp("act")).unwrap();
        (map, layer)
    };
    let x = points(3);
    let (map, written) = layer(3.0);
    map.save(&file).unwrap();
    let (mut map, read) = layer(2.0);
    let clone = read.clone();
    assert_ne!(bits(&read.forward(&x).unwrap()), bits(&written.forward(&x).unwrap()));
    map.load(&file).unwrap();
    for spline in [&read, &clone] {
        assert_eq!(spline.grid(), written.grid());
        assert_eq!(bits(&spline.forward(&x).unwrap()), bits(&written.forward(&x).unwrap()));
    }
    // A layer with knots elsewhere is written with them.
    let moved = Grid::from_range(21, 1.5).unwrap();
    read.resample(moved).unwrap();
    let step = map.data().lock().unwrap()["act.grid_step"].to_scalar::<f64>().unwrap();
    assert_eq!((step, clone.grid()), (moved.step(), moved));
    map.save(&file).unwrap();
    let (mut map, again) = layer(3.0);
    map.load(&file).unwrap();
    assert_eq!(bits(&again.forward(&x).unwrap()), bits(&read.forward(&x).unwrap()));
    // A copy has its own.
    let copy = read.to(DType::F64, &DEVICE).unwrap();
    read.set_grid(Grid::from_range(21, 1.0).unwrap()).unwrap();
    assert_eq!(copy.grid(), moved);
    for step in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        map.data().lock().unwrap()["act.grid_step"].set(&Tensor::new(step, &DEVICE).unwrap()).unwrap();
        let error = again.forward(&x).unwrap_err().to_string();
        assert!(error.contains("step"), "{error}");
    }
}
