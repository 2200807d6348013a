//! Data files: the same pixels whatever their form, and errors that name the file and the remedy.
#![allow(clippy::unwrap_used)]

use ds_lab::data::parquet::{Record, read_records, write_records, write_records_as};
use ds_lab::data::{AreaShape, ImageDataset, ImageSet, Location, Source, area_points, load_images, locate};
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
    let error = load_images(dataset, &from(directory)).unwrap_err();
    format!("{:#}", anyhow::Error::from(error))
}

/// The records of one file of CIFAR's binary version.
fn binary(set: &ImageSet, images: std::ops::Range<usize>) -> Vec<u8> {
    let (pixels, labels) = (set.pixels().unwrap(), set.label_bytes().unwrap());
    let record = |i: usize| [&labels[i..=i], &pixels[i * 3072..(i + 1) * 3072]].concat();
    images.flat_map(record).collect()
}

fn cifar10(root: &Path) -> (ImageSet, ImageSet) {
    let data = load_images(ImageDataset::Cifar10, &from(root)).unwrap();
    ((*data.train).clone(), (*data.test).clone())
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
    for k in 0..5 {
        let bytes = binary(&parquet.train, k * 10_000..(k + 1) * 10_000);
        std::fs::write(folder.join(format!("data_batch_{}.bin", k + 1)), bytes).unwrap();
    }
    std::fs::write(folder.join("test_batch.bin"), binary(&parquet.test, 0..10_000)).unwrap();
    let ours = load_images(ImageDataset::Cifar10, &from(directory.path())).unwrap();
    assert!(ours.origin.contains("binary"));
    assert_eq!(ours.train, parquet.train);
    assert_eq!(ours.test, parquet.test);

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
    assert!(message.contains("data_batch_3.bin: the file is missing"), "{message}");
}

