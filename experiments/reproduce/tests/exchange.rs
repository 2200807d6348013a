//! What import and export refuse, with what there is to do.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::text;
use ds_lab::config::Config;
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::{TrainedOn, verified};
use ds_lab::torch::write_state_dict;
use std::collections::HashMap;
use std::path::Path;

/// What a file of an area network does not say itself.
const KNOWN: [&str; 8] = ["--network", "area", "--activation", "bspline", "--dataset", "circle", "--range", "1"];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn has(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }

    /// A network of zeros with four splines of so many knots, with another first weight if there is one.
    fn save(&self, size: usize, first: Option<Tensor>) -> String {
        let tensor = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let mut all = HashMap::from([
            ("fc1.weight".to_owned(), tensor(&[4, 2])),
            ("fc_last.weight".to_owned(), tensor(&[1, 4])),
            ("fc_last.bias".to_owned(), tensor(&[1])),
            ("activations.0._coefficients_vect".to_owned(), tensor(&[4 * size])),
        ]);
        all.extend(first.map(|first| ("fc1.weight".to_owned(), first)));
        let path = self.path("weights.safetensors");
        candle_core::safetensors::save(&all, &path).unwrap();
        path
    }

    /// A run of this network: its folder, and what the program said.
    fn import(&self) -> (String, String) {
        let (file, run) = (self.save(21, None), self.path("run"));
        let said = succeeds(&[&["import", &file, "--out", &run][..], &KNOWN].concat());
        (run, said)
    }
}

fn succeeds(arguments: &[&str]) -> String {
    let output = common::reproduce().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn fails(arguments: &[&str], parts: &[&str]) {
    let output = common::reproduce().args(arguments).output().unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{arguments:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("the defaults"), "{said}");
}

#[test]
fn weights_that_are_not_finite_in_f32_are_refused() {
    let folder = Folder::new();
    let out = folder.path("run");
    let cpu = &Device::Cpu;
    for first in [
        Tensor::full(f32::NAN, (4, 2), cpu).unwrap(),
        Tensor::full(f32::NEG_INFINITY, (4, 2), cpu).unwrap(),
        Tensor::full(1e300f64, (4, 2), cpu).unwrap(),
    ] {
        let file = folder.save(21, Some(first));
        let part = "its entry `fc1.weight` has numbers that are NaN or too large for f32";
        fails(&[&["import", &file, "--out", &out][..], &KNOWN].concat(), &["weights.safetensors", part]);
        assert!(!folder.has("run"));
    }
}

#[test]
fn an_option_that_contradicts_the_file_is_refused() {
    let folder = Folder::new();
    let (run, _) = folder.import();
    succeeds(&["export", &run, "--format", "torch"]);
    let (file, out) = (folder.path("run/torch.safetensors"), folder.path("again"));
    let import = ["import", file.as_str(), "--out", out.as_str()];
    for (option, value, told, way) in [
        ("--range", "2", "the file says range 1;", "--set activation.range=2"),
        ("--dataset", "s_shape", "the file says dataset circle;", "--set data.dataset=s_shape"),
        ("--network", "resnet32", "the file says network area;", "leave --network out"),
        ("--activation", "relu", "the file says activation bspline;", "leave --activation out"),
    ] {
        fails(&[&import[..], &[option, value]].concat(), &["torch.safetensors", told, way]);
        assert!(!folder.has("again"), "{option}");
    }
    // What the file says itself, and another value where that is meant.
    succeeds(&[&import[..], &KNOWN].concat());
    let out = folder.path("wider");
    succeeds(&["import", &file, "--out", &out, "--set", "activation.range=2"]);
    let config = Config::load(Path::new(&folder.path("wider/config.toml")), &[]).unwrap();
    assert_eq!(config.activation.range.before_training(), 2.0);
}

#[test]
fn a_wrong_key_names_the_option_or_the_entry_that_it_comes_from() {
    let folder = Folder::new();
    let out = folder.path("run");
    let with = |size: usize, index: usize, value: &str, parts: &[&str]| {
        let file = folder.save(size, None);
        let mut options = KNOWN;
        options[index] = value;
        fails(&[&["import", &file, "--out", &out][..], &options].concat(), parts);
    };
    with(21, 5, "cifar10", &["--dataset cifar10: `data.dataset` = cifar10"]);
    with(21, 3, "rleu", &["--activation: ", "rleu"]);
    with(21, 3, "relu", &["--range 1: relu has no knots"]);
    with(21, 7, "1e9", &["--range 1000000000: `activation.range`"]);
    let entry = "its `activations.0._coefficients_vect` of shape [80]: `activation.size` = 20";
    with(20, 7, "1", &[entry, "an odd whole number"]);
    assert!(!folder.has("run"));
    // The config of a file that another program has changed.
    let file = folder.path("weights.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap().into_iter().collect();
    let metadata = HashMap::from([("config".to_owned(), "experiment = \"mnist\"\nspeed = 1".to_owned())]);
    verified::write(Path::new(&file), &tensors, metadata).unwrap();
    fails(&["import", &file, "--out", &out], &["the config in its metadata: unknown key `speed`"]);
}

#[test]
fn files_of_this_program_are_told_from_those_of_pytorch() {
    let folder = Folder::new();
    let (run, _) = folder.import();
    succeeds(&["export", &run, "--format", "safetensors"]);
    let out = folder.path("again");
    for name in ["network", "checkpoint"] {
        let file = folder.path(&format!("run/{name}.safetensors"));
        let parts = ["file of this program (deep-splines ", "reproduce export RUN --format torch"];
        fails(&[&["import", &file, "--out", &out][..], &KNOWN].concat(), &parts);
    }
    assert!(!folder.has("again"));
}

#[test]
fn an_import_has_no_empty_table() {
    let folder = Folder::new();
    let (run, said) = folder.import();
    assert!(folder.has("run/summary.csv") && !folder.has("run/metrics.csv"));
    assert!(!said.contains("resumes after"), "{said}");
    for arguments in [["compare", &run, "", ""], ["bounds", &run, "--points", "2"]] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|argument| !argument.is_empty()).collect();
        let said = succeeds(&arguments);
        assert!(!said.contains("metrics.csv"), "{said}");
    }
    // Training goes on without it, and writes it.
    let config = folder.path("run/config.toml");
    let more = ["--resume", "--quiet", "--set", "train.epochs=2"];
    succeeds(&[&["train", "--config", &config, "--out", &run][..], &more].concat());
    let rows = common::metrics(Path::new(&folder.path("run/metrics.csv")));
    assert!(rows.iter().all(|row| row.epoch == 2) && !rows.is_empty(), "{rows:?}");
}

