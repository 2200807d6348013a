//! From the settings of the original's program to a config.

use super::archive::{Checkpoint, Setting};
use super::names::{ACTIVATIONS, NETWORKS};
use crate::config::{Experiment, NetworkKind};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Keys of a config, as a table in sections.
#[derive(Default)]
pub(super) struct Keys(pub Table);

impl Keys {
    /// The value of a key of a section.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let (section, name) = path.split_once('.')?;
        self.0.get(section)?.get(name)
    }

    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        match path.split_once('.') {
            None => {
                self.0.insert(path.to_owned(), value.into());
            }
            Some((section, rest)) => {
                let inner = self.0.entry(section).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(inner) = inner {
                    let mut keys = Self(std::mem::take(inner));
                    keys.set(rest, value);
                    *inner = keys.0;
                }
            }
        }
    }
}

/// The settings by name.
pub(super) struct Params<'a>(&'a [(String, Setting)]);

impl<'a> Params<'a> {
    pub fn of(checkpoint: &'a Checkpoint) -> Self {
        Self(&checkpoint.params)
    }

    fn get(&self, name: &str) -> Option<&'a Setting> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, setting)| setting)
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        match self.get(name) {
            Some(Setting::Text(text)) => Ok(text),
            _ => bail!("its `params` have no text `{name}`"),
        }
    }

    fn number(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Setting::Float(number)) => Some(*number),
            Some(Setting::Integer(number)) => Some(*number as f64),
            _ => None,
        }
    }

    fn count(&self, name: &str) -> Option<i64> {
        self.number(name).filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number)).map(|n| n as i64)
    }
}

/// The experiment of a network.
pub(super) fn experiment(network: NetworkKind) -> Option<Experiment> {
    Some(match network {
        NetworkKind::Resnet32 | NetworkKind::Nin => Experiment::Cifar10,
        NetworkKind::Convnet => Experiment::Mnist,
        NetworkKind::Area => Experiment::Area2d,
        NetworkKind::Scalar | NetworkKind::Lipschitz | NetworkKind::LipschitzConv => return None,
    })
}

/// Sets what the settings say of the network and of its training.
pub(super) fn set_params(keys: &mut Keys, checkpoint: &Checkpoint) -> Result<()> {
    let params = Params::of(checkpoint);
    let net = params.text("net")?;
    let (_, kind) = NETWORKS
        .into_iter()
        .find(|(name, _)| *name == net)
        .with_context(|| format!("its network is `{net}`; known are {}", NETWORKS.map(|(name, _)| name).join(", ")))?;
    let name = params.text("activation_type")?;
    let (_, activation) = ACTIVATIONS.into_iter().find(|(known, _)| *known == name).with_context(|| {
        format!("its activation is `{name}`; known are {}", ACTIVATIONS.map(|(name, _)| name).join(", "))
    })?;
    let experiment = experiment(kind).context("its network is of no experiment")?;
    keys.set("experiment", experiment.name());
    keys.set("network.kind", kind.name());
    keys.set("data.dataset", params.text("dataset_name")?);
    keys.set("activation.kind", activation.name());
    if kind == NetworkKind::Area {
        let layers = params.count("num_hidden_layers").context("its `params` have no number `num_hidden_layers`")?;
        let units = params.count("num_hidden_neurons").context("its `params` have no number `num_hidden_neurons`")?;
        let layers = usize::try_from(layers).ok().filter(|layers| (1..=2).contains(layers));
        let layers = layers.context("its `num_hidden_layers` is neither 1 nor 2")?;
        keys.set("network.hidden", vec![units; layers]);
    }
    if activation.is_spline() {
        let size = params.count("spline_size").context("its `params` have no number `spline_size`")?;
        let range = params.number("spline_range").context("its `params` have no number `spline_range`")?;
        keys.set("activation.size", size);
        keys.set("activation.range", range);
        keys.set("activation.init", params.text("spline_init")?);
        keys.set(
            "regularization.norm",
            if params.get("lipschitz") == Some(&Setting::Boolean(true)) { "bv2" } else { "tv2" },
        );
        if let Some(lambda) = params.number("lmbda") {
            keys.set("regularization.lambda", lambda);
        }
    }
    if let Some(decay) = params.number("weight_decay") {
        keys.set("regularization.weight_decay", decay);
    }
    if let Some(size) = params.count("batch_size") {
        keys.set("train.batch_size", size);
    }
    if let Some(seed) = params.count("seed") {
        keys.set("seed", seed);
    }
    // One optimiser may have all parameters.
    let of_splines = checkpoint.aux.as_ref().or(checkpoint.main.as_ref()).filter(|_| activation.is_spline());
    for (path, optimizer) in [("weights", checkpoint.main.as_ref()), ("splines", of_splines)] {
        let Some(optimizer) = optimizer else { continue };
        match optimizer.momentum {
            Some(momentum) => {
                keys.set(&format!("optimizer.{path}.kind"), "sgd");
                keys.set(&format!("optimizer.{path}.momentum"), momentum);
            }
            None => keys.set(&format!("optimizer.{path}.kind"), "adam"),
        }
        if let Some(lr) = optimizer.lr {
            keys.set(&format!("optimizer.{path}.lr"), lr);
        }
    }
    let epochs = checkpoint.epochs.map(|epochs| epochs.max(1)).map(i64::try_from).transpose()?;
    keys.set("train.epochs", epochs.unwrap_or(1));
    if let Some((milestones, gamma)) = &checkpoint.schedule {
        let milestones = milestones.iter().map(|&m| i64::try_from(m)).collect::<Result<Vec<_>, _>>()?;
        keys.set("train.milestones", milestones);
        keys.set("train.gamma", *gamma);
    }
    Ok(())
}

