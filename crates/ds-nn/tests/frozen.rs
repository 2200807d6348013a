//! Networks behind a `VarBuilder`: variables of a map, or constants of a file.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::{ModuleT, VarBuilder, VarMap};
use common::{flat, generator, labels, random};
use ds_core::Grid;
use ds_core::activation::{ActivationConfig, ActivationKind, Groups};
use ds_core::graph::{CandleGraph, Graph};
use ds_nn::Network;
use ds_nn::layers::{BatchNorm, ConstrainedConv2d, ConstrainedLinear, Constraint, Conv2d, Linear, Mode, WeightInit};
use ds_nn::networks::{self, Images, LipschitzConv};
use ds_nn::ops::Window;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::tape::Tape;
use std::collections::BTreeSet;
use std::path::Path;

const DEVICE: Device = Device::Cpu;

fn bits(tensor: &Tensor) -> Vec<u64> {
    flat(tensor).into_iter().map(f64::to_bits).collect()
}

/// All networks with fitting activations, from a seed, and inputs.
fn all() -> Vec<(&'static str, Network, Tensor)> {
    let rng = &mut generator(5);
    let kind = |kind| ActivationConfig::from(kind);
    let constrained = [ActivationKind::LipschitzSpline, ActivationKind::Householder];
    let [of_vectors, of_images] = constrained.map(kind);
    let orthonormal = Constraint::Orthonormal;
    let networks = [
        ("area", networks::area(rng, &[4, 3], ActivationKind::ExplicitLinear).unwrap(), vec![2]),
        ("scalar", networks::scalar(ActivationKind::BSpline).unwrap(), vec![1]),
        ("convnet", networks::convnet(rng, 10, ActivationKind::Apl).unwrap(), vec![1, 28, 28]),
        ("nin", networks::nin(rng, 10, 0.5, ActivationKind::ReluSpline).unwrap(), vec![3, 32, 32]),
        ("resnet32", networks::resnet32(rng, 10, ActivationKind::BSpline).unwrap(), vec![3, 32, 32]),
        ("lipschitz", networks::lipschitz(rng, (8, &[6], 2), orthonormal, of_vectors, 2.0).unwrap(), vec![8]),
        (
            "lipschitz_conv",
            {
                let config = LipschitzConv { hidden: &[8], weights: Constraint::Spectral, ..LipschitzConv::new(2) };
                networks::lipschitz_conv(rng, Images::MNIST, 10, config, of_images).unwrap()
            },
            vec![1, 28, 28],
        ),
    ];
    let with_inputs = networks.map(|(name, network, shape)| {
        let x = random(&mut generator(6), &[&[3], &shape[..]].concat()).to_dtype(DType::F32).unwrap().detach();
        (name, network, x)
    });
    with_inputs.into()
}

/// A step that moves all parameters and statistics.
fn train(network: &Network, x: &Tensor) {
    let decay = Decay { weights: 0.0, hinges: 0.0 };
    let mut optimizer = Optimizer::new(Rule::Adam, decay, network.parameters()).unwrap();
    let mut tape = Tape::recording();
    let input = tape.constant(x);
    let y = network.forward_in(&mut tape, &input, Mode::training(1)).unwrap();
    let loss = if tape.tensor(&y).dims()[1] == 1 {
        let targets = tape.constant(&Tensor::new(&[1f32, -1.0, 2.0], &DEVICE).unwrap());
        tape.apply(Loss::from(Kind::MeanSquaredError), [&y, &targets]).unwrap()
    } else {
        let targets = tape.constant(&labels(&[0, 1, 0]));
        tape.apply(Loss::from(Kind::CrossEntropy), [&y, &targets]).unwrap()
    };
    optimizer.step(&tape.backward(&loss).unwrap(), 1e-2).unwrap();
}

/// The logits on a tape, and in Candle's own graph.
fn outputs(network: &Network, x: &Tensor, mut tape: Tape) -> [Vec<u64>; 2] {
    let input = tape.constant(x);
    let y = network.forward_in(&mut tape, &input, Mode::Evaluation).unwrap();
    [bits(tape.tensor(&y)), bits(&network.forward_t(x, false).unwrap())]
}

fn mapped(file: &Path) -> VarBuilder<'static> {
    // SAFETY: nobody writes to the file.
    unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &DEVICE) }.unwrap()
}

