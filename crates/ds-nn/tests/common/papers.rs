//! The networks of the papers with all their activations, and what their training in bf16 must have of that in f32, emulated
//! or on a GPU.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use ds_core::activation::{ActivationConfig, ActivationKind};
use ds_nn::Network;
use ds_nn::networks;
use ds_nn::ops::loss::Kind;
use ds_nn::rng::{Purpose, Seed};

/// Each with its name and the shape of a small batch.
pub fn networks() -> Vec<(String, Network, Vec<usize>)> {
    let kinds: [ActivationConfig; 7] = [
        ActivationKind::Relu.into(),
        ActivationKind::LeakyRelu.into(),
        ActivationKind::PRelu.into(),
        ActivationConfig { hinges: 3, ..ActivationKind::Apl.into() },
        ActivationKind::BSpline.into(),
        ActivationKind::ExplicitLinear.into(),
        ActivationKind::ReluSpline.into(),
    ];
    let rng = &mut Seed(1).generator(Purpose::Weights, 0);
    let mut all = Vec::new();
    for kind in kinds {
        let mut add = |name: &str, network: Network, shape: &[usize]| {
            all.push((format!("{name} with {:?}", kind.kind), network, shape.to_vec()));
        };
        add("ResNet32", networks::resnet32(rng, 10, kind).unwrap(), &[16, 3, 32, 32]);
        // Images in blocks on the CPU, whose dropout is that of plain ones on a GPU.
        add("NiN", networks::nin(rng, 10, 0.5, kind).unwrap(), &[16, 3, 32, 32]);
        add("ConvNet", networks::convnet(rng, 10, kind).unwrap(), &[16, 1, 28, 28]);
        add("AreaNet", networks::area(rng, &[8, 8], kind).unwrap(), &[50, 2]);
    }
    all
}

/// Targets for a network that takes inputs of this shape.
pub fn targets(shape: &[usize]) -> (Tensor, Kind) {
    if shape.len() == 2 {
        let targets: Vec<f32> = (0..shape[0]).map(|k| (k % 2) as f32).collect();
        return (Tensor::from_vec(targets, shape[0], &Device::Cpu).unwrap(), Kind::BinaryCrossEntropy);
    }
    let labels: Vec<u8> = (0..shape[0]).map(|k| (k % 10) as u8).collect();
    (Tensor::from_vec(labels, shape[0], &Device::Cpu).unwrap(), Kind::CrossEntropy)
}

/// Some of them, with splines, to be trained.
pub fn networks_to_train() -> Vec<(String, Network, Vec<usize>)> {
    networks().into_iter().filter(|(name, ..)| name.contains("BSpline") && !name.starts_with("NiN")).collect()
}

/// Steps of such a training, with Adam.
pub const STEPS: usize = 30;
/// Its learning rate.
pub const RATE: f64 = 0.003;

/// The losses of all its steps must fall alike in both types.
pub fn assert_learned_alike(name: &str, in_f32: &[f32], in_bf16: &[f32]) {
    let [first, last, ours] = [in_f32[0], in_f32[STEPS - 1], in_bf16[STEPS - 1]];
    assert!(last < first, "{name}: in f32 from {first} to {last}");
    assert!((ours - last).abs() < 0.1 * (first - last), "{name}: in bf16 from {first} to {ours}, in f32 to {last}");
}

/// How near a network's gradients in bf16 must be to those in f32. On a batch of noise before training the rounding of 32
/// layers turns them by some thirty degrees.
pub fn least_cosine(name: &str) -> f64 {
    if name.starts_with("ResNet32") { 0.7 } else { 0.95 }
}

fn flat(t: &Tensor) -> Vec<f64> {
    let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The cosine of the angle between the gradients of all parameters.
pub fn cosine(a: &[Tensor], b: &[Tensor]) -> f64 {
    let [a, b] = [a, b].map(|all| all.iter().flat_map(flat).collect::<Vec<_>>());
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// The running statistics after a step in bf16 must be near those after one in f32.
pub fn assert_statistics_alike(name: &str, in_bf16: &Network, in_f32: &Network) {
    for ((of, ours), (_, expected)) in in_bf16.buffers().iter().zip(in_f32.buffers()) {
        let (ours, expected) = (flat(ours), flat(&expected));
        let difference: Vec<f64> = ours.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let error = (product(&difference, &difference) / product(&expected, &expected)).sqrt();
        assert!(error < 2e-2, "{name} in bf16: {of} is off by {error:e}");
    }
}
