//! Downloads from the Hugging Face hub and its cache, against a server on this machine that answers as the hub does.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used)]

#[path = "common/fake_hub.rs"]
mod fake_hub;

use ds_lab::console;
use ds_lab::data::parquet::{Record, write_records_as};
use ds_lab::data::{ImageDataset, ImageSet, Source, load_images, locate};
use fake_hub::{FakeHub, without_data};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use tempfile::{TempDir, tempdir};

const MNIST: &str = "ylecun/mnist";
const TRAIN: &str = "mnist/train/0000.parquet";
const TEST: &str = "mnist/test/0000.parquet";

/// What the process of [`child`] printed.
#[derive(Debug)]
struct Output {
    out: String,
    err: String,
}

impl Output {
    fn assert(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.out.contains(part) || self.err.contains(part), "{part}: {self:?}");
        }
    }
}

/// A machine without data, with a cache of its own.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempdir().unwrap())
    }

    /// `task` as in [`child`], in a process of its own.
    fn run(&self, hub: Option<&FakeHub>, task: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).current_dir(self.0.path());
        match hub {
            Some(hub) => hub.environment(&mut command, self.0.path()),
            None => without_data(&mut command, self.0.path()),
        }
        let output = command.env("DS_TEST_TASK", task).envs(variables.iter().copied()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Output { out: text(output.stdout), err: text(output.stderr) }
    }

    /// The files that the cache's links lead to.
    fn blobs(&self) -> Vec<PathBuf> {
        let folder = self.0.path().join("hub/datasets--ylecun--mnist/blobs");
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
        files
    }
}

/// MNIST from where the environment says: `load`, `load twice`, `load quietly`, or `locate`. The other tests run this one in a
/// process of its own; without a task it has nothing to do.
#[test]
fn child() {
    let Ok(task) = std::env::var("DS_TEST_TASK") else { return };
    let (dataset, source) = (ImageDataset::Mnist, Source::Auto { dir: None });
    if task == "locate" {
        match locate(dataset, &source) {
            Ok(location) => println!("located {location}"),
            Err(error) => println!("error {:#}", anyhow::Error::from(error)),
        }
        return;
    }
    console::set_quiet(task == "load quietly");
    let load = || load_images(dataset, &source).map_err(|error| println!("error {:#}", anyhow::Error::from(error)));
    let Ok(data) = load() else { return };
    println!("loaded {} and {} from {}", data.train.len(), data.test.len(), data.origin);
    if task == "load twice" {
        let again = load().unwrap();
        let is_same = Arc::ptr_eq(&data.train, &again.train) && Arc::ptr_eq(&data.test, &again.test);
        println!("decoded {}", if is_same { "once" } else { "twice" });
    }
}

const LOADED: &str = "loaded 60000 and 10000 from hub (ylecun/mnist)";

fn parquet(set: &ImageSet) -> Vec<u8> {
    let (pixels, labels) = (set.pixels().unwrap(), set.label_bytes().unwrap());
    let encode = |i: usize| {
        let image = image::GrayImage::from_raw(28, 28, pixels[i * 784..(i + 1) * 784].to_vec()).unwrap();
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        Record { encoded: bytes.into_inner(), labels: vec![labels[i]] }
    };
    let records: Vec<Record> = (0..set.len()).map(encode).collect();
    let directory = tempdir().unwrap();
    let path = directory.path().join("file");
    write_records_as(&path, "image", &records).unwrap();
    std::fs::read(path).unwrap()
}

/// MNIST's parquet files (train, test), if this machine has the data set.
fn mnist() -> Option<&'static [Vec<u8>; 2]> {
    static FILES: OnceLock<Option<[Vec<u8>; 2]>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        if !root.join("mnist").exists() {
            return None;
        }
        let data = load_images(ImageDataset::Mnist, &Source::Auto { dir: Some(root) }).unwrap();
        Some([parquet(&data.train), parquet(&data.test)])
    });
    if files.is_none() {
        println!("SKIPPED: no MNIST in ../shared/data");
    }
    files.as_ref()
}

fn hub_with(train: &[u8], test: &[u8]) -> FakeHub {
    let hub = FakeHub::start();
    hub.put(MNIST, TRAIN, train.to_vec());
    hub.put(MNIST, TEST, test.to_vec());
    hub
}

