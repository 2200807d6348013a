//! Many arrays copied into one in one launch.

use super::table;
use candle_core::{DType, Result};
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu, int};

/// A part of the packed array.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// `len` numbers; none are zeros.
    pub from: Address,
    /// Where the part begins.
    pub start: usize,
    /// Its length.
    pub len: usize,
}

/// Pieces of a launch: as many as the arguments of a kernel have room for.
const PIECES: usize = 192;
/// Numbers of a block.
const EACH: usize = 1024;

/// An array of `len` numbers made of the pieces, each times `scale`; behind a piece it is 0 up to the next multiple of 4.
///
/// # Safety
/// The arrays must be of these lengths; pieces must begin at multiples of 4, not overlap, and end before `len`.
///
/// # Errors
/// Those of the device.
pub unsafe fn packed<G: Gpu>(gpu: &G, pieces: &[Piece], len: usize, scale: f32) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, len)?;
    int(len)?;
    for some in pieces.chunks(PIECES) {
        let row = |piece: &Piece| (piece.len, [piece.from.0, piece.len as u64 | (piece.start as u64) << 32]);
        let (words, blocks) = table(PIECES, EACH, some.iter().map(row));
        let arguments = [Argument::Struct(&words), int(some.len())?, gpu.address(&out)?.into(), scale.into()];
        let blocks = Blocks { grid: (blocks.max(1), 1), threads: Blocks::THREADS, shared: 0 };
        // SAFETY: the kernel's arguments; every block stays in its piece and what is behind it.
        unsafe { gpu.launch("pack_pieces", blocks, &arguments)? };
    }
    Ok(out)
}
