//! What this crate's GPU ops share: their kernels.

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
