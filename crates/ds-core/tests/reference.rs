//! The activations against numbers of the original.
//!
//! Reads the file named by `DS_REFERENCE`, or the shared reference file beside the project, or the small copy in the
//! repository. Networks and parameter counts of the same file are tested in `ds-nn`.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{Device, Tensor, Var};
use candle_nn::Module;
use common::{assert_close, flat};
use ds_core::Grid;
use ds_core::activation::{Init, Kind, LinearTerm, Spline};
use ds_core::graph::Gradients;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::regularization::{Norm, active_knots, slope_changes, tv2, values_at_0_and_1};
use ds_core::sparsify::{eliminate_knots, exact_active_knots};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Reference {
    activations: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    mode: String,
    size: usize,
    range: f64,
    grid: f64,
    init: String,
    shape: Vec<usize>,
    x: Value,
    y: Value,
    grad_y: Value,
    grad_x: Value,
    parameters: HashMap<String, Value>,
    grad_parameters: HashMap<String, Value>,
    relu_slopes: Value,
    tv2: Value,
    abs_f0_plus_abs_f1: Value,
    grad_bv2_parameters: HashMap<String, Value>,
    threshold: f64,
    active_knots_at_threshold: Vec<usize>,
    parameters_after_threshold: Option<HashMap<String, Value>>,
    y_after_threshold: Option<Value>,
}

fn reference() -> Reference {
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

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        Value::Number(number) => vec![number.as_f64().unwrap()],
        other => panic!("expected numbers, got {other}"),
    }
}

fn tensor(value: &Value, shape: &[usize]) -> Tensor {
    let data: Vec<f32> = numbers(value).into_iter().map(|v| v as f32).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

/// One value for each of our parameters, by the original's names.
fn named<'a>(spline: &'a Spline, values: &'a HashMap<String, Value>) -> Vec<(&'a Tensor, Vec<f64>)> {
    let knots = values.get("coefficients_vect").or_else(|| values.get("relu_slopes")).unwrap();
    let mut all = vec![(spline.knot_parameters(), numbers(knots))];
    if let Some(linear) = spline.linear_term() {
        all.push((&linear.weight, numbers(&values["spline_weight"])));
        all.push((&linear.bias, numbers(&values["spline_bias"])));
    }
    all
}

impl Case {
    fn channels(&self) -> usize {
        self.shape[1]
    }

    fn spline(&self) -> Spline {
        let variable = |name: &str, shape: &[usize]| {
            Var::from_tensor(&tensor(&self.parameters[name], shape)).unwrap().into_inner()
        };
        let channels = self.channels();
        let linear = || LinearTerm {
            weight: variable("spline_weight", &[channels]),
            bias: variable("spline_bias", &[channels]),
            fixed_bias: false,
        };
        let kind = match self.kind.as_str() {
            "bspline" => Kind::BSpline { coefficients: variable("coefficients_vect", &[channels, self.size]) },
            "explicit_linear" => Kind::ExplicitLinear {
                coefficients: variable("coefficients_vect", &[channels, self.size]),
                linear: linear(),
            },
            "relu_spline" => Kind::ReluSpline {
                slope_changes: variable("relu_slopes", &[channels, self.size - 2]),
                linear: linear(),
            },
            other => panic!("unknown kind {other}"),
        };
        Spline::from_parameters(Grid::from_step(self.size, self.grid).unwrap(), kind).unwrap()
    }

    fn init_spline(&self) -> Spline {
        let init = match self.init.as_str() {
            "leaky_relu" => Init::LeakyRelu,
            "relu" => Init::Relu,
            "even_odd" => Init::EvenOdd,
            other => panic!("unknown init {other}"),
        };
        let grid = Grid::from_range(self.size, self.range).unwrap();
        let (channels, dtype, device) = (self.channels(), candle_core::DType::F32, &Device::Cpu);
        match self.kind.as_str() {
            "bspline" => Spline::bspline(channels, grid, init, dtype, device),
            "explicit_linear" => Spline::explicit_linear(channels, grid, init, false, dtype, device),
            _ => Spline::relu_spline(channels, grid, init, false, dtype, device),
        }
        .unwrap()
    }
}

