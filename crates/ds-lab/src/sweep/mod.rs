//! Sweeps: one TOML file that stands for many runs, with lists of values for any key.
//!
//! ```toml
//! # name = "…"                     # the file's name, if it is not said
//! keep_runs = false                # true: the directories of runs stay beside the summary
//!
//! [config]                         # as in the config of one run
//! experiment = "area2d"
//! activation.init = "even_odd"
//!
//! [[grid]]                         # every combination of the lists; a value that is no list holds for all of them
//! activation.kind = ["relu", "prelu"]
//! network.hidden = [[2], [4], [8]]
//! seed = [0, 1, 2]
//!
//! [[grid]]                         # and every combination of these
//! activation.kind = "bspline"
//! network.hidden = [[2], [4], [8]]
//! "regularization.lambda + regularization.weight_decay" = [1e-6, 1e-5]    # one value for both
//! seed = [0, 1, 2]
//!
//! [select]                         # then, for each combination of all other keys, the value with the best mean
//! key = "regularization.lambda + regularization.weight_decay"   # validation accuracy over the seeds: the largest that
//! tolerance = 0.0                  # is at most so many points below the best;
//! final.data.validation = 0.0      # and runs with it and these values
//! final.seed = [0, 1, 2]
//! ```

mod run;
mod select;

pub use run::{DIVERGED, Outcome, SweepOptions, count_done, run_sweep};

use crate::config::{self, Config, ConfigError, Kind, Origin, Setting};
use std::collections::HashMap;
use std::path::Path;
use toml::{Table, Value};

/// A sweep as its file defines it.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Its name, and that of its directory.
    pub name: String,
    /// Whether the directories of finished runs stay.
    pub keep_runs: bool,
    text: String,
    origin: Origin,
    base: Table,
    grids: Vec<Axes>,
    select: Option<Select>,
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// What to run; its name is unique together with its seed.
    pub config: Config,
    /// All that its grid sets.
    settings: Vec<Setting>,
    /// Which grid it is of.
    grid: usize,
}

/// What is chosen on validation data, and what is run with the choice.
#[derive(Debug, Clone)]
struct Select {
    keys: Vec<String>,
    tolerance: f64,
    last: Axes,
}

/// One or more keys that take the same values.
#[derive(Debug, Clone)]
struct Axis {
    keys: Vec<String>,
    values: Vec<Value>,
    /// Whether they were given as a list, so that names tell them.
    is_list: bool,
}

type Axes = Vec<Axis>;

