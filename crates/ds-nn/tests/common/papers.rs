//! The networks of the papers with all their activations, and what their training in bf16 must have of that in f32, emulated
//! or on a GPU.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use ds_core::Grid;
use ds_core::activation::Init;
use ds_nn::networks::{ActivationKind, AreaNet, ConvNet, Network, NetworkInNetwork, ResNet32};
use ds_nn::rng::{Purpose, Seed};

/// Each with its name and the shape of a small batch.
pub fn networks() -> Vec<(String, Network, Vec<usize>)> {
    let grid = Grid::from_range(51, 4.0).unwrap();
    let (init, fixed_bias) = (Init::LeakyRelu, None);
    let kinds = [
        ActivationKind::Relu,
        ActivationKind::LeakyRelu,
        ActivationKind::PRelu,
        ActivationKind::Apl { hinges: 3 },
        ActivationKind::BSpline { grid, init },
        ActivationKind::ExplicitLinear { grid, init, fixed_bias },
        ActivationKind::ReluSpline { grid, init, fixed_bias },
    ];
    let rng = &mut Seed(1).generator(Purpose::Weights, 0);
    let mut all = Vec::new();
    for kind in kinds {
        let mut add = |name: &str, network: Network, shape: &[usize]| {
            all.push((format!("{name} with {kind:?}"), network, shape.to_vec()));
        };
        add("ResNet32", Network::ResNet32(ResNet32::new(rng, 10, kind).unwrap()), &[16, 3, 32, 32]);
        add("NiN", Network::Nin(NetworkInNetwork::new(rng, 10, 0.5, kind).unwrap()), &[4, 3, 32, 32]);
        add("ConvNet", Network::ConvNet(ConvNet::new(rng, 10, kind).unwrap()), &[16, 1, 28, 28]);
        add("AreaNet", Network::Area(AreaNet::new(rng, &[8, 8], kind).unwrap()), &[50, 2]);
    }
    all
}

/// Some of them, with splines, to be trained.
pub fn networks_to_train() -> Vec<(String, Network, Vec<usize>)> {
    networks().into_iter().filter(|(name, ..)| name.contains("BSpline") && !name.starts_with("NiN")).collect()
}

/// Steps of such a training, with Adam.
pub const STEPS: usize = 30;
/// Its learning rate.
pub const RATE: f64 = 0.003;

/// The losses of all steps in f32 and in bf16 must fall alike.
pub fn assert_learned_alike(name: &str, f32: &[f32], bf16: &[f32]) {
    let [first, last, ours] = [f32[0], f32[STEPS - 1], bf16[STEPS - 1]];
    assert!(last < first, "{name}: in f32 {f32:?}");
    assert!((ours - last).abs() < 0.1 * (first - last), "{name}: in bf16 from {first} to {ours}, in f32 to {last}");
}

/// How near a network's gradients in bf16 must be to those in f32. On a batch of noise before training the rounding of 32
/// layers turns them by some thirty degrees.
pub fn least_cosine(name: &str) -> f64 {
    if name.starts_with("ResNet32") { 0.8 } else { 0.97 }
}

/// The cosine of the angle between the gradients of all parameters.
pub fn cosine(a: &[Tensor], b: &[Tensor]) -> f64 {
    let flat = |all: &[Tensor]| {
        let one = |t: &Tensor| {
            let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
            t.flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        all.iter().flat_map(one).collect::<Vec<_>>()
    };
    let (a, b) = (flat(a), flat(b));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}
