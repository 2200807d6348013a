//! The GPU side of this crate's ops; see [`ds_core::ops::gpu`].

#[cfg(feature = "cuda")]
pub mod conv2d;
#[cfg(feature = "cuda")]
mod dense;
pub mod few_channels;
pub mod images;
pub mod loss;
pub mod norm;
pub mod optim;
pub mod pack;
pub mod pointwise;
pub mod pool;

/// The kernels of this folder.
#[cfg(feature = "cuda")]
pub static KERNELS: ds_core::ops::gpu::cuda::Kernels = ds_core::ops::gpu::cuda::Kernels {
    name: "ds-nn",
    image: include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")),
};

use candle_core::Result;
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu};
use std::sync::atomic::{AtomicBool, Ordering};

/// Puts 64 bits on the device, in the order of all other work there and without waiting for any of it.
///
/// # Safety
/// They must lie inside an array, at a multiple of 8 bytes.
///
/// # Errors
/// Those of the device.
pub unsafe fn put_word<G: Gpu>(gpu: &G, word: u64, to: Address) -> Result<()> {
    let blocks = Blocks { grid: (1, 1), threads: 1, shared: 0 };
    // SAFETY: the kernel's arguments; the caller has room for them.
    unsafe { gpu.launch("put_word", blocks, &[Argument::Long(word), to.into()]) }
}

/// What a kernel over many arrays takes by value, with room for `room` of them: the first block of each, two numbers a word, then
/// `W` words for each. Also how many blocks there are, of `each` numbers of one array.
fn table<const W: usize>(room: usize, each: usize, rows: impl Iterator<Item = (usize, [u64; W])>) -> (Vec<u64>, usize) {
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

/// What the libraries may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Whether convolutions may round their factors to TF32 on tensor cores; as in PyTorch they may where nothing else is said,
    /// and matrix products may not.
    pub tf32: bool,
    /// Whether only convolution algorithms are taken that give the same bits again. All other kernels always do.
    pub deterministic: bool,
}

static TF32: AtomicBool = AtomicBool::new(true);
static DETERMINISTIC: AtomicBool = AtomicBool::new(false);

/// The options of this process.
pub fn options() -> Options {
    Options { tf32: TF32.load(Ordering::Relaxed), deterministic: DETERMINISTIC.load(Ordering::Relaxed) }
}

/// Sets the options of this process.
pub fn set_options(options: Options) {
    TF32.store(options.tf32, Ordering::Relaxed);
    DETERMINISTIC.store(options.deterministic, Ordering::Relaxed);
}
