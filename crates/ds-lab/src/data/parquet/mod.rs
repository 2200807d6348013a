//! Image data sets in the Hugging Face hub's parquet layout: a column of encoded images (PNG or WebP) and one or two of
//! labels.

mod pages;
mod record;
mod table;
mod write;

pub use record::Record;
pub use write::{write_records, write_records_as};

use super::checksum::Records;
use super::source::{Files, Form};
use super::{DataError, ImageDataset, ImageSet, Part, content, pictures};
use bytes::Bytes;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use table::Table;

/// Bytes that a file may have; the hub's largest has 120 MB.
const LARGEST_FILE: usize = 1 << 29;

/// The folders of a data set's directory that the hub and its programs put parquet files in; the first is the directory itself.
fn folders(dataset: ImageDataset) -> [&'static str; 5] {
    ["", "plain_text", "default", "data", dataset.name()]
}

/// The files in a directory or in the hub's folders below it, if any is there; an error names one that is missing.
pub(super) fn find(dataset: ImageDataset, directory: &Path) -> Result<Option<Files>, DataError> {
    let mut incomplete = None;
    for folder in folders(dataset).map(|folder| directory.join(folder)) {
        let found = (shards(dataset, &folder, Part::Train), shards(dataset, &folder, Part::Test));
        let (train, test) = match found {
            (Ok(train), Ok(test)) => (train, test),
            (Err(error), _) | (_, Err(error)) => {
                incomplete = incomplete.or(Some(error));
                continue;
            }
        };
        if train.is_empty() && test.is_empty() {
            continue;
        }
        if let Some(part) = [(Part::Train, &train), (Part::Test, &test)].into_iter().find(|(_, files)| files.is_empty())
        {
            let name = format!("{}-00000-of-00001.parquet", part.0.name());
            let problem = format!("the file is missing, as are {}/0000.parquet and the like", part.0.name());
            incomplete = incomplete.or(Some(DataError::content(folder.join(name), problem, dataset.remedy())));
            continue;
        }
        return Ok(Some(Files { form: Form::Parquet, directory: directory.to_owned(), train, test }));
    }
    incomplete.map_or(Ok(None), Err)
}

/// The files of a split in order, none if there is none; an error names one that is missing.
///
/// They are `SPLIT-00000-of-0000N.parquet`, all N of them, `SPLIT.parquet`, or `SPLIT/0000.parquet` and those that follow.
fn shards(dataset: ImageDataset, folder: &Path, part: Part) -> Result<Vec<PathBuf>, DataError> {
    let missing = |path: PathBuf| DataError::content(path, "the file is missing", dataset.remedy());
    let below = folder.join(part.name());
    let mut incomplete = None;
    for folder in [folder, &below] {
        // By the number of shards: downloads of several versions may lie together.
        let mut versions: BTreeMap<usize, BTreeMap<usize, PathBuf>> = BTreeMap::new();
        for path in parquet_files(folder) {
            if let Some((split, number, count)) = shard(&path)
                && split == part.name()
            {
                versions.entry(count).or_default().insert(number, path);
            }
        }
        for (count, shards) in versions {
            match (0..count).find(|number| !shards.contains_key(number)) {
                None => return Ok(shards.into_values().collect()),
                Some(number) => {
                    let name = format!("{}-{number:05}-of-{count:05}.parquet", part.name());
                    incomplete = incomplete.or(Some(missing(folder.join(name))));
                }
            }
        }
    }
    if let Some(error) = incomplete {
        return Err(error);
    }
    let single = folder.join(format!("{}.parquet", part.name()));
    if single.is_file() {
        return Ok(vec![single]);
    }
    let number = |path: PathBuf| Some((path.file_stem()?.to_str()?.parse::<usize>().ok()?, path));
    let numbered: BTreeMap<usize, PathBuf> = parquet_files(&below).into_iter().filter_map(number).collect();
    match numbered.keys().enumerate().find(|(expected, number)| expected != *number) {
        Some((expected, _)) => Err(missing(below.join(format!("{expected:04}.parquet")))),
        None => Ok(numbered.into_values().collect()),
    }
}

