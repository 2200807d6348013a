//! Optimisers, running statistics and initial weights against plain formulas.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{Set, assert_close, flat, generator, random, uniform};
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, Init, Spline};
use ds_core::graph::{CandleGraph, Gradients};
use ds_core::regularization::{ProximalTv2, proximal_step, significant_knots};
use ds_core::{Group, L2, Parameter};
use ds_nn::Network;
use ds_nn::layers::{self, BatchNorm, Linear, Mode, WeightInit};
use ds_nn::networks;
use ds_nn::ops::Window;
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::rng::{Purpose, Seed};

struct One(Tensor);

impl Gradients for One {
    fn gradient(&self, _: &Tensor) -> Option<&Tensor> {
        Some(&self.0)
    }
    fn set_gradient(&mut self, _: &Tensor, gradient: Tensor) {
        self.0 = gradient;
    }
}

/// The gradient of one variable; the others have none.
struct Of(Tensor, Tensor);

impl Gradients for Of {
    fn gradient(&self, var: &Tensor) -> Option<&Tensor> {
        (var.id() == self.0.id()).then_some(&self.1)
    }
    fn set_gradient(&mut self, _: &Tensor, gradient: Tensor) {
        self.1 = gradient;
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

fn spline(kind: ActivationKind, channels: usize) -> Spline {
    let config = ActivationConfig::spline(kind, 21, 1.0, Init::LeakyRelu);
    match config.build(channels, false).unwrap() {
        Activation::Spline(spline) => spline,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proximal_step_ends_in_the_proximal_point_and_resumes() {
    let (lambda, rate) = (2e-3, 1e-2);
    for kind in [ActivationKind::BSpline, ActivationKind::ExplicitLinear, ActivationKind::ReluSpline] {
        let rng = &mut generator(3);
        let (ours, expected) = (spline(kind, 5), spline(kind, 5));
        let (penalty, var) = (ProximalTv2::new(&ours, lambda), ours.knot_parameters());
        let optimizer = || {
            let mut optimizer = Optimizer::new(Rule::Adam, Decay::default(), ours.parameters("s")).unwrap();
            optimizer.set_proximal([penalty.clone()]).unwrap();
            optimizer
        };
        let mut proximal = optimizer();
        let length = var.elem_count();
        let (mut m, mut v) = (vec![0.0; length], vec![0.0; length]);
        for step in 1..=30 {
            // Some numbers have no gradient at all.
            let gradient: Vec<f64> = uniform(rng, length, -1.0, 1.0)
                .iter()
                .enumerate()
                .map(|(k, g)| if k % 21 < 4 { 0.0 } else { *g })
                .collect();
            let f32 = |values: &[f64]| f32s(values).reshape(var.shape()).unwrap();
            proximal.step(&Of(var.clone(), f32(&gradient)), rate).unwrap();
            let mut u = flat(expected.knot_parameters());
            let mut sizes = vec![0.0; length];
            for i in 0..length {
                m[i] = 0.9 * m[i] + 0.1 * gradient[i];
                v[i] = 0.999 * v[i] + 0.001 * gradient[i] * gradient[i];
                sizes[i] = rate / ((v[i] / (1.0 - 0.999f64.powi(step))).sqrt() + 1e-8);
                u[i] -= sizes[i] * m[i] / (1.0 - 0.9f64.powi(step));
            }
            expected.knot_parameters().set(&f32(&u)).unwrap();
            proximal_step(&expected, lambda, &f32(&sizes)).unwrap();
            assert_close(&format!("{kind}, step {step}"), &flat(var), &flat(expected.knot_parameters()), 1e-4);
            // What rounding has made different must not add up over the steps.
            expected.knot_parameters().set(var).unwrap();
            if step == 15 {
                let state = proximal.state().unwrap();
                proximal = optimizer();
                proximal.restore(15, |name| state.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone())).unwrap();
            }
        }
        let kept: usize = significant_knots(&ours).unwrap().iter().sum();
        assert!((1..5 * 19).contains(&kept), "{kind}: {kept}");
    }
}

#[test]
fn proximal_steps_are_for_parameters_of_adam() {
    let spline = spline(ActivationKind::BSpline, 2);
    let mut sgd = Optimizer::new(Rule::Sgd { momentum: 0.9 }, Decay::default(), spline.parameters("s")).unwrap();
    let error = sgd.set_proximal([ProximalTv2::new(&spline, 1.0)]).unwrap_err().to_string();
    assert!(error.contains("needs Adam"), "{error}");
    let mut other = Optimizer::new(Rule::Adam, Decay::default(), []).unwrap();
    let error = other.set_proximal([ProximalTv2::new(&spline, 1.0)]).unwrap_err().to_string();
    assert!(error.contains("not of this optimiser"), "{error}");
}

#[test]
fn what_would_be_updated_twice_or_by_nothing_is_refused() {
    let spline = spline(ActivationKind::BSpline, 2);
    let twice = [spline.parameters("a"), spline.clone().parameters("b")].concat();
    let error = Optimizer::new(Rule::Adam, Decay::default(), twice).err().unwrap().to_string();
    assert!(error.contains("b.coefficients") && error.contains("twice"), "{error}");
    let unprepared = Optimizer::new(Rule::Adam, Decay::default(), spline.parameters("a")).unwrap();
    let gradient = One(spline.knot_parameters().ones_like().unwrap());
    assert!(unprepared.apply(&gradient).unwrap_err().to_string().contains("prepare"));
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
    let deviation = |var: &Tensor| (flat(var).iter().map(|v| v * v).sum::<f64>() / var.elem_count() as f64).sqrt();
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