/// A parquet file of a few black images.
fn tiny(count: usize) -> Vec<u8> {
    parquet(&ImageSet::new(vec![0; count * 784], vec![0; count], (1, 28, 28), 10).unwrap())
}

#[test]
fn what_was_downloaded_needs_no_network() {
    let Some([train, test]) = mnist() else { return };
    let (hub, machine) = (hub_with(train, test), Machine::new());
    let first = machine.run(Some(&hub), "load twice", &[]);
    first.assert(&[LOADED, "decoded once", "fetching ylecun/mnist (some 18 MB) from the Hugging Face hub"]);
    let requests = hub.requests();
    assert!(requests.iter().any(|r| r.starts_with("GET /api/datasets/ylecun/mnist/revision/refs%2Fconvert%2Fparquet")));
    assert!(requests.iter().any(|r| r.starts_with("GET /cdn/")), "{requests:?}");
    machine.run(Some(&hub), "load", &[]).assert(&[LOADED]);
    machine.run(Some(&hub), "locate", &[]).assert(&["located ylecun/mnist in the hub's cache"]);
    assert_eq!(hub.requests(), requests, "what is cached is not asked for");
    drop(hub);
    machine.run(None, "load", &[]).assert(&[LOADED]);
    machine.run(None, "load", &[("HF_HUB_OFFLINE", "1")]).assert(&[LOADED]);
    let cache = machine.0.path().join("hub");
    let elsewhere = [("HF_HUB_CACHE", cache.to_str().unwrap()), ("HF_HOME", "/nowhere"), ("HF_HUB_OFFLINE", "TRUE")];
    machine.run(None, "load", &elsewhere).assert(&[LOADED]);
}

#[test]
fn a_quiet_download_prints_nothing() {
    let Some([train, test]) = mnist() else { return };
    let (hub, machine) = (hub_with(train, test), Machine::new());
    let output = machine.run(Some(&hub), "load quietly", &[]);
    output.assert(&[LOADED]);
    assert_eq!(output.err, "");
}

#[test]
fn damaged_files_in_the_cache_are_named_and_fetched_again() {
    let Some([train, test]) = mnist() else { return };
    let (hub, machine) = (hub_with(train, test), Machine::new());
    machine.run(Some(&hub), "load", &[]).assert(&[LOADED]);
    let blobs = machine.blobs();
    let good: Vec<Vec<u8>> = blobs.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let cut = |k: usize| std::fs::write(&blobs[k], &good[k][..good[k].len() / 2]).unwrap();
    let snapshot = "datasets--ylecun--mnist/snapshots/0123456789abcdef0123456789abcdef01234567/mnist";
    let train = format!("{snapshot}/train/0000.parquet");

    // Cut: without the hub an error, with it a new file.
    cut(1);
    let path = blobs[1].to_str().unwrap();
    let offline = machine.run(None, "load", &[("HF_HUB_OFFLINE", "1")]);
    offline.assert(&["error", &train, path, "not a whole parquet file", "unset HF_HUB_OFFLINE"]);
    machine.run(None, "load", &[]).assert(&["error", &train, path, "fetching it again failed"]);
    machine.run(Some(&hub), "load", &[]).assert(&[LOADED, &train, path, "fetching the file again"]);
    assert_eq!(std::fs::read(path).unwrap(), good[1]);
    // Both at once, one of them a web page.
    cut(1);
    std::fs::write(&blobs[0], "<!DOCTYPE html><html>Log in to the network</html>").unwrap();
    machine.run(Some(&hub), "load", &[]).assert(&[LOADED]);
    // A changed picture in a whole file.
    let mut changed = good[1].clone();
    changed[1_000_000] ^= 1;
    std::fs::write(path, changed).unwrap();
    machine.run(Some(&hub), "load", &[]).assert(&[LOADED, &train, "fetching the file again"]);
    // A file that was removed.
    std::fs::remove_file(&blobs[0]).unwrap();
    machine.run(Some(&hub), "load", &[]).assert(&[LOADED]);
    assert_eq!(std::fs::read(&blobs[0]).unwrap(), good[0]);
}

