//! Penalties with the same weight in all layers, and relative to each layer before training.
#![allow(clippy::unwrap_used)]

use ds_core::graph::Gradients;
use ds_core::regularization::{slope_changes, tv2};
use ds_lab::config::Config;
use ds_lab::run::network;
use ds_lab::run::penalty::{SplinePenalty, decay_factors};
use ds_nn::tape::TapeGradients;

fn config(per_layer: bool) -> Config {
    Config::from_toml(&format!(
        "experiment = \"area2d\"\nnetwork.hidden = [2, 6]\nactivation.init = \"even_odd\"\n\
         [regularization]\nlambda = 0.25\nweight_decay = 0.5\nper_layer = {per_layer}"
    ))
    .unwrap()
}

#[test]
fn a_relative_penalty_is_lambda_a_layer_before_training() {
    for (per_layer, expected) in [(true, 2.0 * 0.25), (false, 0.0)] {
        let config = config(per_layer);
        let network = network(&config, 1).unwrap();
        let penalty = SplinePenalty::new(&config, &network).unwrap().unwrap();
        let total: f64 = network.splines().iter().map(|spline| tv2(spline).unwrap().iter().sum::<f64>()).sum();
        let expected = if per_layer { expected } else { 0.25 * total };
        assert!((penalty.value(&network).unwrap() - expected).abs() < 1e-6, "per_layer = {per_layer}");
    }
}

#[test]
fn its_gradient_has_the_same_weights() {
    let config = config(true);
    let network = network(&config, 1).unwrap();
    let penalty = SplinePenalty::new(&config, &network).unwrap().unwrap();
    let mut gradients = TapeGradients::default();
    penalty.add_gradient(&network, &mut gradients).unwrap();
    for spline in network.splines() {
        // ‖∂TV²/∂c‖ is that of the signs of a through [1, −2, 1]/T.
        let weight = 0.25 / tv2(spline).unwrap().iter().sum::<f64>();
        let a = slope_changes(spline).unwrap().to_vec2::<f32>().unwrap();
        let gradient = gradients.gradient(spline.knot_parameters()).unwrap().to_vec2::<f32>().unwrap();
        for (a, gradient) in a.iter().zip(gradient) {
            let sign = |k: isize| {
                let a = usize::try_from(k).ok().and_then(|k| a.get(k)).copied().unwrap_or(0.0);
                if a == 0.0 { 0.0 } else { f64::from(a.signum()) }
            };
            for (k, g) in gradient.iter().enumerate() {
                let k = k as isize;
                let expected = weight / spline.grid().step() * (sign(k - 2) - 2.0 * sign(k - 1) + sign(k));
                assert!((f64::from(*g) - expected).abs() < 1e-5 * weight / spline.grid().step());
            }
        }
    }
}

#[test]
fn decay_is_relative_to_the_squares_of_the_layers_weights() {
    let network_of = |config: &Config| network(config, 1).unwrap();
    let (relative, plain) = (config(true), config(false));
    assert!(decay_factors(&plain, &network_of(&plain)).unwrap().values().all(|factor| *factor == 1.0));
    let network = network_of(&relative);
    let factors = decay_factors(&relative, &network).unwrap();
    let squares = |name: &str| {
        let parameters = network.parameters();
        let weight = parameters.iter().find(|parameter| parameter.name == name).unwrap();
        weight.var.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
    };
    for (weight, bias) in [("hidden1.linear.weight", "hidden1.linear.bias"), ("last.weight", "last.bias")] {
        let expected = 1.0 / f64::from(squares(weight));
        assert!((factors[weight] / expected - 1.0).abs() < 1e-5);
        assert_eq!(factors[weight], factors[bias]);
    }
}
