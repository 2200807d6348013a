//! A spline activation in a network of Candle, with nothing but `candle-core`, `candle-nn` and this crate: two groups of parameters,
//! saved, and loaded by another process.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, SGD, VarBuilder, VarMap, linear};
use ds_core::activation::{
    Activation, ActivationConfig, ActivationKind, Groups, Init, Kind, Spline, activation, spline,
};
use ds_core::regularization::Norm;
use ds_core::sparsify::eliminate_knots;
use ds_core::{Group, Parameter, variable};
use std::path::Path;
use std::process::Command;

const DEVICE: Device = Device::Cpu;

struct Net {
    first: Linear,
    act1: Spline,
    act2: Activation,
    last: Linear,
}

impl Net {
    fn new(vb: VarBuilder<'_>) -> ds_core::Result<Self> {
        let config =
            ActivationConfig { kind: ActivationKind::ExplicitLinear, size: 21, range: 2.0, ..Default::default() };
        Ok(Self {
            first: linear(2, 6, vb.pp("first"))?,
            act1: spline(6, config, vb.pp("act1"))?,
            act2: activation(6, ActivationKind::LipschitzSpline, vb.pp("act2"))?,
            last: linear(6, 1, vb.pp("last"))?,
        })
    }

    fn parameters(&self) -> Vec<Parameter> {
        [self.act1.parameters("act1"), self.act2.parameters("act2")].concat()
    }
}

impl Module for Net {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.act2.forward(&self.act1.forward(&self.first.forward(x)?)?)?;
        self.last.forward(&x)
    }
}

fn points() -> Tensor {
    let numbers: Vec<f32> = (0..64).map(|k| ((k * 37 % 64) as f32 - 32.0) / 20.0).collect();
    Tensor::from_vec(numbers, (32, 2), &DEVICE).unwrap()
}

fn bits(y: &Tensor) -> Vec<u32> {
    y.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn trained() -> (VarMap, Net) {
    let map = VarMap::new();
    let net = Net::new(VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap();
    let groups = Groups::of(&map, &net.parameters());
    assert_eq!((groups.weights.len(), groups.splines.len(), groups.scalings.len()), (4, 4, 1));
    let adam = |vars, lr| AdamW::new(vars, ParamsAdamW { lr, weight_decay: 0.0, ..Default::default() }).unwrap();
    let mut optimizers =
        (SGD::new(groups.weights, 0.05).unwrap(), adam([groups.splines, groups.scalings].concat(), 1e-2));
    let before = net.act1.coefficients().unwrap();
    let x = points();
    let target = x.sqr().unwrap().sum_keepdim(1).unwrap();
    let mut losses = Vec::new();
    for _ in 0..10 {
        let loss = (net.forward(&x).unwrap() - &target).unwrap().sqr().unwrap().mean_all().unwrap();
        losses.push(loss.to_scalar::<f32>().unwrap());
        let gradients = loss.backward().unwrap();
        optimizers.0.step(&gradients).unwrap();
        optimizers.1.step(&gradients).unwrap();
    }
    assert!(losses[9] < losses[0], "{losses:?}");
    assert_ne!(bits(&before), bits(&net.act1.coefficients().unwrap()));
    (map, net)
}

#[test]
fn a_network_is_trained_saved_and_loaded_by_another_process() {
    // The other process is this test again.
    const FILE: &str = "DS_TEST_FILE";
    if let Some(file) = std::env::var_os(FILE) {
        // SAFETY: nobody writes to the file.
        let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &DEVICE) }.unwrap();
        let mapped = Net::new(vb).unwrap().forward(&points()).unwrap();
        let mut map = VarMap::new();
        let net = Net::new(VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap();
        map.load(Path::new(&file)).unwrap();
        assert_eq!(bits(&net.forward(&points()).unwrap()), bits(&mapped));
        println!("outputs {:?}", bits(&mapped));
        return;
    }
    let (map, net) = trained();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.safetensors");
    map.save(&file).unwrap();
    let name = "a_network_is_trained_saved_and_loaded_by_another_process";
    let mut other = Command::new(std::env::current_exe().unwrap());
    let output = other.args(["--exact", name, "--nocapture"]).env(FILE, &file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("outputs {:?}", bits(&net.forward(&points()).unwrap()))), "{said}");
}

