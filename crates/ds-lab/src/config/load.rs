//! From defaults, file and overrides to one checked config.

use super::error::{ConfigError, Origin, printable};
use super::keys::{KEYS, find, inside, is_section, nearest};
use super::kinds::Kind;
use super::names::{AUTO, Experiment, NetworkKind};
use super::profile::Profile;
use super::sections::Config;
use super::setting::Setting;
use crate::files::md5;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use toml::{Table, Value};

/// Keys with their values and where each came from.
#[derive(Default)]
pub(super) struct Layers {
    values: Table,
    origins: HashMap<String, Origin>,
}

impl Layers {
    /// Those of a resolved config.
    pub fn of_text(text: &str) -> Self {
        Self { values: text.parse().unwrap_or_default(), origins: HashMap::new() }
    }

    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Defaults)
    }

    pub fn is_given(&self, key: &str) -> bool {
        self.origin(key) != Origin::Defaults
    }

    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let mut value = self.values.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        Some(value)
    }

    pub fn error(&self, key: &str, value: impl std::fmt::Display, allowed: impl std::fmt::Display) -> ConfigError {
        let (origin, key) = (self.origin(key), key.to_owned());
        ConfigError::Value { origin, key, value: value.to_string(), allowed: allowed.to_string() }
    }

    /// Lays a table over what is there, key by key.
    fn overlay(&mut self, table: Table, prefix: &str, origin: &Origin) -> Result<(), ConfigError> {
        for (name, value) in table {
            let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) if is_section(&path) => self.overlay(inner, &path, origin)?,
                value => self.put(&path, value, origin)?,
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &str, value: Value, origin: &Origin) -> Result<(), ConfigError> {
        let Some(key) = find(path) else {
            if is_section(path) {
                return Err(ConfigError::Value {
                    origin: origin.clone(),
                    key: path.to_owned(),
                    value: value.to_string(),
                    allowed: format!("a section with the keys {}", inside(path).join(", ")),
                });
            }
            // Name what is allowed in the deepest section that exists.
            let mut section = path;
            while !(section.is_empty() || is_section(section)) {
                section = section.rsplit_once('.').map_or("", |(section, _)| section);
            }
            let hint = nearest(path).map(str::to_owned);
            let allowed = inside(section).join(", ");
            return Err(ConfigError::UnknownKey { origin: origin.clone(), key: path.to_owned(), hint, allowed });
        };
        let value = key.kind.check(key.renamed(value)).map_err(|value| key.refuse(origin, value.to_string()))?;
        let mut table = &mut self.values;
        let mut parts: Vec<&str> = path.split('.').collect();
        let last = parts.pop().unwrap_or(path);
        for part in parts {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            match entry {
                Value::Table(inner) => table = inner,
                _ => return Ok(()),
            }
        }
        table.insert(last.to_owned(), value);
        self.origins.insert(path.to_owned(), origin.clone());
        Ok(())
    }
}

impl Kind {
    /// The value in the key's own type, or the value back if it is not allowed. `1e2` is a whole number, too.
    fn check(self, value: Value) -> Result<Value, Value> {
        let number = |value: &Value| value.as_float().or(value.as_integer().map(|v| v as f64));
        match self {
            Self::Bool if value.is_bool() => Ok(value),
            Self::Text if value.as_str().is_some_and(|text| !text.trim().is_empty()) => Ok(value),
            Self::Choice(names) if value.as_str().is_some_and(|name| names.contains(&name)) => Ok(value),
            Self::Integer(low, high) => whole(&value, low, high).ok_or(value),
            Self::Integers(low, high) => match &value {
                Value::Array(all) => {
                    let all: Option<Vec<Value>> = all.iter().map(|value| whole(value, low, high)).collect();
                    all.map(Value::Array).ok_or(value)
                }
                _ => Err(value),
            },
            Self::Number(low, high) => match number(&value) {
                Some(v) if (low..=high).contains(&v) => Ok(Value::Float(v)),
                _ => Err(value),
            },
            Self::PositiveOrAuto(_) if value.as_str() == Some(AUTO) => Ok(value),
            Self::Positive(high) | Self::PositiveOrAuto(high) => match number(&value) {
                Some(v) if v > 0.0 && v <= high => Ok(Value::Float(v)),
                _ => Err(value),
            },
            _ => Err(value),
        }
    }
}

/// A whole number from `low` to `high`, whether it is written as an integer or as a float.
fn whole(value: &Value, low: u64, high: u64) -> Option<Value> {
    let number = match value {
        Value::Integer(number) => *number,
        // Below 2^53, so that it is exact.
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => *number as i64,
        _ => return None,
    };
    u64::try_from(number).ok().filter(|v| (low..=high).contains(v)).map(|_| Value::Integer(number))
}

