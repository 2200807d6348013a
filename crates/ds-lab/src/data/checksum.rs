//! Checksums of contents, the same for every form of the files: MD5 of the canonical binary layout.

use super::{DataError, ImageDataset, ImageSet, Part};
use md5::{Digest, Md5};
use rayon::prelude::*;
use std::path::Path;

/// MD5 of the canonical files: for CIFAR the binary batches, for MNIST the unpacked pixels after the header.
fn canonical(dataset: ImageDataset, part: Part) -> &'static [&'static str] {
    match (dataset, part) {
        (ImageDataset::Cifar10, Part::Train) => &[
            "5dd7e06a14cb22eb9f671a540d1b7c25",
            "5ea93a67294ea407fff1d09f752e9692",
            "942cd6a4bcdd0dd3c604fbe906cb4421",
            "ae636b3ba5c66a11e91e8cb52e771fcb",
            "53f37980c15c3d472c316c40844f3f0d",
        ],
        (ImageDataset::Cifar10, Part::Test) => &["803d5f7f4d78ea53de84dbe85f74fb6d"],
        (ImageDataset::Cifar100, Part::Train) => &["6172c7755cfe09b2fe270c85cebc1b15"],
        (ImageDataset::Cifar100, Part::Test) => &["4499cfba6c016c1be1438163640a0898"],
        (ImageDataset::Mnist, Part::Train) => &["2abf7aca5541b822209994a987c95b4a"],
        (ImageDataset::Mnist, Part::Test) => &["68891dfe78ab1b468170a880acee98d2"],
        (ImageDataset::FashionMnist, _) => &[],
    }
}

/// The MD5 of records (labels, pixels), as hexadecimal digits.
pub(super) fn of_records<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut md5 = Md5::new();
    for (labels, pixels) in records {
        md5.update(labels);
        md5.update(pixels);
    }
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a split with the canonical one; `labels` are the label bytes of each record (coarse and fine for CIFAR-100).
pub(super) fn verify(
    dataset: ImageDataset,
    part: Part,
    set: &ImageSet,
    labels: &[Vec<u8>],
    path: &Path,
) -> Result<(), DataError> {
    let expected = canonical(dataset, part);
    if expected.is_empty() {
        return Ok(());
    }
    let each = set.len() / expected.len();
    expected.par_iter().enumerate().try_for_each(|(batch, expected)| {
        let records = (batch * each..(batch + 1) * each).map(|i| (labels[i].as_slice(), set.image(i)));
        let found = of_records(records);
        if found == *expected {
            return Ok(());
        }
        let problem = format!(
            "the {} images {} to {} are not those of {dataset} (MD5 of labels and pixels {found}, expected {expected})",
            part.name(),
            batch * each,
            (batch + 1) * each - 1
        );
        Err(DataError::content(path, problem, dataset.cure()))
    })
}
