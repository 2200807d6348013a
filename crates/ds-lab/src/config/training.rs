//! What of a config decides the training, and what two configs differ in.

use super::key::Key;
use super::keys::KEYS;
use super::load::Layers;
use super::sections::Config;
use crate::files::md5;
use toml::Value;

impl Config {
    /// What differs from another config: key paths with both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        self.differences_in(KEYS.iter(), other)
    }

    /// The same for the keys that change the training alone (see [`Key::changes_training`]): where there are none, a checkpoint
    /// or a row made with one config serves the other one.
    pub fn training_differences(&self, other: &Self) -> Vec<String> {
        self.differences_in(training_keys(), other)
    }

    fn differences_in(&self, keys: impl Iterator<Item = &'static Key>, other: &Self) -> Vec<String> {
        let (ours, theirs) = (Layers::of_text(&self.to_toml()), Layers::of_text(&other.to_toml()));
        let show = |value: Option<&Value>| value.map_or("not set".to_owned(), ToString::to_string);
        keys.filter(|key| ours.get(key.path) != theirs.get(key.path))
            .map(|key| format!("{}: {} there, {} here", key.path, show(ours.get(key.path)), show(theirs.get(key.path))))
            .collect()
    }

    /// Whether the network is pruned at the end of a run: the config asks for it, and the functions have knots.
    pub(crate) fn is_pruned(&self) -> bool {
        self.sparsify.enabled && self.activation.kind.has_knots()
    }

    /// The MD5 of the keys that change the training, as lines `path = value` in the order of their paths. It stays the same when
    /// a config gets a new key that is left out of [`to_toml`](Self::to_toml) at its default.
    pub fn training_md5(&self) -> String {
        let values = Layers::of_text(&self.to_toml());
        let line = |key: &Key| values.get(key.path).map(|value| format!("{} = {}\n", key.path, key.first_named(value)));
        let mut lines: Vec<String> = training_keys().filter_map(line).collect();
        lines.sort();
        md5(lines.concat().as_bytes())
    }
}

fn training_keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.changes_training)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(more: &str) -> Config {
        Config::from_toml(&format!("experiment = \"mnist\"\nname = \"a\"\n{more}")).unwrap()
    }

    #[test]
    fn keys_of_execution_and_reporting_change_no_digest() {
        let usual = config("");
        let execution = "train.threads = 3\ntrain.checkpoint_seconds = 1\ntrain.log_steps = 5\ntrain.eval_every = 7\n\
                         sparsify.enabled = false\nsparsify.threshold = 0.1\nsparsify.tolerance = 1\nsparsify.search = \"every\"\n\
                         sparsify.method = \"both\"\nsparsify.knots = 9";
        let other = config(execution);
        assert_eq!(usual.differences(&other).len(), 10);
        assert!(usual.training_differences(&other).is_empty());
        assert_eq!(usual.training_md5(), other.training_md5());
        let validated = config("data.validation = 0.1");
        let best = config("data.validation = 0.1\ntrain.keep_best = true");
        assert_eq!(validated.training_md5(), best.training_md5());
        assert_eq!(validated.differences(&best), ["train.keep_best: not set there, true here"]);
    }

    #[test]
    fn every_other_key_changes_the_digest() {
        let usual = config("");
        for (line, path) in [
            ("seed = 1", "seed"),
            ("train.epochs = 7", "train.epochs"),
            ("train.max_test_images = 10", "train.max_test_images"),
            ("train.precision = \"bf16\"", "train.precision"),
            ("activation.step = 0.5", "activation.step"),
            ("data.normalize = false", "data.normalize"),
            ("data.validation = 0.1", "data.validation"),
            ("optimizer.splines.lr = 0.5", "optimizer.splines.lr"),
        ] {
            let other = config(line);
            assert_ne!(usual.training_md5(), other.training_md5(), "{line}");
            let differences = usual.training_differences(&other);
            assert!(differences.iter().any(|difference| difference.starts_with(path)), "{differences:?}");
        }
    }

    /// Rows of summaries hold it, so that it must not change from one version to the next.
    #[test]
    fn the_digest_of_a_config_stays_as_it_is() {
        let area = Config::from_toml("experiment = \"area2d\"").unwrap();
        let digests = [area.training_md5(), config("").training_md5()];
        assert_eq!(digests, ["fb309efd64553ee6a6ba27b1bcbe7a9c", "ef3c5aed0f2d5cac02ccf6fe7dde751b"]);
    }
}
