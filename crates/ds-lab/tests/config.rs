//! Configs: what is refused says where, what and what is allowed.
#![allow(clippy::unwrap_used)]

use ds_lab::config::{Config, KEYS, Range, protocol, reference_doc};
use ds_lab::results::metrics::read_summary;
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
    assert_eq!((resnet.activation.size, resnet.activation.range), (51, Range::Fixed(4.0)));
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
        ("experiment = \"mnist\"\ntrain.batch_size = 0", &[], &["`train.batch_size` = 0", "from 1"]),
        ("experiment = \"mnist\"\ntrain.batch_size = -4", &[], &["`train.batch_size` = -4", "from 1"]),
        ("experiment = \"mnist\"\ntrain.epochs = \"many\"", &[], &["`train.epochs`", "\"many\"", "a whole number"]),
        ("experiment = \"mnist\"\nactivation.size = 50", &[], &["`activation.size` = 50", "odd"]),
        ("experiment = \"mnist\"\nactivation.range = nan", &[], &["`activation.range` = nan", "above 0"]),
        (
            "experiment = \"mnist\"\nactivation.kind = \"spline\"",
            &[],
            &["`activation.kind`", "bspline, explicit_linear"],
        ),
        ("experiment = \"mnist\"\noptimizer.weights.lr = 0", &[], &["`optimizer.weights.lr`", "above 0"]),
        (
            "experiment = \"mnist\"\nnetwork.kind = \"resnet32\"",
            &[],
            &["`network.kind`", "convnet or lipschitz or lipschitz_conv for mnist"],
        ),
        ("experiment = \"mnist\"\ndata.dataset = \"circle\"", &[], &["`data.dataset`", "mnist or fashion_mnist"]),
        ("experiment = \"mnist\"\nnetwork.hidden = [3]", &[], &["`network.hidden`", "[3]", "area2d"]),
        ("experiment = \"mnist\"\ndata.validation = 1.5", &[], &["`data.validation` = 1.5", "0.9"]),
        ("experiment = \"mnist\"\nname = \"../up\"", &[], &["`name`", "without /"]),
        (
            "experiment = \"mnist\"\nactivation.kind = \"relu_spline\"\nactivation.init = \"even_odd\"",
            &[],
            &["`activation.init` = even_odd", "leaky_relu, relu, identity"],
        ),
        (
            "experiment = \"mnist\"\nactivation.kind = \"max_min\"",
            &[],
            &["`activation.kind` = max_min", "single channels for convnet"],
        ),
        (
            "experiment = \"mnist\"\nnetwork.kind = \"lipschitz\"\nactivation.kind = \"prelu\"",
            &[],
            &["`activation.kind` = prelu", "lipschitz_spline, absolute, max_min"],
        ),
        (
            "experiment = \"mnist\"\nactivation.kind = \"max_min\"\n[network]\nkind = \"lipschitz_conv\"\nhidden = [16, 5]",
            &[],
            &["`network.hidden` = [16, 5]", "even widths for max_min"],
        ),
        (
            "experiment = \"mnist\"\nnetwork.kind = \"lipschitz_conv\"\nnetwork.hidden = []",
            &[],
            &["`network.hidden`", "such as [16, 128]"],
        ),
        ("experiment = \"mnist\"\nnetwork.lipschitz = 2", &[], &["`network.lipschitz`", "lipschitz networks"]),
        ("experiment = \"mnist\"\nnetwork.weights = \"free\"", &[], &["`network.weights`", "orthonormal, spectral"]),
        ("experiment = \"mnist\"\nactivation.scaling = true", &[], &["`activation.scaling`", "lipschitz_spline"]),
        ("experiment = \"mnist\"\noptimizer.scalings.lr = 1e-3", &[], &["`optimizer.scalings.lr`", "lipschitz_spline"]),
        (
            "experiment = \"mnist\"\nnetwork.kind = \"lipschitz\"",
            &["activation.scaling=false", "optimizer.scalings.lr=1e-3"],
            &["`optimizer.scalings.lr`", "activation.scaling = true"],
        ),
        (
            "experiment = \"fit1d\"\nactivation.kind = \"relu_spline\"\nactivation.init = \"zigzag\"",
            &[],
            &["`activation.init` = zigzag", "relu_spline"],
        ),
        ("experiment = \"fit1d\"\ndata.normalize = false", &[], &["`data.normalize`", "images"]),
        (
            "experiment = \"cifar10\"\nnetwork.kind = \"lipschitz\"",
            &[],
            &["`network.kind`", "lipschitz_conv for cifar10"],
        ),
        (
            "experiment = \"mnist\"\nactivation.range = 1\nactivation.step = 0.1",
            &[],
            &["`activation.step`", "not both"],
        ),
        ("experiment = \"mnist\"\ntrain.milestones = [5, 2]", &[], &["`train.milestones`", "[5, 2]", "ascending"]),
        (
            "experiment = \"mnist\"\ntrain.precision = \"f16\"",
            &[],
            &["`train.precision` = \"f16\"", "one of f32, bf16"],
        ),
        ("experiment = \"fit1d\"\nsparsify.enabled = true", &[], &["`sparsify.knots`", "missing"]),
        ("experiment = \"area2d\"\nnetwork.hidden = []", &[], &["`network.hidden`", "at least one"]),
        ("experiment = [", &[], &["run.toml", "not valid TOML", "line 1"]),
        ("experiment = \"mnist\"", &["train.epochs=0"], &["--set train.epochs=0", "`train.epochs` = 0"]),
        ("experiment = \"mnist\"", &["epochs=2"], &["--set epochs=2", "did you mean `train.epochs`"]),
        ("experiment = \"mnist\"", &["train.epochs"], &["--set train.epochs", "KEY=VALUE"]),
        ("experiment = \"mnist\"", &["train.epochs=many"], &["= many", "such as --set train.epochs=300"]),
        ("experiment = \"mnist\"", &["train.epochs=1e12"], &["= 1000000000000", "such as --set train.epochs=300"]),
        (
            "experiment = \"mnist\"",
            &["optimizer.weights.lr=inf"],
            &["`optimizer.weights.lr` = inf", "a number above 0"],
        ),
        ("experiment = \"mnist\"", &["sparsify.tolerance=NaN"], &["`sparsify.tolerance`", "from 0 to 100"]),
        ("experiment = \"mnist\"", &["train=3"], &["--set train=3", "a section with the keys epochs"]),
        ("experiment = \"mnist\"", &["a.b.c=3"], &["unknown key `a.b.c`", "allowed here: experiment"]),
        ("experiment = \"mnist\"\nname = 2024", &[], &["run.toml", "`name` = 2024", "such as name = \"my-run\""]),
        ("experiment = \"mnist\"\ntrain.epochs = \"3\"", &[], &["= \"3\"", "such as train.epochs = 300"]),
        ("experiment = \"mnist\"\ntrain.epochs = 2.5", &[], &["`train.epochs` = 2.5", "a whole number"]),
        ("experiment = \"mnist\"\ntrain.milestones = 3", &[], &["`train.milestones` = 3", "= [150, 225, 262]"]),
        ("experiment = \"mnist\"\nname = \"a\\u001b[31m\"", &[], &["`name`", "\\u{1b}", "without control characters"]),
        ("experiment = \"mnist\"\nname = \" a\"", &[], &["`name`", "spaces"]),
        ("experiment = \"mnist\"", &["name=.."], &["--set name=..", "dot"]),
        (
            "experiment = \"mnist\"\ntrain.keep_best = true",
            &[],
            &["`train.keep_best` = true", "data.validation = 0", "no network is selected", "such as 0.1"],
        ),
        ("experiment = \"mnist\"\nactivation.range = 1e-300", &[], &["`activation.range`", "1e-30 between knots"]),
        (
            "experiment = \"mnist\"\noptimizer.weights.kind = \"prox_adam\"",
            &[],
            &["`optimizer.weights.kind` = prox_adam", "optimizer.splines.kind"],
        ),
        (
            "experiment = \"mnist\"\nnetwork.kind = \"lipschitz\"\noptimizer.splines.kind = \"prox_adam\"",
            &[],
            &["`optimizer.splines.kind` = prox_adam", "sgd or adam for lipschitz_spline"],
        ),
        (
            "experiment = \"mnist\"\noptimizer.splines.warmup_epochs = 3",
            &[],
            &["`optimizer.splines.warmup_epochs` = 3", "prox_adam"],
        ),
        (
            "experiment = \"mnist\"\n[optimizer.splines]\nkind = \"prox_adam\"\nwarmup_epochs = 40",
            &[],
            &["`optimizer.splines.warmup_epochs` = 40", "fewer than the 40 epochs"],
        ),
        ("experiment = \"mnist\"\nactivation.step = 1e-31", &[], &["`activation.step`", "1e-30 between knots"]),
        (
            "experiment = \"mnist\"\nnetwork.kind = \"lipschitz\"\nsparsify.enabled = true\nsparsify.method = \"both\"",
            &[],
            &["`sparsify.method` = both", "refit"],
        ),
        (
            "experiment = \"mnist\"",
            &["sparsify.method=refit", "sparsify.threshold=1"],
            &["`sparsify.method`", "papers"],
        ),
        ("experiment = \"mnist\"", &["sparsify.method=papers", "sparsify.knots=1"], &["`sparsify.method`", "refit"]),
        ("experiment = \"mnist\"", &["sparsify.accuracy=validation"], &["`sparsify.accuracy`", "data.validation"]),
    ];
    for (text, overrides, parts) in cases {
        let error = load(text, overrides).expect_err(text);
        for part in *parts {
            assert!(error.contains(part), "{text:?} {overrides:?}: `{part}` is not in: {error}");
        }
    }
    let error = anyhow::Error::from(Config::load(Path::new("no/such.toml"), &[]).unwrap_err());
    let text = format!("{error:#}");
    assert!(text.contains("no/such.toml"), "{text}");
    assert_eq!(text.matches("No such file").count(), 1, "the cause stands once: {text}");
}

