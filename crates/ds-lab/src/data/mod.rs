//! Data sets: MNIST and CIFAR from files or the Hugging Face hub, areas of the plane, functions of one variable.
//!
//! Whatever the form of the files, pixels are bytes in the order (image, channel, row, column), and counts and contents are
//! verified.

mod area;
mod checksum;
mod cifar;
mod error;
mod function;
mod hub;
mod idx;
pub mod parquet;
mod sample;

pub use area::{AreaShape, PointSet, area_csv, area_grid, area_points, area_random};
pub use error::DataError;
pub use function::Target;

use std::path::{Path, PathBuf};

/// Images with class labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    /// Bytes (N, C, H, W).
    pub images: Vec<u8>,
    /// N labels below `classes`.
    pub labels: Vec<u8>,
    /// C.
    pub channels: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// The number of classes.
    pub classes: usize,
}

impl ImageSet {
    /// N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes (C, H, W) of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        let size = self.channels * self.height * self.width;
        &self.images[i * size..(i + 1) * size]
    }

    /// The images at these indices.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let mut images = Vec::with_capacity(indices.len() * self.channels * self.height * self.width);
        for &i in indices {
            images.extend_from_slice(self.image(i));
        }
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Self { images, labels, ..*self }
    }
}

/// A training and a test set.
#[derive(Debug, Clone)]
pub struct ImageData {
    /// The training set.
    pub train: ImageSet,
    /// The test set.
    pub test: ImageSet,
    /// Where it came from, for the record.
    pub origin: String,
    /// Whether it is the shipped sample.
    pub is_sample: bool,
}

/// The image data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageDataset {
    /// 60000 + 10000 digits of 28×28.
    Mnist,
    /// The same form, articles of clothing.
    FashionMnist,
    /// 50000 + 10000 colour images of 32×32 in 10 classes.
    Cifar10,
    /// The same form in 100 classes.
    Cifar100,
}

impl ImageDataset {
    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion_mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    fn is_cifar(self) -> bool {
        matches!(self, Self::Cifar10 | Self::Cifar100)
    }

    fn classes(self) -> usize {
        if self == Self::Cifar100 { 100 } else { 10 }
    }

    /// (channels, side).
    fn shape(self) -> (usize, usize) {
        if self.is_cifar() { (3, 32) } else { (1, 28) }
    }

    /// Images of a split.
    fn count(self, split: Part) -> usize {
        match split {
            Part::Test => 10_000,
            Part::Train if self.is_cifar() => 50_000,
            Part::Train => 60_000,
        }
    }

    /// Folders that its usual archives unpack to.
    fn archive_folders(self) -> &'static [&'static str] {
        match self {
            Self::Mnist => &["MNIST/raw"],
            Self::FashionMnist => &["FashionMNIST/raw"],
            Self::Cifar10 => &["cifar-10-batches-bin"],
            Self::Cifar100 => &["cifar-100-binary"],
        }
    }

    /// How to get it.
    fn cure(self) -> String {
        let files = match self {
            Self::Mnist | Self::FashionMnist => {
                "the four IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, \
                 t10k-labels-idx1-ubyte, each plain or .gz)"
            }
            Self::Cifar10 => {
                "the binary version (data_batch_1.bin … data_batch_5.bin, test_batch.bin) or the hub's parquet files \
                 (train-00000-of-0000N.parquet …, test-…)"
            }
            Self::Cifar100 => {
                "the binary version (train.bin, test.bin) or the hub's parquet files (train-00000-of-0000N.parquet …, \
                 test-…)"
            }
        };
        let sample = if self == Self::Cifar10 { "; or use the shipped sample with --data sample" } else { "" };
        let source = match self {
            Self::Mnist => "yann.lecun.com/exdb/mnist or a mirror of it",
            Self::FashionMnist => "github.com/zalandoresearch/fashion-mnist",
            Self::Cifar10 | Self::Cifar100 => "www.cs.toronto.edu/~kriz/cifar.html",
        };
        format!("get {files} from {source} and put them into DIR/{} with --data-dir DIR{sample}", self.name())
    }
}

impl std::fmt::Display for ImageDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Training or test files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Train,
    Test,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Where to look for data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the directory given; without one in `DS_DATA_DIR`, or else `./data`, and image sets that are not there come from
    /// the Hugging Face hub.
    Auto {
        /// `--data-dir`.
        dir: Option<PathBuf>,
    },
    /// The sample that comes with the source.
    Sample,
}

impl Source {
    /// The directory to look in.
    fn root(&self) -> PathBuf {
        match self {
            Self::Auto { dir: Some(dir) } => dir.clone(),
            _ => std::env::var_os("DS_DATA_DIR").map_or_else(|| PathBuf::from("data"), PathBuf::from),
        }
    }
}

/// Loads a data set.
///
/// # Errors
/// If it is nowhere, or a file is missing, cut or wrong; the error names the file and says how to get it.
pub fn load_images(dataset: ImageDataset, source: &Source) -> Result<ImageData, DataError> {
    if *source == Source::Sample {
        return sample::load(dataset);
    }
    let root = source.root();
    let mut tried = Vec::new();
    let folders = std::iter::once(dataset.name()).chain(dataset.archive_folders().iter().copied());
    for directory in folders.map(|folder| root.join(folder)).chain([root.clone()]) {
        if let Some(data) = load_directory(dataset, &directory)? {
            return Ok(data);
        }
        tried.push(directory);
    }
    match source {
        Source::Auto { dir: Some(_) } => Err(DataError::NotFound { dataset, tried, cure: dataset.cure() }),
        _ => hub::load(dataset, &tried),
    }
}

/// What a directory holds of a data set, if anything.
fn load_directory(dataset: ImageDataset, directory: &Path) -> Result<Option<ImageData>, DataError> {
    let mut found = None;
    if dataset.is_cifar() {
        if cifar::is_in(dataset, directory) {
            let split = |part| cifar::load(dataset, directory, part);
            found = Some((split(Part::Train)?, split(Part::Test)?, "binary"));
        } else if parquet::is_in(directory) {
            let split = |part| parquet::load(dataset, directory, part);
            found = Some((split(Part::Train)?, split(Part::Test)?, "parquet"));
        }
    } else if idx::is_in(directory) {
        let split = |part| idx::load(dataset, directory, part);
        found = Some((split(Part::Train)?, split(Part::Test)?, "IDX"));
    }
    Ok(found.map(|(train, test, form)| ImageData {
        train,
        test,
        // The folder's name is enough for the record; where it lies differs from machine to machine.
        origin: format!("{} ({form})", directory.file_name().unwrap_or_default().to_string_lossy()),
        is_sample: false,
    }))
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })
}
