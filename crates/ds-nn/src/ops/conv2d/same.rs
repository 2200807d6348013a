//! Convolutions that keep the size of the image, over a whole batch: groups of images go through [`Direct`] in parallel.

use super::direct::Direct;
use super::{GRADIENT_PIECES, Sizes, merged};
use candle_core::Result;
use ds_core::ops::parallel::{SharedSlice, filled};
use ds_core::ops::real::Real;
use ds_core::ops::simd::Instructions;
use rayon::prelude::*;

/// y (N, O, H, W), a group of images at a time.
pub(super) fn forward_direct<T: Real>(
    with: Instructions,
    direct: Direct,
    s: &Sizes,
    x: &[T],
    w: &[T],
    b: Option<&[T]>,
) -> Result<Vec<T>> {
    let mut packed = vec![T::ZERO; direct.packed(s.planes.channels, s.outputs)];
    direct.pack_forward(w, &mut packed);
    let (image, output) = (s.input(), s.outputs * s.pixels());
    let fill = |y: &mut [T]| {
        y.par_chunks_mut(direct.group * output).zip(x.par_chunks(direct.group * image)).for_each_init(
            || (vec![T::ZERO; direct.padded(s.planes.channels)], vec![T::ZERO; direct.raw(s.outputs)]),
            |(padded, raw), (y, x)| {
                direct.pad_images(x, s.planes.channels, padded);
                direct.convolve(with, s.planes.channels, s.outputs, padded, &packed, raw);
                direct.unpad(raw, s.outputs, b, y);
            },
        );
        Ok(())
    };
    // SAFETY: every group's output is copied whole.
    unsafe { filled(s.planes.images * output, fill) }
}

/// (∂x if it is wanted, ∂W), a group of images at a time; ∂W is summed over pieces of groups that depend on the shapes alone.
pub(super) fn backward_direct<T: Real>(
    with: Instructions,
    direct: Direct,
    s: &Sizes,
    x: &[T],
    w: &[T],
    dy: &[T],
    input_gradient: bool,
) -> Result<(Option<Vec<T>>, Vec<T>)> {
    let channels = s.planes.channels;
    let mut packed = vec![T::ZERO; if input_gradient { direct.packed(s.outputs, channels) } else { 0 }];
    if input_gradient {
        direct.pack_backward(w, &mut packed);
    }
    let (image, output, images) = (s.input(), s.outputs * s.pixels(), s.planes.images);
    let groups = images.div_ceil(direct.group);
    let pieces = GRADIENT_PIECES.min(groups);
    let mut partial = vec![T::ZERO; pieces * w.len()];
    let mut run = |dx: Option<&mut [T]>| {
        let dx = dx.map(SharedSlice::new);
        partial.par_chunks_mut(w.len()).enumerate().for_each_init(
            || {
                let raw = if input_gradient { direct.raw(channels) } else { 0 };
                (vec![T::ZERO; direct.padded(channels)], vec![T::ZERO; direct.padded(s.outputs)], vec![T::ZERO; raw])
            },
            |(padded_x, padded_dy, raw), (piece, dw)| {
                for group in piece * groups / pieces..(piece + 1) * groups / pieces {
                    let (first, end) = (group * direct.group, images.min((group + 1) * direct.group));
                    direct.pad_images(&x[first * image..end * image], channels, padded_x);
                    direct.pad_images(&dy[first * output..end * output], s.outputs, padded_dy);
                    direct.weight_gradient(with, padded_x, padded_dy, dw);
                    let Some(dx) = &dx else { continue };
                    direct.convolve(with, s.outputs, channels, padded_dy, &packed, raw);
                    // SAFETY: every group belongs to one piece only.
                    let dx = unsafe { dx.part(first * image, (end - first) * image) };
                    direct.unpad(raw, channels, None, dx);
                }
            },
        );
    };
    let dx = if input_gradient {
        // SAFETY: the pieces cover all groups, and each group's part is copied whole.
        Some(unsafe {
            filled(images * image, |dx| {
                run(Some(dx));
                Ok(())
            })?
        })
    } else {
        run(None);
        None
    };
    Ok((dx, merged(&partial, w.len())))
}
