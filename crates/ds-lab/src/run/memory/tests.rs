#![allow(clippy::unwrap_used)]
use super::*;
use crate::sweep::Sweep;
use std::path::{Path, PathBuf};

fn config(experiment: &str, more: &str) -> Config {
    Config::from_toml(&format!("experiment = \"{experiment}\"\n{more}")).unwrap()
}

fn gigabytes_needed(experiment: &str, more: &str) -> f64 {
    needed(&config(experiment, more), &Context::cpu()) as f64 / 1e9
}

/// Peak memory in MB of runs of one epoch on one thread, by the system's count.
#[test]
fn estimates_are_near_the_peaks_of_runs() {
    let few = "train.max_train_images = 256\ntrain.max_test_images = 256\n";
    let lipschitz = format!("{few}network.kind = \"lipschitz\"\n");
    let convolutional = format!("{few}network.kind = \"lipschitz_conv\"\n");
    let many = |text: &str, size: usize, images: usize| {
        text.replace(
            "images = 256\ntrain.max_test",
            &format!("images = {images}\ntrain.batch_size = {size}\ntrain.max_test"),
        )
    };
    let cases: [(&str, String, f64); 17] = [
        ("cifar10", String::new(), 1032.0),
        ("cifar10", "activation.kind = \"relu\"\ntrain.batch_size = 16\ntrain.max_train_images = 16\ntrain.max_test_images = 16".to_owned(), 329.0),
        ("cifar10", "activation.kind = \"relu\"\ntrain.batch_size = 64\ndata.validation = 0.1\ntrain.max_train_images = 1000\ntrain.max_test_images = 16".to_owned(), 759.0),
        ("cifar10", format!("{few}network.kind = \"nin\""), 2812.0),
        ("mnist", few.to_owned(), 294.0),
        ("mnist", many(few, 8192, 16384), 583.0),
        ("mnist", lipschitz.clone(), 264.0),
        ("mnist", format!("{lipschitz}network.hidden = [1000, 1000]"), 419.0),
        ("mnist", many(&lipschitz, 8192, 16384), 407.0),
        ("mnist", convolutional.clone(), 390.0),
        ("mnist", many(&convolutional, 1024, 2048), 901.0),
        ("area2d", String::new(), 26.0),
        ("area2d", "network.hidden = [200, 200]\ndata.train_points = 20000\ntrain.batch_size = 20000".to_owned(), 165.0),
        ("area2d", "data.train_points = 4000000\ntrain.batch_size = 4000\ndata.test_grid = 10".to_owned(), 109.0),
        ("area2d", "data.train_points = 400\ndata.test_grid = 2000".to_owned(), 109.0),
        ("area2d", "data.train_points = 400\nnetwork.hidden = [100]\nactivation.size = 100001".to_owned(), 724.0),
        ("area2d", "network.hidden = [1500, 1500]\ndata.train_points = 20\ndata.test_grid = 5".to_owned(), 179.0),
    ];
    for (experiment, more, measured) in cases {
        let ratio = 1e3 * gigabytes_needed(experiment, &more) / measured;
        assert!((0.85..1.4).contains(&ratio), "{experiment}\n{more}: {ratio} of the measured {measured} MB");
    }
    for (more, measured) in [("train.batch_size = 10000", 111.0), ("train.batch_size = 1000000", 132.0)] {
        let ratio = 1e3 * gigabytes_needed("fit1d", &format!("data.train_points = 1000000\n{more}")) / measured;
        assert!((0.85..1.4).contains(&ratio), "{more}: {ratio}");
    }
}