#[test]
fn an_export_leaves_the_files_of_the_run_alone() {
    let folder = Folder::new();
    let (run, _) = folder.import();
    for name in ["checkpoint.safetensors", "config.toml", "best.safetensors", "bounds.csv"] {
        let file = folder.path(&format!("run/{name}"));
        let before = std::fs::read(&file).ok();
        let export = ["export", &run, "--format", "onnx", "--overwrite", "--out", &file];
        fails(&export, &[name, "file of the run itself", "--out FILE"]);
        assert_eq!(std::fs::read(&file).ok(), before, "{name}");
    }
    // Elsewhere the name is free.
    succeeds(&["export", &run, "--format", "torch", "--out", &folder.path("best.safetensors")]);
}

#[test]
fn without_the_data_of_the_training_no_file_is_written() {
    let folder = Folder::new();
    // Data that is generated is always there; images are not.
    let config = "experiment = \"mnist\"\nnetwork.kind = \"convnet\"\nactivation.kind = \"relu\"";
    let config = Config::from_toml(config).unwrap();
    let network = ds_lab::run::network(&config, config.data.dataset.outputs()).unwrap();
    let metadata = HashMap::from([("config".to_owned(), config.to_toml())]);
    let (file, run, nowhere) = (folder.path("convnet.safetensors"), folder.path("images"), folder.path("nowhere"));
    write_state_dict(Path::new(&file), &config, &network, 0, metadata).unwrap();
    std::fs::create_dir(&nowhere).unwrap();
    let data = ["--data-dir", nowhere.as_str(), "--device", "cpu"];
    succeeds(&[&["import", &file, "--out", &run][..], &data].concat());
    let export = ["export", &run, "--format", "onnx", "--samples", "2"];
    fails(&[&export[..], &data].concat(), &[]);
    assert!(!folder.has("images/network.onnx"));

    // Of a run that was trained on other data.
    let (run, _) = folder.import();
    let path = folder.0.path().join("run/checkpoint.safetensors");
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    checkpoint.position.trained_on = Some(TrainedOn { is_sample: true, samples: 5 });
    checkpoint.write(&path).unwrap();
    let export = ["export", &run, "--format", "torch"];
    fails(&[&export[..], &["--samples", "2"]].concat(), &["trained on 5 training samples of the shipped sample"]);
    assert!(!folder.has("run/torch.safetensors"));
    succeeds(&export);
}
