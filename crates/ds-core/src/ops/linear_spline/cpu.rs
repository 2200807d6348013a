//! CPU kernels of the linear spline, chosen at run time: AVX-512, AVX2 + FMA, or portable code.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;

use crate::Grid;
use crate::ops::parallel::{SharedSlice, filled, for_each_piece};
use crate::ops::planes::Planes;
use crate::ops::real::Real;
use crate::ops::simd::{Instructions, instructions};
use candle_core::Result;
use std::any::TypeId;

/// The two tables a kernel looks values up in, for one channel.
///
/// `value[i]` = c_i and `rise[i]` = c_{i+1} − c_i, for the K−1 segments.
pub(super) struct Segments<'a, T> {
    pub value: &'a [T],
    pub rise: &'a [T],
    pub step: T,
    pub centre: T,
    pub last: T,
}

/// A kernel over whole planes of one channel.
trait Kernel<T>: Copy + Send + Sync {
    fn forward(self, segments: &Segments<'_, T>, x: &[T], y: &mut [T]);
    /// `sums[2i]` += Σ ∂y and `sums[2i+1]` += Σ ∂y·t over the elements in segment i, in `COPIES` interleaved copies.
    fn backward(self, segments: &Segments<'_, T>, slope: &[T], x: &[T], dy: &[T], dx: &mut [T], sums: &mut [T]);
}

/// Neighbouring elements go to different copies of the sums, so that one addition need not wait for the last.
pub(super) const COPIES: usize = 8;

/// The splines of all channels, with the tables their kernels look values up in, for ops that fuse a spline with what comes
/// before it.
pub struct Channels<'a, T> {
    instructions: Instructions,
    grid: Grid,
    coefficients: &'a [T],
    rises: Vec<T>,
    slopes: Vec<T>,
}

impl<'a, T: Real> Channels<'a, T> {
    /// Splines with coefficients (C, K).
    pub fn new(grid: Grid, coefficients: &'a [T]) -> Self {
        Self::with(instructions(), grid, coefficients)
    }

    fn with(instructions: Instructions, grid: Grid, coefficients: &'a [T]) -> Self {
        let rises: Vec<T> =
            coefficients.chunks_exact(grid.size()).flat_map(|c| c.windows(2).map(|w| w[1] - w[0])).collect();
        let step = T::from_f64(grid.step());
        let slopes = rises.iter().map(|&r| r / step).collect();
        Self { instructions, grid, coefficients, rises, slopes }
    }

    fn segments(&self, channel: usize) -> Segments<'_, T> {
        let size = self.grid.size();
        let (step, centre, last) = constants::<T>(self.grid);
        Segments {
            value: &self.coefficients[channel * size..(channel + 1) * size - 1],
            rise: &self.rises[self.of(channel)],
            step,
            centre,
            last,
        }
    }

    /// The segments of a channel in the tables.
    fn of(&self, channel: usize) -> std::ops::Range<usize> {
        channel * (self.grid.size() - 1)..(channel + 1) * (self.grid.size() - 1)
    }

    /// y = σ(x) for elements of one channel.
    pub fn forward(&self, channel: usize, x: &[T], y: &mut [T]) {
        run_forward(self.instructions, &self.segments(channel), x, y);
    }

    /// Zeros for [`backward`](Self::backward) to add to.
    pub fn sums(&self) -> Vec<T> {
        vec![T::ZERO; 2 * (self.grid.size() - 1) * COPIES]
    }

    /// ∂x = ∂y·σ'(x) for elements of one channel; what they give to ∂c is added to `sums`.
    pub fn backward(&self, channel: usize, x: &[T], dy: &[T], dx: &mut [T], sums: &mut [T]) {
        run_backward(self.instructions, &self.segments(channel), &self.slopes[self.of(channel)], x, dy, dx, sums);
    }

    /// ∂c (K) += what `sums` hold.
    pub fn merge(sums: &[T], dc: &mut [T]) {
        merge_copies(sums, dc);
    }
}

pub(super) fn forward<T: Real>(grid: Grid, planes: Planes, x: &[T], c: &[T]) -> Result<Vec<T>> {
    forward_with(instructions(), grid, planes, x, c)
}

pub(super) fn backward<T: Real>(grid: Grid, planes: Planes, x: &[T], c: &[T], dy: &[T]) -> Result<(Vec<T>, Vec<T>)> {
    backward_with(instructions(), grid, planes, x, c, dy)
}

fn constants<T: Real>(grid: Grid) -> (T, T, T) {
    (T::from_f64(grid.step()), T::from_f64((grid.size() / 2) as f64), T::from_f64((grid.size() - 2) as f64))
}

