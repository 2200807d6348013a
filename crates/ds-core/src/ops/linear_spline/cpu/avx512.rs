//! f32 kernels with AVX-512: up to 65 knots the tables stay in registers and a look-up is a permutation; beyond that it is
//! a gather from the first-level cache.

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
    x: *const f32,
    y: *mut f32,
) {
    let scale = Scale::new(s.knots);
    let whole = runs.len / LANES * LANES;
    for (start, next) in runs.starts() {
        // SAFETY: 16 floats each, within the run; indices are clamped to the tables; a prefetch may go anywhere.
        unsafe {
            let (x, y, x_next, y_next) = (x.add(start), y.add(start), x.add(next), y.add(next));
            for k in (0..whole).step_by(LANES) {
                // The processor foresees the rest of a plane, but not where the next one is.
                _mm_prefetch::<_MM_HINT_T0>(x_next.add(k).cast());
                _mm_prefetch::<_MM_HINT_ET0>(y_next.add(k).cast());
                let (i, t) = locate(_mm512_loadu_ps(x.add(k)), scale);
                _mm512_storeu_ps(y.add(k), _mm512_fmadd_ps(t, rise.get(i), value.get(i)));
            }
            for k in whole..runs.len {
                let (i, t) = block::locate(*x.add(k), s.knots);
                *y.add(k) = t.mul_add(s.rise[i], s.value[i]);
            }
        }
    }
}

/// Vectors between the one whose addresses are computed and the one whose sums are added: no addition waits for an address
/// on its way to memory, and both keep the processor's units busy at once.
const LAG: usize = 4;
/// Vectors that wait, with room for the one being written.
const RING: usize = 8;

/// What waits, each vector in a cache line of its own.
#[repr(align(64))]
struct Ring {
    offsets: [[u32; LANES]; RING],
    pairs: [[f32; 2 * LANES]; RING],
}

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
unsafe fn backward(
    s: &Segments<'_, f32>,
    slope: &[f32],
    slope_of: impl LookUp,
    place: impl Adder,
    runs: Runs,
    x: *const f32,
    dy: *const f32,
    dx: *mut f32,
    of_tails: *mut f32,
) {
    let scale = Scale::new(s.knots);
    let mut ring = MaybeUninit::<Ring>::uninit();
    // SAFETY: places within the ring, which nothing else refers to.
    let (offsets, pairs) = unsafe { (&raw mut (*ring.as_mut_ptr()).offsets, &raw mut (*ring.as_mut_ptr()).pairs) };
    let (offsets, pairs) = (offsets.cast::<[u32; LANES]>(), pairs.cast::<[f32; 2 * LANES]>());
    let mut vectors = 0;
    let whole = runs.len / LANES * LANES;
    for (start, next) in runs.starts() {
        for k in (0..whole).step_by(LANES) {
            let ahead = if k + AHEAD < whole { start + k + AHEAD } else { next + k % AHEAD };
            let here = start + k;
            // SAFETY: here + 16 is within the run and the slots within the ring; a prefetch may go anywhere; a slot is added LAG
            // vectors after it was written.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(ahead).cast());
                _mm_prefetch::<_MM_HINT_T0>(dy.wrapping_add(ahead).cast());
                _mm_prefetch::<_MM_HINT_ET0>(dx.wrapping_add(ahead).cast());
                let g = _mm512_loadu_ps(dy.add(here));
                let (i, t) = locate(_mm512_loadu_ps(x.add(here)), scale);
                _mm512_storeu_ps(dx.add(here), _mm512_mul_ps(g, slope_of.get(i)));
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
    }
    for vector in vectors.saturating_sub(LAG)..vectors {
        // SAFETY: these were written and not yet added.
        unsafe { place.add(offsets.add(vector % RING).cast(), pairs.add(vector % RING).cast()) };
    }
    for (start, _) in runs.starts() {
        for k in start + whole..start + runs.len {
            // SAFETY: within the run; each of the K−1 segments has two sums.
            unsafe {
                let (x, dy) = (*x.add(k), *dy.add(k));
                let (i, t) = block::locate(x, s.knots);
                *dx.add(k) = dy * slope[i];
                *of_tails.add(2 * i) += dy;
                *of_tails.add(2 * i + 1) += dy * t;
            }
        }
    }
}

impl Kernel<f32> for Avx512 {
    unsafe fn forward(self, s: &Segments<'_, f32>, runs: Runs, x: *const f32, y: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe {
            if s.value.len() <= IN_REGISTERS {
                forward(s, Table::load(s.value, s.knots), Table::load(s.rise, s.knots), runs, x, y);
            } else {
                forward(s, Gathered::new(s.value, s.knots), Gathered::new(s.rise, s.knots), runs, x, y);
            }
        }
    }

    unsafe fn backward(
        self,
        s: &Segments<'_, f32>,
        slope: &[f32],
        runs: Runs,
        x: *const f32,
        dy: *const f32,
        dx: *mut f32,
        sums: &mut Sums<f32>,
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            match sums.place(slope.len()) {
                Place::ByPair { pairs, row, single } => {
                    let place = ByPair { sums: pairs.as_mut_ptr(), row: _mm512_set1_epi64(4 * row as i64) };
                    backward(s, slope, Table::load(slope, s.knots), place, runs, x, dy, dx, single.as_mut_ptr());
                }
                Place::BySegment(sums) => {
                    let place = BySegment::new(sums);
                    if slope.len() <= IN_REGISTERS {
                        backward(s, slope, Table::load(slope, s.knots), place, runs, x, dy, dx, place.sums);
                    } else {
                        backward(s, slope, Gathered::new(slope, s.knots), place, runs, x, dy, dx, place.sums);
                    }
                }
            }
        }
    }
}
