//! The parsers of data files as functions from bytes, for tests with damaged input. Each allocates a bounded multiple of its
//! input's length at most, and never panics.

use super::checksum::Records;
use super::{ImageDataset, area, cifar, idx, parquet, pictures};
use bytes::Bytes;

/// An IDX file, plain or gzipped, of these dimensions.
///
/// # Errors
/// If it is not one.
pub fn parse_idx(bytes: &[u8], dims: &[usize]) -> Result<Vec<u8>, String> {
    idx::parse(bytes, dims)
}

/// A file of CIFAR's binary version with `count` images of so many label bytes (1 or 2): (labels, pixels).
///
/// # Errors
/// If it is not one.
pub fn parse_cifar(bytes: &[u8], count: usize, label_bytes: usize) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut records = Records::default();
    cifar::parse(bytes, cifar_with(label_bytes), count, &mut records)?;
    Ok((records.labels, records.pixels))
}

/// A pickle of CIFAR's python version with `count` images of so many label bytes (1 or 2): (labels, pixels).
///
/// # Errors
/// If it is not one.
pub fn parse_pickle(bytes: &[u8], count: usize, label_bytes: usize) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut records = Records::default();
    cifar::parse_pickle(bytes, cifar_with(label_bytes), count, &mut records)?;
    Ok((records.labels, records.pixels))
}

fn cifar_with(label_bytes: usize) -> ImageDataset {
    if label_bytes == 2 { ImageDataset::Cifar100 } else { ImageDataset::Cifar10 }
}

/// A parquet file of encoded images and labels.
///
/// # Errors
/// If it is not one.
pub fn parse_parquet(bytes: Bytes) -> Result<Vec<parquet::Record>, String> {
    parquet::parse(bytes)
}

/// An encoded image of 32×32 pixels: bytes (3, 32, 32).
///
/// # Errors
/// If it is not one.
pub fn parse_picture(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut pixels = vec![0; 3 * 32 * 32];
    pictures::decode(bytes, 3, 32, &mut pixels)?;
    Ok(pixels)
}

/// A CSV file of points.
///
/// # Errors
/// If it is not one.
pub fn parse_points(bytes: &[u8]) -> Result<super::PointSet, String> {
    area::parse(bytes)
}