/// The parquet files of a directory, by name.
fn parquet_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet") && path.is_file())
        .collect();
    files.sort();
    files
}

/// (split, number, of how many), from a name such as `train-00000-of-00004.parquet`; more may follow, as a hash does in old ones.
fn shard(path: &Path) -> Option<(String, usize, usize)> {
    let mut parts = path.file_stem()?.to_str()?.split('-');
    let (split, number, of, count) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    (of == "of" && number < count).then(|| (split.to_owned(), number, count))
}

/// One split from all of its files.
pub(super) fn load(dataset: ImageDataset, files: &[PathBuf], part: Part) -> Result<Records, DataError> {
    let (expected, size) = (dataset.count(part), dataset.pixels());
    let mut records = Records { pixels: vec![0; expected * size], ..Records::default() };
    let mut count = 0;
    for path in files {
        let wrong = |problem| DataError::content(path, problem, dataset.remedy());
        let bytes = content::read(path, LARGEST_FILE, &dataset.remedy())?;
        let table = Table::open(bytes.into()).map_err(wrong)?;
        if table.label_count() != dataset.label_bytes() {
            return Err(wrong(table.wrong_columns()));
        }
        records.files.push((count, path.clone()));
        // Too many images are counted, and refused below.
        if let Some(pixels) = records.pixels.get_mut(count * size..(count + table.rows()) * size) {
            let labels = &mut records.labels;
            decode(&table, dataset, pixels, labels).map_err(wrong)?;
        }
        count += table.rows();
    }
    if count != expected {
        let problem = format!("the {} files hold {count} images, expected {expected}", part.name());
        let path = files.first().cloned().unwrap_or_default();
        return Err(DataError::content(path, problem, dataset.remedy()));
    }
    Ok(records)
}

/// The pixels (N, C, H, W) and the labels of all rows.
fn decode(table: &Table, dataset: ImageDataset, pixels: &mut [u8], labels: &mut Vec<u8>) -> Result<(), String> {
    let mut images = pixels.chunks_exact_mut(dataset.pixels());
    table.read(|first, records| {
        let images: Vec<&mut [u8]> = images.by_ref().take(records.len()).collect();
        images.into_par_iter().zip(records).enumerate().try_for_each(|(i, (pixels, record))| {
            let (channels, side) = dataset.shape();
            pictures::decode(&record.encoded, channels, side, pixels)
                .map_err(|problem| format!("image {}: {problem}", first + i))
        })?;
        labels.extend(records.iter().flat_map(|record| &record.labels));
        Ok(())
    })
}

/// The records of one file.
///
/// # Errors
/// If the file is cut, no parquet, or has other columns; `remedy` says how to get a good one.
pub fn read_records(path: &Path, remedy: &str) -> Result<Vec<Record>, DataError> {
    let bytes = content::read(path, LARGEST_FILE, remedy)?;
    parse(bytes.into()).map_err(|problem| DataError::content(path, problem, remedy))
}

/// The records of a whole file.
pub(super) fn parse(bytes: Bytes) -> Result<Vec<Record>, String> {
    let mut all = Vec::new();
    Table::open(bytes)?.read(|_, records| {
        all.extend_from_slice(records);
        Ok(())
    })?;
    Ok(all)
}

/// The images of a file, whatever their number; for the sample.
pub(super) fn load_any(dataset: ImageDataset, path: &Path, remedy: &str) -> Result<ImageSet, DataError> {
    let wrong = |problem| DataError::content(path, problem, remedy);
    let bytes = content::read(path, LARGEST_FILE, remedy)?;
    let table = Table::open(bytes.into()).map_err(wrong)?;
    let (channels, side) = dataset.shape();
    let mut images = vec![0; table.rows() * dataset.pixels()];
    let mut labels = Vec::new();
    decode(&table, dataset, &mut images, &mut labels).map_err(wrong)?;
    Ok(ImageSet::new(images, labels, (channels, side, side), dataset.classes())?)
}
