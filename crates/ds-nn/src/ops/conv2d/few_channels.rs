//! Convolutions of at most 64 channels, all three directions, by kernels of our own: libraries are made for more. They are the
//! 3×3 convolutions of padding 1 and stride 1 or 2, and 1×1 convolutions of stride 2. Factors are TF32 or bf16, sums f32, and the
//! same input gives the same bits.

use crate::ops::batch_sums::WithSums;
use crate::ops::window::Window;
use candle_core::{DType, Result};
use ds_core::backend::gpu::{Address, Argument, Gpu, LaunchDims, int, kernel_of, launch_foreach};

const TAPS: usize = 9;
/// Zeros left of a row of a tile.
const MARGIN: usize = 4;
/// Of input and output.
const MAX_CHANNELS: usize = 64;
/// Pixels of a row.
const MAX_WIDTH: usize = 64;
/// Shared memory that a tile should take, in bytes, so that some blocks fit beside each other; the largest takes 42 kB.
const TILE: usize = 40 << 10;
/// The same for the tiles of x and ∂y; the largest take 70 kB.
const TILES: usize = 56 << 10;
/// What the sums of y take: two double2 for each of 16 outputs of a warp, up to 32, and each of 128 threads.
const SUMS_OF_Y: usize = 16 * 2 * 2 * 128;
/// Threads of a block that sums up ∂W, and the sums of one of its warps, which has 16·16 weights.
const THREADS_FOR_WEIGHTS: usize = 256;
const SUMS_OF_WARP: usize = 2 * TAPS * 4 * 32;

/// A convolution that has these kernels. Devices need compute capability 8.0, and arrays begin at multiples of 16 bytes.
#[derive(Debug, Clone, Copy)]
pub struct FewChannels {
    dtype: DType,
    /// N, I, H, W.
    input: [usize; 4],
    /// N, O, H', W'.
    output: [usize; 4],
    stride: usize,
    /// Of a window: 9 or 1.
    taps: usize,
}

/// `Images` of the kernels: of a tile's source, with a number of rows of outputs.
#[derive(Debug, Clone, Copy)]
struct Images {
    channels: usize,
    height: usize,
    width: usize,
    stride: usize,
    spread: usize,
}

impl Images {
    fn output_width(self) -> usize {
        self.width * self.spread / self.stride
    }

    fn tiles(self, rows: usize) -> usize {
        (self.height * self.spread / self.stride).div_ceil(rows)
    }

    /// A plane of a tile of so many rows of outputs, with its border.
    fn plane(self, rows: usize, remainder: usize) -> usize {
        padded(((rows - 1) * self.stride + 3) * (self.width * self.spread + MARGIN) + MARGIN, remainder)
    }

    fn words(self, rows: usize) -> [u64; 3] {
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        [pair(self.channels, self.height), pair(self.width, rows), pair(self.stride, self.spread)]
    }
}

/// The next number with this remainder of a division by 32: planes of a tile are as long as keeps threads out of each other's
/// banks.
fn padded(length: usize, remainder: usize) -> usize {
    (length + 31 - remainder) / 32 * 32 + remainder
}

impl FewChannels {
    /// That of x (N, I, H, W) to (N, O, H', W'), all of one type, if it has these kernels: W' is a multiple of 8, W at most 64, and
    /// H and W are H' and W' times the stride.
    pub fn new(dtype: DType, input: [usize; 4], output: [usize; 4], window: Window) -> Option<Self> {
        let Window { kernel, stride, padding } = window;
        let ([n, inputs, height, width], [out_n, outputs, out_height, out_width]) = (input, output);
        let is_known = matches!((kernel, stride, padding), (3, 1 | 2, 1) | (1, 2, 0));
        let fits = n > 0
            && n == out_n
            && (1..=MAX_CHANNELS).contains(&inputs)
            && (1..=MAX_CHANNELS).contains(&outputs)
            && out_height > 0
            && out_width.is_multiple_of(8)
            && (8..=MAX_WIDTH).contains(&width)
            && (height, width) == (stride * out_height, stride * out_width);
        (is_known && fits).then_some(Self { dtype, input, output, stride, taps: kernel * kernel })
    }

    /// y (N, O, H', W') of x and weights as [`packed`] leaves them.
    pub fn forward<G: Gpu>(&self, gpu: &G, x: Address, packed: Address) -> Result<G::Buffer> {
        Ok(self.product(gpu, self.of_input(), self.output[1], (x, packed), (false, false))?.0)
    }

