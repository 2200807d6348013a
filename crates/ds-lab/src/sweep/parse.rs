//! From the text of a sweep to its definition, with all that can be found wrong before the first run.

use super::{Axes, Axis, KeepRuns, PlannedRun, Select, Sweep};
use crate::config::{self, ConfigError, Experiment, Kind, Origin};
use std::path::Path;
use toml::{Table, Value};

/// The most runs of a sweep, so that the lists of a mistaken grid do not fill the memory.
const MAX_RUNS: usize = 100_000;
/// The most sections within each other in a grid: no key has more parts.
const DEEPEST: usize = 8;

const KEYS: [&str; 5] = ["name", "keep_runs", "config", "grid", "select"];
const KEYS_OF_SELECT: [&str; 3] = ["key", "tolerance", "final"];

impl Sweep {
    /// Reads and checks a sweep.
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML, a key is unknown or a value not allowed, two runs have one name, or `[select]`
    /// has nothing to choose from.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = config::read_text(path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let sweep = Self::from_text(&text, &stem, Origin::File(path.to_owned()))?;
        let runs = sweep.runs()?;
        sweep.check_selection(&runs)?;
        Ok(sweep)
    }

    pub(super) fn from_text(text: &str, stem: &str, origin: Origin) -> Result<Self, ConfigError> {
        let mut table = config::parse(text, &origin)?;
        let name = match table.remove("name") {
            None => stem.to_owned(),
            Some(Value::String(name)) => name,
            Some(other) => return Err(wrong(&origin, "name", Some(&other), "a text")),
        };
        if let Some(rule) = config::broken_rule(&name) {
            return Err(wrong(&origin, "name", Some(&Value::String(name)), rule));
        }
        let keep_runs = match table.remove("keep_runs") {
            None | Some(Value::Boolean(false)) => KeepRuns::None,
            Some(Value::Boolean(true)) => KeepRuns::All,
            Some(Value::String(text)) if text == "selected" && table.contains_key("select") => KeepRuns::Selected,
            Some(Value::String(text)) if text == "selected" => {
                let allowed = "true or false; \"selected\" is for sweeps with a [select] section";
                return Err(wrong(&origin, "keep_runs", Some(&Value::String(text)), allowed));
            }
            Some(other) => return Err(wrong(&origin, "keep_runs", Some(&other), "true, false or \"selected\"")),
        };
        let base = match table.remove("config") {
            Some(Value::Table(base)) => base,
            other => return Err(wrong(&origin, "config", other.as_ref(), "a section with the keys of a config")),
        };
        let grids = match table.remove("grid") {
            Some(Value::Array(grids)) if !grids.is_empty() => grids,
            other => {
                return Err(wrong(
                    &origin,
                    "grid",
                    other.as_ref(),
                    "one or more [[grid]] sections with lists of values",
                ));
            }
        };
        let grids = grids
            .into_iter()
            .map(|grid| match grid {
                Value::Table(grid) => axes(grid, "grid", &origin),
                other => Err(wrong(&origin, "grid", Some(&other), "a [[grid]] section")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let select = match table.remove("select") {
            None => None,
            Some(Value::Table(select)) => Some(Select::parse(select, &origin)?),
            Some(other) => return Err(wrong(&origin, "select", Some(&other), "a [select] section")),
        };
        if let Some(key) = table.keys().next() {
            let of_config = format!("config.{key}");
            let hint = config::nearest_of(key, KEYS.into_iter()).or(config::find(key).map(|_| of_config.as_str()));
            return Err(unknown(&origin, key, hint, &KEYS));
        }
        let sweep = Self { name, keep_runs, text: text.to_owned(), origin, base, grids, select };
        sweep.check_count()?;
        sweep.check_select()?;
        Ok(sweep)
    }

    /// Refuses more runs than a sweep can have, before they are listed.
    fn check_count(&self) -> Result<(), ConfigError> {
        let count = |axes: &Axes| axes.iter().fold(1usize, |count, axis| count.saturating_mul(axis.values.len()));
        let listed = self.grids.iter().map(count).fold(0, usize::saturating_add);
        let last = self.select.as_ref().map_or(0, |select| count(&select.last));
        let largest = listed.max(last);
        if largest > MAX_RUNS {
            let allowed = format!("at most {MAX_RUNS} runs; shorten the lists or make several sweeps of them");
            let value = Value::String(format!("{largest} runs"));
            return Err(wrong(&self.origin, "grid", Some(&value), &allowed));
        }
        Ok(())
    }

    /// Refuses a selection whose key no grid has a list for.
    fn check_select(&self) -> Result<(), ConfigError> {
        let Some(select) = &self.select else { return Ok(()) };
        let text = Value::String(select.keys.join(" + "));
        let wrong = |key: &str, allowed: &str| wrong(&self.origin, key, Some(&text), allowed);
        if select.keys.iter().any(|key| key == "seed") {
            return Err(wrong("select.key", "a key other than seed, since accuracies are means over the seeds"));
        }
        let is_chosen = |key: &String| select.keys.contains(key);
        let lists: Vec<&Axis> =
            self.grids.iter().flatten().filter(|axis| axis.is_list && axis.keys != ["seed"]).collect();
        if let Some(axis) =
            lists.iter().find(|axis| axis.keys.iter().any(is_chosen) && !axis.keys.iter().all(is_chosen))
        {
            return Err(wrong("select.key", &format!("all keys of the list: \"{}\"", axis.name())));
        }
        if !lists.iter().any(|axis| axis.keys.iter().all(is_chosen)) {
            let mut names: Vec<String> = lists.iter().map(|axis| axis.name()).collect();
            names.dedup();
            let hint = config::nearest_of(&select.keys.join(" + "), names.iter().map(String::as_str));
            let hint = hint.map_or(String::new(), |name| format!(" (did you mean \"{name}\"?)"));
            return Err(wrong("select.key", &format!("a key with a list in a [[grid]]: {}{hint}", names.join(", "))));
        }
        if let Some(key) = select.last.iter().flat_map(|axis| &axis.keys).find(|key| is_chosen(key)) {
            return Err(wrong(
                "select.key",
                &format!("a key that select.final does not set; leave out select.final.{key}"),
            ));
        }
        Ok(())
    }

    /// Refuses a selection that cannot be made of these runs, or chooses runs that cannot be made.
    pub(super) fn check_selection(&self, runs: &[PlannedRun]) -> Result<(), ConfigError> {
        if self.select.is_none() {
            return Ok(());
        }
        for run in runs {
            if run.config.experiment == Experiment::Fit1d {
                let allowed = "left out for fit1d, which has no accuracy to select by";
                return Err(wrong(&self.origin, "select", None, allowed));
            }
            if run.config.data.validation == 0.0 {
                let allowed =
                    "above 0 in all runs of a sweep with [select], which compares accuracies on validation data";
                return Err(wrong(&self.origin, "data.validation", Some(&Value::Float(0.0)), allowed));
            }
        }
        self.runs_of_choices(runs).try_for_each(|runs| self.check_names(&runs?))
    }
}

impl Select {
    fn parse(mut table: Table, origin: &Origin) -> Result<Self, ConfigError> {
        let wrong = |key: &str, value: Option<&Value>, allowed: &str| {
            Err(wrong(origin, &format!("select.{key}"), value, allowed))
        };
        if let Some(key) = table.keys().find(|key| !KEYS_OF_SELECT.contains(&key.as_str())) {
            let hint = config::nearest_of(key, KEYS_OF_SELECT.into_iter());
            return Err(unknown(origin, &format!("select.{key}"), hint, &KEYS_OF_SELECT));
        }
        let keys = match table.remove("key") {
            Some(Value::String(text)) => coupled(&text),
            other => {
                let allowed = "the key whose value is chosen, such as \"regularization.lambda\"";
                return wrong("key", other.as_ref(), allowed);
            }
        };
        let tolerance = match table.remove("tolerance") {
            None => 0.0,
            Some(Value::Float(points)) if (0.0..=100.0).contains(&points) => points,
            Some(Value::Integer(points)) if (0..=100).contains(&points) => points as f64,
            other => return wrong("tolerance", other.as_ref(), "points of validation accuracy from 0 to 100"),
        };
        let last = match table.remove("final") {
            Some(Value::Table(last)) => axes(last, "select.final", origin)?,
            other => {
                let allowed = "keys of the runs with the chosen value, such as final.data.validation = 0.0";
                return wrong("final", other.as_ref(), allowed);
            }
        };
        Ok(Self { keys, tolerance, last })
    }
}

fn wrong(origin: &Origin, key: &str, value: Option<&Value>, allowed: &str) -> ConfigError {
    ConfigError::Value {
        origin: origin.clone(),
        key: key.to_owned(),
        value: value.map_or("missing".to_owned(), ToString::to_string),
        allowed: allowed.to_owned(),
    }
}

fn unknown(origin: &Origin, key: &str, hint: Option<&str>, allowed: &[&str]) -> ConfigError {
    let (origin, hint) = (origin.clone(), hint.map(str::to_owned));
    ConfigError::UnknownKey { origin, key: key.to_owned(), hint, allowed: allowed.join(", ") }
}

/// "a + b" is the two keys a and b.
fn coupled(text: &str) -> Vec<String> {
    text.split('+').map(|key| key.trim().to_owned()).collect()
}

/// The axes of a section, which must set each key once.
fn axes(table: Table, section: &str, origin: &Origin) -> Result<Axes, ConfigError> {
    let mut all = Vec::new();
    flatten(table, "", 0, &mut all);
    let axes: Axes = all.into_iter().map(|(path, value)| Axis::new(&path, value, origin)).collect::<Result<_, _>>()?;
    let keys: Vec<&String> = axes.iter().flat_map(|axis| &axis.keys).collect();
    if let Some(key) = keys.iter().enumerate().find_map(|(k, key)| keys[..k].contains(key).then_some(key)) {
        let value = Value::String(format!("two values of {key}"));
        return Err(wrong(origin, section, Some(&value), "each key once in a section"));
    }
    Ok(axes)
}

fn flatten(table: Table, prefix: &str, depth: usize, into: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) if config::find(&path).is_none() && depth < DEEPEST => {
                flatten(inner, &path, depth + 1, into);
            }
            value => into.push((path, value)),
        }
    }
}

