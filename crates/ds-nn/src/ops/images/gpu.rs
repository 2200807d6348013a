//! Batches of a set of images on a GPU.

use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Gpu, LaunchDims, int, kernel_of};

/// `count` of `total` images, cropped, flipped and normalised: (count, C, H, W) in the type of the table.
pub fn gather<G: Gpu>(
    gpu: &G,
    dtype: DType,
    (images, table, crops): (Address, Address, Address),
    total: usize,
    [count, channels, height, width]: [usize; 4],
) -> Result<G::Buffer> {
    let n = count * channels * height * width;
    int(n)?;
    let out = gpu.alloc(dtype, n)?;
    let to = gpu.address(&out)?.into();
    let (total, count) = (int(total)?, int(count)?);
    let (channels, height, width) = (int(channels)?, int(height)?, int(width)?);
    let arguments = [images.into(), table.into(), crops.into(), to, total, count, channels, height, width];
    // SAFETY: the kernel's arguments; it stays below the number of pixels, and an index beyond `total` is black.
    unsafe { gpu.launch(&kernel_of("gather_images", dtype)?, LaunchDims::for_each(n), &arguments)? };
    Ok(out)
}
