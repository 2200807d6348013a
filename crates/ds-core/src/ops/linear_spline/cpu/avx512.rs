//! f32 kernels with AVX-512: up to 65 knots the tables stay in registers and a look-up is a permutation; beyond that it is
//! a gather from the first-level cache.

use super::normalised::{Argument, Line};
use super::sums::{COPIES, Place, Sums};
use super::{Kernel, Knots, Runs, Segments, block};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

const LANES: usize = 16;
/// Segments that fit into the four registers of a [`Table`].
const IN_REGISTERS: usize = 64;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// A table of up to 64 numbers in four registers, turned so that the knot at 0 comes first and negative segments are at the
/// end: a permutation sees only the last bits of an index.
#[derive(Clone, Copy)]
struct Table([__m512; 4]);

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(values: &[f32], knots: Knots<f32>) -> Self {
        let (negative, positive) = values.split_at(knots.centre as usize);
        let mut padded = [0f32; IN_REGISTERS];
        padded[..positive.len()].copy_from_slice(positive);
        padded[IN_REGISTERS - negative.len()..].copy_from_slice(negative);
        let at = |k: usize| {
            // SAFETY: 16 floats from k·16 on are inside the padded array of 64.
            unsafe { _mm512_loadu_ps(padded.as_ptr().add(k * LANES)) }
        };
        Self([at(0), at(1), at(2), at(3)])
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn look_up(self, index: __m512i) -> __m512 {
        let low = _mm512_permutex2var_ps(self.0[0], index, self.0[1]);
        let high = _mm512_permutex2var_ps(self.0[2], index, self.0[3]);
        let is_high = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
        _mm512_mask_blend_ps(is_high, low, high)
    }
}

/// A table in memory, from the knot at 0 on.
#[derive(Clone, Copy)]
struct Gathered(*const f32);

impl Gathered {
    fn new(values: &[f32], knots: Knots<f32>) -> Self {
        Self(values[knots.centre as usize..].as_ptr())
    }
}

/// How a kernel finds the number of a segment, counted from the knot at 0.
trait LookUp: Copy {
    /// # Safety
    /// AVX-512F must be there and every index within the table.
    unsafe fn get(self, index: __m512i) -> __m512;
}

impl LookUp for Table {
    #[inline(always)]
    unsafe fn get(self, index: __m512i) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { self.look_up(index) }
    }
}

impl LookUp for Gathered {
    #[inline(always)]
    unsafe fn get(self, index: __m512i) -> __m512 {
        // SAFETY: the caller has AVX-512F and indices within the table.
        unsafe { _mm512_i32gather_ps::<4>(index, self.0) }
    }
}

/// What the spline is evaluated at.
trait Source: Copy {
    /// Whether the sums of ∂z are wanted, which are those of a normalisation.
    const NORMALISED: bool;

    /// (x, z) of 16 elements from an offset on.
    ///
    /// # Safety
    /// AVX-512F must be there and the elements readable.
    unsafe fn vector(self, at: usize) -> (__m512, __m512);
    /// (x, z) of one element.
    ///
    /// # Safety
    /// As for `vector`.
    unsafe fn one(self, at: usize) -> (f32, f32);
    /// Asks for what `vector` would read, wherever that is.
    fn prefetch(self, at: usize);
    /// μ.
    fn mean(self) -> f32;
}

/// z = x.
#[derive(Clone, Copy)]
struct Plain(*const f32);

