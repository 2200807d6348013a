//! No pair of images beats the bound of a convolutional network.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::graph::Graph;
use ds_nn::layers::Mode;
use ds_nn::networks;
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use rand::Rng;

#[test]
fn no_pair_of_images_beats_the_bound() {
    for seed in 0..20 {
        let rng = &mut Seed(seed).generator(Purpose::Weights, 0);
        let kind = if seed % 4 == 0 {
            ActivationKind::PRelu.into()
        } else {
            ActivationConfig::spline(ActivationKind::BSpline, 11, 2.0, Init::Relu)
        };
        let network = networks::convnet(rng, 10, kind).unwrap();
        for parameter in network.parameters() {
            let n = parameter.var.elem_count();
            // A few weights carry almost all, so that the quotient comes as near to the bound as it can.
            let draw = |_| if rng.random_bool(0.2) { rng.random_range(-1.0f32..1.0) } else { 0.0 };
            let data: Vec<f32> = (0..n).map(draw).collect();
            parameter.var.set(&Tensor::from_vec(data, parameter.var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        let bound = network.lipschitz_bound_l1().unwrap().unwrap();
        let outputs = |images: &[f32]| {
            let mut tape = Tape::inference();
            let x = Tensor::from_slice(images, (16, 1, 28, 28), &Device::Cpu).unwrap();
            let x = tape.constant(&x);
            let y = network.forward_in(&mut tape, &x, Mode::Evaluation).unwrap();
            tape.tensor(&y).to_vec2::<f32>().unwrap()
        };
        let x: Vec<f32> = (0..16 * 784).map(|_| rng.random_range(-1.0..1.0)).collect();
        // One pixel, and all of them.
        for share in [1.0 / 784.0, 1.0] {
            let step = |x: &f32| if rng.random_bool(share) { x + rng.random_range(-0.1f32..0.1) } else { *x };
            let y: Vec<f32> = x.iter().map(step).collect();
            let distances = x.chunks(784).zip(y.chunks(784));
            let distances = distances.map(|(x, y)| x.iter().zip(y).map(|(x, y)| f64::from((x - y).abs())).sum::<f64>());
            for ((a, b), distance) in outputs(&x).iter().zip(outputs(&y)).zip(distances) {
                let largest = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
                assert!(largest <= bound * distance + 1e-4, "{largest} over {distance} above {bound}");
            }
        }
    }
}
