//! What the pointwise ops share: wrapping results, and sums per channel in fixed pieces.

use super::parallel::{SharedSlice, for_each_piece};
use super::planes::Planes;
use super::real::Real;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Result, Shape, Storage, Tensor, bail};

/// The type of a CPU storage, if kernels take it.
///
/// # Errors
/// If it is neither f32 nor f64.
pub fn real_dtype(storage: &CpuStorage, op: &'static str) -> Result<DType> {
    match storage {
        CpuStorage::F32(_) => Ok(DType::F32),
        CpuStorage::F64(_) => Ok(DType::F64),
        _ => bail!("{op}: the CPU kernel takes f32 and f64"),
    }
}

/// A rectifier: x where it is positive, slope·x elsewhere. Slope 0 is ReLU, which is 0 at −∞, too.
#[inline(always)]
pub fn rectified<T: Real>(slope: T, x: T) -> T {
    let negative = if slope == T::ZERO && x <= T::ZERO { T::ZERO } else { slope * x };
    if x > T::ZERO { x } else { negative }
}

/// Its gradient at `x`.
#[inline(always)]
pub fn rectified_gradient<T: Real>(slope: T, x: T, dy: T) -> T {
    let negative = if slope == T::ZERO { T::ZERO } else { slope * dy };
    if x > T::ZERO { dy } else { negative }
}

/// A tensor of these elements, outside any graph.
pub fn tensor_of<T: Real>(data: Vec<T>, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cpu(T::to_cpu_storage_owned(data)), shape, BackpropOp::none(), false)
}

/// For every plane `f(channel, range of the plane, sums of the channel)`, with `width` sums a channel; the sums of a block
/// of rows are added up first and the blocks then in their order. Returns the sums (C, width).
pub fn channel_sums<T: Real>(
    planes: Planes,
    width: usize,
    f: impl Fn(usize, std::ops::Range<usize>, &mut [T]) + Send + Sync,
) -> Vec<T> {
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let block_width = planes.channels * width;
    let mut partial = vec![T::ZERO; blocks * block_width];
    let shared = SharedSlice::new(&mut partial);
    for_each_piece(blocks * planes.channels, planes.elements(), |piece| {
        let (block, channel) = (piece / planes.channels, piece % planes.channels);
        // SAFETY: every piece has its own sums.
        let sums = unsafe { shared.part(block * block_width + channel * width, width) };
        for n in block * rows..planes.outer.min((block + 1) * rows) {
            let start = planes.offset(n, channel);
            f(channel, start..start + planes.inner, sums);
        }
    });
    sum_of_blocks(partial, block_width)
}

/// Adds blocks of `width` sums in their order; 0 where there is no block.
pub fn sum_of_blocks<T: Real>(blocks: Vec<T>, width: usize) -> Vec<T> {
    if blocks.len() == width {
        return blocks;
    }
    let mut total = vec![T::ZERO; width];
    for block in blocks.chunks_exact(width.max(1)) {
        for (total, &of_block) in total.iter_mut().zip(block) {
            *total += of_block;
        }
    }
    total
}

/// Σ f(x, y) over two slices of one length, in sixteen lanes, so that the compiler may use vectors in a function that it is
/// inlined into. One sum at a time: it mixes the lanes of several.
#[inline(always)]
pub fn sum_of_pairs<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; 16];
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..16 {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    let mut sum = T::ZERO;
    for lane in lanes {
        sum += lane;
    }
    for (&x, &y) in x_tail.iter().zip(y_tail) {
        sum += f(x, y);
    }
    sum
}
