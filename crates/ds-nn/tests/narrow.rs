//! Networks in bf16, by an emulation of what a GPU does: their layers pass the types that kernels take, their gradients are
//! near those in f32, and they learn as well.
#![allow(clippy::unwrap_used)]

#[path = "common/narrow.rs"]
mod narrow;
#[path = "common/papers.rs"]
mod papers;

use candle_core::{DType, Device, Tensor};
use ds_core::graph::{CandleGraph, Gradients, Graph};
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::optim::{Decay, Optimizer, Rule};
use narrow::NarrowGraph;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Inputs, targets and their loss.
struct Batch {
    x: Tensor,
    targets: Tensor,
    loss: Kind,
}

impl Batch {
    fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Self {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let (targets, loss) = papers::targets(shape);
        Self { x: Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), targets, loss }
    }

    /// The loss of a training step, with what flows between layers in a type.
    fn loss<G: Graph<Value = Tensor>>(&self, graph: &mut G, network: &Network, dtype: DType) -> Tensor {
        let x = self.x.to_dtype(dtype).unwrap();
        let output = network.forward_in(graph, &x, Mode::training(7)).unwrap();
        assert_eq!(output.dtype(), dtype);
        let logits = graph.to_dtype(&output, DType::F32).unwrap();
        graph.apply(Loss::from(self.loss), [&logits, &self.targets]).unwrap()
    }

    /// It and the gradients of all parameters.
    fn derived<G: Graph<Value = Tensor>>(&self, graph: &mut G, network: &Network, dtype: DType) -> (f32, Vec<Tensor>) {
        let loss = self.loss(graph, network, dtype);
        let gradients = loss.backward().unwrap();
        let of = |parameter: ds_core::Parameter| gradients.gradient(&parameter.var).unwrap().clone();
        (loss.to_scalar().unwrap(), network.parameters().into_iter().map(of).collect())
    }
}

#[test]
fn gradients_point_where_those_in_f32_do() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for (name, network, shape) in papers::networks() {
        let batch = Batch::random(rng, &shape);
        let copy = network.to(DType::F32, &Device::Cpu).unwrap();
        let (expected_loss, expected) = batch.derived(&mut CandleGraph, &network, DType::F32);
        let (loss, ours) = batch.derived(&mut NarrowGraph, &copy, DType::BF16);
        assert!((loss / expected_loss - 1.0).abs() < 5e-3, "{name}: loss {loss}, in f32 {expected_loss}");
        assert!(ours.iter().all(|gradient| gradient.dtype() == DType::F32), "{name}");
        let cosine = papers::cosine(&ours, &expected);
        assert!(cosine > papers::least_cosine(&name), "{name}: gradients at a cosine of {cosine}");
        papers::assert_statistics_alike(&name, &copy, &network);
    }
}

#[test]
fn training_learns_as_much_as_in_f32() {
    for (name, network, shape) in papers::networks_to_train() {
        let batch = Batch::random(&mut ChaCha8Rng::seed_from_u64(2), &shape);
        let losses = [DType::F32, DType::BF16].map(|dtype| {
            let network = network.to(DType::F32, &Device::Cpu).unwrap();
            let decay = Decay { weights: 0.0, hinges: 0.0 };
            let mut optimizer = Optimizer::new(Rule::Adam, decay, network.parameters()).unwrap();
            let steps = (0..papers::STEPS).map(|_| {
                let loss = batch.loss(&mut NarrowGraph, &network, dtype);
                optimizer.step(&loss.backward().unwrap(), papers::RATE).unwrap();
                loss.to_scalar().unwrap()
            });
            steps.collect::<Vec<f32>>()
        });
        papers::assert_learned_alike(&name, &losses[0], &losses[1]);
    }
}
