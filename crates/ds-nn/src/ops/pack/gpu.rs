//! Many arrays copied into one in one launch.

use super::piece::Piece;
use candle_core::{DType, Result, Tensor};
use ds_core::backend::gpu::{Address, Gpu, int, launch_foreach};

/// Pieces of a launch: as many as the arguments of a kernel have room for.
const PIECES: usize = 192;
/// Numbers of a block.
const EACH: usize = 1024;

/// An array of `len` numbers made of the pieces, each times `scale`; behind a piece it is 0 up to the next multiple of 4.
///
/// # Safety
/// Pieces must have their lengths, begin at multiples of 4, not overlap, and end, with the zeros behind them, at `len` or before.
///
/// # Errors
/// If a piece is not f32 on this device, or those of the launch.
pub unsafe fn packed<G: Gpu>(gpu: &G, pieces: &[Piece], len: usize, scale: f32) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, len)?;
    int(len)?;
    // Copies of strided pieces, which must live until the launch.
    let copies = pieces.iter().map(|piece| piece.from.as_ref().map(Tensor::contiguous).transpose());
    let copies = copies.collect::<Result<Vec<_>>>()?;
    let address = |from: &Option<Tensor>| match from {
        Some(from) => gpu.address_of(from, DType::F32, "pack"),
        None => Ok(Address::NONE),
    };
    let row = |(piece, from): (&Piece, &Option<Tensor>)| {
        Ok((piece.len, [address(from)?.0, piece.len as u64 | (piece.start as u64) << 32]))
    };
    let rows = pieces.iter().zip(&copies).map(row).collect::<Result<Vec<_>>>()?;
    let more = [gpu.address(&out)?.into(), scale.into()];
    // SAFETY: the kernel's arguments; every block stays in its piece and what is behind it.
    unsafe { launch_foreach(gpu, "pack_pieces", (PIECES, EACH), &rows, &more, 0)? };
    Ok(out)
}
