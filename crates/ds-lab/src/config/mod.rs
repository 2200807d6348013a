//! The config of a run: defaults of the experiment, overlaid with the user's TOML file, overlaid with `--set key=value`.
//!
//! Everything about a key is in its entry in [`KEYS`].

mod error;
mod key;
mod keys;
mod kinds;
mod load;
mod names;
mod nearest;
mod profile;
mod protocol;
mod run_name;
mod sections;
mod setting;
mod training;
mod validate;

pub use error::{ConfigError, Origin};
pub use key::Key;
pub use keys::{KEYS, find, reference_doc};
pub use kinds::Kind;
pub(crate) use load::{parse, read_text};
pub use names::{
    Dataset, Experiment, Judged, NetworkKind, OptimizerKind, Points, Precision, PruningMethod, Range, Search,
};
pub(crate) use nearest::nearest_of;
pub use profile::Profile;
pub use protocol::protocol;
pub(crate) use run_name::broken_rule;
pub use sections::{
    Activation, Config, Data, NetworkConfig, OptimizerConfig, OptimizersConfig, Regularization, ScalingsConfig,
    Sparsify, Train,
};
pub use setting::Setting;
