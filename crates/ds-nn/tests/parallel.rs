//! Sums over replicas in buckets, and gradients that are handed out while the tape unwinds.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/threads.rs"]
mod threads;

use candle_core::{DType, Device, Tensor, Var};
use common::{flat, generator, labels, random};
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::graph::{Gradients, Graph};
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::networks;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::ops::sum::Sum;
use ds_nn::parallel::Communicator;
use ds_nn::parallel::buckets::Buckets;
use ds_nn::tape::{Tape, TapeGradients};
use threads::{Counting, replicas};

fn parameters(lengths: &[usize]) -> Vec<Var> {
    lengths.iter().map(|&len| Var::zeros((1, len), DType::F32, &Device::Cpu).unwrap()).collect()
}

#[test]
fn sums_are_weighted_and_of_all_replicas() {
    let lengths = [5, 8, 3, 1, 40, 2];
    let of_ranks = replicas(3, |communicator| {
        let parameters = parameters(&lengths);
        let buckets = Buckets::new(&parameters, 64).unwrap();
        // (2), (40), (1, 3, 8), (5) from the last to the first, each padded to a multiple of 4; 16 numbers a bucket, or one
        // parameter.
        assert_eq!(buckets.len(), 4);
        let rank = communicator.rank();
        let counting = Counting::new(communicator, usize::MAX);
        let mut sums = buckets.sums([0.5, 0.25, 0.25][rank], &*counting);
        // The last replica has nothing but the last parameter; the first never has the second.
        let mut started = Vec::new();
        for (k, parameter) in parameters.iter().enumerate().rev() {
            if (rank < 2 || k == 5) && !(rank == 0 && k == 1) {
                let values: Vec<f32> = (0..lengths[k]).map(|v| (v * (rank + 1) + k) as f32).collect();
                sums.add(parameter, &Tensor::from_vec(values, (1, lengths[k]), &Device::Cpu).unwrap()).unwrap();
            }
            started.push(counting.started());
        }
        let sums = sums.finish().unwrap();
        let value = |parameter: &Var| {
            let id = parameter.as_tensor().id();
            let (_, sum) = sums.iter().find(|(of, _)| of.as_tensor().id() == id).unwrap();
            assert_eq!(sum.shape(), parameter.shape());
            flat(sum)
        };
        let values: Vec<Vec<f64>> = parameters.iter().map(value).collect();
        counting.finish().unwrap();
        (values, started)
    });
    let term = |rank: usize, k: usize, v: usize| (v * (rank + 1) + k) as f64;
    for (values, _) in &of_ranks {
        for (k, values) in values.iter().enumerate() {
            let expected = (0..lengths[k]).map(|v| {
                let first = if k == 1 { 0.0 } else { 0.5 * term(0, k, v) };
                first + 0.25 * term(1, k, v) + if k == 5 { 0.25 * term(2, k, v) } else { 0.0 }
            });
            assert_eq!(*values, expected.collect::<Vec<_>>(), "parameter {k}");
        }
    }
    // A bucket's sum is started with its last gradient, and never before that of the bucket before.
    let started: Vec<&[usize]> = of_ranks.iter().map(|(_, started)| started.as_slice()).collect();
    assert_eq!(started, [&[1, 2, 2, 2, 2, 2][..], &[1, 2, 2, 2, 3, 4], &[1, 1, 1, 1, 1, 1]]);
}

#[test]
fn a_replica_that_ends_makes_the_others_fail() {
    let results = replicas(3, |communicator| {
        if communicator.rank() == 1 {
            return None;
        }
        let buckets = Buckets::new(&parameters(&[3]), 64).unwrap();
        Some(buckets.sums(1.0, &*communicator).finish().err().map(|error| error.to_string()))
    });
    for error in [&results[0], &results[2]] {
        let message = error.clone().unwrap().expect("the sum cannot be made");
        assert!(message.contains("has ended"), "{message}");
    }
}

#[test]
fn gradients_of_strangers_and_of_other_shapes_are_refused() {
    let errors = replicas(1, |communicator| {
        let known = parameters(&[3]);
        let buckets = Buckets::new(&known, 64).unwrap();
        let mut sums = buckets.sums(1.0, &*communicator);
        let gradient = known[0].as_tensor();
        let stranger = sums.add(&parameters(&[3])[0], gradient).unwrap_err().to_string();
        let shape = sums.add(&known[0], &gradient.flatten_all().unwrap()).unwrap_err().to_string();
        (stranger, shape)
    });
    assert!(errors[0].0.contains("in none of them") && errors[0].1.contains("[1, 3]"), "{errors:?}");
    let half = Var::zeros(3, DType::F16, &Device::Cpu).unwrap();
    assert!(Buckets::new(&[half], 64).is_err());
}

fn backward(network: &Network, x: &Tensor, complete: Option<&mut Vec<(Var, Vec<f64>)>>) -> TapeGradients {
    let mut tape = Tape::recording();
    let (x, targets) = (tape.constant(x), tape.constant(&labels(&[1, 2, 3])));
    let output = network.forward_in(&mut tape, &x, Mode::training(0)).unwrap();
    let loss = tape.apply(Loss::from(Kind::CrossEntropy), [&output, &targets]).unwrap();
    match complete {
        None => tape.backward(&loss).unwrap(),
        Some(seen) => tape
            .backward_with(&loss, |parameter, gradient| {
                seen.push((parameter.clone(), flat(gradient)));
                Ok(())
            })
            .unwrap(),
    }
}

#[test]
fn gradients_are_handed_out_once_when_they_are_complete() {
    let rng = &mut generator(4);
    let kind = ActivationConfig::spline(ActivationKind::ExplicitLinear, 11, 2.0, Init::LeakyRelu);
    let kind = ActivationConfig { fixed_bias: Some(false), ..kind };
    let network = networks::resnet32(rng, 10, kind).unwrap();
    let x = random(rng, &[3, 3, 32, 32]).to_dtype(DType::F32).unwrap();
    let mut seen = Vec::new();
    let gradients = backward(&network, &x, Some(&mut seen));
    let parameters = network.parameters();
    assert_eq!(seen.len(), parameters.len());
    for (parameter, gradient) in &seen {
        assert_eq!(flat(gradients.gradient(parameter).unwrap()), *gradient);
    }
    let again = backward(&network, &x, None);
    for parameter in &parameters {
        let of = |gradients: &TapeGradients| flat(gradients.gradient(&parameter.var).unwrap());
        assert_eq!(of(&gradients), of(&again), "{}", parameter.name);
    }
    // The last layer comes first, the first one last.
    let at = |name: &str| {
        let id = parameters.iter().find(|p| p.name == name).unwrap().var.as_tensor().id();
        seen.iter().position(|(var, _)| var.as_tensor().id() == id).unwrap()
    };
    let (first, last) = (&parameters[0].name, &parameters[parameters.len() - 1].name);
    assert!(at(first) > at(last), "{first} came before {last}");
}

#[test]
fn a_parameter_that_is_used_twice_is_complete_after_both() {
    let parameter = random(&mut generator(2), &[1]);
    let mut tape = Tape::recording();
    let (a, b) = (tape.parameter(&parameter), tape.parameter(&parameter));
    let twice = tape.apply(Sum, [&a, &b]).unwrap();
    let thrice = tape.apply(Sum, [&twice, &a]).unwrap();
    let mut seen = Vec::new();
    tape.backward_with(&thrice, |_, gradient| {
        seen.push(flat(gradient));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [[3.0]]);
}
