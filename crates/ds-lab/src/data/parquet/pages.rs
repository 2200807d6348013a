//! Pages of parquet files, checked before they are decoded.
//!
//! The `parquet` crate takes sizes, counts and encodings of a page from its header. A damaged header can ask for gigabytes, or for
//! a dictionary that is not there, so every header of a column is read here first, in Thrift's compact protocol. It also relies on
//! a page to have the values that its header counts; [`Checked`] counts them.

use ::parquet::basic::{Compression, Encoding};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::ColumnChunkMetaData;
use std::ops::Range;

/// Bytes that a page may unpack to; writers aim at 1 MB.
const LARGEST_PAGE: i64 = 128 << 20;

/// How deep structures of a header may nest; the format has three levels.
const DEEPEST: usize = 8;

/// The numbers of a page's header that matter, by their field numbers in `parquet.thrift`.
#[derive(Debug, Default)]
struct Header {
    kind: Option<i64>,
    unpacked: Option<i64>,
    packed: Option<i64>,
    values: Option<i64>,
    encoding: Option<i64>,
    level_encodings: [Option<i64>; 2],
    level_bytes: [i64; 2],
}

const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const DATA_2: i64 = 3;

const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE: i64 = 3;
const RLE_DICTIONARY: i64 = 8;

impl Header {
    fn set(&mut self, path: &[i16], value: i64) {
        match path {
            [1] => self.kind = Some(value),
            [2] => self.unpacked = Some(value),
            [3] => self.packed = Some(value),
            // Data page, dictionary page, data page of version 2.
            [5 | 7 | 8, 1] => self.values = Some(value),
            [5 | 7, 2] | [8, 4] => self.encoding = Some(value),
            [5, level @ 3..=4] => self.level_encodings[*level as usize - 3] = Some(value),
            [8, level @ 5..=6] => self.level_bytes[*level as usize - 5] = value,
            _ => {}
        }
    }
}

/// Checks the pages of a column of `rows` values; `file` is the whole file.
pub(super) fn check(file: &[u8], column: &ColumnChunkMetaData, rows: usize) -> Result<(), String> {
    let mut rest = file.get(range(column)?).ok_or("a column reaches beyond the end of the file")?;
    let (mut values, mut has_dictionary) = (0, false);
    let has_levels = column.column_descr().max_def_level() > 0;
    let is_packed = column.compression() != Compression::UNCOMPRESSED;
    while !rest.is_empty() {
        let mut header = Header::default();
        let mut reader = Reader { rest };
        reader.structure(&mut Vec::new(), &mut header)?;
        let (Some(packed), Some(unpacked)) = (header.packed, header.unpacked) else {
            return Err("a page has no size".to_owned());
        };
        let is_whole = |size: &usize| *size <= reader.rest.len();
        let size = usize::try_from(packed).ok().filter(is_whole).ok_or("a page reaches beyond its column")?;
        let levels = header.level_bytes.iter().try_fold(0i64, |sum, &n| if n < 0 { None } else { sum.checked_add(n) });
        let levels = levels.filter(|levels| *levels <= packed.min(unpacked));
        if !(0..=LARGEST_PAGE).contains(&unpacked) || (!is_packed && packed != unpacked) || levels.is_none() {
            return Err(format!("a page of {packed} bytes claims to unpack to {unpacked}"));
        }
        let count = header.values.filter(|count| (0..=rows as i64).contains(count));
        let encoding = header.encoding.unwrap_or(-1);
        match header.kind {
            Some(DICTIONARY) => {
                if has_dictionary || values > 0 || !matches!(encoding, PLAIN | PLAIN_DICTIONARY) {
                    return Err("a dictionary is out of place".to_owned());
                }
                has_dictionary = true;
                // A dictionary has no more entries than the column has values.
                count.ok_or("a dictionary has an impossible number of values")?;
            }
            Some(DATA | DATA_2) => {
                let is_read = match encoding {
                    PLAIN => true,
                    PLAIN_DICTIONARY | RLE_DICTIONARY => has_dictionary,
                    _ => false,
                };
                let is_read_level = |encoding: &Option<i64>| !has_levels || matches!(encoding, None | Some(RLE));
                if !is_read || !header.level_encodings.iter().all(is_read_level) {
                    return Err(format!("a page has the encoding {encoding}, which is not read, or no dictionary"));
                }
                values += count.ok_or("a page has an impossible number of values")?;
            }
            // Index pages are skipped.
            Some(1) => {}
            _ => return Err("a page is of an unknown kind".to_owned()),
        }
        rest = &reader.rest[size..];
    }
    if values == rows as i64 { Ok(()) } else { Err(format!("a column has {values} values, expected {rows}")) }
}