#[test]
fn a_hub_with_wrong_files_is_asked_twice_and_no_more() {
    for (file, problem) in [(tiny(4), "hold 4 images, expected 60000"), (b"<html>".to_vec(), "a web page (HTML)")] {
        let (hub, machine) = (hub_with(&file, &tiny(2)), Machine::new());
        let output = machine.run(Some(&hub), "load", &[]);
        output.assert(&["error", problem, "mnist/train/0000.parquet", "/blobs/", "also after it was fetched again"]);
        let fetched = hub.requests().iter().filter(|r| r.starts_with("GET /cdn/ylecun/mnist/mnist/train")).count();
        assert_eq!(fetched, 2, "{:?}", hub.requests());
    }
    // The file that comes first on the hub's list, before the other is there.
    let (hub, machine) = (hub_with(&tiny(2), b"<html>"), Machine::new());
    let parts = ["error", "a web page (HTML)", "mnist/test/0000.parquet", "also after it was fetched again"];
    machine.run(Some(&hub), "load", &[]).assert(&parts);
}

#[test]
fn a_dry_run_asks_nobody() {
    let (hub, machine) = (hub_with(&tiny(1), &tiny(1)), Machine::new());
    machine.run(Some(&hub), "locate", &[]).assert(&["located ylecun/mnist on the Hugging Face hub", "some 18 MB"]);
    assert!(hub.requests().is_empty() && !machine.0.path().join("hub").exists());
}

#[test]
fn offline_means_no_request() {
    let (hub, machine) = (hub_with(&tiny(1), &tiny(1)), Machine::new());
    for task in ["load", "locate"] {
        for value in ["1", "yes", "ON"] {
            let output = machine.run(Some(&hub), task, &[("HF_HUB_OFFLINE", value)]);
            output.assert(&["error", "mnist is not in data/mnist, data", "unset HF_HUB_OFFLINE", "--data-dir DIR"]);
            output.assert(&[machine.0.path().join("hub").to_str().unwrap()]);
        }
    }
    assert!(hub.requests().is_empty());
}

#[test]
fn a_hub_that_cannot_be_reached_or_lacks_the_data_set_is_named() {
    let machine = Machine::new();
    machine.run(None, "load", &[]).assert(&["error", "Hugging Face hub failed", "127.0.0.1:9", "--data-dir DIR"]);
    let hub = FakeHub::start();
    machine.run(Some(&hub), "load", &[]).assert(&[
        "error",
        "Hugging Face hub failed",
        "ylecun/mnist",
        "--data-dir DIR",
    ]);
    // One split alone.
    hub.put(MNIST, TRAIN, tiny(1));
    machine.run(Some(&hub), "load", &[]).assert(&["error", "no whole set of parquet files"]);
}

#[test]
fn a_data_directory_that_is_not_there_is_no_reason_to_download() {
    let (hub, machine) = (hub_with(&tiny(1), &tiny(1)), Machine::new());
    let output = machine.run(Some(&hub), "load", &[("DS_DATA_DIR", "/no/such/folder")]);
    output.assert(&["error", "DS_DATA_DIR: /no/such/folder is no directory"]);
    assert!(hub.requests().is_empty());
}

#[test]
fn what_other_programs_have_cached_is_used() {
    let Some([train, test]) = mnist() else { return };
    let machine = Machine::new();
    // As the hub's command-line client leaves the main branch.
    let repository = machine.0.path().join("hub/datasets--ylecun--mnist");
    let folder = repository.join("snapshots/77f3279092a1c1579b2250db8eafed0ad422088c/mnist");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("train-00000-of-00001.parquet"), train).unwrap();
    std::fs::write(folder.join("test-00000-of-00001.parquet"), test).unwrap();
    machine.run(None, "load", &[("HF_HUB_OFFLINE", "1")]).assert(&[LOADED]);
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "77f3279092a1c1579b2250db8eafed0ad422088c").unwrap();
    machine.run(None, "load", &[("HF_HUB_OFFLINE", "1")]).assert(&[LOADED]);
}

#[test]
fn the_home_folder_is_known_to_the_options() {
    let Some([train, test]) = mnist() else { return };
    let machine = Machine::new();
    let folder = machine.0.path().join("d/mnist");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("train.parquet"), train).unwrap();
    std::fs::write(folder.join("test.parquet"), test).unwrap();
    let home = [("HOME", machine.0.path().to_str().unwrap()), ("DS_DATA_DIR", "~/d")];
    machine.run(None, "load", &home).assert(&["loaded 60000 and 10000 from mnist (parquet)"]);
}
