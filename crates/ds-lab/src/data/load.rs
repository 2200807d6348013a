//! Loading an image data set from wherever it is.

use super::dataset::ImageDataset;
use super::error::DataError;
use super::image_set::ImageData;
use super::locate::locate;
use super::source::{Location, Source};
use super::{decoded, hub, sample};

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
        Location::Cached { .. } | Location::Download { .. } => hub::load(dataset, &source.tried(dataset)?),
    }
}
