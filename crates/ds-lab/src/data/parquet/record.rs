//! A row of a parquet file.

/// An image as the file has it, with its labels (coarse before fine).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// PNG or WebP bytes.
    pub encoded: Vec<u8>,
    /// Label bytes.
    pub labels: Vec<u8>,
}
