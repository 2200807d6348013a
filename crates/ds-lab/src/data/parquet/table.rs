//! The columns of a parquet file that an image data set consists of.

use super::pages;
use super::pages::Checked;
use super::record::Record;
use crate::data::content;
use ::parquet::basic::Type;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArrayType, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::schema::types::SchemaDescriptor;
use bytes::Bytes;

/// Rows that are read at once.
const BATCH: usize = 1024;

/// Rows that a file may have; the largest data set has 70000.
const MAX_ROWS: i64 = 1 << 20;

/// Bytes that an encoded image may have; one of 32×32 pixels has some 3000.
const LARGEST_IMAGE: usize = 1 << 16;

/// An open parquet file.
pub(super) struct Table {
    reader: SerializedFileReader<Bytes>,
    rows: usize,
    /// The number of the column with encoded images.
    image: usize,
    /// The numbers of the columns with labels, coarse before fine.
    labels: Vec<usize>,
}

fn broken(error: &ParquetError) -> String {
    match error {
        // The crate's features decide which codecs there are.
        ParquetError::General(text) if text.contains("Disabled feature") => {
            format!("it is compressed in a way that this build does not read ({text}); the feature `hub` brings all")
        }
        error => format!("not a whole parquet file ({error})"),
    }
}

impl Table {
    /// Reads the schema and checks all that the columns say of themselves.
    pub fn open(bytes: Bytes) -> Result<Self, String> {
        let reader = SerializedFileReader::new(bytes.clone()).map_err(|error| content_problem(&bytes, &error))?;
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema_descr();
        let column = |path: &[&str]| {
            let is_meant = |k: &usize| {
                let column = schema.column(*k);
                column.path().parts() == path && column.max_rep_level() == 0
            };
            (0..schema.num_columns()).find(is_meant)
        };
        let image = [&["img", "bytes"][..], &["image", "bytes"], &["img"], &["image"]].into_iter().find_map(column);
        let labels = match (column(&["coarse_label"]), column(&["fine_label"]), column(&["label"])) {
            (Some(coarse), Some(fine), _) => vec![coarse, fine],
            (_, _, Some(label)) | (_, Some(label), _) => vec![label],
            _ => Vec::new(),
        };
        let (Some(image), false) = (image, labels.is_empty()) else { return Err(wrong_columns(schema)) };
        let mut total = 0;
        for group in metadata.row_groups() {
            let rows = group.num_rows();
            total += rows.clamp(0, MAX_ROWS);
            if !(0..=MAX_ROWS).contains(&rows) || total > MAX_ROWS {
                return Err(format!("it claims to have {rows} rows in a group, or more than {MAX_ROWS} in all"));
            }
            for &k in labels.iter().chain([&image]) {
                let problem = |problem| format!("not a whole parquet file ({problem})");
                let column = group.columns().get(k).ok_or_else(|| problem("a group lacks a column".to_owned()))?;
                pages::check(&bytes, column, rows as usize).map_err(problem)?;
            }
        }
        let claimed = metadata.file_metadata().num_rows();
        if claimed != total {
            return Err(format!("not a whole parquet file (its groups have {total} rows of {claimed})"));
        }
        Ok(Self { rows: total as usize, image, labels, reader })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many labels an image has.
    pub fn label_count(&self) -> usize {
        self.labels.len()
    }

    /// Says that the columns are those of another data set.
    pub fn wrong_columns(&self) -> String {
        wrong_columns(self.reader.metadata().file_metadata().schema_descr())
    }

    /// Reads all rows, some at a time; the first argument of `each` is the number of the first one.
    pub fn read(&self, mut each: impl FnMut(usize, &[Record]) -> Result<(), String>) -> Result<(), String> {
        let mut first = 0;
        for k in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(k).map_err(|error| broken(&error))?;
            let open = |column: usize| group.get_column_reader(column).map_err(|error| broken(&error));
            let column = group.metadata().column(self.image).column_descr_ptr();
            if column.physical_type() != Type::BYTE_ARRAY {
                return Err(self.wrong_columns());
            }
            let pages = group.get_column_page_reader(self.image).map_err(|error| broken(&error))?;
            let pages = Checked { pages, has_levels: column.max_def_level() > 0 };
            let mut images = ColumnReaderImpl::<ByteArrayType>::new(column, Box::new(pages));
            let mut columns = self.labels.iter().map(|&column| open(column)).collect::<Result<Vec<_>, _>>()?;
            let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            while left > 0 {
                let count = left.min(BATCH);
                let mut records = Vec::with_capacity(count);
                for (i, image) in values::<ByteArrayType>(&mut images, count, first)?.into_iter().enumerate() {
                    if image.len() > LARGEST_IMAGE {
                        return Err(format!("image {}: {} bytes, expected some thousand", first + i, image.len()));
                    }
                    records.push(Record { encoded: image.data().to_vec(), labels: Vec::new() });
                }
                for column in &mut columns {
                    let labels = match column {
                        ColumnReader::Int64ColumnReader(reader) => values(reader, count, first)?,
                        ColumnReader::Int32ColumnReader(reader) => {
                            values(reader, count, first)?.into_iter().map(i64::from).collect()
                        }
                        _ => return Err(self.wrong_columns()),
                    };
                    for (i, (record, label)) in records.iter_mut().zip(labels).enumerate() {
                        let byte = u8::try_from(label);
                        let problem = |_| format!("row {}: the label is {label}, expected 0 to 255", first + i);
                        record.labels.push(byte.map_err(problem)?);
                    }
                }
                each(first, &records)?;
                first += count;
                left -= count;
            }
        }
        Ok(())
    }
}

/// So many values of a column, none of them null.
fn values<T: DataType>(reader: &mut ColumnReaderImpl<T>, count: usize, first: usize) -> Result<Vec<T::T>, String> {
    let mut values = Vec::with_capacity(count);
    let mut levels = Vec::new();
    // A call may end with a page.
    while levels.len().max(values.len()) < count {
        let left = count - levels.len().max(values.len());
        let (rows, _, _) =
            reader.read_records(left, Some(&mut levels), None, &mut values).map_err(|error| broken(&error))?;
        if rows == 0 {
            return Err(format!("not a whole parquet file (a column ends after row {})", first + values.len()));
        }
    }
    if values.len() != count {
        return Err(format!("rows {first} to {}: {} have no value", first + count - 1, count - values.len()));
    }
    Ok(values)
}

fn content_problem(bytes: &[u8], error: &ParquetError) -> String {
    // A parquet file begins with its own mark.
    if bytes.starts_with(b"PAR1") { broken(error) } else { content::problem(bytes, broken(error)) }
}

fn wrong_columns(schema: &SchemaDescriptor) -> String {
    let columns: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    format!(
        "it has the columns {columns:?}, expected an image (img or image, with bytes) and the labels of the data set \
         (label; coarse_label and fine_label for CIFAR-100)"
    )
}
