//! The networks against numbers of the original: parameter counts, outputs, norms, bound, and ten training steps.
//!
//! Everything agrees to 1e-4. The training steps follow the original's float32 where it shows: see [`residues`].
//!
//! Reads the file named by `DS_REFERENCE`, or the shared reference file beside the project, or the small copy in the
//! repository.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use ds_core::activation::{Activation, Init, Kind, LinearTerm, Spline};
use ds_core::graph::{Gradients, Graph};
use ds_core::regularization::{Norm, slope_changes, sum_of_squares};
use ds_core::{Grid, Group, L2};
use ds_nn::layers::{Linear, Mode};
use ds_nn::networks::{ActivationKind, AreaNet, ConvNet, Network, NetworkInNetwork, ResNet32};
use ds_nn::ops::loss::BinaryCrossEntropy;
use ds_nn::optim::{Decay, Optimizer, Rule};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
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

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn activation_kind(name: &str, grid: Grid) -> ActivationKind {
    let init = Init::LeakyRelu;
    match name {
        "relu" => ActivationKind::Relu,
        "leaky_relu" => ActivationKind::LeakyRelu,
        "prelu" => ActivationKind::PRelu,
        "deepBspline" => ActivationKind::BSpline { grid, init },
        "deepBspline_explicit_linear" => ActivationKind::ExplicitLinear { grid, init, fixed_bias: None },
        "deepReLUspline" => ActivationKind::ReluSpline { grid, init, fixed_bias: None },
        other => panic!("unknown activation {other}"),
    }
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
        let kind = |size: usize, range: f64| activation_kind(name, Grid::from_range(size, range).unwrap());
        let network = match case["net"].as_str().unwrap() {
            "resnet32" => Network::ResNet32(ResNet32::new(rng, classes, kind(size(51), 4.0)).unwrap()),
            "nin" => Network::Nin(NetworkInNetwork::new(rng, classes, 0.5, kind(size(51), 4.0)).unwrap()),
            "convnet_mnist" => Network::ConvNet(ConvNet::new(rng, classes, kind(size(51), 4.0)).unwrap()),
            "area2d" => {
                let hidden = vec![
                    case["hidden_neurons"].as_u64().unwrap() as usize;
                    case["hidden_layers"].as_u64().unwrap() as usize
                ];
                Network::Area(AreaNet::new(rng, &hidden, kind(size(21), 1.0)).unwrap())
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

fn variable(value: &Value, shape: &[usize]) -> Var {
    Var::from_tensor(&tensor(value, shape)).unwrap()
}

/// An area network from PyTorch's names.
fn area_net(activation: &str, state: &Value) -> AreaNet {
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
            let all = numbers(get("_coefficients_vect"));
            let shape = [units, all.len() / units];
            Var::from_tensor(&Tensor::from_vec(all, &shape, &Device::Cpu).unwrap()).unwrap()
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
                let slopes = numbers(get("_relu_slopes"));
                let inner = slopes.len() / units;
                let slopes = Var::from_tensor(&Tensor::from_vec(slopes, (units, inner), &Device::Cpu).unwrap());
                (Kind::ReluSpline { slopes: slopes.unwrap(), linear: linear() }, inner + 2)
            }
            other => panic!("unknown activation {other}"),
        };
        Activation::Spline(Spline::from_parameters(Grid::from_range(size, 1.0).unwrap(), kind).unwrap())
    };
    let (mut hidden, mut inputs) = (Vec::new(), 2);
    for depth in 0.. {
        let name = format!("fc{}", depth + 1);
        let units = rows(&format!("{name}.weight"));
        if units == 0 {
            break;
        }
        hidden.push((linear(&name, inputs), spline(depth, units)));
        inputs = units;
    }
    AreaNet::from_layers(hidden, linear("fc_last", inputs))
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

/// What a coefficient's TV² subgradient λ/T·(1 − 2 + 1) may be in float32, where the slope changes at and beside its knot
/// are positive: 0 if each product is rounded, else the rest that fused multiply-adds leave, by the order of the terms.
///
/// That rest is below 1e-9, but where no sample reaches the coefficient it is the whole gradient, and Adam divides it by
/// |g| + 1e-8. The coefficient drifts by up to 1e-3 in ten steps; slope changes beside it get another sign at other steps,
/// and the weights that see the coefficient later differ by more than 1e-4, too.
fn residues(lambda: f32, step: f32) -> [f32; 4] {
    let outer = 1.0 / step;
    let inner = -2.0 * outer;
    let fused = |taps: [f32; 3]| taps.into_iter().fold(0.0, |sum, tap| lambda.mul_add(tap, sum));
    [fused([outer, inner, outer]), fused([inner, outer, outer]), fused([outer, outer, inner]), 0.0]
}

/// Adds the residue to the gradient of each coefficient whose TV² subgradient cancels: the slope changes at its knot and at
/// both neighbours have one sign.
fn add_residue(spline: &Spline, residue: f32, gradients: &mut impl Gradients) {
    if matches!(spline.kind(), Kind::ReluSpline { .. }) {
        return;
    }
    let (coefficients, size) = (spline.knot_parameters(), spline.grid().size());
    let mut gradient = flat(gradients.gradient(coefficients).unwrap());
    for (g, a) in gradient.chunks_exact_mut(size).zip(flat(&slope_changes(spline).unwrap()).chunks_exact(size - 2)) {
        for (g, a) in g[2..].iter_mut().zip(a.windows(3)) {
            if a.iter().all(|&a| a > 0.0) {
                *g += residue;
            } else if a.iter().all(|&a| a < 0.0) {
                *g -= residue;
            }
        }
    }
    gradients.set_gradient(coefficients, Tensor::from_vec(gradient, coefficients.shape(), &Device::Cpu).unwrap());
}

/// The norm summed over the layers.
fn norm_of(network: &Network, norm: Norm) -> f64 {
    network.splines().iter().map(|s| norm.value(s).unwrap()).sum()
}

/// The network's values before the sigmoid at the case's points.
fn forward(tape: &mut Tape, network: &Network, case: &Value, mode: Mode) -> ds_nn::tape::Value {
    let x = tape.constant(&tensor(&case["x"], &[case["x"].as_array().unwrap().len(), 2]));
    network.forward_in(tape, &x, mode).unwrap()
}

/// The losses of the case's training steps and the network after them, where cancelled subgradients leave this residue.
fn train(case: &Value, residue: f32) -> (Vec<f32>, Network) {
    let training = &case["training"];
    let network = Network::Area(area_net(case["activation"].as_str().unwrap(), &case["state"]));
    let lambda = training["tv2_weight"].as_f64().unwrap();
    let decay = training["weight_decay"].as_f64().unwrap();
    let decays = Decay { weights: decay, hinges: 0.0 };
    let of_group = |group| network.parameters().into_iter().filter(move |p| p.group == group);
    let mut main = Optimizer::new(Rule::Sgd { momentum: 0.9 }, decays, of_group(Group::Weights)).unwrap();
    let mut aux = Optimizer::new(Rule::Adam, decays, of_group(Group::Splines)).unwrap();
    let targets: std::sync::Arc<[f32]> = numbers(&case["labels"]).into();
    let mut losses = Vec::new();
    for _ in training["losses"].as_array().unwrap() {
        let mut tape = Tape::recording();
        let logits = forward(&mut tape, &network, case, Mode::training(0));
        let loss = tape.apply1(BinaryCrossEntropy { targets: targets.clone() }, &logits).unwrap();
        let data_loss = tape.tensor(&loss).to_scalar::<f32>().unwrap();
        let squares = sum_of_squares(&network.parameters(), L2::WeightDecay).unwrap();
        losses.push(data_loss + (norm_of(&network, Norm::Tv2) * lambda + squares * decay / 2.0) as f32);
        let mut gradients = tape.backward(&loss).unwrap();
        for spline in network.splines() {
            Norm::Tv2.add_gradient(spline, lambda, &mut gradients).unwrap();
            add_residue(spline, residue, &mut gradients);
        }
        main.step(&gradients, 0.05).unwrap();
        aux.step(&gradients, 1e-3).unwrap();
    }
    (losses, network)
}

/// The relative errors above the tolerance: of the losses, and of each parameter after the case's training steps.
fn training_errors(case: &Value, losses: &[f32], network: &Network) -> Vec<(String, f32)> {
    let training = &case["training"];
    let expected = numbers(&training["losses"]);
    let mut errors = vec![("losses".to_string(), relative_error("losses", losses, &expected, largest(&expected)))];
    for parameter in network.parameters() {
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

/// The case's training for each way to round cancelled subgradients.
fn trained(case: &Value) -> Vec<(f32, Vec<f32>, Network)> {
    let training = &case["training"];
    assert_eq!(training["main"], "SGD lr 0.05 momentum 0.9 nesterov", "the optimiser this test knows");
    assert_eq!(training["aux"], "Adam lr 1e-3", "the optimiser this test knows");
    let lambda = training["tv2_weight"].as_f64().unwrap() as f32;
    let network = Network::Area(area_net(case["activation"].as_str().unwrap(), &case["state"]));
    let step = network.splines()[0].grid().step() as f32;
    residues(lambda, step)
        .into_iter()
        .map(|residue| {
            let (losses, network) = train(case, residue);
            (residue, losses, network)
        })
        .collect()
}

#[test]
fn networks_and_training_steps() {
    let reference = reference();
    let cases = reference["networks"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let name = case["activation"].as_str().unwrap();
        let network = Network::Area(area_net(name, &case["state"]));
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

        let wrong: Vec<_> = trained(case)
            .iter()
            .map(|(residue, losses, after)| (*residue, training_errors(case, losses, after)))
            .collect();
        let Some((residue, _)) = wrong.iter().find(|(_, errors)| errors.is_empty()) else {
            panic!("{name}: training steps: relative errors, by what a cancelled subgradient leaves: {wrong:?}");
        };
        println!("{name}: training steps agree where a cancelled subgradient leaves {residue:e}");
    }
    println!("{} networks agree", cases.len());
}

#[test]
fn each_wrong_number_after_training_is_noticed() {
    let reference = reference();
    let mut tried = 0;
    for case in reference["networks"].as_array().unwrap() {
        let trained = trained(case);
        for (name, right) in case["training"]["state_after"].as_object().unwrap() {
            let values = numbers(right);
            let moved = 1e-3 * largest(&values).max(largest(&numbers(&case["state"][name])));
            for k in 0..values.len() {
                let mut values = values.clone();
                values[k] += moved;
                let mut case = case.clone();
                case["training"]["state_after"][name] = values.into();
                for (residue, losses, network) in &trained {
                    let errors = training_errors(&case, losses, network);
                    assert!(!errors.is_empty(), "{name}[{k}] is wrong and passes with residue {residue:e}");
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 0);
    println!("{tried} wrong numbers noticed");
}
