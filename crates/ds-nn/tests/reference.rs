//! The networks against numbers of the original: parameter counts, outputs, norms, bound, and ten training steps.
//!
//! Everything agrees to 1e-4. The training steps follow the original's float32 where it shows, see [`residues`], and are
//! compared up to a step whose gradient is a matter of rounding, see [`undetermined`].
//!
//! Reads the file named by `DS_REFERENCE`, or the shared reference file beside the project, or the small copy in the
//! repository.
#![allow(clippy::unwrap_used)]

#[path = "common/rounding.rs"]
mod rounding;

use candle_core::{Device, Tensor, Var};
use ds_core::activation::{Activation, ActivationConfig, ActivationKind, Init, Kind, LinearTerm, Spline};
use ds_core::graph::Graph;
use ds_core::lipschitz::architecture::Signal;
use ds_core::regularization::{Norm, sum_of_squares};
use ds_core::{Grid, Group, L2};
use ds_nn::Network;
use ds_nn::layers::{Layer, Linear, Mode};
use ds_nn::networks;
use ds_nn::ops::loss::{Kind as LossKind, Loss};
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use rounding::{add_residue, flat, residues, undetermined};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn reference() -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = match std::env::var_os("DS_REFERENCE") {
        Some(path) => PathBuf::from(path),
        None => {
            let shared = root.join("../shared/reference/deepsplines.json");
            let small = root.join("crates/ds-core/tests/data/reference-small.json");
            if shared.exists() { shared } else { small }
        }
    };
    println!("reference: {}", path.display());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        Value::Number(n) => vec![n.as_f64().unwrap() as f32],
        other => panic!("expected numbers, got {other}"),
    }
}

const TOLERANCE: f32 = 1e-4;

/// Adam's, in the training steps of the reference.
const LEARNING_RATE_SPLINES: f64 = 1e-3;

/// max|difference| / scale; NaN if a difference is.
fn relative_error(what: &str, ours: &[f32], theirs: &[f32], scale: f32) -> f32 {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale).fold(0.0, |m, e| if m >= e { m } else { e })
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(1e-12, |m, v| m.max(v.abs()))
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    let error = relative_error(what, ours, theirs, largest(theirs));
    assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
}

fn activation_kind(name: &str, size: usize, range: f64) -> ActivationConfig {
    let kind = match name {
        "relu" => ActivationKind::Relu,
        "leaky_relu" => ActivationKind::LeakyRelu,
        "prelu" => ActivationKind::PRelu,
        "deepBspline" => ActivationKind::BSpline,
        "deepBspline_explicit_linear" => ActivationKind::ExplicitLinear,
        "deepReLUspline" => ActivationKind::ReluSpline,
        other => panic!("unknown activation {other}"),
    };
    ActivationConfig::spline(kind, size, range, Init::LeakyRelu)
}

#[test]
fn parameter_counts() {
    let rng = &mut Seed(0).generator(Purpose::Weights, 0);
    let reference = reference();
    let cases = reference["parameter_counts"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let size = |default| case["size"].as_u64().map_or(default, |s| s as usize);
        let name = case["activation"].as_str().unwrap();
        let classes = case["classes"].as_u64().unwrap_or(10) as usize;
        let kind = |size: usize, range: f64| activation_kind(name, size, range);
        let network = match case["net"].as_str().unwrap() {
            "resnet32" => networks::resnet32(rng, classes, kind(size(51), 4.0)).unwrap(),
            "nin" => networks::nin(rng, classes, 0.5, kind(size(51), 4.0)).unwrap(),
            "convnet_mnist" => networks::convnet(rng, classes, kind(size(51), 4.0)).unwrap(),
            "area2d" => {
                let hidden = vec![
                    case["hidden_neurons"].as_u64().unwrap() as usize;
                    case["hidden_layers"].as_u64().unwrap() as usize
                ];
                networks::area(rng, &hidden, kind(size(21), 1.0)).unwrap()
            }
            other => panic!("unknown network {other}"),
        };
        assert_eq!(network.parameter_count() as u64, case["parameters"].as_u64().unwrap(), "{case}");
        let mut names: Vec<String> = network.parameters().into_iter().map(|p| p.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), network.parameters().len(), "names are unique: {case}");
    }
    println!("{} parameter counts agree", cases.len());
}

