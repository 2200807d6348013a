//! The search of directories and of the hub's cache.

use super::dataset::ImageDataset;
use super::error::DataError;
use super::source::{Files, Form, Location, Source};
use super::{cifar, hub, idx, parquet};
use std::path::{Path, PathBuf};

/// Where an image data set would be loaded from. Nothing is downloaded, opened or decoded, so this serves a dry run: files that
/// are found can still turn out to be damaged.
///
/// # Errors
/// If loading is certain to fail: the directory of the options is not there, a file of several is missing, or the data set is
/// nowhere and cannot be downloaded (`--data-dir` was given, `HF_HUB_OFFLINE` is set, or the build lacks the feature `hub`).
pub fn locate(dataset: ImageDataset, source: &Source) -> Result<Location, DataError> {
    if *source == Source::Sample {
        return if dataset == ImageDataset::Cifar10 { Ok(Location::Sample) } else { Err(DataError::NoSample(dataset)) };
    }
    let root = source.root()?;
    let directories = directories(dataset, &root);
    let mut incomplete = None;
    for directory in &directories {
        for form in forms(dataset) {
            match find(dataset, directory, *form) {
                Ok(Some(files)) => return Ok(Location::Local(files)),
                Ok(None) => {}
                // Whole files in another form or folder serve as well.
                Err(error) => incomplete = incomplete.or(Some(error)),
            }
        }
    }
    if let Some(error) = incomplete {
        return Err(error);
    }
    let tried = source.tried(dataset)?;
    match source {
        Source::Auto { dir: Some(_) } => Err(DataError::NotFound { dataset, tried, remedy: dataset.remedy() }),
        _ => hub::locate(dataset, tried),
    }
}

fn forms(dataset: ImageDataset) -> &'static [Form] {
    if dataset.is_cifar() { &[Form::Binary, Form::Parquet, Form::Pickle] } else { &[Form::Idx, Form::Parquet] }
}

/// The files of a form in a directory, if any is there; an error names one that is missing.
fn find(dataset: ImageDataset, directory: &Path, form: Form) -> Result<Option<Files>, DataError> {
    match form {
        Form::Binary | Form::Pickle => cifar::find(dataset, directory, form),
        Form::Parquet => parquet::find(dataset, directory),
        Form::Idx => idx::find(dataset, directory),
    }
}

/// The data set's folder and the folders of its archives, there and in the root; the root itself comes last.
fn directories(dataset: ImageDataset, root: &Path) -> Vec<PathBuf> {
    let named = root.join(dataset.name());
    let below = |directory: &Path| dataset.archive_folders().iter().map(|f| directory.join(f)).collect::<Vec<_>>();
    [vec![named.clone()], below(&named), below(root), vec![root.to_owned()]].concat()
}
