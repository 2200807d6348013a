//! CIFAR-10 and CIFAR-100 in their binary form: records of label bytes and 3072 pixels (C, H, W).

use super::{DataError, ImageDataset, ImageSet, Part, checksum, read};
use std::path::Path;

const PIXELS: usize = 3 * 32 * 32;

fn files(dataset: ImageDataset, part: Part) -> Vec<String> {
    match (dataset, part) {
        (ImageDataset::Cifar100, part) => vec![format!("{}.bin", part.name())],
        (_, Part::Train) => (1..=5).map(|k| format!("data_batch_{k}.bin")).collect(),
        (_, Part::Test) => vec!["test_batch.bin".to_owned()],
    }
}

/// Whether any of the files is there.
pub(super) fn is_in(dataset: ImageDataset, directory: &Path) -> bool {
    [Part::Train, Part::Test]
        .into_iter()
        .flat_map(|part| files(dataset, part))
        .any(|file| directory.join(file).exists())
}

/// One split.
pub(super) fn load(dataset: ImageDataset, directory: &Path, part: Part) -> Result<ImageSet, DataError> {
    let label_bytes = if dataset == ImageDataset::Cifar100 { 2 } else { 1 };
    let files = files(dataset, part);
    let records = dataset.count(part) / files.len();
    let (mut images, mut labels) = (Vec::with_capacity(dataset.count(part) * PIXELS), Vec::new());
    for file in &files {
        let path = directory.join(file);
        let bytes = read(&path)?;
        let expected = records * (label_bytes + PIXELS);
        if bytes.len() != expected {
            let problem = format!("it has {} bytes, expected {expected} ({records} records)", bytes.len());
            return Err(DataError::content(path, problem, dataset.cure()));
        }
        for record in bytes.chunks_exact(label_bytes + PIXELS) {
            let (label, pixels) = record.split_at(label_bytes);
            images.extend_from_slice(pixels);
            labels.push(label.to_vec());
        }
    }
    finish(dataset, part, images, labels, &directory.join(&files[0]))
}

/// Checks labels and contents. The label of a record is its last label byte: the fine one in CIFAR-100.
pub(super) fn finish(
    dataset: ImageDataset,
    part: Part,
    images: Vec<u8>,
    labels: Vec<Vec<u8>>,
    path: &Path,
) -> Result<ImageSet, DataError> {
    let classes = dataset.classes();
    let fine: Vec<u8> = labels.iter().filter_map(|label| label.last().copied()).collect();
    if let Some(i) = fine.iter().position(|&label| usize::from(label) >= classes) {
        let problem = format!("image {i} has label {}, expected 0 to {}", fine[i], classes - 1);
        return Err(DataError::content(path, problem, dataset.cure()));
    }
    let set = ImageSet { images, labels: fine, channels: 3, height: 32, width: 32, classes };
    checksum::verify(dataset, part, &set, &labels, path)?;
    Ok(set)
}
