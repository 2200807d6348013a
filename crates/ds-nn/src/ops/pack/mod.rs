//! Many tensors copied into one, times a factor.

mod gpu;
mod piece;

use crate::backend::KERNELS;
use candle_core::{Device, Result, Tensor};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::tensor_on;
use ds_core::backend::real::with_elements;
pub use gpu::packed as packed_on;
pub use piece::Piece;

/// A flat f32 tensor of `len` numbers made of the pieces, each times `scale`; from the end of a piece to the next multiple of
/// 4 there are zeros. On a GPU it is one launch for up to 192 pieces.
///
/// # Errors
/// If a piece is not f32, of another length or on another device, or does not fit.
pub fn packed(pieces: &[Piece], len: usize, scale: f32, device: &Device) -> Result<Tensor> {
    for Piece { from, start, len: of_piece } in pieces {
        let given = from.as_ref().map_or(*of_piece, Tensor::elem_count);
        if given != *of_piece || start + of_piece > len {
            candle_core::bail!("pack: {given} numbers for {start}..{} of {len}", start + of_piece);
        }
    }
    if let Device::Cuda(device) = device {
        let gpu = CudaGpu::new(device, &KERNELS)?;
        // SAFETY: the pieces are of these lengths and fit, which was checked.
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
}