/// README's code.
#[test]
fn one_step_with_a_penalty_and_knots_that_are_left() -> ds_core::Result<()> {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &DEVICE);
    let conv = candle_nn::conv2d(3, 16, 3, Default::default(), vb.pp("conv"))?;
    let activation = spline(16, ActivationConfig::default(), vb.pp("activation"))?;
    let groups = Groups::of(&map, &activation.parameters("activation"));
    let mut weights = SGD::new(groups.weights, 0.1)?;
    let mut splines = AdamW::new(groups.splines, ParamsAdamW { lr: 1e-3, weight_decay: 0.0, ..Default::default() })?;

    let x = Tensor::randn(0f32, 1.0, (8, 3, 32, 32), &DEVICE)?;
    let loss = activation.forward(&conv.forward(&x)?)?.sqr()?.mean_all()?;
    let mut gradients = loss.backward()?;
    Norm::Tv2.add_gradient(&activation, 1e-4, &mut gradients)?;
    weights.step(&gradients)?;
    splines.step(&gradients)?;
    let kept = eliminate_knots(&activation, 0.05)?;
    assert_eq!(kept.len(), 16);
    Ok(())
}

#[test]
fn the_map_has_all_parameters_and_new_ones_begin_with_the_initial_shape() {
    let kinds = [
        (ActivationKind::BSpline, vec!["coefficients", "grid_step"]),
        (ActivationKind::ExplicitLinear, vec!["b0", "b1", "coefficients", "grid_step"]),
        (ActivationKind::ReluSpline, vec!["b0", "b1", "grid_step", "slopes"]),
        (ActivationKind::LipschitzSpline, vec!["coefficients", "log_scaling"]),
        (ActivationKind::PRelu, vec!["slopes"]),
        (ActivationKind::Apl, vec!["offsets", "slopes"]),
        (ActivationKind::Relu, vec![]),
    ];
    let x = points();
    for (kind, names) in kinds {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let map = VarMap::new();
            let vb = VarBuilder::from_varmap(&map, dtype, &DEVICE);
            let ours = activation(2, kind, vb.pp("net").pp("act")).unwrap();
            let data = map.data().lock().unwrap();
            let mut found: Vec<&str> = data.keys().map(|name| name.strip_prefix("net.act.").unwrap()).collect();
            found.sort_unstable();
            assert_eq!(found, names, "{kind:?}");
            for parameter in ours.parameters("net.act") {
                assert_eq!(parameter.var.id(), data[&parameter.name].id(), "{}", parameter.name);
                let expected = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                assert_eq!(parameter.var.dtype(), expected);
            }
            if dtype == DType::F32 {
                let plain = ActivationConfig::from(kind).build(2, false).unwrap();
                assert_eq!(bits(&ours.forward(&x).unwrap()), bits(&plain.forward(&x).unwrap()), "{kind:?}");
            }
        }
    }
}

#[test]
fn two_layers_of_one_path_share_their_parameters() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &DEVICE);
    let one = spline(3, ActivationConfig::default(), vb.pp("act")).unwrap();
    let var = variable("coefficients", one.knot_parameters()).unwrap();
    var.set(&one.knot_parameters().affine(2.0, 0.0).unwrap()).unwrap();
    let two = spline(3, ActivationConfig::default(), vb.pp("act")).unwrap();
    assert_eq!(one.knot_parameters().id(), two.knot_parameters().id());
    assert_eq!(bits(one.knot_parameters()), bits(two.knot_parameters()));
    assert!(one.parameters("act").iter().all(|parameter| parameter.group == Group::Splines));
}