fn tensor(value: &Value, shape: &[usize]) -> Tensor {
    Tensor::from_vec(numbers(value), shape, &Device::Cpu).unwrap()
}

fn variable(value: &Value, shape: &[usize]) -> Tensor {
    Var::from_tensor(&tensor(value, shape)).unwrap().into_inner()
}

/// An area network from PyTorch's names.
fn area_net(activation: &str, state: &Value) -> Network {
    let rows = |name: &str| state[name].as_array().map_or(0, Vec::len);
    let linear = |name: &str, inputs: usize| {
        let outputs = rows(&format!("{name}.weight"));
        let bias = &state[format!("{name}.bias")];
        Linear {
            weight: variable(&state[format!("{name}.weight")], &[outputs, inputs]),
            bias: bias.is_array().then(|| variable(bias, &[outputs])),
        }
    };
    let spline = |depth: usize, units: usize| {
        let get = |name: &str| &state[format!("activations.{depth}.{name}")];
        let linear = || LinearTerm {
            weight: variable(get("spline_weight"), &[units]),
            bias: variable(get("spline_bias"), &[units]),
            fixed_bias: false,
        };
        let coefficients = || {
            let coefficients = get("_coefficients_vect");
            variable(coefficients, &[units, numbers(coefficients).len() / units])
        };
        let (kind, size) = match activation {
            "deepBspline" => {
                let coefficients = coefficients();
                let size = coefficients.dims()[1];
                (Kind::BSpline { coefficients }, size)
            }
            "deepBspline_explicit_linear" => {
                let coefficients = coefficients();
                let size = coefficients.dims()[1];
                (Kind::ExplicitLinear { coefficients, linear: linear() }, size)
            }
            "deepReLUspline" => {
                let slopes = get("_relu_slopes");
                let inner = numbers(slopes).len() / units;
                let slope_changes = variable(slopes, &[units, inner]);
                (Kind::ReluSpline { slope_changes, linear: linear() }, inner + 2)
            }
            other => panic!("unknown activation {other}"),
        };
        Activation::Spline(Spline::from_parameters(Grid::from_range(size, 1.0).unwrap(), kind).unwrap())
    };
    let (mut layers, mut inputs) = (Vec::new(), 2);
    for depth in 0.. {
        let name = format!("fc{}", depth + 1);
        let units = rows(&format!("{name}.weight"));
        if units == 0 {
            break;
        }
        layers.push((format!("hidden{depth}.linear"), Layer::Linear(linear(&name, inputs))));
        layers.push((format!("hidden{depth}.activation"), Layer::Activation(spline(depth, units))));
        inputs = units;
    }
    layers.push(("last".to_owned(), Layer::Linear(linear("fc_last", inputs))));
    Network::new(Signal::vector(2), layers)
}

/// The original's name of one of our parameters.
fn original_name(ours: &str) -> String {
    let (layer, rest) = ours.split_once('.').unwrap();
    match (layer.strip_prefix("hidden").map(|depth| depth.parse::<usize>().unwrap()), rest) {
        (None, rest) => format!("fc_last.{rest}"),
        (Some(depth), "linear.weight") => format!("fc{}.weight", depth + 1),
        (Some(depth), "linear.bias") => format!("fc{}.bias", depth + 1),
        (Some(depth), "activation.coefficients") => format!("activations.{depth}._coefficients_vect"),
        (Some(depth), "activation.slopes") => format!("activations.{depth}._relu_slopes"),
        (Some(depth), "activation.b1") => format!("activations.{depth}.spline_weight"),
        (Some(depth), "activation.b0") => format!("activations.{depth}.spline_bias"),
        (_, other) => panic!("unknown parameter {other}"),
    }
}

/// The norm summed over the layers.
fn norm_of(network: &Network, norm: Norm) -> f64 {
    network.splines().iter().map(|s| norm.value(s).unwrap()).sum()
}

/// The case's points (N, 2).
fn points(case: &Value) -> Tensor {
    tensor(&case["x"], &[case["x"].as_array().unwrap().len(), 2])
}

