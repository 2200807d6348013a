//! Launches over many arrays: a table of them is an argument of the kernel.

use super::arguments::{Argument, LaunchDims, int};
use super::device::Gpu;
use candle_core::Result;

/// What a kernel over many arrays takes by value, with room for `room` of them: the first block of each, two numbers a word, then
/// `W` words for each. Also how many blocks there are, of `each` numbers of one array.
pub fn table<const W: usize>(
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

/// Launches a kernel over arrays with these lengths and words, `each` numbers of one array for a block of 256 threads, as many arrays at
/// a time as its arguments have `room` for. Its arguments are the table, their number, and `more`.
///
/// # Safety
/// As for [`Gpu::launch`], with blocks that stay in their arrays.
///
/// # Errors
/// As for [`Gpu::launch`].
pub unsafe fn launch_foreach<G: Gpu, const W: usize>(
    gpu: &G,
    kernel: &str,
    (room, each): (usize, usize),
    rows: &[(usize, [u64; W])],
    more: &[Argument<'_>],
    shared: usize,
) -> Result<()> {
    for some in rows.chunks(room) {
        let (words, blocks) = table(room, each, some.iter().copied());
        let mut arguments = vec![Argument::Struct(&words), int(some.len())?];
        arguments.extend_from_slice(more);
        let blocks = LaunchDims { grid: (blocks.max(1), 1), threads: LaunchDims::THREADS, shared };
        // SAFETY: as the caller promises.
        unsafe { gpu.launch(kernel, blocks, &arguments)? };
    }
    Ok(())
}
