//! Files that comparison and report write. Only files of theirs are replaced, and all are checked before the first is written.

use crate::file_names::COMPARISON;
use crate::files::write_atomically;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How comparison.md begins.
pub(crate) const COMPARISON_HEAD: &str = "# Comparison\n\nWritten by `reproduce compare`";
/// How report.html begins.
pub(crate) const PAGE_HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
/// The generator that report.html names.
pub(crate) const PAGE_GENERATOR: &str = "<meta name=\"generator\" content=\"deep-splines: reproduce report\">\n";
/// The title of report.html, by which pages of versions without a generator are recognised.
pub(crate) const PAGE_TITLE: &str = "Deep spline networks";

/// What a file is, and so what a file of that name must be to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// comparison.md
    Comparison,
    /// comparison-NAME.csv, a table of comparison.md
    ComparisonTable,
    /// report.html
    Page,
    /// A picture as SVG
    Svg,
    /// A picture as PNG, beside the same picture as SVG
    Png,
}

/// A file to be written.
#[derive(Debug, Clone)]
pub struct Output {
    /// The path of the file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The contents.
    pub bytes: Vec<u8>,
}

/// Writes files, each whole or not at all, and makes their folders.
///
/// # Errors
/// If a file of one of the names is there that is none of ours: then nothing is written. If a file cannot be written.
pub fn save(outputs: &[Output]) -> Result<()> {
    let targets = outputs.iter().map(target).collect::<Result<Vec<_>>>()?;
    for (output, target) in outputs.iter().zip(targets) {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        write_atomically(&target, |file| file.write_all(&output.bytes))?;
    }
    Ok(())
}

/// The place of a file, behind a link if its name is one. What is there may be replaced.
fn target(output: &Output) -> Result<PathBuf> {
    let path = &output.path;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        if let Some(folder) = path.parent().filter(|folder| fs::symlink_metadata(folder).is_ok() && !folder.is_dir()) {
            bail!(
                "{} is not a folder, so that no file can be written to it; rename it or move it away",
                folder.display()
            );
        }
        return Ok(path.clone());
    };
    let is_link = metadata.is_symlink();
    let target = if is_link { fs::canonicalize(path) } else { Ok(path.clone()) };
    let target = target.with_context(|| format!("{} is a link that leads nowhere; remove it", path.display()))?;
    if !target.is_file() {
        bail!("{} is not a file, so that none can be written in its place; rename it or move it away", path.display());
    }
    let head = head(&target).with_context(|| format!("cannot read {}, which would be replaced", path.display()))?;
    if !head.is_empty() && !is_ours(output, &head) {
        bail!(
            "{} is there and was not written by `reproduce compare` or `reproduce report`: it is not replaced, and nothing \
             was written; rename it or move it away",
            path.display()
        );
    }
    Ok(target)
}

/// The first bytes of a file.
fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    const LENGTH: u64 = 256 << 10;
    let mut bytes = Vec::new();
    File::open(path)?.take(LENGTH).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file that begins with these bytes was written by an output of this kind.
fn is_ours(output: &Output, head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    match output.kind {
        Kind::Comparison => text.starts_with(COMPARISON_HEAD),
        Kind::ComparisonTable => {
            let header = text.lines().next().unwrap_or_default();
            let is_new = output.bytes.starts_with(format!("{header}\n").as_bytes());
            is_new || is_table_of_comparison(&output.path, header)
        }
        Kind::Page => {
            let after = text.strip_prefix(PAGE_HEAD);
            after.is_some_and(|text| {
                text.starts_with(PAGE_GENERATOR)
                    || text.lines().nth(1) == Some(format!("<title>{PAGE_TITLE}</title>").as_str())
            })
        }
        Kind::Svg => svg_size(&text).is_some(),
        Kind::Png => {
            let svg = self::head(&output.path.with_extension("svg")).unwrap_or_default();
            let beside = svg_size(&String::from_utf8_lossy(&svg)).map(|(width, height)| (2 * width, 2 * height));
            png_size(head).is_some_and(|size| Some(size) == beside || Some(size) == png_size(&output.bytes))
        }
    }
}

/// Whether a table with this header, of any version, is in the comparison.md beside it.
fn is_table_of_comparison(path: &Path, header: &str) -> bool {
    let Ok(bytes) = head(&path.with_file_name(COMPARISON)) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(header.as_bytes());
    let Some(Ok(columns)) = reader.records().next() else { return false };
    let row = format!("| {} |", columns.iter().collect::<Vec<_>>().join(" | "));
    text.starts_with(COMPARISON_HEAD) && text.lines().any(|line| line == row)
}

/// Width and height in CSS pixels of an SVG document that begins as those of this program do.
fn svg_size(text: &str) -> Option<(u64, u64)> {
    let number = |name: &str| {
        let (_, rest) = text.lines().next()?.split_once(&format!(" {name}=\""))?;
        rest.split_once('"')?.0.parse::<u64>().ok().filter(|&n| n < 1 << 32)
    };
    let (width, height) = (number("width")?, number("height")?);
    let (fine_width, fine_height) = (4 * width, 4 * height);
    let begin = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {fine_width} {fine_height}\" \
         xmlns=\"http://www.w3.org/2000/svg\">\n<rect x=\"0\" y=\"0\" width=\"{fine_width}\" height=\"{fine_height}\" \
         fill=\"#FFFFFF\"/>"
    );
    text.starts_with(&begin).then_some((width, height))
}

/// Width and height of a PNG file.
fn png_size(bytes: &[u8]) -> Option<(u64, u64)> {
    let header = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(4..16)?.strip_prefix(b"IHDR")?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
    Some((number(&header[..4]), number(&header[4..])))
}
