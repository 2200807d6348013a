//! Data sets: MNIST and CIFAR from files or the Hugging Face hub, areas of the plane, functions of one variable.
//!
//! Whatever the form of the files, pixels are bytes in the order (image, channel, row, column), images have one order, and counts
//! and contents are verified: a seed gives the same training from each form.

mod area;
mod checksum;
mod cifar;
mod content;
mod dataset;
mod decoded;
mod error;
mod function;
#[doc(hidden)]
pub mod fuzzing;
mod hub;
mod idx;
pub mod parquet;
mod pickle;
mod pictures;
mod sample;
mod source;

pub use area::{AreaShape, PointSet, area_csv, area_grid, area_points, area_random};
pub use dataset::ImageDataset;
pub(crate) use dataset::Part;
pub use error::DataError;
pub use function::Target;
pub use source::{Files, Form, Location, Source, locate};

use std::sync::Arc;

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
    pub train: Arc<ImageSet>,
    /// The test set.
    pub test: Arc<ImageSet>,
    /// Where it came from, for the record.
    pub origin: String,
    /// Whether it is the shipped sample.
    pub is_sample: bool,
}

/// Loads a data set from where [`locate`] finds it, downloading it if that is on the Hugging Face hub. The sets that were loaded
/// last stay in memory: a sweep decodes its images once.
///
/// # Errors
/// If it is nowhere, or a file is missing, cut or wrong; the error names the file and says how to get it.
pub fn load_images(dataset: ImageDataset, source: &Source) -> Result<ImageData, DataError> {
    match locate(dataset, source)? {
        Location::Sample => sample::load(dataset),
        Location::Local(files) => {
            // The folder's name is enough for the record; where it lies differs from machine to machine.
            let folder = files.directory.file_name().unwrap_or_default().to_string_lossy();
            decoded::load(dataset, &files, format!("{folder} ({})", files.form))
        }
        Location::Cached { .. } | Location::Download { .. } => hub::load(dataset, &source::tried(dataset, source)?),
    }
}
