//! Data sets: MNIST and CIFAR from files or the Hugging Face hub, areas of the plane, functions of one variable.
//!
//! Whatever the form of the files, pixels are bytes in the order (image, channel, row, column), images have one order, and counts
//! and contents are verified: a seed gives the same training from each form.

mod area;
mod batches;
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
mod image_set;
mod load;
mod locate;
pub mod parquet;
mod pickle;
mod pictures;
mod sample;
mod samples;
mod source;

pub use area::{AreaShape, PointSet, area_csv, area_grid, area_points, area_random};
pub use batches::Epoch;
pub use dataset::ImageDataset;
pub(crate) use dataset::Part;
pub use error::DataError;
pub use function::Target;
pub use image_set::{ImageData, ImageSet};
pub use load::load_images;
pub use locate::locate;
pub use samples::{Batch, Normalization, Samples, shuffled};
pub use source::{Files, Form, Location, Source};
