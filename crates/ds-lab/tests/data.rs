//! Data files: the same pixels whatever their form, and errors that name the file and the cure.
#![allow(clippy::unwrap_used)]

use ds_lab::data::parquet::{Record, read_records, write_records};
use ds_lab::data::{AreaShape, ImageDataset, Source, area_points, load_images};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The directory of real data, if this machine has one.
fn real_data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let directory = std::env::var_os("DS_DATA_DIR").map_or(beside, PathBuf::from);
    if directory.exists() {
        return Some(directory);
    }
    println!("SKIPPED: no real data in DS_DATA_DIR or {}", directory.display());
    None
}

fn from(directory: &Path) -> Source {
    Source::Auto { dir: Some(directory.to_owned()) }
}

fn error(dataset: ImageDataset, directory: &Path) -> String {
    load_images(dataset, &from(directory)).unwrap_err().to_string()
}

#[test]
fn cifar10_has_the_same_pixels_from_parquet_and_from_binary_files() {
    let Some(root) = real_data().filter(|root| root.join("cifar10").exists()) else { return };
    // Loading verifies the MD5s of the canonical binary batches, so this compares with those of the data set's home.
    let parquet = load_images(ImageDataset::Cifar10, &from(&root)).unwrap();
    assert_eq!((parquet.train.len(), parquet.test.len()), (50_000, 10_000));
    assert!(parquet.origin.contains("parquet"));
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("cifar-10-batches-bin");
    std::fs::create_dir(&folder).unwrap();
    for batch in 0..6 {
        let (set, first, name) = match batch {
            5 => (&parquet.test, 0, "test_batch.bin".to_owned()),
            k => (&parquet.train, k * 10_000, format!("data_batch_{}.bin", k + 1)),
        };
        let mut bytes = Vec::new();
        for i in first..first + 10_000 {
            bytes.push(set.labels[i]);
            bytes.extend_from_slice(set.image(i));
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let binary = load_images(ImageDataset::Cifar10, &from(directory.path())).unwrap();
    assert!(binary.origin.contains("binary"));
    assert_eq!(binary.train, parquet.train);
    assert_eq!(binary.test, parquet.test);

    // One wrong byte, a cut file, a missing file.
    let path = folder.join("data_batch_3.bin");
    let good = std::fs::read(&path).unwrap();
    let mut wrong = good.clone();
    wrong[5000] ^= 1;
    std::fs::write(&path, &wrong).unwrap();
    let message = error(ImageDataset::Cifar10, directory.path());
    assert!(message.contains("images 20000 to 29999") && message.contains("942cd6a4"), "{message}");
    std::fs::write(&path, &good[..1000]).unwrap();
    let message = error(ImageDataset::Cifar10, directory.path());
    assert!(message.contains("data_batch_3.bin") && message.contains("1000 bytes"), "{message}");
    assert!(message.contains("--data sample") && message.contains("cs.toronto.edu"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let message = error(ImageDataset::Cifar10, directory.path());
    assert!(message.contains("cannot read") && message.contains("data_batch_3.bin"), "{message}");
}

#[test]
fn mnist_is_read_gzipped_and_plain_and_verified() {
    let Some(root) = real_data().filter(|root| root.join("mnist").exists()) else { return };
    let zipped = load_images(ImageDataset::Mnist, &from(&root)).unwrap();
    assert_eq!((zipped.train.len(), zipped.test.len(), zipped.train.channels), (60_000, 10_000, 1));
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root.join("mnist")).unwrap() {
        let path = entry.unwrap().path();
        let mut plain = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
        std::io::copy(&mut reader, &mut plain).unwrap();
        std::fs::write(directory.path().join(path.file_stem().unwrap()), plain).unwrap();
    }
    let plain = load_images(ImageDataset::Mnist, &from(directory.path())).unwrap();
    assert_eq!(plain.train, zipped.train);
    // As Fashion-MNIST it has the right form; only MNIST's contents are known by their checksum.
    assert!(load_images(ImageDataset::FashionMnist, &from(directory.path())).is_ok());
    let path = directory.path().join("train-labels-idx1-ubyte");
    let good = std::fs::read(&path).unwrap();
    let mut wrong = good.clone();
    wrong[100] = 10;
    std::fs::write(&path, &wrong).unwrap();
    assert!(error(ImageDataset::Mnist, directory.path()).contains("label 92 is 10, expected 0 to 9"));
    wrong[100] = (good[100] + 1) % 10;
    std::fs::write(&path, &wrong).unwrap();
    assert!(error(ImageDataset::Mnist, directory.path()).contains("MD5"));
}

#[test]
fn a_missing_shard_is_named() {
    let Some(root) = real_data().filter(|root| root.join("cifar100").exists()) else { return };
    if root.join("cifar100/train-00001-of-00004.parquet").exists() {
        println!("SKIPPED: CIFAR-100 is complete here");
        return;
    }
    let message = error(ImageDataset::Cifar100, &root);
    assert!(message.contains("train-00001-of-00004.parquet: the file is missing"), "{message}");
}

#[test]
fn idx_files_that_are_cut_or_wrong_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("train-images-idx3-ubyte");
    let header =
        |count: u32| [&[0u8, 0, 8, 3][..], &count.to_be_bytes(), &28u32.to_be_bytes(), &28u32.to_be_bytes()].concat();
    let check = |bytes: &[u8], parts: &[&str]| {
        std::fs::write(&path, bytes).unwrap();
        let message = error(ImageDataset::Mnist, directory.path());
        for part in parts {
            assert!(message.contains(part), "{part}: {message}");
        }
    };
    check(&header(60_000), &["train-images-idx3-ubyte", "16 bytes, expected 47040016", "mirror"]);
    check(&header(100), &["header", "[60000, 28, 28]"]);
    check(b"<html>", &["header"]);
    check(b"", &["header"]);
    std::fs::remove_file(&path).unwrap();
    let zipped = directory.path().join("train-images-idx3-ubyte.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&header(60_000)).unwrap();
    let bytes = encoder.finish().unwrap();
    std::fs::write(&zipped, &bytes[..bytes.len() - 4]).unwrap();
    let message = error(ImageDataset::Mnist, directory.path());
    assert!(message.contains("ubyte.gz: not a whole gzip file"), "{message}");
}

fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A directory whose parquet files hold `records`, as both splits.
fn parquet_directory(records: &[Record]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        write_records(&directory.path().join(format!("{split}-00000-of-00001.parquet")), records).unwrap();
    }
    directory
}

#[test]
fn rows_and_columns_of_pictures_are_not_swapped() {
    // Red grows along a row, green down a column.
    let encoded = png(32, 32, |x, y| [x as u8, 100 + y as u8, 7]);
    let records = vec![Record { encoded, labels: vec![3] }; 4];
    let directory = parquet_directory(&records);
    let path = directory.path().join("train-00000-of-00001.parquet");
    assert_eq!(read_records(&path, "").unwrap(), records);
    // The loader refuses a set of 4 images, but only after decoding; its decoder is the one that the sample uses too.
    let message = error(ImageDataset::Cifar10, directory.path());
    assert!(message.contains("hold 4 images, expected 50000"), "{message}");
    let sample = load_images(ImageDataset::Cifar10, &Source::Sample).unwrap();
    let records = read_records(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/sample/cifar10/test-00000-of-00001.parquet"),
        "",
    )
    .unwrap();
    let picture = image::load_from_memory(&records[5].encoded).unwrap().to_rgb8();
    for (x, y, pixel) in picture.enumerate_pixels() {
        for channel in 0..3 {
            let ours = sample.test.image(5)[channel * 1024 + y as usize * 32 + x as usize];
            assert_eq!(ours, pixel.0[channel], "channel {channel} row {y} column {x}");
        }
    }
}

#[test]
fn parquet_files_that_are_cut_or_wrong_are_named() {
    let small = parquet_directory(&[Record { encoded: png(31, 32, |_, _| [0; 3]), labels: vec![0] }]);
    let message = error(ImageDataset::Cifar10, small.path());
    assert!(message.contains("image 0: 31×32 pixels, expected 32×32"), "{message}");
    let broken = parquet_directory(&[Record { encoded: b"no picture".to_vec(), labels: vec![0] }]);
    let message = error(ImageDataset::Cifar10, broken.path());
    assert!(message.contains("train-00000-of-00001.parquet: image 0"), "{message}");
    let path = broken.path().join("train-00000-of-00001.parquet");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let message = error(ImageDataset::Cifar10, broken.path());
    assert!(message.contains("train-00000-of-00001.parquet: not a whole parquet file"), "{message}");
}

#[test]
fn an_empty_directory_says_what_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    for dataset in [ImageDataset::Mnist, ImageDataset::FashionMnist, ImageDataset::Cifar10, ImageDataset::Cifar100] {
        let message = error(dataset, directory.path());
        for part in [dataset.name(), "was not found in", "--data-dir DIR", directory.path().to_str().unwrap()] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn the_sample_is_of_cifar10_only() {
    let sample = load_images(ImageDataset::Cifar10, &Source::Sample).unwrap();
    assert!(sample.is_sample && sample.origin.contains("sample"));
    assert_eq!((sample.train.len(), sample.test.len()), (2560, 512));
    for class in 0..10 {
        assert_eq!(sample.train.labels.iter().filter(|&&label| label == class).count(), 256);
    }
    let message = load_images(ImageDataset::Mnist, &Source::Sample).unwrap_err().to_string();
    assert!(message.contains("no shipped sample of mnist"), "{message}");
}

#[test]
fn the_originals_points_lie_where_the_formulas_say() {
    let Some(root) = real_data().filter(|root| root.join("area2d").exists()) else { return };
    for shape in [AreaShape::Circle, AreaShape::SShape] {
        let (set, _) = area_points(shape, "train", &from(&root)).unwrap().unwrap();
        assert_eq!(set.points.len(), 1500);
        let agree = set
            .points
            .iter()
            .zip(&set.labels)
            .filter(|(point, label)| shape.contains(point.map(f64::from)) == (**label == 1.0));
        assert_eq!(agree.count(), 1500, "{shape:?}");
    }
}
