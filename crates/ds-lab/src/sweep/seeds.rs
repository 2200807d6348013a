//! Sweeps over seeds alone.

use super::Sweep;
use crate::config::{Config, ConfigError, Origin};
use toml::{Table, Value};

impl Sweep {
    /// The runs of a config with some seeds, which all keep their directories: `0..9` are the seeds from 0 to 8, `0,3,5` these three.
    ///
    /// # Errors
    /// If these are no seeds.
    pub fn of_seeds(config: &Config, seeds: &str) -> Result<Self, ConfigError> {
        let list = seeds.split(',').map(|seed| seed.trim().parse().map(Value::Integer));
        let value = list.collect::<Result<_, _>>().map_or_else(|_| Value::String(seeds.to_owned()), Value::Array);
        let mut base = config.to_table();
        base.remove("seed");
        let grid = Table::from_iter([("seed".to_owned(), value)]);
        let sweep = Table::from_iter([
            ("name".to_owned(), Value::String(config.name.clone())),
            ("keep_runs".to_owned(), Value::Boolean(true)),
            ("config".to_owned(), Value::Table(base)),
            ("grid".to_owned(), Value::Array(vec![Value::Table(grid)])),
        ]);
        let origin = Origin::Seeds(seeds.to_owned());
        let sweep = Self::from_text(&sweep.to_string(), &config.name, origin)?;
        sweep.runs()?;
        Ok(sweep)
    }

    /// The definition, as its file has it.
    pub fn definition(&self) -> &str {
        &self.text
    }
}
