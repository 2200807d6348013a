//! The IDX files of MNIST and Fashion-MNIST, plain or gzipped.

use super::checksum::{Records, is_fashion_mnist};
use super::source::{Files, Form};
use super::{DataError, ImageDataset, Part, content};
use std::path::{Path, PathBuf};

/// Bytes that a gzip file may be larger than what it holds.
const GZIP_MARGIN: usize = 1 << 20;

fn names(part: Part) -> [&'static str; 2] {
    match part {
        Part::Train => ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        Part::Test => ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
    }
}

/// The file under its usual names: with a dot before `idx`, with `.gz`, or in a folder of its own name, as some archives unpack.
fn locate(directory: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    let names = [name.to_owned(), dotted.clone(), format!("{name}.gz"), format!("{dotted}.gz")];
    let within = |folder: &str| names.iter().map(|name| directory.join(folder).join(name)).collect::<Vec<_>>();
    [within(""), within(name), within(&dotted)].into_iter().flatten().find(|path| path.is_file())
}

/// The files in a directory, if any is there; an error names one that is missing.
pub(super) fn find(dataset: ImageDataset, directory: &Path) -> Result<Option<Files>, DataError> {
    let paths = |part| names(part).map(|name| locate(directory, name).ok_or(name));
    let (train, test) = (paths(Part::Train), paths(Part::Test));
    if train.iter().chain(&test).all(Result::is_err) {
        return Ok(None);
    }
    let found = |paths: [Result<PathBuf, &str>; 2]| -> Result<Vec<PathBuf>, DataError> {
        let missing = "the file is missing, plain and with .gz";
        let error = |name: &str| DataError::content(directory.join(name), missing, dataset.remedy());
        paths.into_iter().map(|path| path.map_err(error)).collect()
    };
    Ok(Some(Files { form: Form::Idx, directory: directory.to_owned(), train: found(train)?, test: found(test)? }))
}

/// One split from its files of images and labels.
pub(super) fn load(dataset: ImageDataset, files: &[PathBuf], part: Part) -> Result<Records, DataError> {
    let ((_, side), count) = (dataset.shape(), dataset.count(part));
    let dims: [&[usize]; 2] = [&[count, side, side], &[count]];
    let mut records = Records::default();
    let mut read = Vec::new();
    for ((path, dims), values) in files.iter().zip(dims).zip([&mut records.pixels, &mut records.labels]) {
        let limit = header(dims).len() + dims.iter().product::<usize>() + GZIP_MARGIN;
        let bytes = content::read(path, limit, &dataset.remedy())?;
        *values = parse(&bytes, dims).map_err(|problem| DataError::content(path, problem, dataset.remedy()))?;
        read.push(bytes);
    }
    if let (ImageDataset::FashionMnist, [images, labels]) = (dataset, read.as_slice()) {
        records.is_verified = is_fashion_mnist(part, [images, labels]);
    }
    records.files = files.iter().map(|path| (0, path.clone())).collect();
    Ok(records)
}

/// Two zeros, 8 for bytes, the number of dimensions; then each dimension as a big-endian 32-bit number.
fn header(dims: &[usize]) -> Vec<u8> {
    let mut header = vec![0, 0, 8, dims.len() as u8];
    header.extend(dims.iter().flat_map(|&dim| (dim as u32).to_be_bytes()));
    header
}

/// The values behind the header, which must announce these dimensions.
pub(super) fn parse(bytes: &[u8], dims: &[usize]) -> Result<Vec<u8>, String> {
    let header = header(dims);
    let expected = header.len() + dims.iter().product::<usize>();
    let bytes = content::unpacked(bytes, expected)?;
    if !bytes.starts_with(&header) {
        let found = &bytes[..header.len().min(bytes.len())];
        let wrong = format!("its header is {found:?}, expected {header:?} (dimensions {dims:?})");
        return Err(content::problem(&bytes, wrong));
    }
    if bytes.len() != expected {
        let found = if bytes.len() > expected { "more".to_owned() } else { bytes.len().to_string() };
        return Err(format!("it holds {found} bytes, expected {expected}"));
    }
    Ok(bytes[header.len()..].to_vec())
}
