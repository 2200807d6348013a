//! Many tensors copied into one, times a factor.

use candle_core::{Device, Result, Tensor};
use ds_core::ops::real::with_elements;

/// A part of a packed tensor.
#[derive(Debug, Clone)]
pub struct Piece {
    /// `len` numbers in f32; none are zeros.
    pub from: Option<Tensor>,
    /// Where the part begins.
    pub start: usize,
    /// Its length.
    pub len: usize,
}

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
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return packed_on_gpu(pieces, len, scale, device);
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

#[cfg(feature = "cuda")]
fn packed_on_gpu(pieces: &[Piece], len: usize, scale: f32, device: &candle_core::CudaDevice) -> Result<Tensor> {
    use super::gpu::{KERNELS, pack};
    use ds_core::ops::gpu::Address;
    use ds_core::ops::gpu::cuda::{CudaGpu, address_of, tensor_on};
    // Copies of what is strided, which must live until the launch.
    let mut kept = Vec::with_capacity(pieces.len());
    let mut on_gpu = Vec::with_capacity(pieces.len());
    for Piece { from, start, len } in pieces {
        let from = from.as_ref().map(Tensor::contiguous).transpose()?;
        let address = from.as_ref().map_or(Ok(Address::NONE), |from| address_of(from, "pack"))?;
        on_gpu.push(pack::Piece { from: address, start: *start, len: *len });
        kept.push(from);
    }
    let gpu = CudaGpu::new(device, &KERNELS)?;
    // SAFETY: the pieces are of these lengths and fit, which was checked.
    let out = unsafe { pack::packed(&gpu, &on_gpu, len, scale)? };
    Ok(tensor_on(out, len))
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
