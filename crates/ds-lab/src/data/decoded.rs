//! Decoded data sets, kept for the next run of the process.

use super::checksum::verified;
use super::source::{Files, Form};
use super::{DataError, ImageData, ImageDataset, ImageSet, Part, cifar, idx, parquet};
use ds_core::backend::sync::lock;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// So many data sets are kept; the largest, CIFAR, has 184 MB.
const KEPT: usize = 2;

/// The data sets that were loaded last, the latest at the end.
static DECODED: Mutex<Vec<(Key, ImageData)>> = Mutex::new(Vec::new());

/// A data set and the state of its files: one that was changed is read again.
#[derive(PartialEq)]
struct Key {
    dataset: ImageDataset,
    files: Files,
    states: Vec<Option<(u64, SystemTime)>>,
}

impl Key {
    fn new(dataset: ImageDataset, files: &Files) -> Self {
        let state = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        Self { dataset, files: files.clone(), states: files.train.iter().chain(&files.test).map(state).collect() }
    }
}

/// The data set from its files, or as they were decoded before. One thread decodes at a time: the others want the same, as a rule.
pub(super) fn load(dataset: ImageDataset, files: &Files, origin: String) -> Result<ImageData, DataError> {
    let key = Key::new(dataset, files);
    let mut kept = lock(&DECODED);
    if key.states.iter().all(Option::is_some)
        && let Some(at) = kept.iter().position(|(other, _)| *other == key)
    {
        let found = kept.remove(at);
        let data = ImageData { origin, ..found.1.clone() };
        kept.push(found);
        return Ok(data);
    }
    // Before the new one is decoded, so that no more than `KEPT` are in memory.
    let excess = (kept.len() + 1).saturating_sub(KEPT);
    kept.drain(..excess);
    let split = |part| read(dataset, files, part).map(Arc::new);
    let data = ImageData { train: split(Part::Train)?, test: split(Part::Test)?, origin, is_sample: false };
    kept.push((key, data.clone()));
    Ok(data)
}

fn read(dataset: ImageDataset, files: &Files, part: Part) -> Result<ImageSet, DataError> {
    let paths = files.of(part);
    let records = match files.form {
        Form::Binary | Form::Pickle => cifar::load(dataset, paths, part, files.form),
        Form::Parquet => parquet::load(dataset, paths, part),
        Form::Idx => idx::load(dataset, paths, part),
    };
    verified(dataset, part, records?)
}
