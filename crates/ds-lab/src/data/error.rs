//! What can be wrong with data files, said with the file and the remedy.

use super::ImageDataset;
use std::path::PathBuf;

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Why data could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No file of the data set is where it was looked for.
    #[error("{dataset} was not found in {}; {remedy}", list(tried))]
    NotFound {
        /// The data set.
        dataset: ImageDataset,
        /// The directories.
        tried: Vec<PathBuf>,
        /// How to get it.
        remedy: String,
    },
    /// The directory of the options is not there.
    #[error("{option}: {} is no directory; create it, or correct or leave out {option}", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
        /// `--data-dir` or `DS_DATA_DIR`.
        option: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}; {remedy}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        problem: String,
        /// How to get a good one.
        remedy: String,
    },
    /// The data set is nowhere on this machine, and downloads are forbidden or not built in.
    #[error(
        "{dataset} is not in {}, and not complete in the cache of the Hugging Face hub, {}; {reason}, or {remedy}",
        list(tried),
        cache.display()
    )]
    NoDownload {
        /// The data set.
        dataset: ImageDataset,
        /// The directories.
        tried: Vec<PathBuf>,
        /// The hub's cache.
        cache: PathBuf,
        /// Why it is not downloaded, and how to change that.
        reason: &'static str,
        /// How to get it otherwise.
        remedy: String,
    },
    /// A download failed.
    #[error(
        "{dataset} is not in {}, and fetching it from the Hugging Face hub failed ({problem}); {remedy}",
        list(tried)
    )]
    Hub {
        /// The data set.
        dataset: ImageDataset,
        /// The directories.
        tried: Vec<PathBuf>,
        /// The hub's error.
        problem: String,
        /// How to get it otherwise.
        remedy: String,
    },
    /// There is no sample of this data set.
    #[error("there is no shipped sample of {0}, only of cifar10; leave --data sample out")]
    NoSample(ImageDataset),
    /// The numbers of pixels and labels do not fit each other.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl DataError {
    pub(super) fn content(path: impl Into<PathBuf>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Content { path: path.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_download_says_what_was_tried_and_what_to_do() {
        let error = DataError::Hub {
            dataset: ImageDataset::Cifar10,
            tried: vec!["data/cifar10".into(), "data".into()],
            problem: "HTTP request error".to_owned(),
            remedy: ImageDataset::Cifar10.remedy(),
        };
        let message = error.to_string();
        for part in ["cifar10 is not in data/cifar10, data", "HTTP request error", "--data-dir DIR", "--data sample"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
