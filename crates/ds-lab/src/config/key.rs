//! What is said of a key.

use super::error::{ConfigError, Origin};
use super::kinds::Kind;
use super::names::{Experiment, NetworkKind};
use super::profile::Profile;
use super::sections::Config;
use ds_core::activation::ActivationKind;
use toml::{Table, Value};

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its path, such as `train.batch_size`.
    pub path: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it does.
    pub meaning: &'static str,
    /// Whether it changes the parameters after a step, or what the rows of metrics and summaries mean. The other keys only say
    /// how a run is executed and reported, so that they may change where a run is resumed.
    pub changes_training: bool,
    /// Defaults in TOML by profile, of which the last one for a profile counts; without one the key may be missing.
    defaults: &'static [(&'static [Profile], &'static str)],
    /// What a missing key means, in TOML.
    implied: Option<&'static str>,
    /// The configs that the key belongs to.
    owner: Owner,
    /// Former names of values, which are still read, with those that they have now.
    former: &'static [(&'static str, &'static str)],
}

/// The configs that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    All,
    Cifar,
    Images,
    Generated,
    Area,
    Hidden,
    Lipschitz,
    LipschitzConv,
    LipschitzSpline,
    Scalings,
    AutoRange,
    Nin,
}

impl Owner {
    fn has(self, config: &Config) -> bool {
        let is_image = matches!(config.experiment, Experiment::Cifar10 | Experiment::Mnist);
        let (is_area, is_lipschitz) = (config.experiment == Experiment::Area2d, config.network.kind.is_lipschitz());
        let is_lipschitz_spline = config.activation.kind == ActivationKind::LipschitzSpline;
        match self {
            Self::All => true,
            Self::Cifar => config.experiment == Experiment::Cifar10,
            Self::Images => is_image,
            Self::Generated => !is_image,
            Self::Area => is_area,
            Self::Hidden => is_area || is_lipschitz,
            Self::Lipschitz => is_lipschitz,
            Self::LipschitzConv => config.network.kind == NetworkKind::LipschitzConv,
            Self::LipschitzSpline => is_lipschitz_spline,
            Self::Scalings => is_lipschitz_spline && config.activation.scaling != Some(false),
            Self::AutoRange => config.activation.range.is_auto(),
            Self::Nin => config.network.kind == NetworkKind::Nin,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::All => "all experiments",
            Self::Cifar => "images of CIFAR (false elsewhere)",
            Self::Images => "images",
            Self::Generated => "area2d and fit1d; images have train.max_train_images",
            Self::Area => "area2d",
            Self::Hidden => "area2d and lipschitz networks",
            Self::Lipschitz => "lipschitz networks",
            Self::LipschitzConv => "lipschitz_conv",
            Self::LipschitzSpline => "lipschitz_spline",
            Self::Scalings => "lipschitz_spline with activation.scaling = true",
            Self::AutoRange => "activation.range = \"auto\"",
            Self::Nin => "nin (0 elsewhere)",
        }
    }
}

pub(super) const fn key(path: &'static str, kind: Kind, meaning: &'static str) -> Key {
    let (defaults, implied, owner, former) = (&[], None, Owner::All, &[]);
    Key { path, kind, meaning, changes_training: true, defaults, implied, owner, former }
}

impl Key {
    /// The same as a key of execution and reporting.
    pub(super) const fn not_of_training(self) -> Self {
        Self { changes_training: false, ..self }
    }

    pub(super) const fn defaults(self, defaults: &'static [(&'static [Profile], &'static str)]) -> Self {
        Self { defaults, ..self }
    }

    pub(super) const fn implied(self, value: &'static str) -> Self {
        Self { implied: Some(value), ..self }
    }

    pub(super) const fn of(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    pub(super) const fn formerly(self, former: &'static [(&'static str, &'static str)]) -> Self {
        Self { former, ..self }
    }

    /// The default of a profile in TOML, if it has one.
    fn default_text(&self, profile: Profile) -> Option<&'static str> {
        self.defaults.iter().rev().find(|(profiles, _)| profiles.contains(&profile)).map(|(_, text)| *text)
    }

    /// The default of a profile, if it has one.
    pub(super) fn default_of(&self, profile: Profile) -> Option<Value> {
        self.default_text(profile).map(parsed)
    }

