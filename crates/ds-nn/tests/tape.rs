//! The tape finds the gradients that Candle's own backward pass finds.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, flat, generator, labels, random};
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::graph::{CandleGraph, Gradients, Graph};
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::networks;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::sum::Sum;
use ds_nn::tape::{ParameterOps, Tape};

fn kinds() -> Vec<ActivationConfig> {
    let spline = |kind, init| ActivationConfig::spline(kind, 21, 2.0, init);
    let fixed_bias = Some(false);
    let relu_spline = ActivationConfig { fixed_bias, ..spline(ActivationKind::ReluSpline, Init::LeakyRelu) };
    vec![
        ActivationKind::Relu.into(),
        ActivationKind::LeakyRelu.into(),
        ActivationKind::PRelu.into(),
        ActivationConfig { hinges: 2, ..ActivationKind::Apl.into() },
        spline(ActivationKind::BSpline, Init::EvenOdd),
        spline(ActivationKind::ExplicitLinear, Init::LeakyRelu),
        relu_spline,
    ]
}

fn compare(network: &Network, x: &Tensor, classes: usize) {
    let mode = Mode::training(5);
    fn loss<G: Graph>(graph: &mut G, output: &G::Value, rows: usize, classes: usize) -> G::Value {
        let (kind, targets) = if classes == 1 {
            let targets: Vec<f32> = (0..rows).map(|k| k as f32).collect();
            (Kind::MeanSquaredError, Tensor::new(targets, &Device::Cpu).unwrap())
        } else {
            (Kind::CrossEntropy, labels(&(0..rows).map(|k| (k % classes) as u8).collect::<Vec<_>>()))
        };
        let targets = graph.constant(&targets);
        graph.apply(Loss::from(kind), [output, &targets]).unwrap()
    }
    let rows = x.dims()[0];
    let graph = &mut CandleGraph;
    let output = network.forward_in(graph, x, mode).unwrap();
    let theirs = loss(graph, &output, rows, classes);
    let their_gradients = theirs.backward().unwrap();
    let mut tape = Tape::recording();
    let input = tape.constant(x);
    let output = network.forward_in(&mut tape, &input, mode).unwrap();
    let ours = loss(&mut tape, &output, rows, classes);
    assert_close("loss", &flat(tape.tensor(&ours)), &flat(&theirs), 1e-6);
    let our_gradients = tape.backward(&ours).unwrap();
    for parameter in network.parameters() {
        let ours = our_gradients.gradient(&parameter.var).unwrap_or_else(|| panic!("{}", parameter.name));
        let theirs = their_gradients.gradient(&parameter.var).unwrap();
        assert_close(&parameter.name, &flat(ours), &flat(theirs), 1e-4);
    }
}

#[test]
fn all_networks_with_all_activations() {
    let rng = &mut generator(1);
    let images = |rng: &mut _, channels, side| random(rng, &[4, channels, side, side]).to_dtype(DType::F32).unwrap();
    for kind in kinds() {
        let points = random(rng, &[10, 2]).to_dtype(DType::F32).unwrap();
        compare(&networks::area(rng, &[4, 4], kind).unwrap(), &points, 1);
        let numbers = random(rng, &[10, 1]).to_dtype(DType::F32).unwrap();
        if !matches!(kind.kind, ActivationKind::Relu | ActivationKind::LeakyRelu) {
            compare(&networks::scalar(kind).unwrap(), &numbers, 1);
        }
        compare(&networks::convnet(rng, 10, kind).unwrap(), &images(rng, 1, 28), 10);
        compare(&networks::resnet32(rng, 10, kind).unwrap(), &images(rng, 3, 32), 10);
    }
    let nin = networks::nin(rng, 10, 0.5, kinds()[5]).unwrap();
    compare(&nin, &images(rng, 3, 32), 10);
}

/// What is computed ahead for all layers is what each layer computes.
#[test]
fn ops_of_parameters_computed_together() {
    let rng = &mut generator(5);
    let x = random(rng, &[4, 3, 32, 32]).to_dtype(DType::F32).unwrap();
    for kind in kinds() {
        let mut network = networks::resnet32(rng, 10, kind).unwrap();
        let ops = ParameterOps::default();
        // The first tape learns them, also those of another network that come between.
        for pass in 0..4 {
            if pass == 2 {
                network = network.to(DType::F32, &Device::Cpu).unwrap();
            }
            let gradients = |mut tape: Tape| {
                let input = tape.constant(&x);
                let output = network.forward_in(&mut tape, &input, Mode::training(5)).unwrap();
                let targets = tape.constant(&labels(&[0, 1, 2, 3]));
                let loss = tape.apply(Loss::from(Kind::CrossEntropy), [&output, &targets]).unwrap();
                tape.backward(&loss).unwrap()
            };
            let (alone, ahead) = (gradients(Tape::recording()), gradients(Tape::recording_with(&ops).unwrap()));
            for parameter in network.parameters() {
                let [alone, ahead] = [&alone, &ahead].map(|all| flat(all.gradient(&parameter.var).unwrap()));
                assert!(alone == ahead, "{kind:?}, pass {pass}: {}", parameter.name);
            }
        }
    }
}

#[test]
fn what_is_used_twice_gets_both_gradients() {
    let rng = &mut generator(2);
    let parameter = random(rng, &[1]);
    let mut tape = Tape::recording();
    let (a, b) = (tape.parameter(&parameter), tape.parameter(&parameter));
    let twice = tape.apply(Sum, [&a, &b]).unwrap();
    let thrice = tape.apply(Sum, [&twice, &a]).unwrap();
    // `twice` goes into two sums, whose gradients come from one tensor.
    let sum = tape.apply(Sum, [&thrice, &twice]).unwrap();
    let gradients = tape.backward(&sum).unwrap();
    assert_eq!(flat(gradients.gradient(&parameter).unwrap()), [5.0]);
}

#[test]
fn inference_takes_no_gradients_and_losses_are_numbers() {
    let rng = &mut generator(3);
    let parameter = random(rng, &[3]);
    let mut tape = Tape::inference();
    let value = tape.parameter(&parameter);
    assert!(!tape.is_tracked(&value));
    let mut tape = Tape::recording();
    let value = tape.parameter(&parameter);
    assert!(tape.backward(&value).unwrap_err().to_string().contains("one number"));
}
