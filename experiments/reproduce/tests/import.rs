//! Networks that the original's program trained are imported, evaluate as there, and go back as they came.
//!
//! `DS_TORCH_REFERENCE=DIR cargo test --release -p reproduce --test import` takes the files NAME.pth of another folder, each with an
//! input and the output of PyTorch in NAME.json.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use common::text;
use ds_core::graph::Graph;
use ds_lab::torch::{Given, import};
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::tape::Tape;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Runs the program, which must succeed.
fn reproduce(arguments: &[&str]) {
    let output = common::reproduce().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
}

/// Runs the program, which must fail, and returns what it says.
fn failed(arguments: &[&str]) -> String {
    let output = common::reproduce().args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// What PyTorch says of a file.
#[derive(Deserialize)]
struct Reference {
    network: String,
    activation: String,
    size: usize,
    range: f64,
    dataset: String,
    parameters: usize,
    state: BTreeMap<String, Vec<usize>>,
    shape: Vec<usize>,
    x: Vec<f32>,
    y: Vec<f64>,
    output_shape: Vec<usize>,
}

/// The files of the folder, with what PyTorch says of them.
fn references() -> Vec<(PathBuf, Reference)> {
    let folder = std::env::var("DS_TORCH_REFERENCE")
        .map(PathBuf::from)
        .unwrap_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/torch"));
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("no folder {}: nothing is imported", folder.display());
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pth"));
    files.sort();
    let with_reference = |path: PathBuf| {
        let text = std::fs::read_to_string(path.with_extension("json")).unwrap();
        (path, serde_json::from_str(&text).unwrap())
    };
    files.into_iter().map(with_reference).collect()
}

fn output(network: &Network, reference: &Reference) -> Vec<f64> {
    let x = Tensor::from_vec(reference.x.clone(), reference.shape.as_slice(), &Device::Cpu).unwrap();
    let mut tape = Tape::inference();
    let x = tape.constant(&x);
    let y = network.forward_in(&mut tape, &x, Mode::Evaluation).unwrap();
    let y = tape.tensor(&y).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    // The original's area networks end with a sigmoid.
    let area = reference.network == "twoDnet";
    y.into_iter().map(f64::from).map(|y| if area { 1.0 / (1.0 + (-y).exp()) } else { y }).collect()
}

#[test]
fn every_reference_is_imported_and_evaluates_as_in_pytorch() {
    for (path, reference) in references() {
        let imported = import(&path, &Given::default()).unwrap();
        let network = &imported.network;
        let of = path.display();
        assert_eq!(network.parameter_count(), reference.parameters, "{of}");
        let kind = match reference.activation.as_str() {
            "deepBspline" => "bspline",
            "deepBspline_explicit_linear" => "explicit_linear",
            "deepReLUspline" => "relu_spline",
            other => other,
        };
        let config = &imported.config;
        assert_eq!([config.activation.kind.name(), config.data.dataset.name()], [kind, &reference.dataset], "{of}");
        let y = output(network, &reference);
        assert_eq!(y.len(), reference.output_shape.iter().product::<usize>(), "{of}");
        let largest = reference.y.iter().fold(0f64, |largest, y| largest.max(y.abs()));
        let difference = y.iter().zip(&reference.y).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max);
        println!("{of}: relative difference {:.1e}", difference / largest);
        assert!(difference <= 1e-4 * largest, "{of}: {difference} of {largest}");
        // As Python's `//` rounds down.
        let step = reference.range / (reference.size / 2) as f64;
        let step = step - step % 1e-6;
        for spline in network.splines() {
            assert_eq!(spline.grid().size(), reference.size, "{of}");
            assert!((spline.grid().step() - step).abs() <= 1e-7 * step, "{of}: {}", spline.grid().step());
        }
    }
}

