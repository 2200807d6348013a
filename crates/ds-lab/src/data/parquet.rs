//! Image data sets in the Hugging Face hub's parquet layout: a column of encoded images (PNG or WebP) and one or two of
//! labels.

use super::{DataError, ImageDataset, ImageSet, Part, cifar};
use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::record::{Field, Row};
use ::parquet::schema::parser::parse_message_type;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image as the file has it, with its labels (coarse before fine).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// PNG or WebP bytes.
    pub encoded: Vec<u8>,
    /// Label bytes.
    pub labels: Vec<u8>,
}

/// The parquet files of a directory, by name.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .collect();
    files.sort();
    files
}

/// Whether any parquet file of a split is there.
pub(super) fn is_in(directory: &Path) -> bool {
    files(directory).iter().any(|path| shard(path).is_some())
}

/// (split, number, of how many), from a name such as `train-00000-of-00004.parquet`.
fn shard(path: &Path) -> Option<(String, usize, usize)> {
    let mut parts = path.file_stem()?.to_str()?.split('-');
    let (split, number, of, count) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = of == "of" && matches!(split, "train" | "test");
    valid.then(|| Some((split.to_owned(), number.parse().ok()?, count.parse().ok()?))).flatten()
}

/// One split from all of its shards.
pub(super) fn load(dataset: ImageDataset, directory: &Path, part: Part) -> Result<ImageSet, DataError> {
    let mut shards: Vec<(usize, usize, PathBuf)> = files(directory)
        .into_iter()
        .filter_map(|path| shard(&path).map(|(split, number, count)| (split, number, count, path)))
        .filter(|(split, ..)| split == part.name())
        .map(|(_, number, count, path)| (number, count, path))
        .collect();
    shards.sort();
    let count = shards.first().map_or(1, |(_, count, _)| *count);
    for k in 0..count {
        if !shards.iter().any(|(number, of, _)| *number == k && *of == count) {
            let name = format!("{}-{k:05}-of-{count:05}.parquet", part.name());
            return Err(DataError::content(directory.join(name), "the file is missing", dataset.cure()));
        }
    }
    let files = shards.into_iter().map(|(_, _, path)| {
        let records = read_records(&path, &dataset.cure())?;
        Ok((path, records))
    });
    from_records(dataset, files, part)
}

/// One split from the records of its files, in order and one file at a time; the paths are for messages.
pub(super) fn from_records(
    dataset: ImageDataset,
    files: impl IntoIterator<Item = Result<(PathBuf, Vec<Record>), DataError>>,
    part: Part,
) -> Result<ImageSet, DataError> {
    let (expected, (channels, side)) = (dataset.count(part), dataset.shape());
    let size = channels * side * side;
    let (mut images, mut labels) = (vec![0; expected * size], Vec::with_capacity(expected));
    let mut first = PathBuf::new();
    for file in files {
        let (path, records) = file?;
        // Too many images are counted, and refused below.
        if let Some(images) = images.get_mut(labels.len() * size..(labels.len() + records.len()) * size) {
            decode(&records, dataset, &path, images)?;
        }
        labels.extend(records.into_iter().map(|record| record.labels));
        if first.as_os_str().is_empty() {
            first = path;
        }
    }
    if labels.len() != expected {
        let problem = format!("the {} files hold {} images, expected {expected}", part.name(), labels.len());
        return Err(DataError::content(first, problem, dataset.cure()));
    }
    if dataset.is_cifar() {
        return cifar::finish(dataset, part, images, labels, &first);
    }
    let labels = labels.into_iter().filter_map(|label| label.last().copied()).collect();
    Ok(ImageSet { images, labels, channels, height: side, width: side, classes: dataset.classes() })
}

/// The records of one file.
///
/// # Errors
/// If the file is cut, no parquet, or has other columns; `cure` says how to get a good one.
pub fn read_records(path: &Path, cure: &str) -> Result<Vec<Record>, DataError> {
    let file = std::fs::File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let reader = SerializedFileReader::new(file).map_err(|error| broken(path, cure, &error))?;
    records_of(&reader, path, cure)
}

fn broken(path: &Path, cure: &str, error: &::parquet::errors::ParquetError) -> DataError {
    DataError::content(path, format!("not a whole parquet file ({error})"), cure)
}

