//! Optimisers, running statistics and initial weights against plain formulas.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, flat, generator, random, uniform};
use ds_core::activation::{ActivationConfig, ActivationKind, Init};
use ds_core::graph::{CandleGraph, Gradients};
use ds_core::{Group, L2, Parameter};
use ds_nn::Network;
use ds_nn::layers::{self, BatchNorm, Linear, Mode, WeightInit};
use ds_nn::networks;
use ds_nn::ops::Window;
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::rng::{Purpose, Seed};

struct One(Tensor);

impl Gradients for One {
    fn gradient(&self, _: &Var) -> Option<&Tensor> {
        Some(&self.0)
    }
    fn set_gradient(&mut self, _: &Var, gradient: Tensor) {
        self.0 = gradient;
    }
}

fn f32s(data: &[f64]) -> Tensor {
    Tensor::from_vec(data.to_vec(), data.len(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

#[test]
fn rules_follow_their_formulas_and_resume() {
    let (rate, decay) = (0.05, 0.01);
    for rule in [Rule::Sgd { momentum: 0.9 }, Rule::Sgd { momentum: 0.0 }, Rule::Adam] {
        let rng = &mut generator(1);
        let var = Var::from_tensor(&f32s(&uniform(rng, 9, -1.0, 1.0))).unwrap();
        let mut theta = flat(&var);
        let (mut m, mut v) = (vec![0.0; 9], vec![0.0; 9]);
        let parameter = Parameter::new("p", &var, Group::Weights, L2::WeightDecay);
        let decays = Decay { weights: decay, hinges: 5.0 };
        let mut optimizer = Optimizer::new(rule, decays, [parameter.clone()]).unwrap();
        for step in 1..=20 {
            let gradient = uniform(rng, 9, -1.0, 1.0);
            optimizer.step(&One(f32s(&gradient)), rate).unwrap();
            for i in 0..9 {
                let g = gradient[i] + decay * theta[i];
                match rule {
                    Rule::Sgd { momentum } => {
                        m[i] = momentum * m[i] + g;
                        theta[i] -= rate * (g + momentum * m[i]);
                    }
                    Rule::Adam => {
                        m[i] = 0.9 * m[i] + 0.1 * g;
                        v[i] = 0.999 * v[i] + 0.001 * g * g;
                        let (first, second) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.999f64.powi(step)));
                        theta[i] -= rate * first / (second.sqrt() + 1e-8);
                    }
                }
            }
            if step == 10 {
                // A new optimiser with the state of the old one goes on in the same way.
                let state = optimizer.state().unwrap();
                optimizer = Optimizer::new(rule, decays, [parameter.clone()]).unwrap();
                let find = |name: &str| state.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
                optimizer.restore(10, find).unwrap();
            }
        }
        assert_close(&format!("{rule:?}"), &flat(&var), &theta, 1e-5);
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let var = Var::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let parameter = Parameter::new("weight", &var, Group::Weights, L2::Exempt);
    let mut optimizer = Optimizer::new(Rule::Adam, Decay::default(), [parameter]).unwrap();
    assert!(optimizer.restore(1, |_| None).unwrap_err().to_string().contains("weight"));
    assert!(optimizer.restore(1, |_| Some(f32s(&[0.0; 5]))).unwrap_err().to_string().contains("weight"));
}

#[test]
fn running_statistics() {
    let rng = &mut generator(2);
    let norm = BatchNorm::new(2).unwrap();
    let (mut mean, mut variance) = ([0.0; 2], [1.0; 2]);
    for _ in 0..3 {
        let x = random(rng, &[4, 2, 3, 3]);
        let x = x.to_dtype(DType::F32).unwrap();
        norm.forward_in(&mut CandleGraph, &x, Mode::training(0)).unwrap();
        for c in 0..2 {
            let of_channel = flat(&x.narrow(1, c, 1).unwrap());
            let m = of_channel.iter().sum::<f64>() / 36.0;
            let v = of_channel.iter().map(|x| (x - m).powi(2)).sum::<f64>() / 35.0;
            mean[c] = 0.9 * mean[c] + 0.1 * m;
            variance[c] = 0.9 * variance[c] + 0.1 * v;
        }
    }
    assert_close("running mean", &flat(&norm.running_mean), &mean, 1e-5);
    assert_close("running variance", &flat(&norm.running_variance), &variance, 1e-5);
}

#[test]
fn initial_weights() {
    let rng = &mut Seed(0).generator(Purpose::Weights, 0);
    let window = Window { kernel: 3, stride: 1, padding: 1 };
    let deviation = |var: &Var| (flat(var).iter().map(|v| v * v).sum::<f64>() / var.elem_count() as f64).sqrt();
    let he = layers::Conv2d::new(rng, 64, 128, window, true, WeightInit::HeFanOut).unwrap();
    assert!((deviation(&he.weight) / (2.0 / (128.0 * 9.0f64)).sqrt() - 1.0).abs() < 0.02);
    assert!(flat(he.bias.as_ref().unwrap()).iter().all(|b| *b == 0.0));
    let normal = layers::Conv2d::new(rng, 64, 128, window, true, WeightInit::Normal(0.05)).unwrap();
    assert!((deviation(&normal.weight) / 0.05 - 1.0).abs() < 0.02);
    let linear = Linear::new(rng, 100, 200, true, WeightInit::Uniform).unwrap();
    let largest = flat(&linear.weight).iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest <= 0.1 && largest > 0.0999, "{largest}");
}

#[test]
fn seeds_and_groups() {
    let kind = ActivationConfig::spline(ActivationKind::ExplicitLinear, 51, 4.0, Init::LeakyRelu);
    let network = |seed| {
        let rng = &mut Seed(seed).generator(Purpose::Weights, 0);
        networks::resnet32(rng, 10, kind).unwrap()
    };
    let weights = |network: &Network| network.parameters().iter().map(|p| flat(&p.var)).collect::<Vec<_>>();
    assert_eq!(weights(&network(1)), weights(&network(1)));
    assert_ne!(weights(&network(1)), weights(&network(2)));
    let network = network(1);
    let in_splines = |p: &&Parameter| p.group == Group::Splines;
    let splines: usize = network.parameters().iter().filter(in_splines).map(|p| p.var.elem_count()).sum();
    assert_eq!(splines, 1136 * 52);
    for parameter in network.parameters() {
        let is_spline = parameter.name.ends_with("coefficients") || parameter.name.ends_with("b1");
        assert_eq!(parameter.group == Group::Splines, is_spline, "{}", parameter.name);
        assert_eq!(parameter.l2 == L2::Exempt, parameter.name.ends_with("coefficients"), "{}", parameter.name);
    }
    let parameters = network.parameters();
    assert!(network.buffers().iter().all(|(name, _)| parameters.iter().all(|p| &p.name != name)));
    assert_eq!(network.buffers().len(), 2 * 33);
}
