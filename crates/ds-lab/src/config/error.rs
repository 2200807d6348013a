//! What can be wrong with a config, said with file, key, value and what is allowed.

use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The config file.
    File(PathBuf),
    /// A `--set` on the command line.
    Set(String),
    /// The `--seeds` of the command line.
    Seeds(String),
    /// Defaults of the experiment, or a config kept in a checkpoint.
    Defaults,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Set(text) => write!(f, "--set {}", printable(text)),
            Self::Seeds(text) => write!(f, "--seeds {}", printable(text)),
            Self::Defaults => f.write_str("the defaults"),
        }
    }
}

/// A text with its control characters as escapes, so that a terminal shows them; lines stay lines.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() && c != '\n' { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Why a config was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read config {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can be read, and is something else.
    #[error("{} is no config: {reason}", path.display())]
    NoConfig {
        /// The file.
        path: PathBuf,
        /// What tells.
        reason: &'static str,
    },
    /// The text is not TOML.
    #[error("{origin}: not valid TOML: {message}")]
    Toml {
        /// Where it stands.
        origin: Origin,
        /// The parser's words, with line and column.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}; allowed here: {allowed}", hint.as_ref().map_or(String::new(), |h| format!(" (did you mean `{h}`?)")))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The full path of the key.
        key: String,
        /// The nearest key that exists.
        hint: Option<String>,
        /// The keys beside it.
        allowed: String,
    },
    /// A value of the wrong type or out of range, or a key that must be there.
    #[error("{origin}: `{key}` = {value}: expected {allowed}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The full path of the key.
        key: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A `--set` that is no assignment.
    #[error("--set {text}: expected KEY=VALUE, such as --set train.epochs=2")]
    Set {
        /// What was given.
        text: String,
    },
}