/// The bytes of a column in its file.
fn range(column: &ColumnChunkMetaData) -> Result<Range<usize>, String> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (start, length) = (usize::try_from(start).ok(), usize::try_from(column.compressed_size()).ok());
    let range = start.zip(length).and_then(|(start, length)| Some(start..start.checked_add(length)?));
    range.ok_or_else(|| "a column has an impossible place".to_owned())
}

/// The pages of a column of byte arrays. Those that are stored one after another must be as many as the page claims.
pub(super) struct Checked {
    pub pages: Box<dyn PageReader>,
    /// Whether values may be null, so that pages of version 1 begin with levels.
    pub has_levels: bool,
}

impl Checked {
    fn check(&self, page: &Page) -> Option<()> {
        let (bytes, is_plain) = match page {
            Page::DictionaryPage { buf, .. } => (buf.as_ref(), true),
            Page::DataPage { buf, encoding, .. } => {
                (if self.has_levels { after(buf)? } else { buf.as_ref() }, *encoding == Encoding::PLAIN)
            }
            Page::DataPageV2 { buf, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let levels = def_levels_byte_len.checked_add(*rep_levels_byte_len)?;
                (buf.get(levels as usize..)?, *encoding == Encoding::PLAIN)
            }
        };
        if is_plain {
            let mut rest = bytes;
            for _ in 0..page.num_values() {
                rest = after(rest)?;
            }
        }
        Some(())
    }
}

/// What follows a value: its length in four bytes, and as many bytes.
fn after(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(u32::from_le_bytes(*length) as usize..)
}

impl Iterator for Checked {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        let page = self.pages.get_next_page()?;
        match page.as_ref().map(|page| self.check(page)) {
            Some(None) => Err(ParquetError::General("a page has fewer images than it claims".to_owned())),
            _ => Ok(page),
        }
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.pages.skip_next_page()
    }
}

/// Thrift's compact protocol: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let (&byte, rest) = self.rest.split_first().ok_or("a page's header ends too early")?;
        self.rest = rest;
        Ok(byte)
    }

    fn skip(&mut self, count: u64) -> Result<(), String> {
        let count = usize::try_from(count).ok();
        self.rest = count.and_then(|count| self.rest.get(count..)).ok_or("a page's header ends too early")?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a page's header has a number beyond 64 bits".to_owned())
    }

    fn zigzag(&mut self) -> Result<i64, String> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads a structure; numbers go to the header under the path of their fields.
    fn structure(&mut self, path: &mut Vec<i16>, header: &mut Header) -> Result<(), String> {
        if path.len() >= DEEPEST {
            return Err("a page's header nests too deep".to_owned());
        }
        let mut field = 0i16;
        loop {
            let byte = self.byte()?;
            let (delta, kind) = (byte >> 4, byte & 0x0f);
            if kind == 0 {
                return Ok(());
            }
            let next = if delta == 0 { i16::try_from(self.zigzag()?).ok() } else { field.checked_add(delta.into()) };
            field = next.ok_or("a page's header has an impossible field")?;
            path.push(field);
            // The value of a boolean field is in its type.
            if !matches!(kind, 1 | 2) {
                self.value(kind, path, header)?;
            }
            path.pop();
        }
    }

    fn value(&mut self, kind: u8, path: &mut Vec<i16>, header: &mut Header) -> Result<(), String> {
        match kind {
            1..=3 => self.byte().map(|_| ()),
            4..=6 => {
                let value = self.zigzag()?;
                header.set(path, value);
                Ok(())
            }
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => {
                let byte = self.byte()?;
                let (short, kind) = (byte >> 4, byte & 0x0f);
                let count = if short == 15 { self.varint()? } else { u64::from(short) };
                path.push(-1);
                if path.len() >= DEEPEST {
                    return Err("a page's header nests too deep".to_owned());
                }
                for _ in 0..count {
                    // Each element has a byte at least, so the end of the header ends the loop.
                    self.value(kind, path, header)?;
                }
                path.pop();
                Ok(())
            }
            12 => self.structure(path, header),
            _ => Err(format!("a page's header has a field of the unknown type {kind}")),
        }
    }
}