#[test]
fn a_file_that_is_no_config_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    for (bytes, expected) in [
        (vec![0xff, 0xfe, b'e', 0], "no text in UTF-8"),
        (vec![b'#'; (1 << 20) + 1], "larger than 1 MiB"),
        ("a.".repeat(300_000).into_bytes(), "not valid TOML"),
        (format!("{}b = 1", "a.".repeat(300_000)).into_bytes(), ""),
        (format!("a = {}", "[".repeat(300_000)).into_bytes(), "not valid TOML"),
        (format!("{} = 1", "a".repeat(1_000_000)).into_bytes(), "unknown key"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        for error in [Config::load(&path, &[]).unwrap_err(), Sweep::load(&path).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("checkpoint.safetensors"), "{}", &text[..200]);
        }
        let text = Config::load(&path, &[]).unwrap_err().to_string();
        assert!(text.contains(expected), "{expected}: {}", &text[..200]);
    }
    // What editors on Windows write.
    std::fs::write(&path, "\u{feff}experiment = \"mnist\"\r\nseed = 3\r\n").unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap().seed, 3);
}

#[test]
fn set_reads_what_people_type() {
    let sets = [
        "name=2024",
        "seed=01",
        "train.epochs=1e2",
        "train.batch_size=1_00",
        "optimizer.weights.lr=.001",
        "train.milestones=3,5",
        "data.validation=+0.1",
        "train.keep_best=True",
        "activation.kind=RELU",
    ];
    let config = load("experiment = \"mnist\"", &sets).unwrap();
    assert_eq!(
        (config.name.as_str(), config.seed, config.train.epochs, config.train.batch_size),
        ("2024", 1, 100, 100)
    );
    assert_eq!((config.optimizer.weights.lr, config.data.validation), (1e-3, 0.1));
    assert_eq!((config.train.milestones.as_slice(), config.train.keep_best), (&[3, 5][..], true));
    assert_eq!(config.activation.kind.to_string(), "relu");
    // What a float says of a whole number counts in a file, too, and in the resolved config it is the same.
    let file = load("experiment = \"mnist\"\ntrain.epochs = 1e2\ntrain.milestones = [3.0, 5]", &[]).unwrap();
    assert_eq!(file, load("experiment = \"mnist\"\ntrain.epochs = 100\ntrain.milestones = [3, 5]", &[]).unwrap());
}

