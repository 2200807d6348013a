//! CPU kernels of the linear spline, chosen at run time: AVX-512, AVX2 + FMA, or portable code. For f32 the registers of the
//! first two are planned by hand; f64 goes through plain loops, compiled for AVX2 or the baseline.

#[cfg(target_arch = "x86_64")]
mod adder;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod normalised;
#[cfg(target_arch = "x86_64")]
mod source;
mod sums;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use normalised::Normalised;
pub use sums::Sums;

use normalised::Argument;

use crate::Grid;
use crate::ops::parallel::{SharedSlice, filled, for_each_piece};
use crate::ops::planes::Planes;
use crate::ops::real::Real;
use crate::ops::simd::{Instructions, instructions};
use candle_core::Result;
#[cfg(target_arch = "x86_64")]
use std::any::TypeId;

/// What an input's segment is found with. Segments are counted from the knot at 0, so that x/step needs no offset that would
/// be rounded again, and an input that is just left of a knot stays there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knots<T> {
    pub step: T,
    /// The first and the last segment.
    pub first: T,
    pub last: T,
    /// The segments left of 0.
    pub centre: i32,
}

impl<T: Real> Knots<T> {
    fn new(grid: Grid) -> Self {
        let (centre, last) = (grid.size() as i32 / 2, grid.size() as i32 - 2);
        Self { step: T::from_f64(grid.step()), first: T::of_int(-centre), last: T::of_int(last - centre), centre }
    }
}

/// The two tables a kernel looks values up in, for one channel.
///
/// `value[i]` = c_i and `rise[i]` = c_{i+1} − c_i, for the K−1 segments.
pub(super) struct Segments<'a, T> {
    pub value: &'a [T],
    pub rise: &'a [T],
    pub knots: Knots<T>,
}

/// The planes of one channel: `count` of them, `len` elements each, `stride` elements from one to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    pub count: usize,
    pub len: usize,
    pub stride: usize,
}

impl Runs {
    /// Elements from the beginning of the first plane to the end of the last.
    fn reach(self) -> usize {
        (self.count - 1) * self.stride + self.len
    }

    /// Where each plane begins, and where the one after it does (the last plane's own beginning for the last).
    fn starts(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count).map(move |k| (k * self.stride, (k + 1).min(self.count - 1) * self.stride))
    }
}

/// A kernel over planes of one channel.
trait Kernel<T>: Copy + Send + Sync {
    /// y = σ(z).
    ///
    /// # Safety
    /// x, and the residual of the argument, must be readable and y writable at all elements of the runs, the planes of y not
    /// shared, and the machine must have the kernel's instructions.
    unsafe fn forward(self, segments: &Segments<'_, T>, argument: Argument<T>, runs: Runs, x: *const T, y: *mut T);
    /// ∂z = ∂y·σ'(z), and what the elements give to ∂c is added to `sums`; (Σ ∂z·(x − mean), Σ ∂z), which is 0 where z is x.
    ///
    /// # Safety
    /// As for `forward`, with dy like x and dz like y.
    #[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
    unsafe fn backward(
        self,
        segments: &Segments<'_, T>,
        slope: &[T],
        argument: Argument<T>,
        runs: Runs,
        x: *const T,
        dy: *const T,
        dz: *mut T,
        sums: &mut Sums<T>,
    ) -> [f64; 2];
}

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
        Segments {
            value: &self.coefficients[channel * size..(channel + 1) * size - 1],
            rise: &self.rises[self.of(channel)],
            knots: Knots::new(self.grid),
        }
    }

    /// Whether the machine has registers for the tables.
    #[cfg(target_arch = "x86_64")]
    fn fits_registers(&self) -> bool {
        self.instructions == Instructions::Avx512 && self.grid.size() - 1 <= avx512::IN_REGISTERS
    }

    /// The segments of a channel in the tables.
    fn of(&self, channel: usize) -> std::ops::Range<usize> {
        channel * (self.grid.size() - 1)..(channel + 1) * (self.grid.size() - 1)
    }

    /// # Safety
    /// As for [`Kernel::forward`].
    unsafe fn forward_runs(&self, channel: usize, argument: Argument<T>, runs: Runs, x: *const T, y: *mut T) {
        let segments = &self.segments(channel);
        // SAFETY: by the caller's promise; the casts are for f32 only and keep the type.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if is_f32::<T>() && self.instructions >= Instructions::Avx2 {
                let (segments, argument) = (&*std::ptr::from_ref(segments).cast(), argument.as_f32());
                if self.fits_registers() {
                    avx512::Avx512.forward(segments, argument, runs, x.cast(), y.cast());
                } else {
                    avx2::Avx2.forward(segments, argument, runs, x.cast(), y.cast());
                }
                return;
            }
            match self.instructions {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 | Instructions::Avx512 => block::Avx2.forward(segments, argument, runs, x, y),
                _ => block::Portable.forward(segments, argument, runs, x, y),
            }
        }
    }

    /// # Safety
    /// As for [`Kernel::backward`].
    #[expect(clippy::too_many_arguments, reason = "those of a kernel")]
    unsafe fn backward_runs(
        &self,
        channel: usize,
        argument: Argument<T>,
        runs: Runs,
        x: *const T,
        dy: *const T,
        dz: *mut T,
        sums: &mut Sums<T>,
    ) -> [f64; 2] {
        let (segments, slope) = (&self.segments(channel), &self.slopes[self.of(channel)]);
        // SAFETY: as above.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if is_f32::<T>() && self.instructions >= Instructions::Avx2 {
                let (segments, argument) = (&*std::ptr::from_ref(segments).cast(), argument.as_f32());
                let slope = &*(std::ptr::from_ref(slope) as *const [f32]);
                let (x, dy, dz) = (x.cast(), dy.cast(), dz.cast());
                let sums = &mut *std::ptr::from_mut(sums).cast::<Sums<f32>>();
                return if self.fits_registers() {
                    avx512::Avx512.backward(segments, slope, argument, runs, x, dy, dz, sums)
                } else {
                    avx2::Avx2.backward(segments, slope, argument, runs, x, dy, dz, sums)
                };
            }
            match self.instructions {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 | Instructions::Avx512 => {
                    block::Avx2.backward(segments, slope, argument, runs, x, dy, dz, sums)
                }
                _ => block::Portable.backward(segments, slope, argument, runs, x, dy, dz, sums),
            }
        }
    }

    /// Zeros for [`normalised_backward`](Self::normalised_backward) to add to, for that many elements in all.
    pub fn sums(&self, elements: usize) -> Sums<T> {
        Sums::new(self.grid.size() - 1, elements)
    }
}

