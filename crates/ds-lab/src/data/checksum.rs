//! Checksums of contents, the same for every form of the files: MD5 of the canonical binary layout.

use super::{DataError, ImageDataset, ImageSet, Part};
use crate::files::{hexadecimal, md5};
use md5::{Digest, Md5};
use rayon::prelude::*;
use std::path::PathBuf;

/// The labels and pixels of a split as its files have them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Records {
    /// [`ImageDataset::label_bytes`] of each image.
    pub labels: Vec<u8>,
    /// Bytes (N, C, H, W).
    pub pixels: Vec<u8>,
    /// The first image of each file, for messages.
    pub files: Vec<(usize, PathBuf)>,
    /// Whether a checksum of the files has shown that they are the canonical ones.
    pub is_verified: bool,
}

impl Records {
    /// The file that image `i` is in.
    fn path(&self, i: usize) -> PathBuf {
        self.files.iter().rev().find(|(first, _)| *first <= i).map(|(_, path)| path.clone()).unwrap_or_default()
    }
}

/// The blocks that a split consists of: the file of the canonical binary form, and the MD5 of its records (labels, pixels).
fn canonical(dataset: ImageDataset, part: Part) -> &'static [(&'static str, &'static str)] {
    match (dataset, part) {
        (ImageDataset::Cifar10, Part::Train) => &[
            ("data_batch_1", "5dd7e06a14cb22eb9f671a540d1b7c25"),
            ("data_batch_2", "5ea93a67294ea407fff1d09f752e9692"),
            ("data_batch_3", "942cd6a4bcdd0dd3c604fbe906cb4421"),
            ("data_batch_4", "ae636b3ba5c66a11e91e8cb52e771fcb"),
            ("data_batch_5", "53f37980c15c3d472c316c40844f3f0d"),
        ],
        (ImageDataset::Cifar10, Part::Test) => &[("test_batch", "803d5f7f4d78ea53de84dbe85f74fb6d")],
        (ImageDataset::Cifar100, Part::Train) => &[("train", "6172c7755cfe09b2fe270c85cebc1b15")],
        (ImageDataset::Cifar100, Part::Test) => &[("test", "4499cfba6c016c1be1438163640a0898")],
        // Their files are compared one by one.
        (ImageDataset::Mnist | ImageDataset::FashionMnist, _) => &[],
    }
}

/// MD5 of all pixels and of all labels of MNIST.
const MNIST: [(Part, [&str; 2]); 2] = [
    (Part::Train, ["6510e85a72c3e9475c492d559d3770d2", "e86ee40d66677c011a9abda399ec8c4d"]),
    (Part::Test, ["240610fa99e73bfa49df8e7fc24d3206", "073c3904dfbd3e141ff8aa01cfde6b15"]),
];

/// MD5 of the gzip files of Fashion-MNIST, images and labels: its publishers give no other.
const FASHION_MNIST: [(Part, [&str; 2]); 2] = [
    (Part::Train, ["8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"]),
    (Part::Test, ["bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"]),
];

/// Whether these files (images, labels) are the published gzip files of Fashion-MNIST.
pub(super) fn is_fashion_mnist(part: Part, files: [&[u8]; 2]) -> bool {
    let found = files.map(md5);
    FASHION_MNIST.iter().any(|(of, published)| *of == part && found == *published)
}

/// The MD5 of records (labels, pixels), as hexadecimal digits.
pub(super) fn of_records<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut md5 = Md5::new();
    for (labels, pixels) in records {
        md5.update(labels);
        md5.update(pixels);
    }
    hexadecimal(md5)
}

/// Checks labels and contents and makes a set of them, in the canonical order.
pub(super) fn verified(dataset: ImageDataset, part: Part, mut records: Records) -> Result<ImageSet, DataError> {
    let (classes, (channels, side)) = (dataset.classes(), dataset.shape());
    // The label of a record is its last label byte: the fine one in CIFAR-100.
    let fine: Vec<u8> = records.labels.chunks_exact(dataset.label_bytes()).filter_map(|l| l.last().copied()).collect();
    if let Some(i) = fine.iter().position(|&label| usize::from(label) >= classes) {
        let problem = format!("label {i} is {}, expected 0 to {}", fine[i], classes - 1);
        return Err(DataError::content(records.path(i), problem, dataset.remedy()));
    }
    let (found, expected) = (fine.len(), dataset.count(part));
    if found != expected || records.pixels.len() != expected * dataset.pixels() {
        let problem = format!("the {} files hold {found} images, expected {expected}", part.name());
        return Err(DataError::content(records.path(0), problem, dataset.remedy()));
    }
    let mut labels = fine;
    match dataset {
        ImageDataset::Mnist => check_mnist(part, &records)?,
        ImageDataset::FashionMnist => check_fashion_mnist(part, &records)?,
        ImageDataset::Cifar10 | ImageDataset::Cifar100 => {
            let order = order(dataset, part, &records)?;
            arrange(&mut records.pixels, order.clone());
            arrange(&mut labels, order);
        }
    }
    Ok(ImageSet::new(records.pixels, labels, (channels, side, side), classes)?)
}