    /// The same, and the partial sums (pieces, O, 2) of y and y² in f64, with the number of pieces.
    pub fn forward_with_sums<G: Gpu>(&self, gpu: &G, x: Address, packed: Address) -> Result<WithSums<G::Buffer>> {
        self.product(gpu, self.of_input(), self.output[1], (x, packed), (false, true))
    }

    fn of_input(&self) -> Images {
        let [_, channels, height, width] = self.input;
        Images { channels, height, width, stride: self.stride, spread: 1 }
    }

    /// ∂x (N, I, H, W) of weights that were packed for it and ∂y: a convolution of ∂y, with zeros between its pixels where there was a
    /// stride.
    pub fn input_gradient<G: Gpu>(&self, gpu: &G, packed: Address, dy: Address) -> Result<G::Buffer> {
        let [_, channels, height, width] = self.output;
        let of = Images { channels, height, width, stride: 1, spread: self.stride };
        // Those for y are before them.
        let at = Address(packed.0 + 4 * packed_numbers(self.input[1], self.output[1]) as u64);
        Ok(self.product(gpu, of, self.input[1], (dy, at), (true, false))?.0)
    }

    fn product<G: Gpu>(
        &self,
        gpu: &G,
        of: Images,
        outputs: usize,
        (x, packed): (Address, Address),
        (turned, with_sums): (bool, bool),
    ) -> Result<WithSums<G::Buffer>> {
        // Outputs and pixels of a block, and among how many parts of it inputs are shared: the kernels' warps have 16·M·WARPS
        // and 8·N·4/WARPS. Where there are fewer blocks, they have more parts.
        let (channels, pixels, parts) = match outputs {
            0..=16 => (16, 256, 1),
            17..=32 => (32, 128, 2),
            _ => (64, 64, 4),
        };
        let width = of.output_width();
        let rows = (pixels / width).clamp(1, of.height * of.spread / of.stride);
        let plane = of.plane(rows, 8);
        let chunk = (TILE / (4 * plane) / 8 * 8).clamp(8, of.channels.next_multiple_of(8));
        let [n, _, height, _] = if turned { self.input } else { self.output };
        let y = gpu.alloc(self.dtype, n * outputs * height * width)?;
        let words = of.words(rows);
        let tiles = n * of.tiles(rows);
        let left = with_sums.then(|| gpu.alloc(DType::F64, 2 * tiles * outputs)).transpose()?;
        let arguments = [
            x.into(),
            packed.into(),
            gpu.address(&y)?.into(),
            left.as_ref().map_or(Ok(Address::NONE), |left| gpu.address(left))?.into(),
            Argument::Struct(&words),
            int(outputs)?,
            int(chunk)?,
            int(plane)?,
        ];
        // Half of the parts leave 32 sums for each of their 128 threads.
        let sums = 4 * 32 * 128 * (parts / 2);
        let blocks = LaunchDims {
            grid: (tiles, outputs.div_ceil(channels)),
            threads: 128 * parts,
            shared: (4 * chunk * plane).max(sums).max(if with_sums { SUMS_OF_Y } else { 0 }),
        };
        // SAFETY: the kernel's arguments; blocks stay in their tiles.
        unsafe { gpu.launch(&kernel_of(&format!("conv_forward_{channels}"), self.dtype)?, blocks, &arguments)? };
        Ok((y, left.map(|left| (left, tiles))))
    }

