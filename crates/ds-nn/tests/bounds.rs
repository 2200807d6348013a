//! Every network's architecture is the network: no pair of inputs that the search finds beats the certified bound, and the
//! bound moves with each weight.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use candle_nn::ModuleT;
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::graph::{Graph, InputGraph};
use ds_core::lipschitz::bv2::{self, Exponent};
use ds_core::lipschitz::certified;
use ds_core::lipschitz::empirical::{Search, lower_bound};
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use ds_nn::Network;
use ds_nn::layers::Constraint;
use ds_nn::layers::Mode;
use ds_nn::networks::{self, Images, LipschitzConv};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

/// The constants of the networks with constrained weights.
const LIPSCHITZ: f64 = 3.0;
const LIPSCHITZ_CONV: f64 = 2.0;

fn points(rng: &mut ChaCha8Rng, shape: &[usize]) -> Tensor {
    let data: Vec<f64> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

#[test]
fn inputs_of_another_shape_are_refused() {
    let rng = &mut Seed(3).generator(Purpose::Weights, 0);
    for (name, network, shape) in networks(rng) {
        for wrong in [vec![2, shape[1] + 1], [&shape[..1], &[shape[1]], &[9, 7]].concat(), vec![shape[1]]] {
            let error = network.forward_t(&points(rng, &wrong), false).unwrap_err().to_string();
            assert!(error.contains("expected a batch of"), "{name}: {error}");
        }
        network.forward_t(&points(rng, &shape).to_dtype(DType::F32).unwrap(), false).unwrap();
    }
}

fn networks(rng: &mut ChaCha8Rng) -> Vec<(&'static str, Network, Vec<usize>)> {
    let spline = ActivationConfig::spline(ActivationKind::BSpline, 11, 1.0, Init::EvenOdd);
    let explicit = ActivationConfig::spline(ActivationKind::ExplicitLinear, 11, 1.0, Init::LeakyRelu);
    let lipschitz = ActivationConfig::spline(ActivationKind::LipschitzSpline, 10, 1.0, Init::Absolute);
    let spectral = Constraint::Spectral;
    vec![
        ("area", networks::area(rng, &[4, 4], spline).unwrap(), vec![8, 2]),
        ("scalar", networks::scalar(spline).unwrap(), vec![8, 1]),
        ("convnet", networks::convnet(rng, 10, spline).unwrap(), vec![4, 1, 28, 28]),
        ("resnet", networks::resnet32(rng, 10, explicit).unwrap(), vec![2, 3, 32, 32]),
        ("nin", networks::nin(rng, 10, 0.0, ActivationKind::Relu).unwrap(), vec![1, 3, 32, 32]),
        (
            "lipschitz",
            networks::lipschitz(rng, (20, &[16, 16], 5), spectral, lipschitz, LIPSCHITZ).unwrap(),
            vec![8, 20],
        ),
        (
            "lipschitz_conv",
            networks::lipschitz_conv(
                rng,
                Images::MNIST,
                10,
                LipschitzConv { hidden: &[16], constant: LIPSCHITZ_CONV, ..LipschitzConv::new(4) },
                ActivationKind::MaxMin,
            )
            .unwrap(),
            vec![4, 1, 28, 28],
        ),
    ]
}

#[test]
fn what_is_found_is_below_what_is_certified() {
    let rng = &mut Seed(3).generator(Purpose::Weights, 0);
    for (name, network, shape) in networks(rng) {
        // Statistics and affine parameters that are not those of the first step.
        for (buffer_name, buffer) in network.buffers() {
            let range = if buffer_name.ends_with("variance") { 0.5..2.0 } else { -0.1..0.1 };
            let data: Vec<f32> = (0..buffer.elem_count()).map(|_| rng.random_range(range.clone())).collect();
            let var = ds_core::variable(&buffer_name, &buffer).unwrap();
            var.set(&Tensor::from_vec(data, buffer.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        let points = points(rng, &shape);
        let exact = network.to(DType::F64, &Device::Cpu).unwrap();
        let outputs = |x: &Tensor| exact.forward_in(&mut InputGraph, x, Mode::Evaluation);
        let search = Search { climbers: 2, steps: 4, ..Search::default() };
        let found = lower_bound(outputs, &points, search).unwrap().quotient;
        let architecture = network.architecture().unwrap();
        let certified = certified::bound(&architecture).unwrap();
        // Biases included, the architecture is the network.
        if architecture.input.elements() <= 20 {
            let unrolled = PiecewiseLinear::new(&architecture).unwrap();
            let (x, y) = (points.to_vec2::<f64>().unwrap(), outputs(&points).unwrap().to_vec2::<f64>().unwrap());
            for (y, expected) in x.iter().map(|x| unrolled.value(x)).zip(y) {
                let error = y.iter().zip(expected).map(|(y, expected)| (y - expected).abs()).fold(0.0, f64::max);
                assert!(error < 1e-4, "{name}: values differ by {error}");
            }
        }
        // Constraints are met again in f64, to the rounding of the f32 weights.
        assert!(found > 0.0 && found <= certified * (1.0 + 1e-6), "{name}: {found} above {certified}");
        if network.lipschitz_bound_l1().unwrap().is_some() {
            let papers = bv2::bound(&architecture, Exponent::Two).unwrap();
            assert!(found <= papers, "{name}: {found} above {papers}");
        }
        // The copy in f64 is the same function.
        let mut tape = Tape::inference();
        let x = tape.constant(&points.to_dtype(DType::F32).unwrap());
        let y = network.forward_in(&mut tape, &x, Mode::Evaluation).unwrap();
        let copy = outputs(&points).unwrap();
        let error = (tape.tensor(&y).to_dtype(DType::F64).unwrap() - &copy).unwrap().abs().unwrap();
        let error = error.max_all().unwrap().to_scalar::<f64>().unwrap();
        let size = copy.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(error <= 1e-3 * size, "{name}: {error} of {size}");
        let constant = match name {
            "lipschitz" => LIPSCHITZ,
            "lipschitz_conv" => LIPSCHITZ_CONV,
            _ => f64::INFINITY,
        };
        if constant.is_finite() {
            assert!(certified <= constant * (1.0 + 1e-5), "{name}: {certified} for {constant}");
        }
    }
}

#[test]
fn every_weight_has_its_part_in_the_bound() {
    let rng = &mut Seed(4).generator(Purpose::Weights, 0);
    for (name, network, _) in networks(rng) {
        if name.starts_with("lipschitz") {
            continue;
        }
        let bound = || bv2::bound(&network.architecture().unwrap(), Exponent::Two).unwrap();
        let before = bound();
        for parameter in network.parameters().iter().filter(|p| p.name.ends_with("weight") || p.name.ends_with("scale"))
        {
            let old = parameter.var.as_tensor().copy().unwrap();
            parameter.var.set(&(&old * 2.0).unwrap()).unwrap();
            assert!(bound() > before, "{name}: the bound does not see {}", parameter.name);
            parameter.var.set(&old).unwrap();
        }
    }
}

/// Not timed: what it takes is in docs/lipschitz.md.
#[test]
fn resnet32_is_certified() {
    let rng = &mut Seed(5).generator(Purpose::Weights, 0);
    let kind = ActivationKind::ExplicitLinear;
    let network = networks::resnet32(rng, 10, kind).unwrap();
    let started = Instant::now();
    let bound = certified::bound(&network.architecture().unwrap()).unwrap();
    println!("ResNet32: {bound:e} in {:.2} s", started.elapsed().as_secs_f64());
    assert!(bound.is_finite() && bound > 1.0);
}
