//! The loops of the f32 kernels whose registers are planned by hand, for the vectors of AVX-512 and of AVX2.

use super::normalised::{Argument, Line};
use super::sums::{COPIES, Place, Sums};
use super::{Knots, Runs, Segments, block};
use crate::ops::lanes::Lanes;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Vectors of a machine. All methods must be called where it has their instructions, and are inlined into kernels that are
/// compiled for them.
pub(super) trait Wide: Copy {
    type Vector: Lanes<Element = f32>;
    /// As many integers of 32 bits.
    type Integers: Copy;
    /// What [`locate`](Self::locate) needs of the grid.
    type Scale: Copy;

    /// # Safety
    /// The instructions must be there, here and below.
    unsafe fn scale(knots: Knots<f32>) -> Self::Scale;
    /// (the segments counted from the knot at 0, t); a NaN is in the first or the last segment.
    ///
    /// # Safety
    /// As above.
    unsafe fn locate(z: Self::Vector, scale: Self::Scale) -> (Self::Integers, Self::Vector);
    /// The segments counted from the first one.
    ///
    /// # Safety
    /// As above.
    unsafe fn from_first(segments: Self::Integers, scale: Self::Scale) -> Self::Integers;
    /// (the lower halves of all 128 bits of g and h, element by element in turn; the upper ones).
    ///
    /// # Safety
    /// As above.
    unsafe fn in_turn(g: Self::Vector, h: Self::Vector) -> (Self::Vector, Self::Vector);
    /// For neighbours in segments i and j: i·row + j·16, in numbers of 64 bits.
    ///
    /// # Safety
    /// As above.
    unsafe fn offsets_by_pair(segments: Self::Integers, row: u32) -> Self::Integers;
    /// 2·segment + the first of as many numbers as there are, in the order of [`in_turn`](Self::in_turn).
    ///
    /// # Safety
    /// As above.
    unsafe fn offsets_by_segment(segments: Self::Integers, first: &[u32; COPIES]) -> Self::Integers;
    /// # Safety
    /// As above; as many integers must be writable.
    unsafe fn store(integers: Self::Integers, to: *mut u32);
}

/// Finds the line of each element's segment.
pub(super) trait Lines<W: Wide>: Copy {
    /// value + t·rise.
    ///
    /// # Safety
    /// The instructions must be there, and each segment be one of the K−1, counted from the knot at 0.
    unsafe fn at(self, segments: W::Integers, t: W::Vector) -> W::Vector;
}

/// Finds the slope of each element's segment.
pub(super) trait Slopes<W: Wide>: Copy {
    /// # Safety
    /// As for [`Lines::at`].
    unsafe fn of(self, segments: W::Integers) -> W::Vector;
}

/// What the spline is evaluated at.
trait Source<L>: Copy {
    /// Whether the sums of ∂z are wanted, which are those of a normalisation.
    const NORMALISED: bool;

    /// (x, z) of the elements from an offset on.
    ///
    /// # Safety
    /// The instructions must be there, and the elements readable.
    unsafe fn vector(self, at: usize) -> (L, L);
    /// (x, z) of one element.
    ///
    /// # Safety
    /// The element must be readable.
    unsafe fn one(self, at: usize) -> (f32, f32);
    /// Asks for what `vector` would read, wherever that is.
    fn prefetch(self, at: usize);
    /// μ.
    fn mean(self) -> f32;
}

/// z = x.
#[derive(Clone, Copy)]
struct Plain(*const f32);

impl<L: Lanes<Element = f32>> Source<L> for Plain {
    const NORMALISED: bool = false;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (L, L) {
        // SAFETY: by the caller's promise, here and below.
        let x = unsafe { L::load(self.0.add(at)) };
        (x, x)
    }
    #[inline(always)]
    unsafe fn one(self, at: usize) -> (f32, f32) {
        // SAFETY: as above.
        let x = unsafe { *self.0.add(at) };
        (x, x)
    }
    #[inline(always)]
    fn prefetch(self, at: usize) {
        fetch(self.0, at);
    }
    #[inline(always)]
    fn mean(self) -> f32 {
        0.0
    }
}

/// z = scale·x + shift.
#[derive(Clone, Copy)]
struct Affine<L> {
    x: *const f32,
    line: Line<f32>,
    scale: L,
    shift: L,
}

impl<L: Lanes<Element = f32>> Affine<L> {
    /// # Safety
    /// The instructions must be there.
    #[inline(always)]
    unsafe fn new(x: *const f32, line: Line<f32>) -> Self {
        // SAFETY: as above.
        unsafe { Self { x, line, scale: L::splat(line.scale), shift: L::splat(line.shift) } }
    }
}

impl<L: Lanes<Element = f32>> Source<L> for Affine<L> {
    const NORMALISED: bool = true;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (L, L) {
        // SAFETY: as above.
        unsafe {
            let x = L::load(self.x.add(at));
            (x, self.scale.fused(x, self.shift))
        }
    }
    #[inline(always)]
    unsafe fn one(self, at: usize) -> (f32, f32) {
        // SAFETY: as above.
        let x = unsafe { *self.x.add(at) };
        (x, self.line.scale.mul_add(x, self.line.shift))
    }
    #[inline(always)]
    fn prefetch(self, at: usize) {
        fetch(self.x, at);
    }
    #[inline(always)]
    fn mean(self) -> f32 {
        self.line.mean
    }
}

/// z = scale·x + shift + r.
#[derive(Clone, Copy)]
struct AffineSum<L>(Affine<L>, *const f32);

