//! What this crate's GPU ops share: their kernels, and launches over many arrays.

use candle_core::Result;
use ds_core::backend::gpu::{Address, Argument, Gpu, Kernels, LaunchDims};

/// The kernels of this crate.
pub static KERNELS: Kernels =
    Kernels { name: "ds-nn", image: include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")) };

/// Puts 64 bits on the device, in the order of all other work there and without waiting for any of it.
///
/// # Safety
/// They must lie inside an array, at a multiple of 8 bytes.
pub unsafe fn put_word<G: Gpu>(gpu: &G, word: u64, to: Address) -> Result<()> {
    let blocks = LaunchDims { grid: (1, 1), threads: 1, shared: 0 };
    // SAFETY: the kernel's arguments; the caller has room for them.
    unsafe { gpu.launch("put_word", blocks, &[Argument::Long(word), to.into()]) }
}

/// What a kernel over many arrays takes by value, with room for `room` of them: the first block of each, two numbers a word, then
/// `W` words for each. Also how many blocks there are, of `each` numbers of one array.
pub(crate) fn table<const W: usize>(
    room: usize,
    each: usize,
    rows: impl Iterator<Item = (usize, [u64; W])>,
) -> (Vec<u64>, usize) {
    let firsts = (room + 2) / 2;
    let mut words = vec![0u64; firsts + W * room];
    let mut blocks = 0;
    for (k, (len, row)) in rows.enumerate() {
        words[k / 2] |= (blocks as u64) << (32 * (k % 2));
        words[firsts + W * k..][..W].copy_from_slice(&row);
        blocks += len.div_ceil(each);
    }
    (words, blocks)
}
