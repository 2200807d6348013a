//! 3×3 convolutions of stride 1 and padding 1 with at most 64 channels, all three directions, by kernels of our own: libraries
//! are made for more channels. Factors are TF32 or bf16, sums f32, and the same input gives the same bits.

use crate::ops::window::Window;
use candle_core::{DType, Result};
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu, int, kernel_of};

/// Threads of a block.
const THREADS: usize = 128;
const TAPS: usize = 9;
/// Zeros left of a row of a tile.
const MARGIN: usize = 4;
/// Of input and output.
const MOST_CHANNELS: usize = 64;
/// Pixels of a row.
const MOST_WIDTH: usize = 64;
/// Shared memory that a tile may take, in bytes: some blocks fit beside each other.
const TILE: usize = 40 << 10;
/// Sums of a warp that has 16·16 weights.
const SUMS_OF_WARP: usize = 2 * TAPS * 4 * 32;

/// Whether there are kernels for it; arrays must begin at multiples of 16 bytes. Devices need compute capability 8.0.
pub fn takes(input: [usize; 4], output: [usize; 4], window: Window) -> bool {
    let ([_, inputs, height, width], outputs) = (input, output[1]);
    let same = Window { kernel: 3, stride: 1, padding: 1 };
    window == same
        && input.iter().product::<usize>() > 0
        && inputs.max(outputs) <= MOST_CHANNELS
        && width.is_multiple_of(8)
        && width <= MOST_WIDTH
        && height > 0
}

/// The next number with this remainder of a division by 32: planes of a tile are as long as keeps threads out of each other's
/// banks.
fn plane(length: usize, remainder: usize) -> usize {
    (length + 31 - remainder) / 32 * 32 + remainder
}

/// A tile's plane with its border.
fn with_border(rows: usize, width: usize, remainder: usize) -> usize {
    plane((rows + 2) * (width + MARGIN) + MARGIN, remainder)
}

/// `Images` of the kernels.
fn images(channels: usize, height: usize, width: usize, rows: usize) -> [u64; 2] {
    let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
    [pair(channels, height), pair(width, rows)]
}

/// y (N, O, H, W) of x (N, I, H, W) and W (O, I, 3, 3), all of one type; or, `turned`, ∂x (N, O, H, W) of ∂y (N, I, H, W) and
/// W (I, O, 3, 3).
///
/// # Errors
/// Those of the device.
pub fn forward<G: Gpu>(
    gpu: &G,
    dtype: DType,
    [n, inputs, height, width]: [usize; 4],
    outputs: usize,
    (x, w): (Address, Address),
    turned: bool,
) -> Result<G::Buffer> {
    let (sixteens, eights) = (outputs.div_ceil(16), inputs.div_ceil(8));
    let fragments = eights * TAPS * sixteens * 32;
    let packed = gpu.alloc(DType::F32, 4 * fragments)?;
    let at = gpu.address(&packed)?;
    let arguments = [w.into(), at.into(), int(inputs)?, int(outputs)?, Argument::Int(i32::from(turned))];
    // SAFETY: the kernel's arguments; `packed` has room for all.
    unsafe { gpu.launch(&kernel_of("conv_pack", dtype)?, Blocks::for_each(fragments), &arguments)? };

    // Outputs and pixels of a block: the kernels' warps have 16·M·WARPS and 8·N·4/WARPS.
    let (channels, pixels) = match outputs {
        0..=16 => (16, 256),
        17..=32 => (32, 128),
        _ => (64, 64),
    };
    let rows = (pixels / width).clamp(1, height);
    let plane = with_border(rows, width, 8);
    let chunk = (TILE / (4 * plane) / 8 * 8).clamp(8, 8 * eights);
    let y = gpu.alloc(dtype, n * outputs * height * width)?;
    let of = images(inputs, height, width, rows);
    let arguments =
        [x.into(), at.into(), gpu.address(&y)?.into(), Argument::Struct(&of), int(outputs)?, int(chunk)?, int(plane)?];
    let grid = (n * height.div_ceil(rows), outputs.div_ceil(channels));
    let blocks = Blocks { grid, threads: THREADS, shared: 4 * chunk * plane };
    // SAFETY: the kernel's arguments; blocks stay in their tiles.
    unsafe { gpu.launch(&kernel_of(&format!("conv_forward_{channels}"), dtype)?, blocks, &arguments)? };
    Ok(y)
}

/// ∂W (O, I, 3, 3) of x (N, I, H, W) and ∂y (N, O, H, W), all of one type.
///
/// # Errors
/// Those of the device.
pub fn weight_gradient<G: Gpu>(
    gpu: &G,
    dtype: DType,
    [n, inputs, height, width]: [usize; 4],
    outputs: usize,
    (x, dy): (Address, Address),
) -> Result<G::Buffer> {
    // Channels and pixels of a block, and among how many of its warps pixels are shared.
    let (channels, pixels, sharing) = if inputs.max(outputs) <= 16 { (16, 256, 4) } else { (32, 128, 1) };
    let mut rows = (pixels / width).clamp(1, height);
    while !(rows * width / 8).is_multiple_of(sharing) {
        rows += 1;
    }
    let (plane, dy_plane) = (with_border(rows, width, 4), plane(rows * width, 4));
    let tables = 4 * channels * (plane + dy_plane);
    let shared = if sharing > 1 { tables.max(4 * sharing * SUMS_OF_WARP) } else { tables };
    let (across, tiles) = (inputs.div_ceil(channels) * outputs.div_ceil(channels), n * height.div_ceil(rows));
    // Two blocks for each multiprocessor: more make more sums to be merged.
    let pieces = (2 * gpu.limits()?.multiprocessors / across).clamp(1, tiles);
    let warps = inputs.div_ceil(16) * outputs.div_ceil(16);
    let partial = gpu.alloc(DType::F32, pieces * warps * SUMS_OF_WARP)?;
    let at = gpu.address(&partial)?;
    let of = images(inputs, height, width, rows);
    let arguments =
        [x.into(), dy.into(), at.into(), Argument::Struct(&of), int(n)?, int(outputs)?, int(plane)?, int(dy_plane)?];
    let blocks = Blocks { grid: (pieces, across), threads: THREADS, shared };
    // SAFETY: the kernel's arguments; blocks stay in their tiles, and `partial` has room for every warp's sums.
    unsafe { gpu.launch(&kernel_of(&format!("conv_weights_{channels}"), dtype)?, blocks, &arguments)? };
    let dw = gpu.alloc(dtype, outputs * inputs * TAPS)?;
    let arguments = [at.into(), gpu.address(&dw)?.into(), int(pieces)?, int(inputs)?, int(outputs)?];
    let blocks = Blocks { grid: (warps * SUMS_OF_WARP / 32, 1), threads: Blocks::THREADS, shared: 4 * Blocks::THREADS };
    // SAFETY: the kernel's arguments; a block has 32 of the sums.
    unsafe { gpu.launch(&kernel_of("conv_merge", dtype)?, blocks, &arguments)? };
    Ok(dw)
}