#[test]
fn the_best_epoch_is_kept_only_where_it_is_asked_for() {
    let usual = load("experiment = \"mnist\"\ndata.validation = 0.1", &[]).unwrap();
    assert!(!usual.train.keep_best && !usual.to_toml().contains("keep_best"));
    let best = load("experiment = \"mnist\"\ndata.validation = 0.1\ntrain.keep_best = true", &[]).unwrap();
    assert!(best.to_toml().contains("keep_best = true"));
    assert_eq!(load(&best.to_toml(), &[]).unwrap(), best);
    assert!(usual.training_differences(&best).is_empty());
}

/// A run that an earlier version made is read, whatever its name is; only a new one must have a name by the rules.
#[test]
fn names_of_old_runs_are_read() {
    assert_eq!(Config::from_toml("experiment = \"mnist\"\nname = \"a:b \"").unwrap().name, "a:b ");
    assert!(Config::from_toml("experiment = \"mnist\"\nname = \"../a\"").is_err());
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
    let configs = [
        "experiment = \"cifar10\"\nsparsify.threshold = 1\nsparsify.method = \"both\"\n\
         sparsify.cost = \"mean_square\"\nsparsify.accuracy = \"validation\"\nsparsify.finetune_epochs = 2\n\
         sparsify.finetune_lr = 0.5\nsparsify.iterate = true\nactivation.fixed_bias = true\n\
         activation.range = \"auto\"\nactivation.range_epochs = [1]\ntrain.precision = \"bf16\"\n\
         data.validation = 0.1\ntrain.keep_best = true\n[optimizer.splines]\nkind = \"prox_adam\"\nwarmup_epochs = 9",
        "experiment = \"mnist\"\nactivation.scaling = true\ndata.normalize = false\n[network]\nkind = \"lipschitz\"\n\
         lipschitz = 2\nweights = \"spectral\"\n[sparsify]\nknots = 7\n[optimizer.scalings]\nlr = 1e-3",
        "experiment = \"mnist\"\n[network]\nkind = \"lipschitz_conv\"\nstages = 1\ndepth = 2\n[train]\nmargin = 0.5",
    ];
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
    for config in configs {
        paths(&load(config, &[]).unwrap().to_toml().parse().unwrap(), "", &mut all);
    }
    for path in &all {
        assert!(KEYS.iter().any(|key| key.path == path), "{path} is not in the table");
    }
    for key in KEYS.iter().filter(|key| key.path != "activation.step") {
        assert!(all.iter().any(|path| path == key.path), "{} is not in a config", key.path);
        assert!(doc.contains(key.path));
    }
}