pub(crate) fn forward_with<T: Real>(
    instructions: Instructions,
    grid: Grid,
    planes: Planes,
    x: &[T],
    c: &[T],
) -> Result<Vec<T>> {
    let size = grid.size();
    let (step, centre, last) = constants::<T>(grid);
    if planes.inner < 8 {
        // Units instead of planes: neighbouring elements belong to different splines.
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact((planes.channels * planes.inner).max(1)) {
            for (c, plane) in c.chunks_exact(size).zip(row.chunks_exact(planes.inner.max(1))) {
                y.extend(plane.iter().map(|&x| {
                    let (i, t) = block::locate(x, step, centre, last);
                    t.fused(c[i + 1] - c[i], c[i])
                }));
            }
        }
        return Ok(y);
    }
    let channels = Channels::with(instructions, grid, c);
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(blocks * planes.channels, x.len(), |piece| {
            let (block, channel) = (piece / planes.channels, piece % planes.channels);
            for n in block * rows..planes.outer.min((block + 1) * rows) {
                let start = planes.offset(n, channel);
                // SAFETY: every plane belongs to one piece only.
                let y = unsafe { y.part(start, planes.inner) };
                channels.forward(channel, &x[start..start + planes.inner], y);
            }
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, and the kernels write each one without reading it.
    unsafe { filled(x.len(), fill) }
}

pub(crate) fn backward_with<T: Real>(
    instructions: Instructions,
    grid: Grid,
    planes: Planes,
    x: &[T],
    c: &[T],
    dy: &[T],
) -> Result<(Vec<T>, Vec<T>)> {
    let size = grid.size();
    let (step, centre, last) = constants::<T>(grid);
    if planes.inner < 8 {
        return Ok(backward_units(size, planes, (step, centre, last), x, c, dy));
    }
    let channels = Channels::with(instructions, grid, c);
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let mut partial = vec![T::ZERO; blocks * planes.channels * size];
    let partials = SharedSlice::new(&mut partial);
    let fill = |dx: &mut [T]| {
        let dx = SharedSlice::new(dx);
        for_each_piece(blocks * planes.channels, x.len(), |piece| {
            let (block, channel) = (piece / planes.channels, piece % planes.channels);
            let mut sums = channels.sums();
            for n in block * rows..planes.outer.min((block + 1) * rows) {
                let start = planes.offset(n, channel);
                let plane = start..start + planes.inner;
                // SAFETY: every plane belongs to one piece only.
                let dx = unsafe { dx.part(start, planes.inner) };
                channels.backward(channel, &x[plane.clone()], &dy[plane], dx, &mut sums);
            }
            // SAFETY: every piece has its own row of partial sums.
            let partial = unsafe { partials.part(piece * size, size) };
            merge_copies(&sums, partial);
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, and the kernels write each one without reading it.
    let dx = unsafe { filled(x.len(), fill)? };
    let mut dc = vec![T::ZERO; planes.channels * size];
    for block in partial.chunks_exact((planes.channels * size).max(1)) {
        for (dc, &p) in dc.iter_mut().zip(block) {
            *dc += p;
        }
    }
    Ok((dx, dc))
}

/// (Σ ∂y, Σ ∂y·t) by segment, in copies, to ∂c: ∂c_i takes Σ ∂y·(1−t) and ∂c_{i+1} takes Σ ∂y·t.
fn merge_copies<T: Real>(sums: &[T], dc: &mut [T]) {
    for copy in sums.chunks_exact(2 * (dc.len() - 1)) {
        for (i, pair) in copy.chunks_exact(2).enumerate() {
            dc[i] += pair[0] - pair[1];
            dc[i + 1] += pair[1];
        }
    }
}

/// Units (N, C), or planes too small for vectors.
fn backward_units<T: Real>(
    size: usize,
    planes: Planes,
    (step, centre, last): (T, T, T),
    x: &[T],
    c: &[T],
    dy: &[T],
) -> (Vec<T>, Vec<T>) {
    let mut dc = vec![T::ZERO; c.len()];
    let mut dx = Vec::with_capacity(x.len());
    let row = (planes.channels * planes.inner).max(1);
    for (x, dy) in x.chunks_exact(row).zip(dy.chunks_exact(row)) {
        for (j, (&x, &dy)) in x.iter().zip(dy).enumerate() {
            let first = j / planes.inner * size;
            let (i, t) = block::locate(x, step, centre, last);
            let (c, dc) = (&c[first + i..first + i + 2], &mut dc[first + i..first + i + 2]);
            dx.push(dy * ((c[1] - c[0]) / step));
            dc[0] += dy * (T::ONE - t);
            dc[1] += dy * t;
        }
    }
    (dx, dc)
}

fn is_f32<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<f32>()
}

fn run_forward<T: Real>(instructions: Instructions, segments: &Segments<'_, T>, x: &[T], y: &mut [T]) {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => block::Avx2.forward(segments, x, y),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if is_f32::<T>() => {
            // SAFETY: T is f32.
            let (segments, x, y) = unsafe {
                (&*(std::ptr::from_ref(segments).cast()), &*(std::ptr::from_ref(x) as *const [f32]), as_f32_mut(y))
            };
            avx512::Avx512.forward(segments, x, y);
        }
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => block::Avx2.forward(segments, x, y),
        _ => block::Portable.forward(segments, x, y),
    }
}

fn run_backward<T: Real>(
    instructions: Instructions,
    segments: &Segments<'_, T>,
    slope: &[T],
    x: &[T],
    dy: &[T],
    dx: &mut [T],
    sums: &mut [T],
) {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => block::Avx2.backward(segments, slope, x, dy, dx, sums),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if is_f32::<T>() => {
            // SAFETY: T is f32.
            unsafe {
                avx512::Avx512.backward(
                    &*(std::ptr::from_ref(segments).cast()),
                    &*(std::ptr::from_ref(slope) as *const [f32]),
                    &*(std::ptr::from_ref(x) as *const [f32]),
                    &*(std::ptr::from_ref(dy) as *const [f32]),
                    as_f32_mut(dx),
                    as_f32_mut(sums),
                );
            }
        }
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => block::Avx2.backward(segments, slope, x, dy, dx, sums),
        _ => block::Portable.backward(segments, slope, x, dy, dx, sums),
    }
}

/// # Safety
/// T must be f32.
#[cfg(target_arch = "x86_64")]
unsafe fn as_f32_mut<T>(slice: &mut [T]) -> &mut [f32] {
    // SAFETY: same element type by the caller's promise, same length.
    unsafe { &mut *(std::ptr::from_mut(slice) as *mut [f32]) }
}

#[cfg(test)]
mod tests;