    /// ∂W (O, I, k, k) of x and ∂y, in the type of W.
    pub fn weight_gradient<G: Gpu>(&self, gpu: &G, x: Address, dy: Address, of_w: DType) -> Result<G::Buffer> {
        let ([n, inputs, height, width], outputs) = (self.input, self.output[1]);
        let of = Images { channels: inputs, height, width, stride: self.stride, spread: 1 };
        // Channels and pixels of a block, and among how many parts of it pixels are shared.
        let (channels, pixels, parts) = if inputs.max(outputs) <= 16 { (16, 256, 8) } else { (32, 128, 2) };
        let width = of.output_width();
        // Each part has as many of a tile's eights of pixels.
        let even = |rows: usize| (rows..).find(|rows| (rows * width / 8).is_multiple_of(parts)).unwrap_or(rows);
        let planes = |rows: usize| (of.plane(rows, 4), padded(rows * width, 4));
        let tables = |(plane, dy_plane): (usize, usize)| 4 * channels * (plane + dy_plane);
        let half = |rows: usize| even((rows / 2).max(1));
        let mut rows = even((pixels / width).clamp(1, self.output[2]));
        while tables(planes(rows)) > TILES && half(rows) < rows {
            rows = half(rows);
        }
        let (plane, dy_plane) = planes(rows);
        let (across, tiles) = (inputs.div_ceil(channels) * outputs.div_ceil(channels), n * of.tiles(rows));
        // Two blocks for each multiprocessor: more make more sums to be merged.
        let pieces = (2 * gpu.limits()?.multiprocessors / across).clamp(1, tiles);
        let warps = inputs.div_ceil(16) * outputs.div_ceil(16);
        let partial = gpu.alloc(DType::F32, pieces * warps * SUMS_OF_WARP)?;
        let at = gpu.address(&partial)?;
        let words = of.words(rows);
        let arguments = [
            x.into(),
            dy.into(),
            at.into(),
            Argument::Struct(&words),
            int(n)?,
            int(outputs)?,
            int(plane)?,
            int(dy_plane)?,
        ];
        // Half of the block's warps leave their sums to the others.
        let sums = 4 * SUMS_OF_WARP * (THREADS_FOR_WEIGHTS / 32 / 2);
        let blocks = LaunchDims {
            grid: (pieces, across),
            threads: THREADS_FOR_WEIGHTS,
            shared: tables((plane, dy_plane)).max(sums),
        };
        let strided = if self.stride == 1 { "" } else { "_strided" };
        // SAFETY: the kernel's arguments; blocks stay in their tiles, and `partial` has room for every warp's sums.
        unsafe {
            gpu.launch(&kernel_of(&format!("conv_weights_{channels}{strided}"), self.dtype)?, blocks, &arguments)?;
        }
        let dw = gpu.alloc(of_w, outputs * inputs * self.taps)?;
        let arguments =
            [at.into(), gpu.address(&dw)?.into(), int(pieces)?, int(inputs)?, int(outputs)?, int(self.taps)?];
        let blocks = LaunchDims {
            grid: (warps * SUMS_OF_WARP / 32, 1),
            threads: LaunchDims::THREADS,
            shared: 4 * LaunchDims::THREADS,
        };
        // SAFETY: the kernel's arguments; a block has 32 of the sums.
        unsafe { gpu.launch(&kernel_of("conv_merge", of_w)?, blocks, &arguments)? };
        Ok(dw)
    }
}

/// The numbers of packed weights for one direction, from so many inputs to so many outputs.
fn packed_numbers(inputs: usize, outputs: usize) -> usize {
    4 * (inputs.div_ceil(8) * TAPS * outputs.div_ceil(16) * 32)
}

/// W (O, I, k, k) in f32 of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// Where it is.
    pub w: Address,
    /// O, I, k, k.
    pub shape: [usize; 4],
    /// Whether it is packed for ∂x, too.
    pub for_gradient: bool,
}

impl Weights {
    /// The numbers of its packed weights.
    pub fn packed_numbers(&self) -> usize {
        let [outputs, inputs, ..] = self.shape;
        let for_gradient = if self.for_gradient { packed_numbers(outputs, inputs) } else { 0 };
        packed_numbers(inputs, outputs) + for_gradient
    }
}

/// Weights of a launch, and fours of a block.
const WEIGHTS: usize = 112;
const FOURS: usize = LaunchDims::THREADS;

/// Weights in the order in which products take them, for convolutions of data of this type.
pub fn packed<G: Gpu>(gpu: &G, dtype: DType, all: &[Weights]) -> Result<Vec<G::Buffer>> {
    let out = all.iter().map(|of| gpu.alloc(DType::F32, of.packed_numbers())).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::with_capacity(2 * all.len());
    for (of, out) in all.iter().zip(&out) {
        let ([outputs, inputs, kernel, _], at) = (of.shape, gpu.address(out)?);
        let mut row = |from: usize, to: usize, at: u64, turned: u64| {
            let (numbers, taps) = (packed_numbers(from, to), (kernel * kernel) as u64);
            let pair = |low: u64, high: u64| low | high << 32;
            rows.push((numbers / 4, [of.w.0, at, pair(from as u64, to as u64), pair(turned, taps)]));
            at + 4 * numbers as u64
        };
        let next = row(inputs, outputs, at.0, 0);
        if of.for_gradient {
            row(outputs, inputs, next, 1);
        }
    }
    // SAFETY: the kernel's arguments; every block stays in its weights.
    unsafe { launch_foreach(gpu, &kernel_of("conv_pack", dtype)?, (WEIGHTS, FOURS), &rows, &[], 0)? };
    Ok(out)
}