#[test]
fn mnist_is_read_gzipped_and_plain_and_verified() {
    let Some(root) = real_data().filter(|root| root.join("mnist").exists()) else { return };
    let zipped = load_images(ImageDataset::Mnist, &from(&root)).unwrap();
    assert_eq!(
        (zipped.train.len(), zipped.test.len(), zipped.train.images.dims()),
        (60_000, 10_000, &[60_000, 1, 28, 28][..])
    );
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
    // As Fashion-MNIST it has the right form, but not the contents.
    let message = error(ImageDataset::FashionMnist, directory.path());
    assert!(
        message.contains("train-images-idx3-ubyte: its images are those of mnist, not of fashion_mnist"),
        "{message}"
    );
    let path = directory.path().join("train-labels-idx1-ubyte");
    let good = std::fs::read(&path).unwrap();
    let mut wrong = good.clone();
    wrong[100] = 10;
    std::fs::write(&path, &wrong).unwrap();
    assert!(error(ImageDataset::Mnist, directory.path()).contains("label 92 is 10, expected 0 to 9"));
    wrong[100] = (good[100] + 1) % 10;
    std::fs::write(&path, &wrong).unwrap();
    let message = error(ImageDataset::Mnist, directory.path());
    assert!(message.contains("train-labels-idx1-ubyte: the train labels are not those of mnist (MD5"), "{message}");
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
    std::fs::write(&path, "").unwrap();
    let message = error(ImageDataset::Mnist, directory.path());
    assert!(message.contains("train-labels-idx1-ubyte: the file is missing, plain and with .gz"), "{message}");
    for name in ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
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
    check(b"<html>", &["train-images-idx3-ubyte: it is a web page (HTML)"]);
    check(b"", &["it is empty"]);
    check(&vec![0; 60_000_000], &["more than the"]);
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
    let pixels = sample.test.pixels().unwrap();
    let picture = image::load_from_memory(&records[5].encoded).unwrap().to_rgb8();
    for (x, y, pixel) in picture.enumerate_pixels() {
        for channel in 0..3 {
            let ours = pixels[5 * 3072 + channel * 1024 + y as usize * 32 + x as usize];
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
        assert_eq!(sample.train.label_bytes().unwrap().into_iter().filter(|&label| label == class).count(), 256);
    }
    let message = load_images(ImageDataset::Mnist, &Source::Sample).unwrap_err().to_string();
    assert!(message.contains("no shipped sample of mnist"), "{message}");
}

#[test]
fn the_originals_points_lie_where_the_formulas_say() {
    let Some(root) = real_data().filter(|root| root.join("area2d").exists()) else { return };
    for shape in [AreaShape::Circle, AreaShape::SShape] {
        let (set, _) = area_points(shape, &from(&root)).unwrap().unwrap();
        assert_eq!(set.points.len(), 1500);
        let agree = set
            .points
            .iter()
            .zip(&set.labels)
            .filter(|(point, label)| shape.contains(point.map(f64::from)) == (**label == 1.0));
        assert_eq!(agree.count(), 1500, "{shape:?}");
    }
}

#[test]
fn the_originals_points_are_verified() {
    let Some(root) = real_data().filter(|root| root.join("area2d").exists()) else { return };
    let text = std::fs::read_to_string(root.join("area2d/circle_train.csv")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("area2d")).unwrap();
    let points = |text: &str| {
        std::fs::write(directory.path().join("area2d/circle_train.csv"), text).unwrap();
        area_points(AreaShape::Circle, &from(directory.path()))
            .map(|set| set.unwrap().0)
            .map_err(|error| error.to_string())
    };
    let original = points(&text).unwrap();
    // Line ends make no difference.
    assert_eq!(points(&text.replace('\n', "\r\n")).unwrap(), original);
    let cut: String = text.split_inclusive('\n').take(101).collect();
    for part in ["circle_train.csv: it has 100 points", "1500", "7837ab21", "data.points = \"generated\""] {
        let message = points(&cut).unwrap_err();
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(points(&text.replacen(",0\n", ",1\n", 1)).unwrap_err().contains("1500 points with MD5"));
    assert!(points("<!doctype html>").unwrap_err().contains("web page"));
}

#[test]
fn cifar10_has_one_order_whatever_the_order_of_its_batches() {
    let Some(root) = real_data().filter(|root| root.join("cifar10").exists()) else { return };
    let (train, test) = cifar10(&root);
    let shard = |k: usize| root.join(format!("cifar10/train-{k:05}-of-00004.parquet"));
    let records: Vec<Record> = (0..4).flat_map(|k| read_records(&shard(k), "").unwrap()).collect();
    let batches = |order: &[usize]| -> Vec<Record> {
        order.iter().flat_map(|k| records[(k - 1) * 10_000..k * 10_000].to_vec()).collect()
    };
    let directory = tempfile::tempdir().unwrap();
    // The hub's own folder and order.
    let folder = directory.path().join("cifar10/plain_text");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("train-00000-of-00001.parquet");
    let test_file = root.join("cifar10/test-00000-of-00001.parquet");
    std::fs::copy(&test_file, folder.join("test-00000-of-00001.parquet")).unwrap();
    let hub = batches(&[4, 3, 2, 5, 1]);
    assert_eq!(hub.iter().take(5).map(|record| record.labels[0]).collect::<Vec<_>>(), [0, 6, 0, 2, 7]);
    write_records(&path, &hub).unwrap();
    assert!(cifar10(directory.path()) == (train.clone(), test.clone()));

    // Each batch must be there once.
    write_records(&path, &batches(&[4, 3, 2, 5, 3])).unwrap();
    let message = error(ImageDataset::Cifar10, directory.path());
    let expected = "the train images 10000 to 19999 and the train images 40000 to 49999 are the same, data_batch_3";
    assert!(message.contains(expected), "{message}");
    // Rows in another order within a batch are not the data set's.
    let mut shuffled = hub;
    shuffled.swap(30_000, 30_001);
    write_records(&path, &shuffled).unwrap();
    let message = error(ImageDataset::Cifar10, directory.path());
    assert!(message.contains("images 30000 to 39999") && message.contains("data_batch_5 53f37980"), "{message}");

    // Binary files that changed their names.
    let directory = tempfile::tempdir().unwrap();
    for (k, batch) in [4, 3, 2, 5, 1].into_iter().enumerate() {
        let bytes = binary(&train, (batch - 1) * 10_000..batch * 10_000);
        std::fs::write(directory.path().join(format!("data_batch_{}.bin", k + 1)), bytes).unwrap();
    }
    std::fs::write(directory.path().join("test_batch.bin"), binary(&test, 0..10_000)).unwrap();
    assert!(cifar10(directory.path()) == (train, test));
}

/// A pickle as Python 2 and NumPy write it with protocol 2: lists in groups of 1000, an array by `_reconstruct`.
fn pickle(labels: &[(&str, Vec<u8>)], images: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[b'U', text.len() as u8], text.as_bytes()].concat();
    let long = |code: u8, length: usize| [&[code][..], &(length as u32).to_le_bytes()].concat();
    let mut bytes = b"\x80\x02}q\x01(".to_vec();
    bytes.extend([text("batch_label"), b"q\x02".to_vec(), text("training batch 1 of 5"), b"q\x03".to_vec()].concat());
    for (key, values) in labels {
        bytes.extend([text(key), b"q\x04]q\x05".to_vec()].concat());
        for group in values.chunks(1000) {
            bytes.push(b'(');
            bytes.extend(group.iter().flat_map(|&label| [b'K', label]));
            bytes.push(b'e');
        }
    }
    bytes
        .extend([text("data"), b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\n".to_vec()].concat());
    bytes.extend(b"q\x08K\x00\x85q\x09U\x01bq\n\x87q\x0bRq\x0c(K\x01");
    bytes.extend([long(b'J', images.len() / 3072), long(b'J', 3072)].concat());
    bytes.extend(b"\x86q\rcnumpy\ndtype\nq\x0eU\x02u1q\x0fK\x00K\x01\x87q\x10Rq\x11");
    bytes.extend(b"(K\x03U\x01|q\x12NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89");
    bytes.extend([&long(b'T', images.len())[..], images].concat());
    bytes.extend(b"q\x13tb");
    bytes.extend([text("filenames"), b"q\x14]q\x15(".to_vec(), text("a.png"), text("b.png"), b"eu.".to_vec()].concat());
    bytes
}

#[test]
fn torchvisions_pickles_of_cifar10_are_read() {
    let Some(root) = real_data().filter(|root| root.join("cifar10").exists()) else { return };
    let (train, test) = cifar10(&root);
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("cifar-10-batches-py");
    std::fs::create_dir(&folder).unwrap();
    let batch = |set: &ImageSet, images: std::ops::Range<usize>| {
        let (pixels, labels) = (set.pixels().unwrap(), set.label_bytes().unwrap());
        pickle(&[("labels", labels[images.clone()].to_vec())], &pixels[images.start * 3072..images.end * 3072])
    };
    for k in 0..5 {
        std::fs::write(folder.join(format!("data_batch_{}", k + 1)), batch(&train, k * 10_000..(k + 1) * 10_000))
            .unwrap();
    }
    let path = folder.join("test_batch");
    let good = batch(&test, 0..10_000);
    std::fs::write(&path, &good).unwrap();
    assert!(locate(ImageDataset::Cifar10, &from(directory.path())).unwrap().to_string().contains("py (pickle)"));
    assert!(cifar10(directory.path()) == (train, test));

    let check = |bytes: &[u8], parts: &[&str]| {
        std::fs::write(&path, bytes).unwrap();
        let message = error(ImageDataset::Cifar10, directory.path());
        for part in parts {
            assert!(message.contains("test_batch: ") && message.contains(part), "{part}: {message}");
        }
    };
    check(&good[..good.len() / 2], &["its pickle ends too early"]);
    check(b"cposix\nsystem\nU\x04harm\x85R.", &["posix.system, which is not executed"]);
    check(&pickle(&[("fine_labels", vec![0; 10_000])], &[0; 3072]), &["no `labels`"]);
    check(&pickle(&[("labels", vec![0; 10_000])], &[0; 3072]), &["no array of bytes (10000, 3072)"]);
    check(b"<html></html>", &["a web page (HTML)"]);
    let mut changed = good;
    let end = changed.len() - 1000;
    changed[end] ^= 1;
    check(&changed, &["test images 0 to 9999 are not those of cifar10"]);
}

#[test]
fn torchvisions_pickle_of_cifar100_is_read() {
    let Some(root) = real_data().filter(|root| root.join("cifar100").exists()) else { return };
    // The test split alone is here: both files hold it, so that training images are what is wrong.
    let records = read_records(&root.join("cifar100/test-00000-of-00001.parquet"), "").unwrap();
    let labels = |k: usize| records.iter().map(|record| record.labels[k]).collect::<Vec<u8>>();
    let images: Vec<u8> = records
        .iter()
        .flat_map(|record| {
            let image = image::load_from_memory(&record.encoded).unwrap().to_rgb8();
            (0..3).flat_map(|c| image.pixels().map(|pixel| pixel.0[c]).collect::<Vec<u8>>()).collect::<Vec<u8>>()
        })
        .collect();
    let bytes = pickle(&[("fine_labels", labels(1)), ("coarse_labels", labels(0))], &images);
    let (fine, pixels) = ds_lab::data::fuzzing::parse_pickle(&bytes, 10_000, 2).unwrap();
    let digest = |labels: &[u8]| {
        let records = labels.chunks(2).zip(pixels.chunks(3072)).flat_map(|(l, p)| [l, p].concat());
        ds_lab::files::md5(&records.collect::<Vec<u8>>())
    };
    // The MD5 of the binary version's test.bin.
    assert_eq!(digest(&fine), "4499cfba6c016c1be1438163640a0898");
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("cifar-100-python")).unwrap();
    for name in ["train", "test"] {
        std::fs::write(directory.path().join("cifar-100-python").join(name), &bytes).unwrap();
    }
    let message = error(ImageDataset::Cifar100, directory.path());
    assert!(message.contains("train: its `coarse_labels` has 10000 entries, expected 50000"), "{message}");
}

#[test]
fn mnist_is_found_as_archives_unpack_it() {
    let Some(root) = real_data().filter(|root| root.join("mnist").exists()) else { return };
    let original = load_images(ImageDataset::Mnist, &from(&root)).unwrap();
    let names = ["train-images", "train-labels", "t10k-images", "t10k-labels"];
    let ends = ["-idx3-ubyte", "-idx1-ubyte", "-idx3-ubyte", "-idx1-ubyte"];
    let zipped: Vec<Vec<u8>> = names
        .iter()
        .zip(ends)
        .map(|(n, end)| std::fs::read(root.join(format!("mnist/{n}{end}.gz"))).unwrap())
        .collect();
    let plain: Vec<Vec<u8>> = zipped
        .iter()
        .map(|bytes| {
            let mut plain = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut plain).unwrap();
            plain
        })
        .collect();
    let check = |what: &str, write: &dyn Fn(&Path, usize)| {
        let directory = tempfile::tempdir().unwrap();
        (0..4).for_each(|k| write(directory.path(), k));
        let found = load_images(ImageDataset::Mnist, &from(directory.path())).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(found.train == original.train && found.test == original.test, "{what}");
    };
    let put = |path: PathBuf, bytes: &[u8]| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    check("a folder of the name beside the file", &|root, k| {
        std::fs::create_dir(root.join(format!("{}{}", names[k], ends[k]))).unwrap();
        put(root.join(format!("{}{}", names[k], ends[k].replace("-idx", ".idx"))), &plain[k]);
    });
    check("a folder of the name with the file in it", &|root, k| {
        let name = format!("{}{}", names[k], ends[k]);
        put(root.join("mnist").join(&name).join(&name), &plain[k]);
    });
    check("plain files that are called .gz, and gzip files that are not", &|root, k| {
        put(root.join(format!("{}{}.gz", names[k], ends[k])), &plain[k]);
        if k % 2 == 0 {
            put(root.join(format!("{}{}", names[k], ends[k])), &zipped[k]);
        }
    });
    check("torchvision's folder", &|root, k| {
        put(root.join("MNIST/raw").join(format!("{}{}", names[k], ends[k])), &plain[k])
    });
    // The two splits' labels exchanged.
    let directory = tempfile::tempdir().unwrap();
    for (k, from) in [0, 3, 2, 1].into_iter().enumerate() {
        put(directory.path().join(format!("{}{}", names[k], ends[k])), &plain[from]);
    }
    let message = error(ImageDataset::Mnist, directory.path());
    assert!(message.contains("train-labels-idx1-ubyte: its header is"), "{message}");
    // One file of MNIST among those of another set, also gzipped.
    put(directory.path().join("train-labels-idx1-ubyte"), &zipped[1]);
    put(directory.path().join("t10k-labels-idx1-ubyte"), &zipped[3]);
    let mut other = plain[0].clone();
    other[1000] ^= 1;
    put(directory.path().join("train-images-idx3-ubyte"), &other);
    let message = error(ImageDataset::FashionMnist, directory.path());
    assert!(message.contains("train-labels-idx1-ubyte: its labels are those of mnist"), "{message}");
}

#[test]
fn the_hubs_folders_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let records = vec![Record { encoded: png(28, 28, |_, _| [0; 3]), labels: vec![0] }];
    for (dataset, files) in [
        (
            ImageDataset::Cifar10,
            &["cifar10/plain_text/train-00000-of-00001.parquet", "cifar10/plain_text/test-00000-of-00001.parquet"][..],
        ),
        (
            ImageDataset::Cifar10,
            &["plain_text/train/0000.parquet", "plain_text/train/0001.parquet", "plain_text/test/0000.parquet"],
        ),
        (ImageDataset::Cifar10, &["cifar10/train/0000.parquet", "cifar10/test/0000.parquet"]),
        (ImageDataset::Cifar100, &["cifar100/cifar100/train/0000.parquet", "cifar100/cifar100/test/0000.parquet"]),
        (ImageDataset::Mnist, &["mnist/mnist/train-00000-of-00001.parquet", "mnist/mnist/test-00000-of-00001.parquet"]),
        (
            ImageDataset::Mnist,
            &[
                "mnist/train-00000-of-00002-0a1b.parquet",
                "mnist/train-00001-of-00002-2c3d.parquet",
                "mnist/test.parquet",
            ],
        ),
        (
            ImageDataset::FashionMnist,
            &["fashion_mnist/fashion_mnist/train/0000.parquet", "fashion_mnist/fashion_mnist/test/0000.parquet"],
        ),
        (
            ImageDataset::FashionMnist,
            &["fashion_mnist/default/train/0000.parquet", "fashion_mnist/default/test/0000.parquet"],
        ),
    ] {
        let root = tempfile::tempdir_in(&directory).unwrap();
        let put = |file: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_records_as(&path, "image", &records).unwrap();
        };
        files.iter().for_each(|file| put(file));
        let Location::Local(found) = locate(dataset, &from(root.path())).unwrap() else { panic!("{files:?}") };
        let all: Vec<PathBuf> = found.train.iter().chain(&found.test).cloned().collect();
        assert_eq!(all, files.iter().map(|file| root.path().join(file)).collect::<Vec<_>>());
        // What is missing is named.
        std::fs::remove_file(root.path().join(files[0])).unwrap();
        let message = error(dataset, root.path());
        assert!(message.contains("the file is missing") && message.contains("train"), "{files:?}: {message}");
        put(files[0]);
        let last = files[files.len() - 1];
        std::fs::remove_file(root.path().join(last)).unwrap();
        let message = error(dataset, root.path());
        assert!(message.contains("the file is missing") && message.contains("test"), "{files:?}: {message}");
        // The folders of one set are not taken for another's.
        put(last);
        let other = if dataset == ImageDataset::Cifar10 { ImageDataset::Cifar100 } else { ImageDataset::Cifar10 };
        if files[0].starts_with(dataset.name()) {
            assert!(error(other, root.path()).contains("was not found in"));
        }
    }
}

