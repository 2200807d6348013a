//! The IDX files of MNIST and Fashion-MNIST, plain or gzipped.

use super::{DataError, ImageDataset, ImageSet, Part, checksum, read};
use std::io::Read;
use std::path::{Path, PathBuf};

fn names(part: Part) -> [&'static str; 2] {
    match part {
        Part::Train => ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        Part::Test => ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
    }
}

/// The file in its plain or gzipped form; names with a dot before `idx` are known too.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    [name.to_owned(), format!("{name}.gz"), dotted.clone(), format!("{dotted}.gz")]
        .into_iter()
        .map(|name| directory.join(name))
        .find(|path| path.exists())
}

/// Whether any of the files is there.
pub(super) fn is_in(directory: &Path) -> bool {
    [Part::Train, Part::Test].into_iter().flat_map(names).any(|name| find(directory, name).is_some())
}

/// One split.
pub(super) fn load(dataset: ImageDataset, directory: &Path, part: Part) -> Result<ImageSet, DataError> {
    let [images, labels] = names(part);
    let ((channels, side), count) = (dataset.shape(), dataset.count(part));
    let (path, images) = unpack(dataset, directory, images, &[count, side, side])?;
    let (labels_path, labels) = unpack(dataset, directory, labels, &[count])?;
    let classes = dataset.classes();
    if let Some(i) = labels.iter().position(|&label| usize::from(label) >= classes) {
        let problem = format!("label {i} is {}, expected 0 to {}", labels[i], classes - 1);
        return Err(DataError::content(labels_path, problem, dataset.cure()));
    }
    let set = ImageSet { images, labels, channels, height: side, width: side, classes };
    let records: Vec<Vec<u8>> = set.labels.iter().map(|&label| vec![label]).collect();
    checksum::verify(dataset, part, &set, &records, &path)?;
    Ok(set)
}

/// The bytes behind the header, which must announce these dimensions.
fn unpack(
    dataset: ImageDataset,
    directory: &Path,
    name: &str,
    dims: &[usize],
) -> Result<(PathBuf, Vec<u8>), DataError> {
    let Some(path) = find(directory, name) else {
        let problem = "the file is missing, plain and with .gz";
        return Err(DataError::content(directory.join(name), problem, dataset.cure()));
    };
    let mut bytes = read(&path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .read_to_end(&mut unpacked)
            .map_err(|error| DataError::content(&path, format!("not a whole gzip file ({error})"), dataset.cure()))?;
        bytes = unpacked;
    }
    // Two zeros, 8 for bytes, the number of dimensions; then each dimension as a big-endian 32-bit number.
    let mut header = vec![0, 0, 8, dims.len() as u8];
    header.extend(dims.iter().flat_map(|&dim| (dim as u32).to_be_bytes()));
    if !bytes.starts_with(&header) {
        let found = &bytes[..header.len().min(bytes.len())];
        let problem = format!("its header is {found:?}, expected {header:?} (dimensions {dims:?})");
        return Err(DataError::content(path, problem, dataset.cure()));
    }
    let expected = header.len() + dims.iter().product::<usize>();
    if bytes.len() != expected {
        let problem = format!("it holds {} bytes, expected {expected}", bytes.len());
        return Err(DataError::content(path, problem, dataset.cure()));
    }
    Ok((path, bytes.split_off(header.len())))
}