#[test]
fn imported_networks_go_back_as_they_came() {
    let directory = tempfile::tempdir().unwrap();
    for (path, reference) in references() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let run = directory.path().join(name);
        // Whether the data is there does not matter here.
        let nowhere = directory.path().join("no-data");
        std::fs::create_dir_all(&nowhere).unwrap();
        let import = ["import", path.to_str().unwrap(), "--out", run.to_str().unwrap()];
        reproduce(&[&import[..], &["--data-dir", nowhere.to_str().unwrap(), "--device", "cpu"]].concat());
        reproduce(&["export", run.to_str().unwrap(), "--format", "torch"]);
        let file = run.join("torch.safetensors");
        let exported = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let shapes: BTreeMap<String, Vec<usize>> =
            exported.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
        assert_eq!(shapes, reference.state, "{name}");
        let again = directory.path().join(format!("{name}-again"));
        let import = ["import", file.to_str().unwrap(), "--out", again.to_str().unwrap()];
        reproduce(&[&import[..], &["--data-dir", nowhere.to_str().unwrap(), "--device", "cpu"]].concat());
        reproduce(&["export", again.to_str().unwrap(), "--format", "torch"]);
        let twice = candle_core::safetensors::load(again.join("torch.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(bits(&exported), bits(&twice), "{name}");
        is_read_by_candle(&path, &run, &reference);
    }
}

/// The third format, in another network that takes its tensors from a mapped file.
fn is_read_by_candle(path: &Path, run: &Path, reference: &Reference) {
    reproduce(&["export", run.to_str().unwrap(), "--format", "safetensors"]);
    let file = run.join("network.safetensors");
    // SAFETY: nothing else writes to the file.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu) }.unwrap();
    let imported = import(path, &Given::default()).unwrap();
    let config = &imported.config;
    let drawn = ds_lab::run::network(config, config.data.dataset.outputs()).unwrap();
    let mapped = drawn.with_builder(vb).unwrap();
    assert_eq!((mapped.parameter_count(), drawn.parameter_count()), (0, reference.parameters));
    assert_eq!(output(&mapped, reference), output(&imported.network, reference));
}

fn bits(tensors: &HashMap<String, Tensor>) -> BTreeMap<&String, Vec<u64>> {
    let of = |tensor: &Tensor| {
        let numbers = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        numbers.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
    };
    tensors.iter().map(|(name, tensor)| (name, of(tensor))).collect()
}

/// A file of an area network with four splines of 21 knots, and what it does not say itself.
fn save_weights(file: &Path) -> [&'static str; 8] {
    let names: [(&str, &[usize]); 4] = [
        ("fc1.weight", &[4, 2]),
        ("fc_last.weight", &[1, 4]),
        ("fc_last.bias", &[1]),
        ("activations.0._coefficients_vect", &[4 * 21]),
    ];
    let tensor = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let all: HashMap<String, Tensor> = names.iter().map(|(name, dims)| (name.to_string(), tensor(dims))).collect();
    candle_core::safetensors::save(&all, file).unwrap();
    ["--network", "area", "--activation", "bspline", "--dataset", "circle", "--range", "1"]
}

#[test]
fn a_tilde_is_the_home_folder_in_every_path() {
    let home = tempfile::tempdir().unwrap();
    let known = save_weights(&home.path().join("weights.safetensors"));
    let at_home = |arguments: &[&str]| {
        let output = common::reproduce().args(arguments).env("HOME", home.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    };
    at_home(&[&["import", "~/weights.safetensors", "--out=~/run"][..], &known[..]].concat());
    at_home(&["export", "~/run", "--format", "torch", "--out=~/torch.safetensors"]);
    at_home(&["bounds", "~/run", "--points", "3"]);
    at_home(&["sparsify", "~/run", "--out=~/pruned"]);
    at_home(&["compare", "~/run"]);
    for file in ["run/summary.csv", "torch.safetensors", "run/bounds.csv", "pruned/pruning.csv", "run/comparison.md"] {
        assert!(home.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_run_has_the_epochs_that_its_file_tells() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let known = save_weights(&directory.path().join("weights.safetensors"));
    // A plain file tells none.
    let (weights, run) = (path("weights.safetensors"), path("run"));
    reproduce(&[&["import", &weights, "--out", &run, "--set", "train.epochs=20"][..], &known[..]].concat());
    reproduce(&["export", &run, "--format", "torch"]);
    let (file, out) = (path("run/torch.safetensors"), path("again"));
    let again = ["import", file.as_str(), "--out", out.as_str()];
    let error = failed(&[&again[..], &["--set", "train.epochs=300"]].concat());
    for part in ["torch.safetensors", "has had 20 epochs", "--resume --set train.epochs=300"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!Path::new(&out).exists());
    reproduce(&[&again[..], &["--set", "train.epochs=20"]].concat());
    assert_eq!(common::summary(&directory.path().join("again/summary.csv"))[0].epochs, 20);
}

#[test]
fn an_import_without_data_is_evaluated_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let known = save_weights(&directory.path().join("weights.safetensors"));
    let (weights, run, config) = (path("weights.safetensors"), path("run"), path("run/config.toml"));
    // An area has no sample.
    let import = ["import", weights.as_str(), "--out", run.as_str(), "--data", "sample"];
    reproduce(&[&import[..], &known[..]].concat());
    assert!(!Path::new(&path("run/summary.csv")).exists());
    reproduce(&["train", "--config", &config, "--out", &run, "--resume", "--quiet"]);
    assert!(Path::new(&path("run/summary.csv")).exists());
    assert!(!Path::new(&path("run/metrics.csv")).exists());
}

#[test]
fn what_is_wrong_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weights.safetensors");
    let out = directory.path().join("run");
    let tensor = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let names: [(&str, &[usize]); 5] = [
        ("fc1.weight", &[4, 2]),
        ("fc_last.weight", &[1, 4]),
        ("fc_last.bias", &[1]),
        ("activations.0._coefficients_vect", &[4 * 21]),
        ("more", &[1]),
    ];
    let all: HashMap<String, Tensor> = names.iter().map(|(name, dims)| (name.to_string(), tensor(dims))).collect();
    let save = |all: &HashMap<String, Tensor>| candle_core::safetensors::save(all, &file).unwrap();
    save(&all);
    let line = |more: &[&str]| {
        let import = ["import", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
        failed(&[&import[..], more].concat())
    };
    let known = ["--network", "area", "--activation", "bspline", "--dataset", "circle"];
    let whole = [&known[..], &["--range", "1"]].concat();
    for (flags, part) in [
        (&[][..], "give --network"),
        (&known[..2], "give --activation"),
        (&known[..4], "give --dataset"),
        (&known[..], "give --range"),
        (&whole[..], "its entry `more` is of no parameter"),
        (&["--network", "lipschitz", "--activation", "relu", "--dataset", "mnist"][..], "no such network"),
    ] {
        let error = line(flags);
        assert!(error.contains(part) && error.contains("weights.safetensors"), "{flags:?}: {error}");
        assert!(!out.exists(), "{flags:?}");
    }
    let without = |name: &str| {
        let mut all = all.clone();
        all.remove("more");
        all.remove(name);
        all
    };
    save(&without("fc_last.bias"));
    assert!(line(&whole).contains("no entry `fc_last.bias` (last.bias of the network)"));
    let mut other = without("more");
    other.insert("fc_last.weight".to_owned(), tensor(&[4, 1]));
    save(&other);
    assert!(line(&whole).contains("its entry `fc_last.weight` has shape [4, 1], expected [1, 4]"));
    // A run that is there is left alone.
    save(&without("more"));
    let import = ["import", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    reproduce(&[&import[..], &whole].concat());
    let before = std::fs::read(out.join("checkpoint.safetensors")).unwrap();
    assert!(line(&whole).contains("already"));
    assert_eq!(std::fs::read(out.join("checkpoint.safetensors")).unwrap(), before);
    // The data of an area is generated, so that there is a summary; and training goes on.
    let summary = std::fs::read_to_string(out.join("summary.csv")).unwrap();
    assert!(summary.contains(",imported,"), "{summary}");
    let config = out.join("config.toml");
    let resume = ["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--resume"];
    reproduce(&[&resume[..], &["--set", "train.epochs=2", "--quiet"]].concat());
    let summary = std::fs::read_to_string(out.join("summary.csv")).unwrap();
    assert!(summary.contains("\"imported, and trained on\""), "{summary}");
}
