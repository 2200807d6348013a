//! Images with labels, in memory.

use candle_core::{Device, Tensor};
use std::sync::Arc;

/// Images with class labels.
#[derive(Debug, Clone)]
pub struct ImageSet {
    /// Bytes (N, C, H, W) on the CPU.
    pub images: Tensor,
    /// N labels below `classes`, in bytes.
    pub labels: Tensor,
    /// The number of classes.
    pub classes: usize,
}

/// The same pixels, labels and number of classes.
impl PartialEq for ImageSet {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |set: &Self| Some((set.pixels().ok()?, set.label_bytes().ok()?));
        let is_alike = self.images.shape() == other.images.shape() && self.classes == other.classes;
        is_alike && bytes(self).is_some_and(|ours| Some(ours) == bytes(other))
    }
}

impl ImageSet {
    /// A set of pixels in the order (image, channel, row, column).
    ///
    /// # Errors
    /// If a label is not below the number of classes, or the numbers of pixels and labels do not fit.
    pub fn new(
        pixels: Vec<u8>,
        labels: Vec<u8>,
        (channels, height, width): (usize, usize, usize),
        classes: usize,
    ) -> candle_core::Result<Self> {
        if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= classes) {
            candle_core::bail!("label {label} with {classes} classes");
        }
        let count = labels.len();
        let images = Tensor::from_vec(pixels, (count, channels, height, width), &Device::Cpu)?;
        Ok(Self { images, labels: Tensor::from_vec(labels, count, &Device::Cpu)?, classes })
    }

    /// N.
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pixels of all images, as bytes.
    ///
    /// # Errors
    /// If the tensor is not of bytes.
    pub fn pixels(&self) -> candle_core::Result<Vec<u8>> {
        self.images.flatten_all()?.to_vec1()
    }

    /// The labels, as bytes.
    ///
    /// # Errors
    /// If the tensor is not of bytes.
    pub fn label_bytes(&self) -> candle_core::Result<Vec<u8>> {
        self.labels.to_vec1()
    }

    /// The images at these indices.
    ///
    /// # Errors
    /// If an index is too large.
    pub fn subset(&self, indices: &[usize]) -> candle_core::Result<Self> {
        let indices = Tensor::from_iter(indices.iter().map(|&i| i as u32), &Device::Cpu)?;
        let (images, labels) = (self.images.index_select(&indices, 0)?, self.labels.index_select(&indices, 0)?);
        Ok(Self { images, labels, classes: self.classes })
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