/// The network's values before the sigmoid at the case's points.
fn forward(tape: &mut Tape, network: &Network, case: &Value, mode: Mode) -> ds_nn::tape::Value {
    let x = tape.constant(&points(case));
    network.forward_in(tape, &x, mode).unwrap()
}

/// A network after training steps.
struct Trained {
    /// What cancelled subgradients left.
    residue: f32,
    /// The loss before each step.
    losses: Vec<f32>,
    network: Network,
    /// The first step whose gradient is a matter of rounding, and why.
    undetermined: Option<(usize, &'static str)>,
}

/// The case's training, where cancelled subgradients leave this residue.
fn train(case: &Value, residue: f32) -> Trained {
    let training = &case["training"];
    let network = area_net(case["activation"].as_str().unwrap(), &case["state"]);
    let lambda = training["tv2_weight"].as_f64().unwrap();
    let decay = training["weight_decay"].as_f64().unwrap();
    let decays = Decay { weights: decay, hinges: 0.0 };
    let of_group = |group| network.parameters().into_iter().filter(move |p| p.group == group);
    let mut main = Optimizer::new(Rule::Sgd { momentum: 0.9 }, decays, of_group(Group::Weights)).unwrap();
    let mut aux = Optimizer::new(Rule::Adam, decays, of_group(Group::Splines)).unwrap();
    let targets = Tensor::new(numbers(&case["labels"]), &Device::Cpu).unwrap();
    let (mut losses, mut rounded) = (Vec::new(), None);
    for step in 0..training["losses"].as_array().unwrap().len() {
        rounded = rounded.or_else(|| undetermined(&network, &points(case)).map(|why| (step, why)));
        let mut tape = Tape::recording();
        let targets = tape.constant(&targets);
        let logits = forward(&mut tape, &network, case, Mode::training(0));
        let loss = tape.apply(Loss::from(LossKind::BinaryCrossEntropy), [&logits, &targets]).unwrap();
        let data_loss = tape.tensor(&loss).to_scalar::<f32>().unwrap();
        let squares = sum_of_squares(&network.parameters(), L2::WeightDecay).unwrap();
        losses.push(data_loss + (norm_of(&network, Norm::Tv2) * lambda + squares * decay / 2.0) as f32);
        let mut gradients = tape.backward(&loss).unwrap();
        for spline in network.splines() {
            Norm::Tv2.add_gradient(spline, lambda, &mut gradients).unwrap();
            add_residue(spline, residue, &mut gradients);
        }
        main.step(&gradients, 0.05).unwrap();
        aux.step(&gradients, LEARNING_RATE_SPLINES).unwrap();
    }
    Trained { residue, losses, network, undetermined: rounded }
}

/// The relative errors above the tolerance: of the losses, and of each parameter after the case's training steps.
fn training_errors(case: &Value, trained: &Trained) -> Vec<(String, f32)> {
    let training = &case["training"];
    let expected = numbers(&training["losses"]);
    let losses = relative_error("losses", &trained.losses, &expected, largest(&expected));
    let mut errors = vec![("losses".to_string(), losses)];
    for parameter in trained.network.parameters() {
        let name = original_name(&parameter.name);
        let (before, after) = (numbers(&case["state"][&name]), numbers(&training["state_after"][&name]));
        // A value that comes close to zero keeps the rounding of what it was before.
        let scale = largest(&before).max(largest(&after));
        let error = relative_error(&name, &flat(&parameter.var), &after, scale);
        errors.push((name, error));
    }
    errors.retain(|(_, error)| error.is_nan() || *error > TOLERANCE);
    errors
}

/// Compares what rounding does not decide, where it decides the gradient of a step: the losses up to that step, and that
/// Adam moves no parameter of a spline further than one learning rate a step, here and there.
fn assert_close_until(case: &Value, trained: &Trained, step: usize) {
    let name = case["activation"].as_str().unwrap();
    let training = &case["training"];
    let losses = numbers(&training["losses"]);
    assert_close(&format!("{name}: losses to step {step}"), &trained.losses[..=step], &losses[..=step]);
    for parameter in trained.network.parameters().into_iter().filter(|p| p.group == Group::Splines) {
        let name = format!("{name}: {}", original_name(&parameter.name));
        let after = numbers(&training["state_after"][&original_name(&parameter.name)]);
        let moved = 2.0 * LEARNING_RATE_SPLINES as f32 * (losses.len() - step) as f32;
        let error = relative_error(&name, &flat(&parameter.var), &after, 1.0);
        assert!(error <= moved + TOLERANCE * largest(&after), "{name}: {error:e} apart, Adam moves both {moved:e}");
    }
}

/// The case's training for each way to round cancelled subgradients.
fn trained(case: &Value) -> Vec<Trained> {
    let training = &case["training"];
    assert_eq!(training["main"], "SGD lr 0.05 momentum 0.9 nesterov", "the optimiser this test knows");
    assert_eq!(training["aux"], "Adam lr 1e-3", "the optimiser this test knows");
    let lambda = training["tv2_weight"].as_f64().unwrap() as f32;
    let network = area_net(case["activation"].as_str().unwrap(), &case["state"]);
    let step = network.splines()[0].grid().step() as f32;
    residues(lambda, step).into_iter().map(|residue| train(case, residue)).collect()
}

#[test]
fn networks_and_training_steps() {
    let reference = reference();
    let cases = reference["networks"].as_array().unwrap();
    let mut in_full = 0;
    for case in cases {
        let name = case["activation"].as_str().unwrap();
        let network = area_net(name, &case["state"]);
        let mut tape = Tape::inference();
        let logits = forward(&mut tape, &network, case, Mode::Evaluation);
        let y: Vec<f32> = flat(tape.tensor(&logits)).iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect();
        let close = |what: &str, ours: &[f32], key: &str| {
            assert_close(&format!("{name}: {what}"), ours, &numbers(&case[key]));
        };
        close("output", &y, "y");
        close("TV²", &[norm_of(&network, Norm::Tv2) as f32], "tv2");
        close("BV²", &[norm_of(&network, Norm::Bv2) as f32], "bv2");
        close("bound", &[network.lipschitz_bound_l1().unwrap().unwrap() as f32], "lipschitz_bound_l1");
        let squares = sum_of_squares(&network.parameters(), L2::WeightDecay).unwrap() as f32;
        close("sum of squares", &[squares], "l2sqsum");

        let trained = trained(case);
        let wrong: Vec<_> = trained.iter().map(|trained| (trained.residue, training_errors(case, trained))).collect();
        if let Some((residue, _)) = wrong.iter().find(|(_, errors)| errors.is_empty()) {
            println!("{name}: training steps agree where a cancelled subgradient leaves {residue:e}");
            in_full += 1;
        } else if let Some((step, why)) = trained[0].undetermined {
            assert_close_until(case, &trained[0], step);
            println!("{name}: SKIPPED: parameters after training: {why} at step {step}");
        } else {
            panic!("{name}: training steps: relative errors, by what a cancelled subgradient leaves: {wrong:?}");
        }
    }
    assert!(in_full > 0, "no network has training steps that rounding does not decide");
    println!("{} networks agree, {in_full} of them in all training steps", cases.len());
}

#[test]
fn each_wrong_number_after_training_is_noticed() {
    let reference = reference();
    let mut tried = 0;
    for case in reference["networks"].as_array().unwrap() {
        let trained = trained(case);
        if trained.iter().all(|trained| !training_errors(case, trained).is_empty()) {
            continue;
        }
        for (name, right) in case["training"]["state_after"].as_object().unwrap() {
            let values = numbers(right);
            let moved = 1e-3 * largest(&values).max(largest(&numbers(&case["state"][name])));
            for k in 0..values.len() {
                let mut values = values.clone();
                values[k] += moved;
                let mut case = case.clone();
                case["training"]["state_after"][name] = values.into();
                for trained in &trained {
                    let passes = training_errors(&case, trained).is_empty();
                    assert!(!passes, "{name}[{k}] is wrong and passes with residue {:e}", trained.residue);
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 0);
    println!("{tried} wrong numbers noticed");
}
