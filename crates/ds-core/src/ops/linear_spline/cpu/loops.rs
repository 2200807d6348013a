//! The loops of the f32 kernels whose registers are planned by hand, for the vectors of AVX-512 and of AVX2.

use super::adder::{Adder, ByPair, BySegment};
use super::block;
use super::kernel::{Argument, Runs, Segments};
use super::simd::{Lines, Simd, Slopes};
use super::source::{Affine, AffineSum, Plain, Source, prefetch_read, prefetch_write};
use super::sums::{Place, Sums};
use crate::backend::lanes::Lanes;
use std::mem::MaybeUninit;

/// # Safety
/// As for [`Kernel::forward`](super::kernel::Kernel::forward).
#[inline(always)]
unsafe fn forward<W: Simd>(
    s: &Segments<'_, f32>,
    lines: impl Lines<W>,
    runs: Runs,
    source: impl Source<W::Vector>,
    y: *mut f32,
) {
    // SAFETY: by the caller's promise.
    let scale = unsafe { W::scale(s.knots) };
    let count = W::Vector::COUNT;
    let whole = runs.len / count * count;
    for (start, next) in runs.starts() {
        for k in (0..whole).step_by(count) {
            // The processor foresees the rest of a plane, but not where the next one is.
            source.prefetch(next + k);
            prefetch_write(y, next + k);
            // SAFETY: a vector each, within the run.
            unsafe {
                let (segments, t) = W::locate(source.vector(start + k).1, scale);
                lines.at(segments, t).store(y.add(start + k));
            }
        }
        for k in start + whole..start + runs.len {
            // SAFETY: within the run.
            unsafe {
                let (i, t) = block::locate(source.one(k).1, s.knots);
                *y.add(k) = t.mul_add(s.rise[i], s.value[i]);
            }
        }
    }
}

/// y = σ(z).
///
/// # Safety
/// As for [`Kernel::forward`](super::kernel::Kernel::forward).
#[inline(always)]
pub(super) unsafe fn forward_at<W: Simd>(
    s: &Segments<'_, f32>,
    lines: impl Lines<W>,
    argument: Argument<f32>,
    runs: Runs,
    x: *const f32,
    y: *mut f32,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match argument {
            Argument::Input => forward::<W>(s, lines, runs, Plain(x), y),
            Argument::Line(line) => forward::<W>(s, lines, runs, Affine::new(x, line), y),
            Argument::Sum(line, r) => forward::<W>(s, lines, runs, AffineSum(Affine::new(x, line), r), y),
        }
    }
}

/// Elements that wait between the computation of their addresses and the addition of their sums: no addition waits for an
/// address on its way to memory, and both keep the processor's units busy at once. A longer ring takes the place of other
/// things in the cache.
const WAITING: usize = 128;

/// What waits, from a line of the cache on.
#[repr(align(64))]
struct Ring {
    offsets: [u32; WAITING],
    pairs: [f32; 2 * WAITING],
}

/// Elements whose ∂z are summed in f32, lane by lane, before the sums go on in f64.
const IN_SINGLE: usize = 4096;

/// How far ahead memory is asked for, in elements.
const AHEAD: usize = 512;