#[test]
fn what_cannot_fit_says_how_much_and_which_keys() {
    let cases = [
        ("area2d", "network.hidden = [100000, 100000]", "network.hidden"),
        ("mnist", "network.kind = \"lipschitz\"\nnetwork.hidden = [100000, 100000]", "network.hidden"),
        ("area2d", "network.hidden = [100000]\nactivation.size = 100001", "activation.size"),
        ("area2d", "network.hidden = [1000, 1000]\nactivation.size = 100001", "activation.size"),
        ("cifar10", "train.batch_size = 1000000", "train.batch_size"),
        ("area2d", "data.train_points = 1000000000", "data.train_points"),
        ("fit1d", "data.train_points = 1000000000", "data.train_points"),
        ("mnist", "network.kind = \"lipschitz_conv\"\nnetwork.hidden = [100000, 100000]", "network.hidden"),
    ];
    for (experiment, more, key) in cases {
        let config = config(experiment, more);
        let error = check_in(&config, &Context::cpu(), 8_000_000_000).unwrap_err();
        assert!(error.needed > 8_000_000_000, "{more}: {}", error.needed);
        let text = error.to_string();
        assert!(text.contains(&format!("lower {key}")) && text.contains("8.0 GB are available"), "{more}: {text}");
    }
    let wide = check_in(&config("area2d", "network.hidden = [100000, 100000]"), &Context::cpu(), 8_000_000_000)
        .unwrap_err()
        .to_string();
    assert!(wide.starts_with("area-bspline-circle needs about 7") && wide.contains("most of it for weights"), "{wide}");
    let grid =
        check_in(&config("area2d", "data.test_grid = 10000"), &Context::cpu(), 1_000_000_000).unwrap_err().to_string();
    assert!(grid.contains("needs about 2.2 GB") && grid.contains("lower data.test_grid"), "{grid}");
    // Batches are no larger than the training set, and coefficients of few splines are few.
    for more in ["train.batch_size = 1000000", "activation.size = 100001", "train.epochs = 1000000000"] {
        check_in(&config("area2d", more), &Context::cpu(), 300_000_000).unwrap();
    }
    // The largest of everything.
    let hidden = vec!["100000"; 1000].join(", ");
    let largest =
        "activation.size = 100001\ntrain.batch_size = 1000000\ndata.train_points = 1000000000\ndata.test_grid = 10000";
    assert!(gigabytes_needed("area2d", &format!("network.hidden = [{hidden}]\n{largest}")) > 1e5);
}

fn toml_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn every_shipped_config_fits_into_5_gigabytes() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    if !configs.exists() {
        println!("SKIPPED: no {}", configs.display());
        return;
    }
    let mut all: Vec<Config> = Vec::new();
    for directory in [configs.clone(), configs.join("quick")] {
        all.extend(toml_files(&directory).iter().map(|path| Config::load(path, &[]).unwrap()));
    }
    for directory in ["sweeps", "quick/sweeps", "reduced"] {
        for path in toml_files(&configs.join(directory)) {
            all.extend(Sweep::load(&path).unwrap().runs().unwrap().into_iter().map(|run| run.config));
        }
    }
    assert!(all.len() > 1000);
    for config in &all {
        check_in(config, &Context::cpu(), 5_000_000_000).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn as_many_jobs_run_at_once_as_fit() {
    let resnet = config("cifar10", "");
    let nin = config("cifar10", "network.kind = \"nin\"");
    let of = |jobs: usize, gigabytes: f64| {
        jobs_in([&resnet, &nin, &nin, &resnet], jobs, &Context::cpu(), (gigabytes * 1e9) as u64)
    };
    // Two NiNs at once take some 5.5 GB.
    assert_eq!([of(2, 24.0), of(2, 8.0), of(2, 6.0), of(4, 24.0), of(4, 0.1), of(1, 24.0)], [2, 2, 1, 4, 1, 1]);
    let small = config("area2d", "");
    let areas: Vec<Config> = (0..100).map(|seed| Config { seed, ..small.clone() }).collect();
    assert_eq!(
        (jobs_in(&areas, 64, &Context::cpu(), 8_000_000_000), jobs_in(&areas, 1, &Context::cpu(), 8_000_000_000)),
        (64, 1)
    );
    assert_eq!((jobs_in([], 3, &Context::cpu(), 8), jobs_in([&small], 3, &Context::cpu(), 8_000_000_000)), (3, 3));
}

#[test]
fn this_machine_is_asked() {
    let wide = config("area2d", "network.hidden = [100000, 100000]");
    if available().is_some_and(|bytes| bytes < 500_000_000_000) {
        assert!(check(&wide, &Context::cpu()).is_err());
        assert_eq!(jobs([&wide, &wide], 2, &Context::cpu()), 1);
    } else {
        crate::note!("SKIPPED: this system has 500 GB of memory or more, or does not tell");
    }
    check(&config("area2d", ""), &Context::cpu()).unwrap();
}
