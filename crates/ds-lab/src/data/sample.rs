//! The sample of CIFAR-10 that comes with the source, so that everything runs with nothing but the checkout.

use super::{DataError, ImageData, ImageDataset, ImageSet, checksum, parquet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// (file, images, MD5 of labels and pixels).
const FILES: [(&str, usize, &str); 2] = [
    ("train-00000-of-00001.parquet", 2560, "aa4772ee04ac0c7af8568a1b0f9d1769"),
    ("test-00000-of-00001.parquet", 512, "21f7d040583ccc59dd784a578d9c2802"),
];

/// `data/sample/cifar10` below the current directory, or where the source was when this was built.
fn directory() -> PathBuf {
    let below = Path::new("data/sample/cifar10");
    if below.exists() { below.to_owned() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(below) }
}

/// The sample.
pub(super) fn load(dataset: ImageDataset) -> Result<ImageData, DataError> {
    if dataset != ImageDataset::Cifar10 {
        return Err(DataError::NoSample(dataset));
    }
    let directory = directory();
    let remedy =
        "it belongs to the project's source, where `git checkout -- data/sample` restores it; packages do not have it";
    let load = |(name, count, expected): (&str, usize, &str)| -> Result<ImageSet, DataError> {
        let path = directory.join(name);
        let set = parquet::load_any(dataset, &path, remedy)?;
        let (labels, pixels) = (set.label_bytes()?, set.pixels()?);
        let found = checksum::of_records(labels.chunks(1).zip(pixels.chunks(dataset.pixels())));
        if set.len() != count || found != expected {
            let problem =
                format!("{} images with MD5 {found} of labels and pixels, expected {count} with {expected}", set.len());
            return Err(DataError::content(path, problem, remedy));
        }
        Ok(set)
    };
    let [train, test] = FILES;
    Ok(ImageData {
        train: Arc::new(load(train)?),
        test: Arc::new(load(test)?),
        origin: format!("sample ({} training and {} test images of CIFAR-10)", train.1, test.1),
        is_sample: true,
    })
}
