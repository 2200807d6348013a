//! Writes parquet files in the hub's layout.

use super::record::Record;
use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use std::path::Path;
use std::sync::Arc;

/// Writes records in the hub's layout: `img: {bytes, path}` and `label`, or `fine_label` and `coarse_label` if they have two.
///
/// # Errors
/// If the file cannot be written.
pub fn write_records(path: &Path, records: &[Record]) -> Result<(), Box<dyn std::error::Error>> {
    write_records_as(path, "img", records)
}

/// [`write_records`] with another name for the images: the hub has `image` in MNIST and Fashion-MNIST.
///
/// # Errors
/// If the file cannot be written.
pub fn write_records_as(path: &Path, image: &str, records: &[Record]) -> Result<(), Box<dyn std::error::Error>> {
    let two = records.first().is_some_and(|record| record.labels.len() == 2);
    // With the place of each label in a record.
    let labels: &[(&str, usize)] = if two { &[("fine_label", 1), ("coarse_label", 0)] } else { &[("label", 0)] };
    let columns: String = labels.iter().map(|(name, _)| format!("required int64 {name}; ")).collect();
    let schema = parse_message_type(&format!(
        "message schema {{ required group {image} {{ required binary bytes; required binary path (UTF8); }} {columns}}}"
    ))?;
    let properties =
        WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).set_dictionary_enabled(false);
    let file = std::fs::File::create(path)?;
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))?;
    let mut group = writer.next_row_group()?;
    let bytes: Vec<ByteArray> = records.iter().map(|record| record.encoded.clone().into()).collect();
    let paths: Vec<ByteArray> = (0..records.len()).map(|i| ByteArray::from(format!("{i}").into_bytes())).collect();
    for column in [&bytes, &paths] {
        if let Some(mut writer) = group.next_column()? {
            writer.typed::<ByteArrayType>().write_batch(column, None, None)?;
            writer.close()?;
        }
    }
    for (_, place) in labels {
        let labels: Vec<i64> =
            records.iter().map(|record| record.labels.get(*place).copied().unwrap_or(0).into()).collect();
        if let Some(mut writer) = group.next_column()? {
            writer.typed::<Int64Type>().write_batch(&labels, None, None)?;
            writer.close()?;
        }
    }
    group.close()?;
    writer.close()?;
    Ok(())
}