    /// A value under its present name.
    pub(super) fn renamed(&self, value: Value) -> Value {
        let renamed = |name: &str| self.former.iter().find(|(old, _)| *old == name).map(|(_, new)| (*new).to_owned());
        value.as_str().and_then(renamed).map_or(value, Value::String)
    }

    /// A value under its first name, which digests of configs are made with.
    pub(super) fn first_named(&self, value: &Value) -> Value {
        let first = |name: &str| self.former.iter().find(|(_, new)| *new == name).map(|(old, _)| (*old).to_owned());
        value.as_str().and_then(first).map_or_else(|| value.clone(), Value::String)
    }

    /// Whose key it is, if it does not belong to a config with this value. One that changes nothing is fine: a resolved config
    /// states every key.
    pub(super) fn other_owner(&self, config: &Config, value: &Value) -> Option<&'static str> {
        let neutral = self.defaults.iter().find(|(profiles, _)| profiles.len() == Profile::ALL.len());
        let neutral = neutral.map(|(_, text)| parsed(text));
        (!self.owner.has(config) && neutral.as_ref() != Some(value)).then(|| self.owner.title())
    }

    /// The error about a value that the key does not take, with one that it takes.
    pub(super) fn refuse(&self, origin: &Origin, value: String) -> ConfigError {
        let example = match (self.kind, origin) {
            // All values are listed.
            (Kind::Choice(_), _) | (_, Origin::Defaults | Origin::Seeds(_)) => String::new(),
            (_, Origin::File(_)) => format!(", such as {} = {}", self.path, self.example()),
            (_, Origin::Set(_)) => {
                let example = match self.example() {
                    Value::Array(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                    Value::String(text) => text,
                    value => value.to_string(),
                };
                format!(", such as --set {}={example}", self.path)
            }
        };
        let (origin, key) = (origin.clone(), self.path.to_owned());
        ConfigError::Value { origin, key, value, allowed: format!("{}{example}", self.kind) }
    }

    /// A value that it takes: a default, if there is one.
    fn example(&self) -> Value {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        let mut defaults = Profile::ALL.iter().filter_map(|profile| self.default_of(*profile));
        let default = defaults.find(|value| !is_empty(value));
        default.unwrap_or_else(|| match self.kind {
            Kind::Bool => Value::Boolean(true),
            Kind::Text => Value::String("my-run".to_owned()),
            Kind::Choice(names) => Value::String(names.first().copied().unwrap_or_default().to_owned()),
            Kind::Integer(low, _) => Value::Integer(low as i64),
            Kind::Integers(low, _) => Value::Array(vec![Value::Integer(low as i64)]),
            Kind::Number(low, high) => Value::Float(0.5f64.clamp(low, high)),
            Kind::Positive(high) | Kind::PositiveOrAuto(high) => Value::Float(high.min(0.5)),
        })
    }

    /// Its defaults, as `--help` shows them.
    pub(super) fn defaults_doc(&self) -> Option<String> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for profile in Profile::ALL {
            let Some(text) = self.default_text(*profile) else { continue };
            match groups.iter_mut().find(|(value, _)| *value == text) {
                Some((_, titles)) => titles.push(profile.title()),
                None => groups.push((text, vec![profile.title()])),
            }
        }
        // The most frequent value needs no list of where it holds.
        groups.sort_by_key(|(_, titles)| std::cmp::Reverse(titles.len()));
        let has_all = groups.iter().map(|(_, titles)| titles.len()).sum::<usize>() == Profile::ALL.len();
        let show = |(k, (value, titles)): (usize, &(&str, Vec<&str>))| match (k, has_all && titles.len() > 2) {
            (0, true) => (*value).to_owned(),
            _ => format!("{}: {value}", titles.join(", ")),
        };
        let all: Vec<String> = groups.iter().enumerate().map(show).collect();
        if all.is_empty() { self.implied.map(str::to_owned) } else { Some(all.join("; ")) }
    }
}

/// The value of a TOML text in this file.
fn parsed(text: &str) -> Value {
    let table = format!("value = {text}").parse::<Table>().ok();
    table.and_then(|mut table| table.remove("value")).unwrap_or(Value::Boolean(false))
}