#[test]
fn a_data_directory_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("no_such_folder");
    for dataset in [ImageDataset::Mnist, ImageDataset::Cifar10] {
        assert!(
            error(dataset, &missing).contains("--data-dir: ") && error(dataset, &missing).contains("no_such_folder")
        );
    }
    let error = area_points(AreaShape::Circle, &from(&missing)).unwrap_err().to_string();
    assert!(error.contains("no_such_folder is no directory"), "{error}");
}

#[test]
fn columns_of_another_data_set_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let encoded = png(32, 32, |_, _| [0; 3]);
    for name in ["train.parquet", "test.parquet"] {
        write_records(&directory.path().join(name), &[Record { encoded: encoded.clone(), labels: vec![1, 2] }])
            .unwrap();
    }
    let message = error(ImageDataset::Cifar10, directory.path());
    assert!(message.contains("fine_label") && message.contains("expected an image"), "{message}");
    let records = read_records(&directory.path().join("train.parquet"), "").unwrap();
    assert_eq!(records[0].labels, [1, 2]);
    assert!(error(ImageDataset::Cifar100, directory.path()).contains("hold 1 images, expected 50000"));
    for text in ["<!DOCTYPE html>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"] {
        std::fs::write(directory.path().join("train.parquet"), text).unwrap();
        let message = error(ImageDataset::Cifar10, directory.path());
        assert!(message.contains("web page") || message.contains("git lfs pull"), "{message}");
    }
}

#[test]
fn a_picture_of_absurd_size_is_not_decoded() {
    // A PNG whose header claims 2³⁰ × 2³⁰ pixels.
    let mut png = png(32, 32, |_, _| [0; 3]);
    png[16..24].copy_from_slice(&[0x40, 0, 0, 0, 0x40, 0, 0, 0]);
    assert!(ds_lab::data::fuzzing::parse_picture(&png).is_err());
}
