//! Many tensors copied into one, times a factor.

mod gpu;
mod piece;

use crate::backend::KERNELS;
use candle_core::{Device, Result, Tensor, bail};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::tensor_on;
use ds_core::backend::real::with_elements;
pub use gpu::packed as packed_on;
pub use piece::Piece;

/// Pieces begin at multiples of so many numbers, where 16 bytes can be read at once.
pub(crate) const ALIGNMENT: usize = 4;

/// A flat f32 tensor of `len` numbers made of the pieces, each times `scale`; from the end of a piece to the next multiple of
/// 4 there are zeros. On a GPU it is one launch for up to 192 pieces.
///
/// # Errors
/// If a piece is not f32, of another length or on another device, begins at no multiple of 4, overlaps another one, or does not fit with
/// the zeros behind it.
pub fn packed(pieces: &[Piece], len: usize, scale: f32, device: &Device) -> Result<Tensor> {
    check(pieces, len)?;
    if let Device::Cuda(device) = device {
        let gpu = CudaGpu::new(device, &KERNELS)?;
        // SAFETY: all of it was checked.
        return Ok(tensor_on(unsafe { gpu::packed(&gpu, pieces, len, scale)? }, len));
    }
    let mut out = vec![0f32; len];
    for piece in pieces {
        let Some(from) = &piece.from else { continue };
        let out = &mut out[piece.start..piece.start + piece.len];
        with_elements::<f32, _>(from, |from| {
            out.iter_mut().zip(from).for_each(|(out, from)| *out = scale * from);
            Ok(())
        })?;
    }
    Tensor::from_vec(out, len, device)
}

/// Whether pieces have their lengths, begin where they may, fit and do not overlap.
fn check(pieces: &[Piece], len: usize) -> Result<()> {
    let mut ranges = Vec::with_capacity(pieces.len());
    for Piece { from, start, len: of_piece } in pieces {
        let given = from.as_ref().map_or(*of_piece, Tensor::elem_count);
        let end = start.saturating_add(*of_piece);
        let fits = end.checked_next_multiple_of(ALIGNMENT).is_some_and(|padded| padded <= len);
        if given != *of_piece || !start.is_multiple_of(ALIGNMENT) || !fits {
            bail!("pack: {given} numbers for {start}..{end} of {len}, in steps of {ALIGNMENT}");
        }
        ranges.push((*start, end));
    }
    ranges.sort_unstable();
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        bail!("pack: the pieces from {} and {} on overlap", pair[0].0, pair[1].0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pieces_lie_where_they_should() {
        let tensor = |values: &[f32]| Some(Tensor::new(values, &Device::Cpu).unwrap());
        let pieces = [
            Piece { from: tensor(&[1.0, 2.0, 3.0]), start: 0, len: 3 },
            Piece { from: None, start: 4, len: 2 },
            Piece { from: tensor(&[4.0]), start: 8, len: 1 },
        ];
        let flat = packed(&pieces, 12, 2.0, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat, [2.0, 4.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0]);
        assert!(packed(&pieces, 8, 1.0, &Device::Cpu).is_err());
        let wrong = [Piece { from: tensor(&[1.0]), start: 0, len: 2 }];
        assert!(packed(&wrong, 4, 1.0, &Device::Cpu).is_err());
    }

    #[test]
    fn pieces_that_a_kernel_cannot_write_are_refused() {
        let packed = |all: &[(usize, usize)], len| {
            let pieces: Vec<Piece> = all.iter().map(|&(start, len)| Piece { from: None, start, len }).collect();
            packed(&pieces, len, 1.0, &Device::Cpu).map_err(|error| error.to_string())
        };
        // Any order, with gaps.
        assert!(packed(&[(12, 1), (0, 7)], 16).is_ok());
        for (pieces, len, expected) in [
            (&[(2, 2)][..], 8, "for 2..4 of 8"),
            // The zeros behind it do not fit.
            (&[(0, 4), (4, 5)][..], 10, "for 4..9 of 10"),
            (&[(8, 1), (4, 5)][..], 12, "from 4 and 8 on overlap"),
            (&[(usize::MAX - 3, 8)][..], 8, "of 8"),
        ] {
            let error = packed(pieces, len).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