/// The first weight of a network, and the activation behind it.
fn first_layer(network: NetworkKind) -> (&'static str, &'static str) {
    match network {
        NetworkKind::Resnet32 => ("layer0.0.weight", "layer0.2"),
        NetworkKind::Nin => ("classifier.0.weight", "classifier.1"),
        NetworkKind::Convnet => ("conv1.weight", "activations.0"),
        _ => ("fc1.weight", "activations.0"),
    }
}

/// The entries whose shapes say a key of the config, as messages name them.
pub(super) fn shapes_of(key: &str, network: NetworkKind, state: &BTreeMap<String, Tensor>) -> Option<String> {
    let (_, layer) = first_layer(network);
    let names = match key {
        "network.hidden" => ["fc1.weight".to_owned(), "fc2.weight".to_owned()],
        "activation.size" => [format!("{layer}._coefficients_vect"), format!("{layer}._relu_slopes")],
        _ => return None,
    };
    let shape = |name: &String| Some(format!("`{name}` of shape {:?}", state.get(name)?.dims()));
    let shapes: Vec<String> = names.iter().filter_map(shape).collect();
    Some(if shapes.is_empty() {
        format!("it has no entry `{}`", names[0])
    } else {
        format!("its {}", shapes.join(" and "))
    })
}

/// The rows of a weight.
fn units(state: &BTreeMap<String, Tensor>, name: &str) -> Option<usize> {
    state.get(name)?.dims().first().copied()
}

/// Sets the hidden layers of an area network, which its shapes say.
pub(super) fn set_hidden(keys: &mut Keys, network: NetworkKind, state: &BTreeMap<String, Tensor>) -> Result<()> {
    if network == NetworkKind::Area {
        let hidden = ["fc1.weight", "fc2.weight"].into_iter().filter_map(|name| units(state, name));
        let hidden = hidden.map(i64::try_from).collect::<Result<Vec<_>, _>>()?;
        keys.set("network.hidden", hidden);
    }
    Ok(())
}

/// Sets the grid of the splines of a network, whose size its shapes say.
pub(super) fn set_grid(
    keys: &mut Keys,
    network: NetworkKind,
    state: &BTreeMap<String, Tensor>,
    range: Option<f64>,
) -> Result<()> {
    let (first, layer) = first_layer(network);
    let coefficients = state.get(&format!("{layer}._coefficients_vect"));
    let size = match (coefficients, state.get(&format!("{layer}._relu_slopes")), units(state, first)) {
        (Some(all), _, Some(channels)) if channels > 0 => all.elem_count() / channels,
        (_, Some(slopes), _) if slopes.rank() == 2 => slopes.dims()[1] + 2,
        _ => return Ok(()),
    };
    let range = range.context("a state_dict does not say where the knots of its splines lie; give --range")?;
    keys.set("activation.size", i64::try_from(size)?);
    keys.set("activation.range", range);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::archive::Optimizer;
    use super::*;

    #[test]
    fn splines_without_an_optimiser_of_their_own_have_that_of_the_weights() {
        let text = |name: &str, value: &str| (name.to_owned(), Setting::Text(value.to_owned()));
        let number = |name: &str, value: i64| (name.to_owned(), Setting::Integer(value));
        let optimizer = |lr, momentum| Some(Optimizer { lr: Some(lr), momentum, state: Vec::new() });
        let kinds = |activation: &str, aux: Option<Optimizer>| {
            let params = vec![
                text("net", "convnet_mnist"),
                text("dataset_name", "mnist"),
                text("activation_type", activation),
                text("spline_init", "relu"),
                number("spline_size", 51),
                number("spline_range", 4),
            ];
            let (main, schedule) = (optimizer(0.5, Some(0.9)), None);
            let mut keys = Keys::default();
            let checkpoint = Checkpoint { params, epochs: None, steps: None, main, aux, schedule };
            set_params(&mut keys, &checkpoint).unwrap();
            let of = |group: &str, key: &str| keys.0["optimizer"].get(group)?.get(key).map(ToString::to_string);
            [of("weights", "kind"), of("splines", "kind"), of("splines", "momentum"), of("splines", "lr")]
        };
        let some = |text: &str| Some(text.to_owned());
        let (sgd, adam) = (some("\"sgd\""), some("\"adam\""));
        assert_eq!(kinds("deepBspline", None), [sgd.clone(), sgd.clone(), some("0.9"), some("0.5")]);
        assert_eq!(kinds("deepBspline", optimizer(0.25, None)), [sgd.clone(), adam, None, some("0.25")]);
        assert_eq!(kinds("relu", None), [sgd, None, None, None]);
    }
}