#[test]
fn activations() {
    let reference = reference();
    assert!(!reference.activations.is_empty());
    let (mut at_init, mut rebuilt, mut failed) = (0, 0, 0);
    for (i, case) in reference.activations.iter().enumerate() {
        let name = format!("case {i} ({} {} K={} {})", case.kind, case.mode, case.size, case.init);
        let close = |what: &str, ours: &[f64], expected: &[f64]| {
            assert_close(&format!("{name}: {what}"), ours, expected, TOLERANCE);
        };
        let spline = case.spline();
        let step = Grid::from_range(case.size, case.range).unwrap().step();
        assert_eq!(step as f32, case.grid as f32, "{name}: grid step");
        if named(&spline, &case.parameters)
            .iter()
            .zip(named(&case.init_spline(), &case.parameters))
            .all(|((ours, _), (init, _))| common::relative_error(&flat(ours), &flat(init)) < 1e-6)
        {
            at_init += 1;
        }

        // Forward, and backward through Candle's graph and in one call.
        let x = Var::from_tensor(&tensor(&case.x, &case.shape)).unwrap();
        let grad_y = tensor(&case.grad_y, &case.shape);
        let y = spline.forward(&x).unwrap();
        close("output", &flat(&y), &numbers(&case.y));
        let gradients = (&y * &grad_y).unwrap().sum_all().unwrap().backward().unwrap();
        close("gradient of x", &flat(gradients.get(&x).unwrap()), &numbers(&case.grad_x));
        for (parameter, expected) in named(&spline, &case.grad_parameters) {
            close("gradient of a parameter", &flat(gradients.get(parameter).unwrap()), &expected);
        }
        let coefficients = spline.coefficients().unwrap();
        let (dx, _) = LinearSpline::new(spline.grid()).backward(&x, &coefficients, &grad_y).unwrap();
        close("gradient of x in one call", &flat(&dx), &numbers(&case.grad_x));

        // Norms and their gradients.
        close("slope changes", &flat(&slope_changes(&spline).unwrap()), &numbers(&case.relu_slopes));
        close("TV²", &tv2(&spline).unwrap(), &numbers(&case.tv2));
        let sums: Vec<f64> =
            values_at_0_and_1(&spline).unwrap().iter().map(|(at_0, at_1)| at_0.abs() + at_1.abs()).collect();
        close("|σ(0)| + |σ(1)|", &sums, &numbers(&case.abs_f0_plus_abs_f1));
        let mut store = empty_gradients();
        Norm::Bv2.add_gradient(&spline, 1.0, &mut store).unwrap();
        for (parameter, expected) in named(&spline, &case.grad_bv2_parameters) {
            close("gradient of BV²", &flat(store.gradient(parameter).unwrap()), &expected);
        }

        // Knots.
        let active = active_knots(&spline, case.threshold).unwrap();
        assert_eq!(active, case.active_knots_at_threshold, "{name}: active knots");
        check_elimination(&name, &spline, case.threshold);
        match (&case.parameters_after_threshold, &case.y_after_threshold) {
            (Some(parameters), Some(y)) => {
                rebuilt += 1;
                for (parameter, expected) in named(&spline, parameters) {
                    close("parameters after elimination", &flat(parameter), &expected);
                }
                close("output after elimination", &flat(&spline.forward(&x).unwrap()), &numbers(y));
            }
            _ => failed += 1,
        }
    }
    println!(
        "{} cases agree: {at_init} at their initial shape, {rebuilt} eliminations as the original's, {failed} where its \
         own check failed",
        reference.activations.len()
    );
}

fn empty_gradients() -> candle_core::backprop::GradStore {
    let nothing = Var::from_tensor(&Tensor::new(0f32, &Device::Cpu).unwrap()).unwrap();
    nothing.as_tensor().backward().unwrap()
}

/// Eliminated slopes are gone and kept ones are what they were, to 4·ε·max|c|/T in f64.
fn check_elimination(name: &str, spline: &Spline, threshold: f64) {
    let step = spline.grid().step();
    let of_relus = matches!(spline.kind(), Kind::ReluSpline { .. });
    let width = if of_relus { spline.grid().size() - 2 } else { spline.grid().size() };
    let rows = |spline: &Spline| -> Vec<Vec<f64>> {
        flat(spline.knot_parameters()).chunks_exact(width).map(<[f64]>::to_vec).collect()
    };
    let slopes = |row: &[f64]| -> Vec<f64> {
        if of_relus { row.to_vec() } else { row.windows(3).map(|c| (c[0] - 2.0 * c[1] + c[2]) / step).collect() }
    };
    let before = rows(spline);
    let kept = eliminate_knots(spline, threshold).unwrap();
    assert_eq!(exact_active_knots(spline, threshold).unwrap(), kept, "{name}: kept knots");
    for ((before, after), kept) in before.iter().zip(rows(spline)).zip(kept) {
        let largest = before.iter().chain(&after).fold(0.0f64, |m, c| m.max(c.abs()));
        let bound = 4.0 * f64::from(f32::EPSILON) * largest / step;
        let mut alive = 0;
        for (before, after) in slopes(before).into_iter().zip(slopes(&after)) {
            if after.abs() > threshold.max(if of_relus { 0.0 } else { bound }) {
                assert!((before - after).abs() <= bound, "{name}: kept slope {before} became {after}, bound {bound}");
                alive += 1;
            } else if before.abs() <= threshold {
                assert!(after.abs() <= bound, "{name}: eliminated slope {before} is still {after}, bound {bound}");
            }
        }
        assert!(alive <= kept, "{name}: {alive} slopes alive, {kept} kept");
    }
}