/// # Safety
/// As for [`Kernel::backward`](super::kernel::Kernel::backward); `of_tails` are two sums for each segment.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
unsafe fn backward<W: Simd, S: Source<W::Vector>>(
    s: &Segments<'_, f32>,
    slope: &[f32],
    slopes: impl Slopes<W>,
    adder: impl Adder<W>,
    runs: Runs,
    source: S,
    dy: *const f32,
    dz: *mut f32,
    of_tails: *mut f32,
) -> [f64; 2] {
    let count = W::Vector::COUNT;
    let (slots, lag) = (WAITING / count, WAITING / count - 1);
    // SAFETY: by the caller's promise.
    let (scale, mean) = unsafe { (W::scale(s.knots), W::Vector::splat(source.mean())) };
    let mut ring = MaybeUninit::<Ring>::uninit();
    // SAFETY: places within the ring, which nothing else refers to.
    let (offsets, pairs) = unsafe { (&raw mut (*ring.as_mut_ptr()).offsets, &raw mut (*ring.as_mut_ptr()).pairs) };
    let offsets = |vector: usize| offsets.cast::<u32>().wrapping_add(vector % slots * count);
    let pairs = |vector: usize| pairs.cast::<f32>().wrapping_add(vector % slots * 2 * count);
    let (mut of_x, mut of_1) = (0.0, 0.0);
    let mut vectors = 0;
    let whole = runs.len / count * count;
    for (start, next) in runs.starts() {
        for first in (0..whole).step_by(IN_SINGLE) {
            // SAFETY: by the caller's promise.
            let [mut with_x, mut alone] = [unsafe { W::Vector::splat(0.0) }; 2];
            for k in (first..whole.min(first + IN_SINGLE)).step_by(count) {
                let ahead = if k + AHEAD < whole { start + k + AHEAD } else { next + k % AHEAD };
                source.prefetch(ahead);
                prefetch_read(dy, ahead);
                prefetch_write(dz, ahead);
                // SAFETY: a vector from start + k on is within the run, and the slots within the ring; a slot is added `lag`
                // vectors after it was written.
                unsafe {
                    let g = W::Vector::load(dy.add(start + k));
                    let (x, z) = source.vector(start + k);
                    let (segments, t) = W::locate(z, scale);
                    let of_z = g.mul(slopes.of(segments));
                    of_z.store(dz.add(start + k));
                    if S::NORMALISED {
                        with_x = of_z.mul_add(x.sub(mean), with_x);
                        alone = alone.add(of_z);
                    }
                    W::store(adder.offsets(W::from_first(segments, scale)), offsets(vectors));
                    let (low, high) = W::interleave(g, g.mul(t));
                    low.store(pairs(vectors));
                    high.store(pairs(vectors).add(count));
                    vectors += 1;
                    if vectors > lag {
                        adder.add(offsets(vectors - 1 - lag), pairs(vectors - 1 - lag));
                    }
                }
            }
            if S::NORMALISED {
                // SAFETY: by the caller's promise.
                unsafe {
                    of_x += f64::from(with_x.reduce_add());
                    of_1 += f64::from(alone.reduce_add());
                }
            }
        }
    }
    for vector in vectors.saturating_sub(lag)..vectors {
        // SAFETY: these were written and not yet added.
        unsafe { adder.add(offsets(vector), pairs(vector)) };
    }
    for (start, _) in runs.starts() {
        for k in start + whole..start + runs.len {
            // SAFETY: within the run; each of the K−1 segments has two sums.
            unsafe {
                let ((x, z), dy) = (source.one(k), *dy.add(k));
                let (i, t) = block::locate(z, s.knots);
                let of_z = dy * slope[i];
                *dz.add(k) = of_z;
                if S::NORMALISED {
                    of_x += f64::from(of_z * (x - source.mean()));
                    of_1 += f64::from(of_z);
                }
                *of_tails.add(2 * i) += dy;
                *of_tails.add(2 * i + 1) += dy * t;
            }
        }
    }
    [of_x, of_1]
}

/// ∂z, ∂c and the sums of ∂z.
///
/// # Safety
/// As for [`Kernel::backward`](super::kernel::Kernel::backward).
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
pub(super) unsafe fn backward_at<W: Simd>(
    s: &Segments<'_, f32>,
    slope: &[f32],
    slopes: impl Slopes<W>,
    argument: Argument<f32>,
    runs: Runs,
    x: *const f32,
    dy: *const f32,
    dz: *mut f32,
    sums: &mut Sums<f32>,
) -> [f64; 2] {
    macro_rules! with_adder {
        ($adder:expr, $of_tails:expr) => {
            match argument {
                Argument::Input => backward::<W, _>(s, slope, slopes, $adder, runs, Plain(x), dy, dz, $of_tails),
                Argument::Line(line) => {
                    let source = Affine::new(x, line);
                    backward::<W, _>(s, slope, slopes, $adder, runs, source, dy, dz, $of_tails)
                }
                Argument::Sum(line, r) => {
                    let source = AffineSum(Affine::new(x, line), r);
                    backward::<W, _>(s, slope, slopes, $adder, runs, source, dy, dz, $of_tails)
                }
            }
        };
    }
    // SAFETY: by the caller's promise.
    unsafe {
        match sums.place(slope.len()) {
            Place::ByPair { pairs, row, single } => {
                let adder = ByPair { sums: pairs.as_mut_ptr(), row: 4 * row as u32 };
                with_adder!(adder, single.as_mut_ptr())
            }
            Place::BySegment(sums) => {
                let adder = BySegment::new(sums);
                with_adder!(adder, adder.sums)
            }
        }
    }
}
