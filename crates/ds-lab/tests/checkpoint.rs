//! A checkpoint that an earlier revision wrote after 300 epochs on a GPU, beside the project: it loads, and the network has the
//! accuracy that its run had.
#![allow(clippy::unwrap_used)]

use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::{Setup, count_active_knots, evaluate};
use std::path::Path;

#[test]
fn a_checkpoint_of_an_earlier_revision_has_its_accuracy() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = shared.join("gpu/resnet32-explicit_linear-seed0/checkpoint.safetensors");
    let data = shared.join("data");
    if !path.exists() || !data.join("cifar10").exists() {
        println!("SKIPPED: no {} or no CIFAR-10 beside it", path.display());
        return;
    }
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.position.epoch, 300);
    let config = Config::from_toml(&checkpoint.config).unwrap();
    let setup = Setup::new(&config, &Source::Auto { dir: Some(data) }, &Context::cpu()).unwrap();
    checkpoint.restore_network(&setup.network).unwrap();
    assert_eq!(count_active_knots(&setup.network).unwrap(), Some(46_536));
    let evaluation = evaluate(&setup.network, &setup.test).unwrap();
    assert_eq!(evaluation.accuracy.map(|percent| format!("{percent:.2}")), Some("93.90".to_owned()));
}
