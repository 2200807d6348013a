//! CIFAR-10 and CIFAR-100 in their binary form, records of label bytes and 3072 pixels (C, H, W), and as torchvision's pickles.

use super::checksum::Records;
use super::source::{Files, Form, all_there};
use super::{DataError, ImageDataset, Part, content, pickle};
use std::path::{Path, PathBuf};

/// Bytes that a pickle has besides pixels at most: names of files and labels.
const PICKLE_MARGIN: usize = 16 << 20;

fn names(dataset: ImageDataset, part: Part, form: Form) -> Vec<String> {
    let extension = if form == Form::Binary { ".bin" } else { "" };
    match (dataset, part) {
        (ImageDataset::Cifar100, part) => vec![format!("{}{extension}", part.name())],
        (_, Part::Train) => (1..=5).map(|k| format!("data_batch_{k}{extension}")).collect(),
        (_, Part::Test) => vec![format!("test_batch{extension}")],
    }
}

/// The files of a form in a directory, if any is there; an error names one that is missing.
pub(super) fn find(dataset: ImageDataset, directory: &Path, form: Form) -> Result<Option<Files>, DataError> {
    let paths =
        |part| -> Vec<PathBuf> { names(dataset, part, form).into_iter().map(|name| directory.join(name)).collect() };
    let files = Files { form, directory: directory.to_owned(), train: paths(Part::Train), test: paths(Part::Test) };
    all_there(dataset, files)
}

/// One split.
pub(super) fn load(dataset: ImageDataset, files: &[PathBuf], part: Part, form: Form) -> Result<Records, DataError> {
    let count = dataset.count(part) / files.len().max(1);
    let mut records = Records::default();
    records.pixels.reserve(dataset.count(part) * dataset.pixels());
    for path in files {
        let size = count * (dataset.label_bytes() + dataset.pixels());
        let limit = if form == Form::Binary { size } else { size + PICKLE_MARGIN };
        let bytes = content::read(path, limit, &dataset.remedy())?;
        records.files.push((records.labels.len() / dataset.label_bytes(), path.clone()));
        let parsed = match form {
            Form::Binary => parse(&bytes, dataset, count, &mut records),
            _ => parse_pickle(&bytes, dataset, count, &mut records),
        };
        parsed.map_err(|problem| DataError::content(path, problem, dataset.remedy()))?;
    }
    Ok(records)
}

/// Appends the records of a binary file.
pub(super) fn parse(bytes: &[u8], dataset: ImageDataset, count: usize, records: &mut Records) -> Result<(), String> {
    let (label_bytes, size) = (dataset.label_bytes(), dataset.label_bytes() + dataset.pixels());
    if bytes.len() != count * size {
        let wrong = format!("it has {} bytes, expected {} ({count} records)", bytes.len(), count * size);
        return Err(content::problem(bytes, wrong));
    }
    for record in bytes.chunks_exact(size) {
        let (labels, pixels) = record.split_at(label_bytes);
        records.labels.extend_from_slice(labels);
        records.pixels.extend_from_slice(pixels);
    }
    Ok(())
}

/// Appends the records of a pickle.
pub(super) fn parse_pickle(
    bytes: &[u8],
    dataset: ImageDataset,
    count: usize,
    records: &mut Records,
) -> Result<(), String> {
    let batch = pickle::parse(bytes).map_err(|wrong| content::problem(bytes, wrong))?;
    let keys: &[&str] = if dataset == ImageDataset::Cifar100 { &["coarse_labels", "fine_labels"] } else { &["labels"] };
    let mut columns = Vec::new();
    for key in keys {
        let labels = batch.labels(key)?;
        if labels.len() != count {
            return Err(format!("its `{key}` has {} entries, expected {count}", labels.len()));
        }
        columns.push(labels);
    }
    batch.append_pixels(count, dataset.pixels(), &mut records.pixels)?;
    for i in 0..count {
        records.labels.extend(columns.iter().map(|labels| labels[i]));
    }
    Ok(())
}
