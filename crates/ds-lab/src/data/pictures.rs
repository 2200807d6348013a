//! Encoded images (PNG or WebP) to pixels.

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::Cursor;

/// Bytes that a decoder may allocate: an image of 32×32 pixels needs some 10 000.
const MAX_MEMORY: u64 = 1 << 22;

/// The pixels (C, H, W) of an image of `side`×`side` pixels. Its size is checked before it is decoded.
pub(super) fn decode(encoded: &[u8], channels: usize, side: usize, pixels: &mut [u8]) -> Result<(), String> {
    let mut reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (side as u32, side as u32) {
        return Err(format!("{width}×{height} pixels, expected {side}×{side}"));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    if channels == 1 {
        pixels.copy_from_slice(&image.to_luma8());
    } else {
        planes(&image.to_rgb8(), pixels);
    }
    Ok(())
}

/// Rows of RGB triples to three planes: (H, W, C) to (C, H, W).
fn planes(rgb: &[u8], planes: &mut [u8]) {
    for (channel, plane) in planes.chunks_exact_mut(rgb.len() / 3).enumerate() {
        for (value, triple) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
            *value = triple[channel];
        }
    }
}