impl<L: Lanes<Element = f32>> Source<L> for AffineSum<L> {
    const NORMALISED: bool = true;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (L, L) {
        // SAFETY: as above.
        unsafe {
            let (x, z) = self.0.vector(at);
            (x, z.plus(L::load(self.1.add(at))))
        }
    }
    #[inline(always)]
    unsafe fn one(self, at: usize) -> (f32, f32) {
        // SAFETY: as above.
        unsafe {
            let (x, z) = self.0.one(at);
            (x, z + *self.1.add(at))
        }
    }
    #[inline(always)]
    fn prefetch(self, at: usize) {
        self.0.prefetch(at);
        fetch(self.1, at);
    }
    #[inline(always)]
    fn mean(self) -> f32 {
        self.0.line.mean
    }
}

#[inline(always)]
fn fetch(from: *const f32, at: usize) {
    // SAFETY: a prefetch may go anywhere.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at).cast()) };
}

#[inline(always)]
fn fetch_to_write(to: *mut f32, at: usize) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_add(at).cast()) };
}

/// # Safety
/// As for [`Kernel::forward`](super::Kernel::forward).
#[inline(always)]
unsafe fn forward<W: Wide>(
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
            fetch_to_write(y, next + k);
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
/// As for [`Kernel::forward`](super::Kernel::forward).
#[inline(always)]
pub(super) unsafe fn forward_at<W: Wide>(
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

/// Where the sums of a vector's elements are added.
trait Adder<W: Wide>: Copy {
    /// Where the elements in these segments, counted from the first, are added.
    ///
    /// # Safety
    /// The instructions must be there, and each segment be one of the K−1.
    unsafe fn offsets(self, segments: W::Integers) -> W::Integers;

    /// Adds (∂y, ∂y·t) of each element, in the order of [`Wide::in_turn`].
    ///
    /// # Safety
    /// `offsets` must be what the method of that name gave.
    unsafe fn add(self, offsets: *const u32, pairs: *const f32);
}

/// Sums by segment, in copies.
#[derive(Clone, Copy)]
struct BySegment {
    sums: *mut f32,
    /// Where each copy begins.
    copies: [u32; COPIES],
}

impl BySegment {
    fn new(sums: &mut [f32]) -> Self {
        let copy = sums.len() / COPIES;
        Self { sums: sums.as_mut_ptr(), copies: std::array::from_fn(|k| (k * copy) as u32) }
    }
}

impl<W: Wide> Adder<W> for BySegment {
    #[inline(always)]
    unsafe fn offsets(self, segments: W::Integers) -> W::Integers {
        // SAFETY: by the caller's promise.
        unsafe { W::offsets_by_segment(segments, &self.copies) }
    }

    #[inline(always)]
    unsafe fn add(self, offsets: *const u32, pairs: *const f32) {
        for k in (0..W::Vector::COUNT).step_by(2) {
            // SAFETY: by the caller's promise; neighbours are in different copies; a pair of floats is moved as one number of
            // 8 bytes.
            unsafe {
                let first = self.sums.add(*offsets.add(k) as usize).cast::<f64>();
                let second = self.sums.add(*offsets.add(k + 1) as usize).cast::<f64>();
                let both = _mm_loadh_pd(_mm_load_sd(first), second);
                let both = _mm_castps_pd(_mm_add_ps(_mm_castpd_ps(both), _mm_loadu_ps(pairs.add(2 * k))));
                _mm_storel_pd(first, both);
                _mm_storeh_pd(second, both);
            }
        }
    }
}

/// Sums by pair of segments.
#[derive(Clone, Copy)]
struct ByPair {
    sums: *mut f32,
    /// The bytes of a row of pairs.
    row: u32,
}

impl<W: Wide> Adder<W> for ByPair {
    #[inline(always)]
    unsafe fn offsets(self, segments: W::Integers) -> W::Integers {
        // SAFETY: by the caller's promise.
        unsafe { W::offsets_by_pair(segments, self.row) }
    }

    #[inline(always)]
    unsafe fn add(self, offsets: *const u32, pairs: *const f32) {
        let (offsets, count) = (offsets.cast::<u64>(), W::Vector::COUNT);
        for k in 0..count / 4 {
            for half in 0..2 {
                // SAFETY: by the caller's promise.
                unsafe {
                    let at = self.sums.byte_add(*offsets.add(2 * k + half) as usize);
                    let more = _mm_loadu_ps(pairs.add(count * half + 4 * k));
                    _mm_storeu_ps(at, _mm_add_ps(_mm_loadu_ps(at), more));
                }
            }
        }
    }
}

/// # Safety
/// As for [`Kernel::backward`](super::Kernel::backward); `of_tails` are two sums for each segment.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
unsafe fn backward<W: Wide, S: Source<W::Vector>>(
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
                fetch(dy, ahead);
                fetch_to_write(dz, ahead);
                // SAFETY: a vector from start + k on is within the run, and the slots within the ring; a slot is added `lag`
                // vectors after it was written.
                unsafe {
                    let g = W::Vector::load(dy.add(start + k));
                    let (x, z) = source.vector(start + k);
                    let (segments, t) = W::locate(z, scale);
                    let of_z = g.times(slopes.of(segments));
                    of_z.store(dz.add(start + k));
                    if S::NORMALISED {
                        with_x = of_z.fused(x.minus(mean), with_x);
                        alone = alone.plus(of_z);
                    }
                    W::store(adder.offsets(W::from_first(segments, scale)), offsets(vectors));
                    let (low, high) = W::in_turn(g, g.times(t));
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
                    of_x += f64::from(with_x.total());
                    of_1 += f64::from(alone.total());
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
/// As for [`Kernel::backward`](super::Kernel::backward).
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
pub(super) unsafe fn backward_at<W: Wide>(
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