/// The most bytes of a config or sweep: a larger file is something else.
const LARGEST: u64 = 1 << 20;

/// The text of a config's or sweep's file.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let no_config = |reason| ConfigError::NoConfig { path: path.to_owned(), reason };
    if bytes.len() as u64 > LARGEST {
        return Err(no_config("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| no_config("it is no text in UTF-8; save it as UTF-8 if an editor made it"))
}

pub(crate) fn parse(text: &str, origin: &Origin) -> Result<Table, ConfigError> {
    text.parse::<Table>()
        .map_err(|error| ConfigError::Toml { origin: origin.clone(), message: printable(error.to_string().trim()) })
}

fn choice<'a>(layers: &'a Layers, key: &str) -> Option<&'a str> {
    layers.get(key).and_then(Value::as_str)
}

impl Config {
    /// The config of a file, with `--set` overrides (`key.path=value`).
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML, or a key is unknown or a value not allowed.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let origin = Origin::File(path.to_owned());
        let settings = overrides.iter().map(|text| Setting::parse(text)).collect::<Result<Vec<_>, _>>()?;
        Self::from_table(parse(&text, &origin)?, origin, &settings)
    }

    /// NAME-seedSEED, which tells the runs of one experiment apart.
    pub fn run_title(&self) -> String {
        format!("{}-seed{}", self.name, self.seed)
    }

    /// The config that a resolved TOML text holds, such as a checkpoint's.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_table(parse(text, &Origin::Defaults)?, Origin::Defaults, &[])
    }

    /// The config of a table, overlaid with settings.
    ///
    /// # Errors
    /// If a key is unknown or a value not allowed.
    pub fn from_table(table: Table, origin: Origin, settings: &[Setting]) -> Result<Self, ConfigError> {
        // What the user says decides which defaults lie below it.
        let mut given = Layers::default();
        given.overlay(table, "", &origin)?;
        for setting in settings {
            given.put(&setting.key, setting.value.clone(), &setting.origin)?;
        }
        let Some(experiment) = choice(&given, "experiment").and_then(|name| name.parse::<Experiment>().ok()) else {
            return Err(ConfigError::Value {
                origin,
                key: "experiment".to_owned(),
                value: "missing".to_owned(),
                allowed: Kind::Choice(Experiment::NAMES).to_string(),
            });
        };
        let network = choice(&given, "network.kind").and_then(|name| name.parse::<NetworkKind>().ok());
        let profile = Profile::of(experiment, network);
        let mut layers = Layers::default();
        for key in KEYS {
            if let Some(value) = key.default_of(profile) {
                layers.put(key.path, value, &Origin::Defaults)?;
            }
        }
        layers.overlay(given.values, "", &origin)?;
        layers.origins.extend(given.origins);
        if layers.get("name").is_none() {
            let name = default_name(&layers);
            layers.put("name", Value::String(name), &Origin::Defaults)?;
        }
        let config = Value::Table(layers.values.clone()).try_into::<Self>().map_err(|error| ConfigError::Toml {
            origin: origin.clone(),
            message: error.to_string().trim().to_owned(),
        })?;
        config.validate(&layers)?;
        Ok(config)
    }

    /// The whole config as TOML; loading it gives the same config.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.to_table()).unwrap_or_default()
    }

    /// The same as a table.
    pub(crate) fn to_table(&self) -> Table {
        let mut table = Table::try_from(self).unwrap_or_default();
        // A range that a step replaces is not said again.
        if self.activation.step.is_some()
            && let Some(Value::Table(activation)) = table.get_mut("activation")
        {
            activation.remove("range");
        }
        table
    }

    /// The MD5 of the whole config, by which rows of results know it. Values have their first names in it, so that it stays the same
    /// when one gets another name.
    pub fn md5(&self) -> String {
        let mut table = self.to_table();
        for key in KEYS {
            if let Some((section, name)) = key.path.split_once('.')
                && let Some(value) = table.get_mut(section).and_then(|section| section.get_mut(name))
            {
                *value = key.first_named(value);
            }
        }
        md5(toml::to_string(&table).unwrap_or_default().as_bytes())
    }
}

fn default_name(layers: &Layers) -> String {
    let of = |key| choice(layers, key).unwrap_or_default();
    let mut name = format!("{}-{}", of("network.kind"), of("activation.kind"));
    let usual = matches!(of("data.dataset"), "cifar10" | "mnist");
    if !usual {
        name = format!("{name}-{}", of("data.dataset"));
    }
    name
}
