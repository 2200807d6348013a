//! The three directions of a convolution over blocks of images (N/16, C, H, W, 16).
//!
//! A task takes a strip of rows of one block. It packs the source rows that the strip needs, with zeros for columns outside
//! the image, into a buffer of its own; rows outside are left out. Forward pass and input gradient are the same sum over
//! taps and differ in which pixels a tap connects ([`Plan`]).

use super::kernel::{BLOCK, Products, Row, Tap, add_products, convolve_row};
use crate::ops::Window;
use crate::ops::blocks::LANES;
use candle_core::Result;
use ds_core::backend::parallel::{SharedSlice, filled};
use ds_core::backend::real::Real;
use ds_core::backend::simd::Instructions;
use rayon::prelude::*;
use std::ops::Range;

/// Blocks and strips are summed in at most this many pieces for the weight gradient, so that it does not depend on the
/// number of threads.
const GRADIENT_PIECES: usize = 16;
/// Elements of packed rows that a task aims at: half of a second-level cache.
const PACKED: usize = 128 * 1024;

/// The sizes of a convolution over blocks of images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub blocks: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub window: Window,
}

impl Sizes {
    fn taps(&self) -> usize {
        self.window.kernel * self.window.kernel
    }
    fn input(&self) -> usize {
        self.inputs * self.height * self.width * LANES
    }
    fn output(&self) -> usize {
        self.outputs * self.out_height * self.out_width * LANES
    }
    fn is_empty(&self) -> bool {
        self.blocks * self.input() * self.output() == 0
    }
}

/// Target columns first, first + step, … that see the same columns of the window.
struct Columns {
    first: usize,
    step: usize,
    count: usize,
    /// (kx, packed source column of the first target).
    taps: Vec<(usize, usize)>,
}

/// One direction as sums over taps.
struct Plan {
    source_channels: usize,
    source_height: usize,
    source_width: usize,
    target_channels: usize,
    target_height: usize,
    target_width: usize,
    /// For each target row the (source row, ky) inside the image.
    rows: Vec<Vec<(usize, usize)>>,
    columns: Vec<Columns>,
    /// Source columns between neighbouring targets.
    source_step: usize,
    /// Zeros before the first column of a packed row, and the length of one.
    left: usize,
    packed_width: usize,
}

impl Plan {
    /// y[oy, ox] = Σ x[oy·s + ky − p, ox·s + kx − p].
    fn forward(s: &Sizes) -> Self {
        let Window { kernel, stride, padding } = s.window;
        let inside =
            |o: usize, k: usize, size: usize| Some((o * stride + k).wrapping_sub(padding)).filter(|&i| i < size);
        let rows = (0..s.out_height)
            .map(|oy| (0..kernel).filter_map(|ky| Some((inside(oy, ky, s.height)?, ky))).collect())
            .collect();
        let taps = (0..kernel).map(|kx| (kx, kx)).collect();
        Self {
            source_channels: s.inputs,
            source_height: s.height,
            source_width: s.width,
            target_channels: s.outputs,
            target_height: s.out_height,
            target_width: s.out_width,
            rows,
            columns: vec![Columns { first: 0, step: 1, count: s.out_width, taps }],
            source_step: stride,
            left: padding,
            packed_width: ((s.out_width - 1) * stride + kernel).max(s.width + padding),
        }
    }

    /// ∂x[iy, ix] = Σ ∂y[(iy + p − ky)/s, (ix + p − kx)/s] where that is a whole number; the columns go by their remainder.
    fn backward(s: &Sizes) -> Self {
        let Window { kernel, stride, padding } = s.window;
        let rows = (0..s.height)
            .map(|iy| {
                (0..kernel)
                    .filter_map(|ky| {
                        let scaled = (iy + padding).checked_sub(ky).filter(|d| d.is_multiple_of(stride))?;
                        Some((scaled / stride, ky)).filter(|&(oy, _)| oy < s.out_height)
                    })
                    .collect()
            })
            .collect();
        // A tap reaches at most this far before the first column.
        let left = (kernel - 1).saturating_sub(padding).div_ceil(stride);
        let mut packed_width = left + s.out_width;
        let columns = (0..stride.min(s.width))
            .map(|first| {
                let count = (s.width - first).div_ceil(stride);
                let taps: Vec<(usize, usize)> = (0..kernel)
                    .filter(|kx| (first + padding + stride * kernel - kx).is_multiple_of(stride))
                    .map(|kx| (kx, (first + padding + stride * left - kx) / stride))
                    .collect();
                for &(_, column) in &taps {
                    packed_width = packed_width.max(column + count);
                }
                Columns { first, step: stride, count, taps }
            })
            .collect();
        Self {
            source_channels: s.outputs,
            source_height: s.out_height,
            source_width: s.out_width,
            target_channels: s.inputs,
            target_height: s.height,
            target_width: s.width,
            rows,
            columns,
            source_step: 1,
            left,
            packed_width,
        }
    }