impl Sweep {
    /// Reads and checks a sweep.
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML, a key is unknown or a value not allowed, or two runs have one name.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let sweep = Self::from_text(&text, &stem, Origin::File(path.to_owned()))?;
        sweep.runs()?;
        Ok(sweep)
    }

    fn from_text(text: &str, stem: &str, origin: Origin) -> Result<Self, ConfigError> {
        let mut table = config::parse(text, &origin)?;
        let wrong = |key: &str, value: Option<&Value>, allowed: &str| ConfigError::Value {
            origin: origin.clone(),
            key: key.to_owned(),
            value: value.map_or("missing".to_owned(), ToString::to_string),
            allowed: allowed.to_owned(),
        };
        let name = match table.remove("name") {
            None => stem.to_owned(),
            Some(Value::String(name)) if is_directory_name(&name) => name,
            Some(other) => return Err(wrong("name", Some(&other), "a name that can be a directory's")),
        };
        let keep_runs = match table.remove("keep_runs") {
            None => false,
            Some(Value::Boolean(keep)) => keep,
            Some(other) => return Err(wrong("keep_runs", Some(&other), "true or false")),
        };
        let base = match table.remove("config") {
            Some(Value::Table(base)) => base,
            other => return Err(wrong("config", other.as_ref(), "a section with the keys of a config")),
        };
        let grids = match table.remove("grid") {
            Some(Value::Array(grids)) if !grids.is_empty() => grids,
            other => return Err(wrong("grid", other.as_ref(), "one or more [[grid]] sections with lists of values")),
        };
        let grids = grids
            .into_iter()
            .map(|grid| match grid {
                Value::Table(grid) => axes(grid, &origin),
                other => Err(wrong("grid", Some(&other), "a [[grid]] section")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let select = match table.remove("select") {
            None => None,
            Some(Value::Table(select)) => Some(Select::parse(select, &origin)?),
            Some(other) => return Err(wrong("select", Some(&other), "a [select] section")),
        };
        if let Some(key) = table.keys().next() {
            let allowed = "name, keep_runs, config, grid, select".to_owned();
            return Err(ConfigError::UnknownKey { origin, key: key.clone(), hint: None, allowed });
        }
        Ok(Self { name, keep_runs, text: text.to_owned(), origin, base, grids, select })
    }

    /// All runs but those of a selection, in the order of the file, seeds together.
    ///
    /// # Errors
    /// If a value is not allowed, or two runs have one name.
    pub fn runs(&self) -> Result<Vec<PlannedRun>, ConfigError> {
        let mut runs = Vec::new();
        for (grid, axes) in self.grids.iter().enumerate() {
            for (settings, lists) in combinations(axes, &self.origin) {
                runs.push(self.planned(grid, settings, &lists, "")?);
            }
        }
        self.check_names(&runs)?;
        Ok(runs)
    }

    /// How many runs the file stands for, those of a selection included.
    ///
    /// # Errors
    /// As for [`runs`](Self::runs).
    pub fn count(&self) -> Result<usize, ConfigError> {
        let runs = self.runs()?;
        let of_selection = match &self.select {
            None => 0,
            Some(select) => select.groups(&runs).len() * combinations(&select.last, &self.origin).len(),
        };
        Ok(runs.len() + of_selection)
    }

    fn planned(
        &self,
        grid: usize,
        settings: Vec<Setting>,
        lists: &[String],
        ending: &str,
    ) -> Result<PlannedRun, ConfigError> {
        let mut config = Config::from_table(self.base.clone(), self.origin.clone(), &settings)?;
        let is_named = self.base.contains_key("name");
        for setting in settings.iter().filter(|setting| lists.contains(&setting.key)) {
            let shown = ["network.kind", "activation.kind", "data.dataset"].contains(&setting.key.as_str());
            if setting.key != "seed" && (is_named || !shown) {
                config.name += &format!("-{}", label(setting));
            }
        }
        config.name += ending;
        Ok(PlannedRun { config, settings, grid })
    }

    fn check_names(&self, runs: &[PlannedRun]) -> Result<(), ConfigError> {
        let mut seen = HashMap::new();
        for run in runs {
            if seen.insert((&run.config.name, run.config.seed), ()).is_some() {
                return Err(ConfigError::Value {
                    origin: self.origin.clone(),
                    key: "grid".to_owned(),
                    value: format!("two runs `{}` with seed {}", run.config.name, run.config.seed),
                    allowed: "grids that do not overlap".to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl Select {
    fn parse(mut table: Table, origin: &Origin) -> Result<Self, ConfigError> {
        let wrong = |key: &str, value: Option<&Value>, allowed: &str| ConfigError::Value {
            origin: origin.clone(),
            key: format!("select.{key}"),
            value: value.map_or("missing".to_owned(), ToString::to_string),
            allowed: allowed.to_owned(),
        };
        let keys = match table.remove("key") {
            Some(Value::String(text)) => coupled(&text),
            other => {
                return Err(wrong(
                    "key",
                    other.as_ref(),
                    "the key whose value is chosen, such as \"regularization.lambda\"",
                ));
            }
        };
        let tolerance = match table.remove("tolerance") {
            None => 0.0,
            Some(Value::Float(points)) if points >= 0.0 => points,
            Some(Value::Integer(points)) if points >= 0 => points as f64,
            other => return Err(wrong("tolerance", other.as_ref(), "points of validation accuracy, from 0")),
        };
        let last = match table.remove("final") {
            Some(Value::Table(last)) => axes(last, origin)?,
            other => {
                return Err(wrong(
                    "final",
                    other.as_ref(),
                    "keys of the runs with the chosen value, such as final.data.validation = 0.0",
                ));
            }
        };
        if let Some((key, value)) = table.iter().next() {
            return Err(wrong(key, Some(value), "one of key, tolerance, final"));
        }
        Ok(Self { keys, tolerance, last })
    }
}

fn is_directory_name(name: &str) -> bool {
    !name.trim().is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.')
}

/// "a + b" is the two keys a and b.
fn coupled(text: &str) -> Vec<String> {
    text.split('+').map(|key| key.trim().to_owned()).collect()
}

fn axes(table: Table, origin: &Origin) -> Result<Axes, ConfigError> {
    let mut all = Vec::new();
    flatten(table, "", &mut all);
    all.into_iter().map(|(path, value)| Axis::new(&path, value, origin)).collect()
}

fn flatten(table: Table, prefix: &str, into: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) if config::find(&path).is_none() => flatten(inner, &path, into),
            value => into.push((path, value)),
        }
    }
}

impl Axis {
    fn new(path: &str, value: Value, origin: &Origin) -> Result<Self, ConfigError> {
        let keys = coupled(path);
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
            let (key, value) = (path.to_owned(), "[]".to_owned());
            return Err(ConfigError::Value {
                origin: origin.clone(),
                key,
                value,
                allowed: "at least one value".to_owned(),
            });
        }
        Ok(Self { keys, values, is_list })
    }
}

/// Every combination of the axes' values, the last axis fastest but for the seeds, which are fastest of all; with the first
/// keys of the axes that were lists.
fn combinations(axes: &[Axis], origin: &Origin) -> Vec<(Vec<Setting>, Vec<String>)> {
    let lists: Vec<String> = axes.iter().filter(|axis| axis.is_list).map(|axis| axis.keys[0].clone()).collect();
    let (seeds, others): (Vec<&Axis>, Vec<&Axis>) = axes.iter().partition(|axis| axis.keys == ["seed"]);
    let mut all: Vec<Vec<Setting>> = vec![Vec::new()];
    for axis in others.into_iter().chain(seeds) {
        let mut longer = Vec::with_capacity(all.len() * axis.values.len());
        for settings in &all {
            for value in &axis.values {
                let mut settings = settings.clone();
                settings.extend(axis.keys.iter().map(|key| Setting {
                    key: key.clone(),
                    value: value.clone(),
                    origin: origin.clone(),
                }));
                longer.push(settings);
            }
        }
        all = longer;
    }
    all.into_iter().map(|settings| (settings, lists.clone())).collect()
}

/// How a run's name tells a setting: `lambda1e-5`, `hidden4x4`, `tv2`.
fn label(setting: &Setting) -> String {
    let name = setting.key.rsplit('.').next().unwrap_or_default();
    match &setting.value {
        Value::String(text) => text.clone(),
        Value::Boolean(yes) => format!("{name}-{yes}"),
        value => format!("{name}{}", show(value)),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Float(v) if *v != 0.0 && !(1e-2..1e4).contains(&v.abs()) => format!("{v:e}"),
        Value::Float(v) => v.to_string(),
        Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join("x"),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