pub(super) fn forward<T: Real>(grid: Grid, planes: Planes, x: &[T], c: &[T]) -> Result<Vec<T>> {
    forward_with(instructions(), grid, planes, x, c)
}

pub(super) fn backward<T: Real>(grid: Grid, planes: Planes, x: &[T], c: &[T], dy: &[T]) -> Result<(Vec<T>, Vec<T>)> {
    backward_with(instructions(), grid, planes, x, c, dy)
}

/// (the first element, the planes from there on) of some rows of a channel.
fn runs_of(planes: Planes, rows: std::ops::Range<usize>, channel: usize) -> (usize, Runs) {
    let runs = Runs { count: rows.len(), len: planes.inner, stride: planes.channels * planes.inner };
    (planes.offset(rows.start, channel), runs)
}

pub(crate) fn forward_with<T: Real>(
    instructions: Instructions,
    grid: Grid,
    planes: Planes,
    x: &[T],
    c: &[T],
) -> Result<Vec<T>> {
    let size = grid.size();
    let knots = Knots::<T>::new(grid);
    if planes.inner < 8 {
        // Units instead of planes: neighbouring elements belong to different splines.
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact((planes.channels * planes.inner).max(1)) {
            for (c, plane) in c.chunks_exact(size).zip(row.chunks_exact(planes.inner.max(1))) {
                y.extend(plane.iter().map(|&x| {
                    let (i, t) = block::locate(x, knots);
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
            let (first, runs) = runs_of(planes, block * rows..planes.outer.min((block + 1) * rows), channel);
            let y = y.pointer(first, runs.reach());
            let x = &x[first..first + runs.reach()];
            // SAFETY: both reach to the end of the last run, and every plane belongs to one piece only.
            unsafe { channels.forward_runs(channel, Argument::Input, runs, x.as_ptr(), y) };
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
    let knots = Knots::<T>::new(grid);
    if planes.inner < 8 {
        return Ok(backward_units(size, planes, knots, x, c, dy));
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
            let (first, runs) = runs_of(planes, block * rows..planes.outer.min((block + 1) * rows), channel);
            let mut sums = channels.sums(runs.count * runs.len);
            let dx = dx.pointer(first, runs.reach());
            let reached = first..first + runs.reach();
            let (x, dy) = (&x[reached.clone()], &dy[reached]);
            // SAFETY: all reach to the end of the last run, and every plane belongs to one piece only.
            unsafe { channels.backward_runs(channel, Argument::Input, runs, x.as_ptr(), dy.as_ptr(), dx, &mut sums) };
            // SAFETY: every piece has its own row of partial sums.
            let partial = unsafe { partials.part(piece * size, size) };
            sums.merge_into(partial);
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

/// Units (N, C), or planes too small for vectors.
fn backward_units<T: Real>(
    size: usize,
    planes: Planes,
    knots: Knots<T>,
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
            let (i, t) = block::locate(x, knots);
            let (c, dc) = (&c[first + i..first + i + 2], &mut dc[first + i..first + i + 2]);
            dx.push(dy * ((c[1] - c[0]) / knots.step));
            dc[0] += dy * (T::ONE - t);
            dc[1] += dy * t;
        }
    }
    (dx, dc)
}

#[cfg(target_arch = "x86_64")]
fn is_f32<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<f32>()
}

#[cfg(test)]
mod tests;