    /// The source rows that a strip of target rows needs.
    fn sources(&self, strip: Range<usize>) -> Range<usize> {
        let rows = || self.rows[strip.clone()].iter().flatten().map(|&(row, _)| row);
        rows().min().unwrap_or(0)..rows().max().map_or(0, |row| row + 1)
    }

    /// Target rows of a strip, as many as keep the packed rows within their budget.
    fn strip(&self) -> usize {
        let row = self.source_channels * self.packed_width * LANES;
        (1..=self.target_height)
            .rev()
            .find(|&rows| {
                let most = (0..self.target_height)
                    .step_by(rows)
                    .map(|y| self.sources(y..self.target_height.min(y + rows)).len())
                    .max();
                most.unwrap_or(0) * row <= PACKED
            })
            .unwrap_or(1)
    }

    /// target = bias + Σ over taps, for all blocks.
    fn run<T: Real>(
        &self,
        with: Instructions,
        s: &Sizes,
        source: &[T],
        weights: &[T],
        bias: Option<&[T]>,
        target: &mut [T],
    ) {
        let (window, strip) = (s.taps(), self.strip());
        let strips = self.target_height.div_ceil(strip);
        let source_block = self.source_channels * self.source_height * self.source_width * LANES;
        let target_plane = self.target_height * self.target_width * LANES;
        let target_block = self.target_channels * target_plane;
        let most = (0..strips)
            .map(|k| self.sources(k * strip..self.target_height.min((k + 1) * strip)).len())
            .max()
            .unwrap_or(0);
        let target = SharedSlice::new(target);
        let image = Image { channels: self.source_channels, height: self.source_height, width: self.source_width };
        (0..s.blocks * strips).into_par_iter().for_each_init(
            || (vec![T::ZERO; self.source_channels * most * self.packed_width * LANES], Vec::new()),
            |(packed, taps), task| {
                let (block, first) = (task / strips, task % strips * strip);
                let end = self.target_height.min(first + strip);
                let sources = self.sources(first..end);
                let rows = sources.len();
                let image_data = &source[block * source_block..(block + 1) * source_block];
                image.pack(
                    image_data,
                    sources.start as isize..sources.end as isize,
                    self.left,
                    self.packed_width,
                    packed,
                );
                for y in first..end {
                    for columns in &self.columns {
                        taps.clear();
                        for &(row, ky) in &self.rows[y] {
                            taps.extend(columns.taps.iter().map(|&(kx, column)| Tap {
                                pixel: ((row - sources.start) * self.packed_width + column) * LANES,
                                weight: ky * s.window.kernel + kx,
                            }));
                        }
                        // Only this task writes rows `first..end` of this block.
                        let at = block * target_block + (y * self.target_width + columns.first) * LANES;
                        let needed = (self.target_channels - 1) * target_plane
                            + ((columns.count - 1) * columns.step + 1) * LANES;
                        let row = Row {
                            source: packed.as_ptr(),
                            source_channel: rows * self.packed_width * LANES,
                            source_step: self.source_step * LANES,
                            source_channels: self.source_channels,
                            taps,
                            weights,
                            window,
                            bias,
                            target: target.pointer(at, needed),
                            target_channel: target_plane,
                            target_step: columns.step * LANES,
                            target_channels: self.target_channels,
                            pixels: columns.count,
                        };
                        // SAFETY: taps lie inside the packed rows by the plan's construction, and the target was checked.
                        unsafe { convolve_row(with, &row) };
                    }
                }
            },
        );
    }
}

/// Planes of one block of images.
struct Image {
    channels: usize,
    height: usize,
    width: usize,
}

impl Image {
    /// Copies rows of all channels to (channel, row, packed column); rows and columns outside the image are zeros.
    fn pack<T: Real>(&self, image: &[T], rows: Range<isize>, left: usize, packed_width: usize, packed: &mut [T]) {
        let (row, width) = (packed_width * LANES, self.width * LANES);
        let (before, count) = (left * LANES, rows.len());
        for (channel, packed) in packed.chunks_exact_mut((count * row).max(1)).take(self.channels).enumerate() {
            for (y, packed) in rows.clone().zip(packed.chunks_exact_mut(row)) {
                if y < 0 || y >= self.height as isize {
                    packed.fill(T::ZERO);
                    continue;
                }
                let from = (channel * self.height + y as usize) * width;
                packed[..before].fill(T::ZERO);
                // A stride may leave the last columns unseen.
                let seen = width.min(row - before);
                packed[before..before + seen].copy_from_slice(&image[from..from + seen]);
                packed[before + seen..].fill(T::ZERO);
            }
        }
    }
}

/// Weights (outputs, inputs, k, k) as (block of targets, source, tap, target of the block).
fn packed_weights<T: Real>(
    sources: usize,
    targets: usize,
    taps: usize,
    weight: impl Fn(usize, usize, usize) -> T,
) -> Vec<T> {
    let mut packed = Vec::with_capacity(sources * targets * taps);
    for first in (0..targets).step_by(BLOCK) {
        for source in 0..sources {
            for tap in 0..taps {
                packed.extend((first..targets.min(first + BLOCK)).map(|target| weight(source, target, tap)));
            }
        }
    }
    packed
}