#[test]
fn former_names_of_values_are_still_read() {
    let experiment = "experiment = \"mnist\"\nnetwork.kind = \"lipschitz\"";
    for (former, present) in [("maxmin", "max_min"), ("absolute_value", "absolute")] {
        let of = |name: &str| load(&format!("{experiment}\nactivation.init = \"{name}\""), &[]).unwrap();
        assert_eq!(of(former), of(present));
        assert_eq!(load(experiment, &[&format!("activation.init={former}")]).unwrap(), of(present));
        assert!(of(former).to_toml().contains(&format!("init = \"{present}\"")));
    }
}

#[test]
fn help_says_what_a_key_does_and_its_defaults() {
    let doc = reference_doc();
    let lines: Vec<&str> = doc.lines().skip_while(|line| line.trim() != "train.milestones").take(3).collect();
    assert!(lines[1].contains("multiplied by gamma"), "{lines:?}");
    assert!(lines[2].contains("default: ") && lines[2].contains("cifar10: [150, 225, 262]"), "{lines:?}");
}

/// Results that are there name their config by the MD5 of its resolved text: keys that came later must not show in it.
#[test]
fn configs_of_results_that_are_there_keep_their_text() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut count = 0;
    for name in ["fit1d-kinds", "fit1d-lipschitz", "area-width", "grid-size", "mnist-lambda"] {
        let sweep = Sweep::load(&root.join(format!("configs/sweeps/{name}.toml"))).unwrap();
        let runs = sweep.runs().unwrap();
        for row in read_summary(&root.join(format!("results/{name}/summary.csv"))).unwrap() {
            for run in runs.iter().filter(|run| row.is_of(&run.config)) {
                assert!(row.has_config(&run.config), "{name}: {} {}\n{}", row.run, row.seed, run.config.to_toml());
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn a_protocol_is_reduced_by_limits_below_the_images_of_the_data_set() {
    for (experiment, limit, expected) in [
        ("cifar10", "train.max_train_images=60000", "full"),
        ("cifar10", "train.max_train_images=49999", "reduced: first 49999 training images"),
        ("mnist", "train.max_train_images=59999", "reduced: first 59999 training images"),
        ("mnist", "train.max_test_images=10000", "full"),
        ("mnist", "train.max_test_images=9999", "reduced: first 9999 test images"),
    ] {
        let config = load(&format!("experiment = \"{experiment}\""), &[limit]).unwrap();
        assert_eq!(protocol(&config, false), expected, "{experiment}, {limit}");
    }
}

#[test]
fn lipschitz_networks_have_configs() {
    let fit = load("experiment = \"fit1d\"\nnetwork.kind = \"lipschitz\"", &[]).unwrap();
    assert_eq!((fit.network.hidden.as_slice(), fit.train.batch_size), (&[10, 10, 10][..], 10));
    assert_eq!((fit.train.epochs, fit.data.train_points, fit.activation.size), (1000, 1000, 50));
    for (experiment, kind) in [("mnist", "lipschitz"), ("mnist", "lipschitz_conv"), ("cifar10", "lipschitz_conv")] {
        for activation in ["lipschitz_spline", "absolute", "max_min", "householder", "clipped_prelu", "relu"] {
            let text =
                format!("experiment = \"{experiment}\"\nnetwork.kind = \"{kind}\"\nactivation.kind = \"{activation}\"");
            let config = load(&text, &["network.lipschitz=3", "network.weights=spectral"]).unwrap();
            assert_eq!(load(&config.to_toml(), &[]).unwrap(), config);
            assert_eq!((config.network.lipschitz, config.data.normalize), (Some(3.0), Some(false)));
            assert_eq!(protocol(&config, false), "full");
            let network = ds_lab::run::network(&config, 10).unwrap();
            let takes_pairs = network.activations().iter().any(|activation| activation.takes_pairs());
            assert_eq!(network.lipschitz_bound_l1().unwrap().is_none(), takes_pairs);
        }
    }
    let conv = "experiment = \"cifar10\"\nnetwork.kind = \"lipschitz_conv\"\nnetwork.hidden = [4]";
    let deep = load(conv, &["network.stages=3", "network.depth=2", "train.margin=1.5"]).unwrap();
    assert_eq!((deep.network.stages(), deep.network.depth(), deep.train.margin()), (3, 2, 1.5));
    assert_eq!(load(&deep.to_toml(), &[]).unwrap(), deep);
    // Two convolutions and patches in each of three stages.
    assert_eq!(ds_lab::run::network(&deep, 10).unwrap().activations().len(), 9);
    let error = load(conv, &["network.stages=6"]).unwrap_err().to_string();
    assert!(error.contains("network.stages") && error.contains("at most 5"), "{error}");
    let error = load("experiment = \"cifar10\"", &["network.depth=2"]).unwrap_err().to_string();
    assert!(error.contains("network.depth") && error.contains("lipschitz_conv"), "{error}");
}
