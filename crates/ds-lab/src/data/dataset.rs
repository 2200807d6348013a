//! The image data sets: sizes, folders, and where to get them.

use crate::config::Dataset;

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
    /// The image data set of a config's `data.dataset`; `None` for areas and functions.
    pub fn of(dataset: Dataset) -> Option<Self> {
        match dataset {
            Dataset::Mnist => Some(Self::Mnist),
            Dataset::FashionMnist => Some(Self::FashionMnist),
            Dataset::Cifar10 => Some(Self::Cifar10),
            Dataset::Cifar100 => Some(Self::Cifar100),
            _ => None,
        }
    }

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion_mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    pub(super) fn is_cifar(self) -> bool {
        matches!(self, Self::Cifar10 | Self::Cifar100)
    }

    pub(super) fn classes(self) -> usize {
        if self == Self::Cifar100 { 100 } else { 10 }
    }

    /// Label bytes of an image: the coarse and the fine label in CIFAR-100.
    pub(super) fn label_bytes(self) -> usize {
        if self == Self::Cifar100 { 2 } else { 1 }
    }

    /// (channels, side).
    pub(super) fn shape(self) -> (usize, usize) {
        if self.is_cifar() { (3, 32) } else { (1, 28) }
    }

    /// Bytes of an image.
    pub(super) fn pixels(self) -> usize {
        let (channels, side) = self.shape();
        channels * side * side
    }

    /// Images of a split.
    pub(super) fn count(self, part: Part) -> usize {
        match part {
            Part::Test => 10_000,
            Part::Train if self.is_cifar() => 50_000,
            Part::Train => 60_000,
        }
    }

    /// Folders that its usual archives and torchvision unpack to.
    pub(super) fn archive_folders(self) -> &'static [&'static str] {
        match self {
            Self::Mnist => &["MNIST/raw", "MNIST", "raw"],
            Self::FashionMnist => &["FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "raw"],
            Self::Cifar10 => &["cifar-10-batches-bin", "cifar-10-batches-py"],
            Self::Cifar100 => &["cifar-100-binary", "cifar-100-python"],
        }
    }

    /// How to get it.
    pub(super) fn remedy(self) -> String {
        let files = match self {
            Self::Mnist | Self::FashionMnist => {
                "the four IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, \
                 t10k-labels-idx1-ubyte, each plain or .gz)"
            }
            Self::Cifar10 => "the binary version (data_batch_1.bin … data_batch_5.bin, test_batch.bin)",
            Self::Cifar100 => "the binary version (train.bin, test.bin)",
        };
        let source = match self {
            Self::Mnist => "the mirror https://ossci-datasets.s3.amazonaws.com/mnist/",
            Self::FashionMnist => "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            Self::Cifar10 => "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            Self::Cifar100 => "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        };
        let more = match self {
            Self::Mnist | Self::FashionMnist => "the hub's parquet files",
            Self::Cifar10 | Self::Cifar100 => "torchvision's pickles or the hub's parquet files",
        };
        let sample = if self == Self::Cifar10 { "; or use the shipped sample with --data sample" } else { "" };
        let name = self.name();
        format!("get {files} from {source} and put them into DIR/{name} with --data-dir DIR ({more} will do){sample}")
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
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}
