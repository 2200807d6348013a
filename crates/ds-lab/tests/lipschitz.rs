//! A short training of a 1-Lipschitz network from a config, whose loss falls.
#![allow(clippy::unwrap_used)]

use ds_core::Group;
use ds_core::activation::Activation;
use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::results::metrics::{SummaryRow, read_metrics};
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::penalty::SplinePenalty;
use ds_lab::run::{Existing, RunOptions, Setup, target};
use ds_lab::run::{Optimizers, count_active_knots, count_knots};

/// A run on the CPU.
fn run(config: &Config, source: &Source, options: &RunOptions) -> anyhow::Result<SummaryRow> {
    ds_lab::run::run(config, source, options, &Context::cpu())
}

fn config(dataset: &str, more: &str) -> Config {
    Config::from_toml(&format!(
        "experiment = \"fit1d\"\nseed = 3\n[data]\ndataset = \"{dataset}\"\ntrain_points = 200\n[network]\n\
         kind = \"lipschitz\"\n[train]\nepochs = 30\nmilestones = [25]\n{more}"
    ))
    .unwrap()
}

#[test]
fn the_loss_of_a_fit_falls() {
    let source = Source::Auto { dir: None };
    for (dataset, more) in [
        ("slopes_pm1", ""),
        ("slopes_pm1_0", "[regularization]\nlambda = 1e-6"),
        ("absolute", "[activation]\nkind = \"max_min\""),
    ] {
        let config = config(dataset, more);
        let directory = tempfile::tempdir().unwrap();
        let options = RunOptions { directory: directory.path().to_owned(), existing: Existing::Refuse, quiet: true };
        // The mean of the squares is the loss of a network that says 0.
        let squares: Vec<f64> =
            target(&config).unwrap().samples(1000).iter().map(|(_, y)| f64::from(*y).powi(2)).collect();
        let zero = squares.iter().sum::<f64>() / 1000.0;
        let row = run(&config, &source, &options).unwrap();
        assert!(row.test_loss < 0.05 * zero, "{dataset}: {} of {zero}", row.test_loss);
        assert_eq!(row.spline_size, (config.activation.kind.to_string() == "lipschitz_spline").then_some(50));
        assert_eq!(row.hidden.as_deref(), Some("10x10x10"));
        assert_eq!(row.lipschitz_bound_l1.is_none(), more.contains("max_min"));
        // Certified, and met.
        let (lower, certified) = (row.lipschitz_lower_l2.unwrap(), row.lipschitz_certified_l2.unwrap());
        assert!(lower <= certified * (1.0 + 1e-9) && certified <= 1.0 + 1e-5, "{lower} and {certified}");
        // The constant is between the bounds.
        let exact = row.lipschitz_exact_l2.unwrap();
        assert!(lower <= exact * (1.0 + 1e-9) && exact <= certified, "{lower}, {exact}, {certified}");
        let attained = row.lipschitz_attained_l2.unwrap();
        assert!(attained <= exact && exact <= attained * (1.0 + 1e-6), "{attained} and {exact}");
        assert!(row.pieces.unwrap() > 1 && row.exact_seconds.is_some());
        let rows = read_metrics(&directory.path().join("metrics.csv")).unwrap();
        let bounds: Vec<f64> = rows.iter().filter_map(|row| row.lipschitz_certified_l2).collect();
        assert!(!bounds.is_empty() && bounds.iter().all(|bound| *bound <= 1.0 + 1e-5), "{bounds:?}");
    }
}

#[test]
fn scalings_have_a_rate_of_their_own() {
    let source = Source::Auto { dir: None };
    let rates = "[optimizer.splines]\nkind = \"adam\"\nlr = 1e-9\n[optimizer.scalings]\nlr = 1e-2";
    let config = config("slopes_pm1", rates);
    let directory = tempfile::tempdir().unwrap();
    let options = RunOptions { directory: directory.path().to_owned(), existing: Existing::Refuse, quiet: true };
    run(&config, &source, &options).unwrap();
    let checkpoint = Checkpoint::read(&directory.path().join("checkpoint.safetensors")).unwrap();
    let (before, after) = (
        Setup::new(&config, &source, &Context::cpu()).unwrap(),
        Setup::new(&config, &source, &Context::cpu()).unwrap(),
    );
    checkpoint.restore_network(&after.network).unwrap();
    let moved = |group: Group| -> f32 {
        let pairs = before.network.parameters().into_iter().zip(after.network.parameters());
        let distance = |a: &candle_core::Var, b: &candle_core::Var| -> f32 {
            (a.as_tensor() - b.as_tensor()).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
        };
        pairs.filter(|(a, _)| a.group == group).map(|(a, b)| distance(&a.var, &b.var)).fold(0.0, f32::max)
    };
    assert!(moved(Group::Splines) < 1e-5 && moved(Group::Scalings) > 1e-2 && moved(Group::Weights) > 1e-2);
    // Their moving averages are in checkpoints too.
    let mut optimizers = Optimizers::new(&config, &after.network, None).unwrap();
    checkpoint.restore_optimizers(&mut optimizers).unwrap();
    let state = optimizers.scalings.state().unwrap();
    assert_eq!(state.len(), 3);
    assert!(state.iter().all(|(_, state)| state.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 0.0));
}

#[test]
fn splines_are_counted_and_penalised() {
    let source = Source::Auto { dir: None };
    let config = config("slopes_pm1", "[regularization]\nlambda = 0.5");
    let setup = Setup::new(&config, &source, &Context::cpu()).unwrap();
    // |x| in 30 channels, each with a slope change of 2; no knot lies at 0, so that it is shared by two.
    let penalty = SplinePenalty::new(&config, &setup.network).unwrap().unwrap();
    assert!((penalty.value(&setup.network).unwrap() - 0.5 * 30.0 * 2.0).abs() < 1e-3);
    assert_eq!(count_knots(&setup.network), 30 * 48);
    assert!(count_active_knots(&setup.network).unwrap().unwrap() >= 60);
    assert!(setup.network.activations().iter().all(|activation| matches!(activation, Activation::Lipschitz(_))));
}
