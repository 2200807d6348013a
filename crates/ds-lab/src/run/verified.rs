//! Safetensors files that carry a digest of all their bytes: any damage is found when they are read.
//!
//! The metadata entry `digest` is the MD5 of the whole file with 32 zeros in the place of the digest itself.

use crate::files::{hexadecimal, write_atomically};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{Device, Tensor};
use ds_core::variable;
use md5::{Digest, Md5};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const KEY: &str = "digest";
const ZEROS: &str = "00000000000000000000000000000000";

/// Writes tensors and metadata with their digest, the whole file or nothing.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>, mut metadata: HashMap<String, String>) -> Result<()> {
    metadata.insert(KEY.to_owned(), ZEROS.to_owned());
    let mut bytes =
        safetensors::serialize(tensors, Some(metadata)).with_context(|| format!("tensors for {}", path.display()))?;
    let at = position(&bytes, ZEROS).with_context(|| format!("the header of {}", path.display()))?;
    let digest = hexadecimal(Md5::new_with_prefix(&bytes));
    bytes[at..at + ZEROS.len()].copy_from_slice(digest.as_bytes());
    Ok(write_atomically(path, |file| file.write_all(&bytes))?)
}

/// The metadata and the tensors of a file's bytes, on the CPU. Files without a digest (of versions before there was one) are
/// returned unverified; the caller knows whether to expect one.
///
/// # Errors
/// If the bytes are no safetensors file, or not those that were written.
pub fn parse(bytes: &[u8]) -> Result<(HashMap<String, String>, BTreeMap<String, Tensor>)> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    if let Some(expected) = metadata.get(KEY) {
        let found = match position(bytes, expected) {
            Some(at) if expected.len() == ZEROS.len() => {
                let (before, rest) = bytes.split_at(at);
                hexadecimal(Md5::new_with_prefix(before).chain_update(ZEROS).chain_update(&rest[ZEROS.len()..]))
            }
            _ => bail!("its digest cannot be read"),
        };
        if found != *expected {
            bail!("its contents were damaged after it was written (MD5 {found}, expected {expected})");
        }
    }
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
    Ok((metadata, tensors.into_iter().collect()))
}

/// Whether the metadata of a file says that its contents were verified by [`parse`].
pub fn has_digest(metadata: &HashMap<String, String>) -> bool {
    metadata.contains_key(KEY)
}

/// Copies tensors into variables of the same names and shapes.
///
/// # Errors
/// If one is missing, has another shape or goes to what is no variable; `what` is how the message calls the file.
pub fn restore(
    what: &str,
    tensors: &BTreeMap<String, Tensor>,
    into: impl Iterator<Item = (String, Tensor)>,
) -> Result<()> {
    for (name, tensor) in into {
        let saved = tensors.get(&name).ok_or_else(|| anyhow!("{what} has no tensor `{name}`"))?;
        if saved.shape() != tensor.shape() {
            bail!("{what}: `{name}` has shape {:?}, that of the network has {:?}", saved.shape(), tensor.shape());
        }
        let var = variable(&name, &tensor)?;
        var.set(&saved.to_device(var.device())?)?;
    }
    Ok(())
}

/// Where the value of the digest begins in the header.
fn position(bytes: &[u8], value: &str) -> Option<usize> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let header = bytes.get(8..8usize.checked_add(usize::try_from(length).ok()?)?)?;
    let entry = format!("\"{KEY}\":\"{value}\"");
    let at = header.windows(entry.len()).position(|window| window == entry.as_bytes())?;
    Some(8 + at + entry.len() - 1 - value.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_changed_byte_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.safetensors");
        let tensors = BTreeMap::from([
            ("a".to_owned(), Tensor::new(&[1f32, -2.5, 3e-9], &Device::Cpu).unwrap()),
            ("b".to_owned(), Tensor::new(&[[7f64], [8.0]], &Device::Cpu).unwrap()),
        ]);
        write(&path, &tensors, HashMap::from([("x".to_owned(), "some \"text\"".to_owned())])).unwrap();
        let good = std::fs::read(&path).unwrap();
        let (metadata, read) = parse(&good).unwrap();
        assert!(has_digest(&metadata) && metadata["x"] == "some \"text\"" && read.len() == 2);
        for i in 0..good.len() {
            for flip in [1, 0x20, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[i] ^= flip;
                // A change of the key alone leaves a file without a digest, which readers refuse.
                let accepted = parse(&bad).is_ok_and(|(metadata, _)| has_digest(&metadata));
                assert!(!accepted, "byte {i} ^ {flip}");
            }
        }
    }
}
