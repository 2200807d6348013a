//! Configs: what is refused says where, what and what is allowed.
#![allow(clippy::unwrap_used)]

use ds_lab::config::{Config, KEYS, protocol, reference_doc};
use ds_lab::sweep::Sweep;
use std::path::{Path, PathBuf};

fn load(text: &str, overrides: &[&str]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Config::load(&path, &overrides).map_err(|error| error.to_string())
}

fn shipped() -> Vec<PathBuf> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut all = Vec::new();
    for directory in [configs.clone(), configs.join("quick")] {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                all.push(path);
            }
        }
    }
    assert!(all.len() > 15);
    all
}

#[test]
fn shipped_configs_load_and_survive_a_round_trip() {
    for path in shipped() {
        let config = Config::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
        let again = Config::from_toml(&config.to_toml()).unwrap();
        assert_eq!(config, again, "{}", path.display());
        assert!(config.differences(&again).is_empty());
        // A resolved config is a config file like any other.
        assert_eq!(load(&config.to_toml(), &[]).unwrap(), config, "{}", path.display());
        let is_quick = path.parent().unwrap().ends_with("quick");
        assert_eq!(protocol(&config, false).starts_with("reduced"), is_quick, "{}", path.display());
    }
}

#[test]
fn shipped_sweeps_load() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut count = 0;
    for directory in ["sweeps", "quick/sweeps", "reduced"] {
        for entry in std::fs::read_dir(configs.join(directory)).unwrap() {
            let sweep = Sweep::load(&entry.unwrap().path()).unwrap_or_else(|e| panic!("{e}"));
            let is_full = |config| protocol(config, false) == "full";
            assert!(sweep.runs().unwrap().iter().all(|run| is_full(&run.config) == (directory == "sweeps")));
            count += 1;
        }
    }
    assert!(count > 12);
}

#[test]
fn defaults_are_the_originals() {
    let resnet = load("experiment = \"cifar10\"", &[]).unwrap();
    assert_eq!((resnet.train.epochs, resnet.train.batch_size), (300, 128));
    assert_eq!(resnet.train.milestones, [150, 225, 262]);
    assert_eq!((resnet.activation.size, resnet.activation.range), (51, 4.0));
    assert_eq!((resnet.regularization.lambda, resnet.regularization.weight_decay), (1e-4, 5e-4));
    assert_eq!((resnet.optimizer.weights.lr, resnet.optimizer.splines.lr), (0.1, 1e-3));
    let nin = load("experiment = \"cifar10\"\nnetwork.kind = \"nin\"", &[]).unwrap();
    assert_eq!((nin.train.epochs, nin.network.dropout), (320, 0.5));
    let area = load("experiment = \"area2d\"", &[]).unwrap();
    assert_eq!((area.train.epochs, area.train.batch_size, area.network.hidden.as_slice()), (500, 10, &[4, 4][..]));
}