impl Source for Plain {
    const NORMALISED: bool = false;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (__m512, __m512) {
        // SAFETY: by the caller's promise, here and below.
        let x = unsafe { _mm512_loadu_ps(self.0.add(at)) };
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
struct Affine {
    x: *const f32,
    line: Line<f32>,
    scale: __m512,
    shift: __m512,
}

impl Affine {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(x: *const f32, line: Line<f32>) -> Self {
        Self { x, line, scale: _mm512_set1_ps(line.scale), shift: _mm512_set1_ps(line.shift) }
    }
}

impl Source for Affine {
    const NORMALISED: bool = true;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (__m512, __m512) {
        // SAFETY: as above.
        unsafe {
            let x = _mm512_loadu_ps(self.x.add(at));
            (x, _mm512_fmadd_ps(self.scale, x, self.shift))
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
struct AffineSum(Affine, *const f32);

impl Source for AffineSum {
    const NORMALISED: bool = true;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (__m512, __m512) {
        // SAFETY: as above.
        unsafe {
            let (x, z) = self.0.vector(at);
            (x, _mm512_add_ps(z, _mm512_loadu_ps(self.1.add(at))))
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
        self.0.mean()
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

/// [`Knots`] in all lanes.
#[derive(Clone, Copy)]
struct Scale {
    step: __m512,
    first: __m512,
    last: __m512,
    centre: __m512i,
}

impl Scale {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(knots: Knots<f32>) -> Self {
        let [step, first, last] = [knots.step, knots.first, knots.last].map(|value| _mm512_set1_ps(value));
        Self { step, first, last, centre: _mm512_set1_epi32(knots.centre) }
    }
}

/// (the segment counted from the knot at 0, t) of 16 inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn locate(x: __m512, s: Scale) -> (__m512i, __m512) {
    // The divider works beside the units that the rest keeps busy: a product with the inverse, corrected to round as
    // division does, takes longer.
    let u = _mm512_div_ps(x, s.step);
    // The second operand is taken where u is NaN, so the segment is always valid.
    let clamped = _mm512_min_ps(_mm512_max_ps(u, s.first), s.last);
    let segment = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(clamped);
    (_mm512_cvtps_epi32(segment), _mm512_sub_ps(u, segment))
}

/// # Safety
/// As for [`Kernel::forward`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn forward(
    s: &Segments<'_, f32>,
    value: impl LookUp,
    rise: impl LookUp,
    runs: Runs,
    source: impl Source,
    y: *mut f32,
) {
    let scale = Scale::new(s.knots);
    let whole = runs.len / LANES * LANES;
    for (start, next) in runs.starts() {
        for k in (0..whole).step_by(LANES) {
            // The processor foresees the rest of a plane, but not where the next one is.
            source.prefetch(next + k);
            fetch_to_write(y, next + k);
            // SAFETY: 16 floats each, within the run; indices are clamped to the tables.
            unsafe {
                let (i, t) = locate(source.vector(start + k).1, scale);
                _mm512_storeu_ps(y.add(start + k), _mm512_fmadd_ps(t, rise.get(i), value.get(i)));
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

/// # Safety
/// As for [`Kernel::forward`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn forward_from(s: &Segments<'_, f32>, runs: Runs, source: impl Source, y: *mut f32) {
    // SAFETY: by the caller's promise.
    unsafe {
        if s.value.len() <= IN_REGISTERS {
            forward(s, Table::load(s.value, s.knots), Table::load(s.rise, s.knots), runs, source, y);
        } else {
            forward(s, Gathered::new(s.value, s.knots), Gathered::new(s.rise, s.knots), runs, source, y);
        }
    }
}

/// Vectors between the one whose addresses are computed and the one whose sums are added: no addition waits for an address
/// on its way to memory, and both keep the processor's units busy at once.
const LAG: usize = RING - 1;
/// Vectors that wait, with room for the one being written. A longer ring takes the place of other things in the cache.
const RING: usize = 8;

/// What waits, each vector in a cache line of its own.
#[repr(align(64))]
struct Ring {
    offsets: [[u32; LANES]; RING],
    pairs: [[f32; 2 * LANES]; RING],
}

/// Elements whose ∂z are summed in f32, lane by lane, before the sums go on in f64.
const IN_SINGLE: usize = 4096;

/// How far ahead memory is asked for, in elements.
const AHEAD: usize = 512;

/// Where the sums of a vector's elements are added.
trait Adder: Copy {
    /// What a slot keeps of where the elements in these segments are added.
    ///
    /// # Safety
    /// AVX-512F must be there, and every segment one of the K−1, counted from the first.
    unsafe fn offsets(self, segments: __m512i) -> __m512i;

    /// Adds the sums of a slot: `pairs` are (∂y, ∂y·t) of elements 0, 1, 4, 5, 8, 9, 12, 13, then of the others in order.
    ///
    /// # Safety
    /// AVX-512F must be there, and `offsets` be what the method of that name gave.
    unsafe fn add(self, offsets: *const u32, pairs: *const f32);
}

/// Sums by segment, in copies.
#[derive(Clone, Copy)]
struct BySegment {
    sums: *mut f32,
    /// Where the copy of each element begins, in the order of [`Adder::add`].
    copies: __m512i,
}

impl BySegment {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(sums: &mut [f32]) -> Self {
        let copy = sums.len() / COPIES;
        // Neighbours in the order in which they are added have different copies.
        let copies: [i32; LANES] = std::array::from_fn(|lane| ((lane % COPIES) * copy) as i32);
        // SAFETY: 16 integers.
        Self { sums: sums.as_mut_ptr(), copies: unsafe { _mm512_loadu_si512(copies.as_ptr().cast()) } }
    }

    /// # Safety
    /// The offsets must be those of two different pairs of floats within the sums.
    #[inline(always)]
    unsafe fn add_two(self, offsets: *const u32, pairs: *const f32) {
        // SAFETY: by the caller's promise; a pair of floats is moved as one number of 8 bytes.
        unsafe {
            let first = self.sums.add(*offsets as usize).cast::<f64>();
            let second = self.sums.add(*offsets.add(1) as usize).cast::<f64>();
            let both = _mm_loadh_pd(_mm_load_sd(first), second);
            let both = _mm_castps_pd(_mm_add_ps(_mm_castpd_ps(both), _mm_loadu_ps(pairs)));
            _mm_storel_pd(first, both);
            _mm_storeh_pd(second, both);
        }
    }
}

impl Adder for BySegment {
    #[inline(always)]
    unsafe fn offsets(self, segments: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512F.
        unsafe {
            let order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            _mm512_add_epi32(_mm512_slli_epi32::<1>(_mm512_permutexvar_epi32(order, segments)), self.copies)
        }
    }

    #[inline(always)]
    unsafe fn add(self, offsets: *const u32, pairs: *const f32) {
        for k in (0..LANES).step_by(2) {
            // SAFETY: by the caller's promise.
            unsafe { self.add_two(offsets.add(k), pairs.add(2 * k)) };
        }
    }
}

/// Sums by pair of segments.
#[derive(Clone, Copy)]
struct ByPair {
    sums: *mut f32,
    /// The bytes of a row of pairs.
    row: __m512i,
}

impl Adder for ByPair {
    /// Eight words of 8 bytes, the pairs in their order.
    #[inline(always)]
    unsafe fn offsets(self, segments: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512F.
        unsafe {
            let first = _mm512_mul_epu32(segments, self.row);
            // The second segment times 16 bytes: what is shifted in from the first is zeros.
            _mm512_add_epi64(first, _mm512_srli_epi64::<28>(segments))
        }
    }

    #[inline(always)]
    unsafe fn add(self, offsets: *const u32, pairs: *const f32) {
        let offsets = offsets.cast::<u64>();
        for k in 0..4 {
            for half in 0..2 {
                // SAFETY: by the caller's promise.
                unsafe {
                    let at = self.sums.byte_add(*offsets.add(2 * k + half) as usize);
                    let more = _mm_loadu_ps(pairs.add(LANES * half + 4 * k));
                    _mm_storeu_ps(at, _mm_add_ps(_mm_loadu_ps(at), more));
                }
            }
        }
    }
}

/// # Safety
/// As for [`Kernel::backward`]; `of_tails` are two sums for each segment.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
#[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
unsafe fn backward<S: Source>(
    s: &Segments<'_, f32>,
    slope: &[f32],
    slope_of: impl LookUp,
    place: impl Adder,
    runs: Runs,
    source: S,
    dy: *const f32,
    dz: *mut f32,
    of_tails: *mut f32,
) -> [f64; 2] {
    let scale = Scale::new(s.knots);
    let mut ring = MaybeUninit::<Ring>::uninit();
    // SAFETY: places within the ring, which nothing else refers to.
    let (offsets, pairs) = unsafe { (&raw mut (*ring.as_mut_ptr()).offsets, &raw mut (*ring.as_mut_ptr()).pairs) };
    let (offsets, pairs) = (offsets.cast::<[u32; LANES]>(), pairs.cast::<[f32; 2 * LANES]>());
    let mean = _mm512_set1_ps(source.mean());
    let (mut of_x, mut of_1) = (0.0, 0.0);
    let mut vectors = 0;
    let whole = runs.len / LANES * LANES;
    for (start, next) in runs.starts() {
        for first in (0..whole).step_by(IN_SINGLE) {
            let (mut with_x, mut alone) = (_mm512_setzero_ps(), _mm512_setzero_ps());
            for k in (first..whole.min(first + IN_SINGLE)).step_by(LANES) {
                let ahead = if k + AHEAD < whole { start + k + AHEAD } else { next + k % AHEAD };
                source.prefetch(ahead);
                fetch(dy, ahead);
                fetch_to_write(dz, ahead);
                // SAFETY: 16 elements from start + k on are within the run and the slots within the ring; a slot is added LAG
                // vectors after it was written.
                unsafe {
                    let g = _mm512_loadu_ps(dy.add(start + k));
                    let (x, z) = source.vector(start + k);
                    let (i, t) = locate(z, scale);
                    let of_z = _mm512_mul_ps(g, slope_of.get(i));
                    _mm512_storeu_ps(dz.add(start + k), of_z);
                    if S::NORMALISED {
                        with_x = _mm512_fmadd_ps(of_z, _mm512_sub_ps(x, mean), with_x);
                        alone = _mm512_add_ps(alone, of_z);
                    }
                    _mm512_storeu_si512(
                        offsets.add(vectors % RING).cast(),
                        place.offsets(_mm512_add_epi32(i, scale.centre)),
                    );
                    let (gt, slot) = (_mm512_mul_ps(g, t), pairs.add(vectors % RING).cast::<f32>());
                    _mm512_storeu_ps(slot, _mm512_unpacklo_ps(g, gt));
                    _mm512_storeu_ps(slot.add(LANES), _mm512_unpackhi_ps(g, gt));
                    vectors += 1;
                    if vectors > LAG {
                        let slot = (vectors - 1 - LAG) % RING;
                        place.add(offsets.add(slot).cast(), pairs.add(slot).cast());
                    }
                }
            }
            if S::NORMALISED {
                of_x += f64::from(_mm512_reduce_add_ps(with_x));
                of_1 += f64::from(_mm512_reduce_add_ps(alone));
            }
        }
    }
    for vector in vectors.saturating_sub(LAG)..vectors {
        // SAFETY: these were written and not yet added.
        unsafe { place.add(offsets.add(vector % RING).cast(), pairs.add(vector % RING).cast()) };
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

/// # Safety
/// As for [`Kernel::backward`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn backward_from(
    s: &Segments<'_, f32>,
    slope: &[f32],
    runs: Runs,
    source: impl Source,
    dy: *const f32,
    dz: *mut f32,
    sums: &mut Sums<f32>,
) -> [f64; 2] {
    // SAFETY: by the caller's promise.
    unsafe {
        match sums.place(slope.len()) {
            Place::ByPair { pairs, row, single } => {
                let place = ByPair { sums: pairs.as_mut_ptr(), row: _mm512_set1_epi64(4 * row as i64) };
                backward(s, slope, Table::load(slope, s.knots), place, runs, source, dy, dz, single.as_mut_ptr())
            }
            Place::BySegment(sums) => {
                let place = BySegment::new(sums);
                if slope.len() <= IN_REGISTERS {
                    backward(s, slope, Table::load(slope, s.knots), place, runs, source, dy, dz, place.sums)
                } else {
                    backward(s, slope, Gathered::new(slope, s.knots), place, runs, source, dy, dz, place.sums)
                }
            }
        }
    }
}

impl Kernel<f32> for Avx512 {
    unsafe fn forward(self, s: &Segments<'_, f32>, argument: Argument<f32>, runs: Runs, x: *const f32, y: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe {
            match argument {
                Argument::Input => forward_from(s, runs, Plain(x), y),
                Argument::Line(line) => forward_from(s, runs, Affine::new(x, line), y),
                Argument::Sum(line, r) => forward_from(s, runs, AffineSum(Affine::new(x, line), r), y),
            }
        }
    }

    unsafe fn backward(
        self,
        s: &Segments<'_, f32>,
        slope: &[f32],
        argument: Argument<f32>,
        runs: Runs,
        x: *const f32,
        dy: *const f32,
        dz: *mut f32,
        sums: &mut Sums<f32>,
    ) -> [f64; 2] {
        // SAFETY: by the caller's promise.
        unsafe {
            match argument {
                Argument::Input => backward_from(s, slope, runs, Plain(x), dy, dz, sums),
                Argument::Line(line) => backward_from(s, slope, runs, Affine::new(x, line), dy, dz, sums),
                Argument::Sum(line, r) => {
                    backward_from(s, slope, runs, AffineSum(Affine::new(x, line), r), dy, dz, sums)
                }
            }
        }
    }
}
