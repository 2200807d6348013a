//! What a file holds, whatever its name says; nothing that is read or unpacked exceeds a limit.

use super::DataError;
use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

const GZIP: &[u8] = &[0x1f, 0x8b];

/// What the first bytes are instead of data, if they are known.
pub(super) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 8] = [
        (GZIP, "a gzip archive; unpack it"),
        (b"PK\x03\x04", "a zip archive; unpack it"),
        (b"BZh", "a bzip2 archive; unpack it"),
        (b"\xfd7zXZ", "an xz archive; unpack it"),
        (b"PAR1", "a parquet file"),
        (b"\x89PNG", "a PNG image"),
        (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
        (b"{\"", "JSON, often the message of a server in place of a file"),
    ];
    if let Some((_, name)) = known.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(name);
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let starts = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    let page = [&b"<!doctype html"[..], b"<html", b"<head", b"<body", b"<script", b"<!--"];
    if page.into_iter().any(starts) {
        return Some("a web page (HTML) in place of the file");
    }
    starts(b"<?xml").then_some("an XML document, often the message of a server in place of a file")
}

/// The problem with bytes that are no data: what they are instead, or else what is wrong with them.
pub(super) fn problem(bytes: &[u8], wrong: String) -> String {
    match foreign(bytes) {
        Some(name) => format!("it is {name}: {wrong}"),
        None if bytes.is_empty() => format!("it is empty: {wrong}"),
        None => wrong,
    }
}

/// The bytes of a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: usize, remedy: &str) -> Result<Vec<u8>, DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).min(limit) + 1);
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        let problem = problem(&bytes, format!("it has more than the {limit} bytes that such a file can have"));
        return Err(DataError::content(path, problem, remedy));
    }
    Ok(bytes)
}

/// The first bytes of a file, none if it cannot be read.
#[cfg(feature = "hub")]
pub(super) fn beginning(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What was read before an error is enough.
        file.take(256).read_to_end(&mut bytes).ok();
    }
    bytes
}

/// The bytes, unpacked if they are gzip, up to one byte more than `limit`.
pub(super) fn unpacked(bytes: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, String> {
    if !bytes.starts_with(GZIP) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .take(limit as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| format!("not a whole gzip file ({error})"))?;
    Ok(Cow::Owned(unpacked))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_no_data_is_called_by_its_name() {
        for (bytes, name) in [
            (&b"\n <!DOCTYPE html><html>"[..], "web page"),
            (b"\xef\xbb\xbf<HTML lang=\"en\">", "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "XML"),
            (b"{\"error\":\"not found\"}", "JSON"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"PK\x03\x04\x14", "zip archive"),
            (b"\x1f\x8b\x08", "gzip archive"),
            (b"", "empty"),
        ] {
            let problem = problem(bytes, "wrong".to_owned());
            assert!(problem.contains(name) && problem.contains("wrong"), "{name}: {problem}");
        }
        assert_eq!(problem(&[0, 0, 8, 3], "wrong".to_owned()), "wrong");
    }

    #[test]
    fn a_gzip_bomb_is_not_unpacked() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 10_000_000]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert_eq!(unpacked(&bomb, 1000).unwrap().len(), 1001);
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![1; 101]).unwrap();
        let error = read(&path, 100, "remedy").unwrap_err().to_string();
        assert!(error.contains("more than the 100 bytes") && error.contains("remedy"), "{error}");
        assert_eq!(read(&path, 101, "remedy").unwrap().len(), 101);
    }
}