/// y (blocks, O, H', W', 16) from x (blocks, I, H, W, 16).
pub(super) fn forward<T: Real>(with: Instructions, s: &Sizes, x: &[T], w: &[T], b: Option<&[T]>) -> Result<Vec<T>> {
    if s.is_empty() {
        let mut y = vec![T::ZERO; s.blocks * s.output()];
        if let Some(b) = b {
            let plane = s.out_height * s.out_width * LANES;
            y.chunks_exact_mut(plane.max(1)).zip(b.iter().cycle()).for_each(|(y, &b)| y.fill(b));
        }
        return Ok(y);
    }
    let (inputs, taps) = (s.inputs, s.taps());
    let weights = packed_weights(inputs, s.outputs, taps, |i, o, tap| w[(o * inputs + i) * taps + tap]);
    let fill = |y: &mut [T]| {
        Plan::forward(s).run(with, s, x, &weights, b, y);
        Ok(())
    };
    // SAFETY: the strips cover all rows, which are written only.
    unsafe { filled(s.blocks * s.output(), fill) }
}

/// ∂x from ∂y.
pub(super) fn input_gradient<T: Real>(with: Instructions, s: &Sizes, w: &[T], dy: &[T]) -> Result<Vec<T>> {
    if s.is_empty() {
        return Ok(vec![T::ZERO; s.blocks * s.input()]);
    }
    let (inputs, taps) = (s.inputs, s.taps());
    let weights = packed_weights(s.outputs, inputs, taps, |o, i, tap| w[(o * inputs + i) * taps + tap]);
    let fill = |dx: &mut [T]| {
        Plan::backward(s).run(with, s, dy, &weights, None, dx);
        Ok(())
    };
    // SAFETY: the strips cover all rows, and the classes of columns all columns, which are written only.
    unsafe { filled(s.blocks * s.input(), fill) }
}

/// ∂W from x and ∂y, summed over pieces of strips that depend on the shapes alone.
pub(super) fn weight_gradient<T: Real>(with: Instructions, s: &Sizes, x: &[T], dy: &[T]) -> Vec<T> {
    let Window { kernel, stride, padding } = s.window;
    let size = s.outputs * s.inputs * s.taps();
    if s.is_empty() {
        return vec![T::ZERO; size];
    }
    let packed_width = ((s.out_width - 1) * stride + kernel).max(s.width + padding);
    let source_rows = |rows: usize| (rows - 1) * stride + kernel;
    let strip = (1..=s.out_height)
        .rev()
        .find(|&rows| s.inputs * source_rows(rows) * packed_width * LANES <= PACKED)
        .unwrap_or(1);
    let strips = s.out_height.div_ceil(strip);
    let tasks = s.blocks * strips;
    let pieces = GRADIENT_PIECES.min(tasks);
    let (plane, image) =
        (s.out_height * s.out_width * LANES, Image { channels: s.inputs, height: s.height, width: s.width });
    let mut partial = vec![T::ZERO; pieces * size];
    partial.par_chunks_mut(size).enumerate().for_each_init(
        || (vec![T::ZERO; s.inputs * source_rows(strip) * packed_width * LANES], Vec::new()),
        |(packed, weights), (piece, dw)| {
            for task in piece * tasks / pieces..(piece + 1) * tasks / pieces {
                let (block, first) = (task / strips, task % strips * strip);
                let rows = strip.min(s.out_height - first);
                let top = (first * stride) as isize - padding as isize;
                let sources = top..top + source_rows(rows) as isize;
                let image_data = &x[block * s.input()..(block + 1) * s.input()];
                image.pack(image_data, sources, padding, packed_width, packed);
                let row = packed_width * LANES;
                weights.clear();
                for channel in 0..s.inputs {
                    for ky in 0..kernel {
                        weights.extend((0..kernel).map(|kx| (channel * source_rows(rows) + ky) * row + kx * LANES));
                    }
                }
                let at = block * s.output() + first * s.out_width * LANES;
                let products = Products {
                    source: packed.as_ptr(),
                    weights,
                    source_row: stride * row,
                    source_step: stride * LANES,
                    gradient: dy[at..(block + 1) * s.output()].as_ptr(),
                    gradient_channel: plane,
                    gradient_row: s.out_width * LANES,
                    outputs: s.outputs,
                    rows,
                    pixels: s.out_width,
                };
                // SAFETY: all rows and columns that the weights reach were packed, and the gradient has these rows.
                unsafe { add_products(with, &products, dw) };
            }
        },
    );
    let mut dw = vec![T::ZERO; size];
    for piece in partial.chunks_exact(size) {
        for (dw, &p) in dw.iter_mut().zip(piece) {
            *dw += p;
        }
    }
    dw
}
