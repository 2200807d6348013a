//! Networks of others, with the constants and bounds that others found for them.
//!
//! Reads the file named by `DS_LIPSCHITZ_REFERENCE`, or the shared reference file beside the project; without either there is
//! nothing to compare with, and the test says so.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use ds_core::activation::Activation;
use ds_core::lipschitz::architecture::{Architecture, Operator, Signal};
use ds_core::lipschitz::certified;
use ds_core::lipschitz::exact::{Limits, branch_and_bound};
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    activation: String,
    input: Vec<usize>,
    layers: Vec<Layer>,
    values: Values,
}

#[derive(Deserialize)]
struct Layer {
    kind: String,
    shape: Vec<usize>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    #[serde(default)]
    padding: usize,
    stride: Option<usize>,
}

#[derive(Deserialize)]
struct Values {
    product: f64,
    exact: Option<f64>,
    lipsdp: Option<f64>,
    found: Option<f64>,
}

fn cases() -> Option<Vec<Case>> {
    let path = match std::env::var_os("DS_LIPSCHITZ_REFERENCE") {
        Some(path) => PathBuf::from(path),
        None => {
            let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/lipschitz.json");
            if !shared.exists() {
                eprintln!("no reference file: set DS_LIPSCHITZ_REFERENCE to one");
                return None;
            }
            shared
        }
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: File = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(file.cases)
}

fn architecture(case: &Case) -> Architecture {
    let input = match case.input[..] {
        [n] => Signal::vector(n),
        [channels, height, width] => Signal { channels, plane: (height, width) },
        _ => panic!("{}: input {:?}", case.name, case.input),
    };
    let activation = || match case.activation.as_str() {
        "relu" => vec![Operator::Activation(Activation::Relu)],
        // (min, max) is (max, min) of negated numbers, negated; the order of a pair changes no norm.
        "group_sort2" => vec![Operator::Activation(Activation::MaxMin)],
        other => panic!("{}: activation {other}", case.name),
    };
    let mut operators = Vec::new();
    for (k, layer) in case.layers.iter().enumerate() {
        let mut weight = layer.weight.clone();
        if k > 0 && case.activation == "group_sort2" {
            // The next layer reads the pairs in the other order.
            weight.chunks_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        let weight = Tensor::from_vec(weight, layer.shape.as_slice(), &Device::Cpu).unwrap();
        operators.push(match layer.kind.as_str() {
            "dense" => Operator::Dense(weight),
            "convolution" => {
                Operator::Convolution { weight, stride: layer.stride.unwrap_or(1), padding: layer.padding }
            }
            other => panic!("{}: layer {other}", case.name),
        });
        operators.push(Operator::Bias(Tensor::new(layer.bias.as_slice(), &Device::Cpu).unwrap()));
        if k + 1 < case.layers.len() {
            operators.extend(activation());
        }
    }
    Architecture { input, operators }
}

#[test]
fn certified_bounds_are_those_of_the_sdp_or_less() {
    let Some(cases) = cases() else { return };
    let mut of_convolutions = Vec::new();
    for case in &cases {
        let architecture = architecture(case);
        let started = Instant::now();
        let product = certified::product_of_norms(&architecture).unwrap();
        let product_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let bound = certified::bound(&architecture).unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let Values { product: expected, exact, lipsdp, found } = case.values;
        println!(
            "{}: product {product:.6} ({product_seconds:.2} s), certified {bound:.6} ({seconds:.2} s), others: {exact:?} {lipsdp:?} {found:?}",
            case.name
        );
        let is_convolutional = case.layers.iter().any(|layer| layer.kind == "convolution");
        if !is_convolutional {
            assert!((product - expected).abs() < 1e-6 * expected, "{}: product {product}, not {expected}", case.name);
        }
        assert!(bound <= product * (1.0 + 1e-9), "{}: {bound} above the product {product}", case.name);
        let below = exact.into_iter().chain(found).fold(0.0, f64::max);
        assert!(bound >= below * (1.0 - 1e-9), "{}: {bound} below {below}", case.name);
        if let Some(lipsdp) = lipsdp {
            if is_convolutional {
                of_convolutions.push(bound / lipsdp);
            } else {
                assert!(bound <= lipsdp, "{}: {bound} above LipSDP's {lipsdp}", case.name);
            }
        }
    }
    of_convolutions.sort_by(f64::total_cmp);
    if let Some(median) = of_convolutions.get(of_convolutions.len() / 2) {
        println!("convolutional networks: median {median:.4} of LipSDP's bound");
        assert!(*median <= 1.1, "median {median} of LipSDP's bound");
    }
}

/// Seconds after which a search may end with a bracket of 1 %.
const LIMIT: f64 = 600.0;

#[test]
fn exact_constants_are_those_of_others() {
    let Some(cases) = cases() else { return };
    for case in &cases {
        let is_convolutional = case.layers.iter().any(|layer| layer.kind == "convolution");
        let small = case.layers.len() == 2 && !is_convolutional;
        if case.values.exact.is_none() && !small {
            continue;
        }
        let network = PiecewiseLinear::new(&architecture(case)).unwrap();
        let started = Instant::now();
        let limit = if case.values.exact.is_some() { LIMIT } else { 0.1 * LIMIT };
        let bracket =
            branch_and_bound(&network, Limits::default(), |_| Ok(started.elapsed().as_secs_f64() < limit)).unwrap();
        println!(
            "{}: {:.9} ≤ constant ≤ {:.9}, {} subproblems, {:.2} s; others: {:?}",
            case.name,
            bracket.lower,
            bracket.upper,
            bracket.subproblems,
            started.elapsed().as_secs_f64(),
            case.values.exact
        );
        match case.values.exact {
            Some(exact) => {
                assert!(bracket.upper <= bracket.lower * (1.0 + 1e-6), "{}: {bracket:?}", case.name);
                assert!((bracket.lower - exact).abs() <= 1e-6 * exact, "{}: {bracket:?}, not {exact}", case.name);
            }
            None => {
                assert!(bracket.upper <= bracket.lower * 1.01, "{}: {bracket:?}", case.name);
                let found = case.values.found.unwrap_or(0.0);
                assert!(bracket.upper >= found * (1.0 - 1e-9), "{}: {bracket:?} below {found}", case.name);
            }
        }
    }
}