/// The records behind a reader; the path is for messages.
pub(super) fn records_of(
    reader: &SerializedFileReader<std::fs::File>,
    path: &Path,
    cure: &str,
) -> Result<Vec<Record>, DataError> {
    let broken = |error| broken(path, cure, &error);
    let mut records = Vec::new();
    for (i, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        let row = row.map_err(broken)?;
        records.push(record(&row).ok_or_else(|| {
            let columns: Vec<&String> = row.get_column_iter().map(|(name, _)| name).collect();
            let problem = format!(
                "row {i} has columns {columns:?}, expected an image (img or image, with bytes) and a label from 0 to 255"
            );
            DataError::content(path, problem, cure)
        })?);
    }
    Ok(records)
}

fn record(row: &Row) -> Option<Record> {
    let (mut encoded, mut labels) = (None, [None, None]);
    for (name, field) in row.get_column_iter() {
        let label = match field {
            Field::Long(value) => u8::try_from(*value).ok(),
            Field::Int(value) => u8::try_from(*value).ok(),
            _ => None,
        };
        match (name.as_str(), field) {
            ("img" | "image", Field::Group(image)) => {
                encoded = image.get_column_iter().find_map(|(name, field)| match field {
                    Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().to_vec()),
                    _ => None,
                });
            }
            ("coarse_label", _) => labels[0] = Some(label?),
            ("label" | "fine_label", _) => labels[1] = Some(label?),
            _ => {}
        }
    }
    labels[1]?;
    Some(Record { encoded: encoded?, labels: labels.into_iter().flatten().collect() })
}

/// The pixels (N, C, H, W) of the records.
fn decode(records: &[Record], dataset: ImageDataset, path: &Path, pixels: &mut [u8]) -> Result<(), DataError> {
    let (channels, side) = dataset.shape();
    pixels.par_chunks_exact_mut(channels * side * side).zip(records).enumerate().try_for_each(
        |(i, (pixels, record))| {
            let problem = |problem: String| DataError::content(path, format!("image {i}: {problem}"), dataset.cure());
            let image = image::load_from_memory(&record.encoded).map_err(|error| problem(error.to_string()))?;
            if (image.width(), image.height()) != (side as u32, side as u32) {
                return Err(problem(format!("{}×{} pixels, expected {side}×{side}", image.width(), image.height())));
            }
            if channels == 1 {
                pixels.copy_from_slice(&image.to_luma8());
            } else {
                planes(&image.to_rgb8(), pixels);
            }
            Ok(())
        },
    )
}

/// Rows of RGB triples to three planes: (H, W, C) to (C, H, W).
fn planes(rgb: &[u8], planes: &mut [u8]) {
    for (channel, plane) in planes.chunks_exact_mut(rgb.len() / 3).enumerate() {
        for (value, triple) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
            *value = triple[channel];
        }
    }
}

/// Writes records in the hub's layout (`img: {bytes, path}`, `label`).
///
/// # Errors
/// If the file cannot be written.
pub fn write_records(path: &Path, records: &[Record]) -> Result<(), Box<dyn std::error::Error>> {
    let schema = parse_message_type(
        "message schema { required group img { required binary bytes; required binary path (UTF8); } \
         required int64 label; }",
    )?;
    let properties =
        WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).set_dictionary_enabled(false);
    let file = std::fs::File::create(path)?;
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))?;
    let mut group = writer.next_row_group()?;
    let bytes: Vec<ByteArray> = records.iter().map(|record| record.encoded.clone().into()).collect();
    let paths: Vec<ByteArray> = (0..records.len()).map(|i| ByteArray::from(format!("{i}").into_bytes())).collect();
    let labels: Vec<i64> = records.iter().map(|record| record.labels.last().copied().unwrap_or(0).into()).collect();
    for column in [&bytes, &paths] {
        if let Some(mut writer) = group.next_column()? {
            writer.typed::<ByteArrayType>().write_batch(column, None, None)?;
            writer.close()?;
        }
    }
    if let Some(mut writer) = group.next_column()? {
        writer.typed::<Int64Type>().write_batch(&labels, None, None)?;
        writer.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// The pixels (C, H, W) of encoded images of this data set, whatever their number; for the sample.
pub(super) fn load_any(dataset: ImageDataset, path: &Path, cure: &str) -> Result<ImageSet, DataError> {
    let records = read_records(path, cure)?;
    let (channels, side) = dataset.shape();
    let mut images = vec![0; records.len() * channels * side * side];
    decode(&records, dataset, path, &mut images)?;
    let labels = records.into_iter().filter_map(|record| record.labels.last().copied()).collect();
    Ok(ImageSet { images, labels, channels, height: side, width: side, classes: dataset.classes() })
}