/// Seeds as a list; "0..40" are those from 0 to 39.
fn seeds(value: Value, origin: &Origin) -> Result<Value, ConfigError> {
    let Value::String(text) = &value else { return Ok(value) };
    let ends =
        text.split_once("..").and_then(|(first, end)| Some((first.trim().parse().ok()?, end.trim().parse().ok()?)));
    match ends {
        Some((first, end)) if (0..end).contains(&first) && end - first <= MAX_RUNS as i64 => {
            Ok(Value::Array((first..end).map(Value::Integer).collect()))
        }
        Some((first, end)) if (0..end).contains(&first) => {
            let allowed = format!("at most {MAX_RUNS} seeds, such as \"0..40\" (0 to 39)");
            Err(wrong(origin, "seed", Some(&value), &allowed))
        }
        _ => {
            Err(wrong(origin, "seed", Some(&value), "a seed, a list of seeds, or a range such as \"0..40\" (0 to 39)"))
        }
    }
}

impl Axis {
    fn new(path: &str, value: Value, origin: &Origin) -> Result<Self, ConfigError> {
        let keys = coupled(path);
        let value = if keys == ["seed"] { seeds(value, origin)? } else { value };
        // Where the key itself takes a list, a list of lists has its values.
        let takes_list =
            keys.iter().any(|key| config::find(key).is_some_and(|key| matches!(key.kind, Kind::Integers(..))));
        let is_list = match &value {
            Value::Array(values) => !takes_list || values.iter().all(Value::is_array),
            _ => false,
        };
        let values = match value {
            Value::Array(values) if is_list => values,
            value => vec![value],
        };
        if values.is_empty() {
            return Err(wrong(origin, path, Some(&Value::Array(values)), "at least one value"));
        }
        Ok(Self { keys, values, is_list })
    }

    fn name(&self) -> String {
        self.keys.join(" + ")
    }
}