/// The block of the canonical order that each block of the files is.
fn order(dataset: ImageDataset, part: Part, records: &Records) -> Result<Vec<usize>, DataError> {
    let blocks = canonical(dataset, part);
    let (each, pixels, label_bytes) = (dataset.count(part) / blocks.len(), dataset.pixels(), dataset.label_bytes());
    let digest = |block: usize| {
        let labels = records.labels.chunks_exact(label_bytes).skip(block * each).take(each);
        of_records(labels.zip(records.pixels.chunks_exact(pixels).skip(block * each)))
    };
    let found: Vec<String> = (0..blocks.len()).into_par_iter().map(digest).collect();
    let position = |digest: &String| blocks.iter().position(|(_, expected)| expected == digest);
    let order: Vec<Option<usize>> = found.iter().map(position).collect();
    let rows = |block: usize| format!("the {} images {} to {}", part.name(), block * each, (block + 1) * each - 1);
    if let Some(block) = order.iter().position(Option::is_none) {
        let missing: Vec<String> = (0..blocks.len())
            .filter(|k| !order.contains(&Some(*k)))
            .map(|k| format!("{} {}", blocks[k].0, blocks[k].1))
            .collect();
        let problem = format!(
            "{} are not those of {dataset} (MD5 of labels and pixels {}, expected {})",
            rows(block),
            found[block],
            missing.join(" or ")
        );
        return Err(DataError::content(records.path(block * each), problem, dataset.remedy()));
    }
    for (block, position) in order.iter().enumerate() {
        if let Some(first) = order[..block].iter().position(|other| other == position) {
            let name = position.map_or("", |k| blocks[k].0);
            let problem = format!("{} and {} are the same, {name}", rows(first), rows(block));
            return Err(DataError::content(records.path(block * each), problem, dataset.remedy()));
        }
    }
    Ok(order.into_iter().flatten().collect())
}

/// Moves block i of the values to place `order[i]`.
fn arrange(values: &mut [u8], mut order: Vec<usize>) {
    let size = values.len() / order.len().max(1);
    for place in 0..order.len() {
        while order[place] != place {
            let to = order[place];
            let (low, high) = (place.min(to), place.max(to));
            let (head, tail) = values.split_at_mut(high * size);
            head[low * size..(low + 1) * size].swap_with_slice(&mut tail[..size]);
            order.swap(place, to);
        }
    }
}

impl Records {
    /// The parts of a data set in IDX form, each with its file: pairs of files have the images first; a parquet file has both.
    fn images_and_labels(&self) -> [(&[u8], &'static str, PathBuf); 2] {
        let path = |file: Option<&(usize, PathBuf)>| file.map(|(_, path)| path.clone()).unwrap_or_default();
        [(&self.pixels, "images", path(self.files.first())), (&self.labels, "labels", path(self.files.last()))]
    }
}

fn check_mnist(part: Part, records: &Records) -> Result<(), DataError> {
    let dataset = ImageDataset::Mnist;
    let expected = MNIST.iter().filter(|(of, _)| *of == part).flat_map(|(_, digests)| digests);
    for ((values, what, path), expected) in records.images_and_labels().into_iter().zip(expected) {
        let found = md5(values);
        if found != *expected {
            let part = part.name();
            let problem = format!("the {part} {what} are not those of {dataset} (MD5 {found}, expected {expected})");
            return Err(DataError::content(path, problem, dataset.remedy()));
        }
    }
    Ok(())
}

/// Fashion-MNIST has nothing of MNIST's, and as many images of each class.
fn check_fashion_mnist(part: Part, records: &Records) -> Result<(), DataError> {
    if records.is_verified {
        return Ok(());
    }
    let dataset = ImageDataset::FashionMnist;
    for (values, what, path) in records.images_and_labels() {
        if MNIST.iter().any(|(_, digests)| digests.contains(&md5(values).as_str())) {
            let problem = format!("its {what} are those of mnist, not of {dataset}");
            return Err(DataError::content(path, problem, dataset.remedy()));
        }
    }
    let each = dataset.count(part) / dataset.classes();
    for class in 0..dataset.classes() {
        let found = records.labels.iter().filter(|&&label| usize::from(label) == class).count();
        if found != each {
            let [_, (_, _, path)] = records.images_and_labels();
            let problem = format!("{found} of the {} labels are {class}, expected {each}", part.name());
            return Err(DataError::content(path, problem, dataset.remedy()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_moved_to_their_places() {
        // As the hub has them: batches 4, 3, 2, 5, 1.
        let mut values = *b"DdCcBbEeAa";
        arrange(&mut values, vec![3, 2, 1, 4, 0]);
        assert_eq!(&values, b"AaBbCcDdEe");
        arrange(&mut values, (0..5).collect());
        assert_eq!(&values, b"AaBbCcDdEe");
    }

    #[test]
    fn labels_of_fashion_mnist_are_counted() {
        let files = vec![(0, PathBuf::from("images")), (0, PathBuf::from("labels"))];
        let labels: Vec<u8> = (0..10_000).map(|i| (i % 10) as u8).collect();
        let pixels = vec![0; 10_000 * 784];
        let records = Records { labels, pixels, files, is_verified: false };
        assert!(verified(ImageDataset::FashionMnist, Part::Test, records.clone()).is_ok());
        let mut wrong = records;
        wrong.labels[0] = 1;
        let error = verified(ImageDataset::FashionMnist, Part::Test, wrong).map(|_| ());
        let message = error.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(message.contains("labels: 999 of the test labels are 0, expected 1000"), "{message}");
    }
}