#[test]
fn a_file_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.safetensors");
    let (map, _) = trained();
    map.save(&file).unwrap();
    // SAFETY: nobody writes to the file.
    let vb = || unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &DEVICE) }.unwrap().pp("act1");
    let config = ActivationConfig::spline(ActivationKind::ExplicitLinear, 21, 2.0, Init::LeakyRelu);
    spline(6, config, vb()).unwrap();
    for (channels, config, expected) in [
        (6, ActivationConfig { range: 3.0, ..config }, "0.2"),
        (6, ActivationConfig { size: 51, range: 5.0, ..config }, "shape"),
        (7, config, "shape"),
        (6, ActivationConfig { kind: ActivationKind::ReluSpline, ..config }, "slopes"),
        (6, ActivationConfig::from(ActivationKind::PRelu), "prelu"),
    ] {
        let error = spline(channels, config, vb()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let map = VarMap::new();
    let error = spline(6, ActivationKind::Relu, VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap_err();
    assert!(error.to_string().contains("relu"), "{error}");
    // Nothing of a refused layer is left in the map.
    let vb = VarBuilder::from_varmap(&map, DType::F32, &DEVICE);
    assert!(spline(6, ActivationKind::LipschitzSpline, vb).is_err());
    assert!(map.all_vars().is_empty());
}

#[test]
fn distances_of_knots_that_were_rounded_or_are_none_are_those_of_the_layer() {
    let config = ActivationConfig::spline(ActivationKind::BSpline, 51, 4.0, Init::LeakyRelu);
    let layer = spline(3, config, VarBuilder::zeros(DType::F32, &DEVICE)).unwrap();
    assert_eq!(layer.grid().step(), 0.16);
    assert!(layer.forward(&Tensor::ones((2, 3), DType::F32, &DEVICE).unwrap()).is_ok());
    for dtype in [DType::F16, DType::BF16] {
        let rounded = |dtype: DType| Tensor::new(0.16, &DEVICE).unwrap().to_dtype(dtype).unwrap();
        let coefficients = layer.coefficients().unwrap().to_dtype(dtype).unwrap();
        let tensors = [("coefficients", coefficients), ("grid_step", rounded(dtype))];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into_iter().collect();
        let found = spline(3, config, VarBuilder::from_tensors(tensors, DType::F32, &DEVICE)).unwrap();
        assert_eq!(found.grid().step(), 0.16);
    }
}

#[test]
fn parameters_outside_of_the_map_are_in_their_groups() {
    let map = VarMap::new();
    let first = linear(2, 4, VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap();
    let grid = ds_core::Grid::from_step(9, 0.5).unwrap();
    let spline = Spline::explicit_linear(4, grid, Init::LeakyRelu, false, DType::F32, &DEVICE).unwrap();
    let groups = Groups::of(&map, &spline.parameters("act"));
    assert_eq!((groups.weights.len(), groups.splines.len(), groups.scalings.len()), (2, 3, 0));
    assert!(groups.splines.iter().any(|var| var.id() == spline.knot_parameters().id()));
    assert!(groups.weights.iter().any(|var| var.id() == first.weight().id()));
    // Clones share their parameters.
    let twice = [spline.parameters("first"), spline.clone().parameters("second")].concat();
    assert_eq!(Groups::of(&map, &twice).splines.len(), 3);
}

#[test]
fn parameters_of_other_types_are_refused() {
    let grid = ds_core::Grid::from_step(9, 0.5).unwrap();
    for dtype in [DType::BF16, DType::F16, DType::U32] {
        let error = Spline::bspline(4, grid, Init::Relu, dtype, &DEVICE).unwrap_err().to_string();
        assert!(error.contains("f32 or f64"), "{error}");
        let coefficients = Tensor::zeros((4, 9), dtype, &DEVICE).unwrap();
        let error = Spline::from_parameters(grid, Kind::BSpline { coefficients }).unwrap_err().to_string();
        assert!(error.contains("coefficients") && error.contains("f32 or f64"), "{error}");
    }
}