#[test]
fn networks_are_trained_in_a_map_and_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    for (name, drawn, x) in all() {
        let map = VarMap::new();
        let network = drawn.with_builder(VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap();
        assert_eq!(outputs(&network, &x, Tape::inference()), outputs(&drawn, &x, Tape::inference()), "{name}");
        let names: BTreeSet<String> = map.data().lock().unwrap().keys().cloned().collect();
        let steps = network.named_splines().into_iter().map(|(name, _)| format!("{}.grid_step", parent(&name)));
        let fixed = network.named_splines().into_iter().filter_map(|(name, spline)| {
            spline.linear_term().filter(|linear| linear.fixed_bias).map(|_| format!("{}.b0", parent(&name)))
        });
        let expected = network.parameters().into_iter().map(|parameter| parameter.name);
        let expected = expected.chain(network.buffers().into_iter().map(|(name, _)| name)).chain(steps).chain(fixed);
        assert_eq!(names, expected.collect(), "{name}");
        for parameter in network.parameters() {
            assert_eq!(parameter.var.id(), map.data().lock().unwrap()[&parameter.name].id(), "{name}");
        }
        train(&network, &x);
        // A range that was fitted to the inputs.
        if let Some((_, spline)) = network.named_splines().first().filter(|_| name == "resnet32") {
            spline.resample(Grid::from_range(51, 2.5).unwrap()).unwrap();
        }
        let file = folder.path().join(name);
        map.save(&file).unwrap();
        let frozen = drawn.with_builder(mapped(&file)).unwrap();
        let expected = outputs(&network, &x, Tape::inference());
        assert_ne!(outputs(&drawn, &x, Tape::inference()), expected, "{name}");
        assert_eq!(outputs(&frozen, &x, Tape::inference()), expected, "{name}");
        assert_eq!(outputs(&frozen, &x, Tape::recording()), outputs(&network, &x, Tape::recording()), "{name}");
        assert!(!frozen.forward_t(&x, false).unwrap().track_op(), "{name}");
        let mut tape = Tape::recording();
        let input = tape.constant(&x);
        let y = frozen.forward_in(&mut tape, &input, Mode::Evaluation).unwrap();
        assert!(!tape.is_tracked(&y), "{name}");
        assert!(frozen.parameters().is_empty(), "{name}");
        assert!(frozen.device().same_device(&network.device()), "{name}");
        let error = frozen.check_variables().unwrap_err().to_string();
        assert!(error.contains("VarMap"), "{name}: {error}");
        network.check_variables().unwrap();
        // Into a map whose network is there already, with its ranges.
        let mut map = VarMap::new();
        let again = drawn.with_builder(VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap();
        map.load(&file).unwrap();
        assert_eq!(outputs(&again, &x, Tape::inference()), expected, "{name}");
        let exact = frozen.to(DType::F64, &DEVICE).unwrap();
        assert!(!exact.forward_t(&x.to_dtype(DType::F64).unwrap(), false).unwrap().track_op(), "{name}");
    }
}

/// `a.b` of `a.b.c`.
fn parent(name: &str) -> &str {
    name.rsplit_once('.').unwrap().0
}

#[test]
fn training_a_frozen_state_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, drawn, x) in all() {
        let expected = match name {
            "resnet32" => "running_mean",
            "lipschitz" | "lipschitz_conv" => "weight",
            _ => continue,
        };
        let map = VarMap::new();
        drawn.with_builder(VarBuilder::from_varmap(&map, DType::F32, &DEVICE)).unwrap();
        let file = folder.path().join(name);
        map.save(&file).unwrap();
        let frozen = drawn.with_builder(mapped(&file)).unwrap();
        let error = frozen.forward_t(&x, true).unwrap_err().to_string();
        assert!(error.contains(&format!("`{expected}` comes from a file")), "{name}: {error}");
    }
}

#[test]
fn layers_behind_a_builder() {
    let rng = &mut generator(8);
    let window = Window { kernel: 3, stride: 1, padding: 1 };
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F64, &DEVICE);
    let linear = Linear::new(rng, 4, 5, true, WeightInit::Uniform).unwrap().with_builder(vb.pp("linear")).unwrap();
    let conv =
        Conv2d::new(rng, 4, 5, window, false, WeightInit::HeFanOut).unwrap().with_builder(vb.pp("conv")).unwrap();
    let norm = BatchNorm::new(5).unwrap().with_builder(vb.pp("norm")).unwrap();
    let dense = ConstrainedLinear::new(rng, 4, 5, Constraint::Spectral).unwrap().with_builder(vb.pp("dense")).unwrap();
    let kernel = ConstrainedConv2d::new(rng, 4, 5, window).unwrap().with_builder(vb.pp("kernel")).unwrap();
    let found = [linear.parameters("linear"), conv.parameters("conv"), norm.parameters("norm")].concat();
    let found = [found, dense.parameters("dense"), kernel.parameters("kernel")].concat();
    assert_eq!(found.len(), 2 + 1 + 2 + 2 + 2);
    for parameter in &found {
        assert_eq!(parameter.var.dtype(), DType::F64);
        assert_eq!(parameter.var.id(), map.data().lock().unwrap()[&parameter.name].id());
    }
    assert_eq!(map.all_vars().len(), found.len() + 2);
    assert_eq!(Groups::of(&map, &found).weights.len(), found.len() + 2);
    let x = random(rng, &[2, 4]).into_inner().detach();
    assert!(linear.forward_in(&mut CandleGraph, &x).unwrap().track_op());
    let other = Linear::new(rng, 4, 6, true, WeightInit::Uniform).unwrap();
    assert!(other.with_builder(vb.pp("linear")).unwrap_err().to_string().contains("shape"));
}
