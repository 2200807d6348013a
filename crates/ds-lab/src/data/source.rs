//! Where data comes from: the options, and what was found.

use super::dataset::{ImageDataset, Part};
use super::error::DataError;
use crate::files::expand_home;
use std::path::{Path, PathBuf};

/// Where to look for data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the directory given; without one in `DS_DATA_DIR`, or else `./data`, and image sets that are not there come from
    /// the Hugging Face hub or its cache.
    Auto {
        /// `--data-dir`.
        dir: Option<PathBuf>,
    },
    /// The sample that comes with the source.
    Sample,
}

impl Source {
    /// The directory to look in; `~` in `DS_DATA_DIR` is the home folder. Only `./data` need not exist.
    pub(super) fn root(&self) -> Result<PathBuf, DataError> {
        let of_environment = || std::env::var_os("DS_DATA_DIR").filter(|dir| !dir.is_empty());
        let given = match self {
            Self::Auto { dir: Some(dir) } => Some((dir.clone(), "--data-dir")),
            _ => of_environment().map(|dir| (expand_home(Path::new(&dir)), "DS_DATA_DIR")),
        };
        let Some((path, option)) = given else { return Ok(PathBuf::from("data")) };
        if path.is_dir() { Ok(path) } else { Err(DataError::NoDirectory { path, option }) }
    }

    /// The directories that messages name.
    pub(super) fn tried(&self, dataset: ImageDataset) -> Result<Vec<PathBuf>, DataError> {
        let root = self.root()?;
        Ok(vec![root.join(dataset.name()), root])
    }
}

/// A form that the files of an image data set come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// CIFAR's binary version.
    Binary,
    /// CIFAR's python version, as torchvision keeps it.
    Pickle,
    /// The Hugging Face hub's parquet files.
    Parquet,
    /// IDX files, plain or gzipped.
    Idx,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Pickle => "pickle",
            Self::Parquet => "parquet",
            Self::Idx => "IDX",
        })
    }
}

/// The files of an image data set on this machine, all of one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The form.
    pub form: Form,
    /// The directory where they were found; they may lie in folders below it.
    pub directory: PathBuf,
    /// The training files, in order.
    pub train: Vec<PathBuf>,
    /// The test files, in order.
    pub test: Vec<PathBuf>,
}

impl Files {
    pub(super) fn of(&self, part: Part) -> &[PathBuf] {
        match part {
            Part::Train => &self.train,
            Part::Test => &self.test,
        }
    }
}

/// Where [`load_images`](super::load_images) takes an image data set from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The sample that comes with the source.
    Sample,
    /// Files in a local directory.
    Local(Files),
    /// The cache of the Hugging Face hub; nothing is downloaded.
    Cached {
        /// `owner/name` on the hub.
        repository: &'static str,
        /// The files in the cache.
        files: Files,
    },
    /// The Hugging Face hub: loading the data set downloads it.
    Download {
        /// `owner/name` on the hub.
        repository: &'static str,
        /// The size of the download in 10⁶ bytes, roughly.
        megabytes: u32,
    },
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sample => f.write_str("the shipped sample"),
            Self::Local(files) => write!(f, "{} ({})", files.directory.display(), files.form),
            Self::Cached { repository, files } => {
                write!(f, "{repository} in the hub's cache, {}", files.directory.display())
            }
            Self::Download { repository, megabytes } => {
                write!(f, "{repository} on the Hugging Face hub, not downloaded yet (some {megabytes} MB)")
            }
        }
    }
}

/// The files, if all are there; `None` if none is, or else an error that names the first missing one.
pub(super) fn all_there(dataset: ImageDataset, files: Files) -> Result<Option<Files>, DataError> {
    let all = || files.train.iter().chain(&files.test);
    if !all().any(|path| path.is_file()) {
        return Ok(None);
    }
    match all().find(|path| !path.is_file()) {
        Some(path) => Err(DataError::content(path, "the file is missing", dataset.remedy())),
        None => Ok(Some(files)),
    }
}