#[test]
fn errors_name_file_key_value_and_what_is_allowed() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("seed = 1", &[], &["run.toml", "`experiment`", "missing", "area2d, fit1d, mnist, cifar10"]),
        ("experiment = \"cifar\"", &[], &["run.toml", "`experiment`", "\"cifar\"", "cifar10"]),
        (
            "experiment = \"mnist\"\ntrain.epoch = 3",
            &[],
            &["`train.epoch`", "did you mean `train.epochs`", "batch_size"],
        ),
        ("experiment = \"mnist\"\n[trian]\nepochs = 3", &[], &["`trian`", "allowed here", "train"]),
        ("experiment = \"mnist\"\ntrain = 3", &[], &["`train`", "a section with the keys epochs"]),
        ("experiment = \"mnist\"\ntrain.batch_size = 0", &[], &["`train.batch_size` is 0", "from 1"]),
        ("experiment = \"mnist\"\ntrain.batch_size = -4", &[], &["`train.batch_size` is -4", "from 1"]),
        ("experiment = \"mnist\"\ntrain.epochs = \"many\"", &[], &["`train.epochs`", "\"many\"", "a whole number"]),
        ("experiment = \"mnist\"\nactivation.size = 50", &[], &["`activation.size` is 50", "odd"]),
        ("experiment = \"mnist\"\nactivation.range = nan", &[], &["`activation.range` is nan", "above 0"]),
        (
            "experiment = \"mnist\"\nactivation.kind = \"spline\"",
            &[],
            &["`activation.kind`", "bspline, explicit_linear"],
        ),
        ("experiment = \"mnist\"\noptimizer.weights.lr = 0", &[], &["`optimizer.weights.lr`", "above 0"]),
        ("experiment = \"mnist\"\nnetwork.kind = \"resnet32\"", &[], &["`network.kind`", "convnet for mnist"]),
        ("experiment = \"mnist\"\ndata.dataset = \"circle\"", &[], &["`data.dataset`", "mnist or fashion_mnist"]),
        ("experiment = \"mnist\"\nnetwork.hidden = [3]", &[], &["`network.hidden`", "[3]", "area2d"]),
        ("experiment = \"mnist\"\ndata.validation = 1.5", &[], &["`data.validation` is 1.5", "0.9"]),
        ("experiment = \"mnist\"\nname = \"../up\"", &[], &["`name`", "without /"]),
        (
            "experiment = \"mnist\"\nactivation.kind = \"relu_spline\"\nactivation.init = \"even_odd\"",
            &[],
            &["`activation.init` is even_odd", "leaky_relu, relu or identity"],
        ),
        (
            "experiment = \"mnist\"\nactivation.range = 1\nactivation.step = 0.1",
            &[],
            &["`activation.step`", "not both"],
        ),
        ("experiment = \"mnist\"\ntrain.milestones = [5, 2]", &[], &["`train.milestones`", "[5, 2]", "ascending"]),
        ("experiment = \"fit1d\"\nsparsify.enabled = true", &[], &["`sparsify.threshold`", "missing"]),
        ("experiment = \"area2d\"\nnetwork.hidden = []", &[], &["`network.hidden`", "at least one"]),
        ("experiment = [", &[], &["run.toml", "not valid TOML", "line 1"]),
        ("experiment = \"mnist\"", &["train.epochs=0"], &["--set train.epochs=0", "`train.epochs` is 0"]),
        ("experiment = \"mnist\"", &["epochs=2"], &["--set epochs=2", "did you mean `train.epochs`"]),
        ("experiment = \"mnist\"", &["train.epochs"], &["--set train.epochs", "KEY=VALUE"]),
    ];
    for (text, overrides, parts) in cases {
        let error = load(text, overrides).expect_err(text);
        for part in *parts {
            assert!(error.contains(part), "{text:?} {overrides:?}: `{part}` is not in: {error}");
        }
    }
    let error = Config::load(Path::new("no/such.toml"), &[]).unwrap_err().to_string();
    assert!(error.contains("no/such.toml"), "{error}");
}

#[test]
fn overrides_win() {
    let config = load(
        "experiment = \"mnist\"\ntrain.epochs = 3",
        &["train.epochs=7", "activation.kind=relu", "train.milestones=[2, 4]", "seed=5"],
    )
    .unwrap();
    assert_eq!((config.train.epochs, config.seed), (7, 5));
    assert_eq!(config.name, "convnet-relu");
    assert_eq!(config.train.milestones, [2, 4]);
    let step = load("experiment = \"mnist\"", &["activation.step=0.25"]).unwrap();
    assert_eq!(load(&step.to_toml(), &[]).unwrap().activation.step, Some(0.25));
}

#[test]
fn differences_name_both_values() {
    let a = load("experiment = \"mnist\"", &[]).unwrap();
    let b = load("experiment = \"mnist\"", &["train.epochs=7"]).unwrap();
    assert_eq!(a.differences(&b), ["train.epochs: 40 there, 7 here"]);
}

#[test]
fn the_table_of_keys_is_complete() {
    let doc = reference_doc();
    let config = load("experiment = \"cifar10\"\nsparsify.threshold = 1\nactivation.fixed_bias = true", &[]).unwrap();
    let table: toml::Table = config.to_toml().parse().unwrap();
    fn paths(table: &toml::Table, prefix: &str, all: &mut Vec<String>) {
        for (name, value) in table {
            let path = format!("{prefix}{name}");
            match value {
                toml::Value::Table(inner) => paths(inner, &format!("{path}."), all),
                _ => all.push(path),
            }
        }
    }
    let mut all = Vec::new();
    paths(&table, "", &mut all);
    for path in &all {
        assert!(KEYS.iter().any(|key| key.path == path), "{path} is not in the table");
    }
    for key in KEYS.iter().filter(|key| key.path != "activation.step") {
        assert!(all.iter().any(|path| path == key.path), "{} is not in a config", key.path);
        assert!(doc.contains(key.path));
    }
}
