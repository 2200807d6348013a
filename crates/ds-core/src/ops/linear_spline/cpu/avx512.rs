//! f32 kernels with AVX-512: up to 65 knots the tables stay in registers and a look-up is a permutation; beyond that it is
//! a gather from the first-level cache.

use super::{COPIES, Kernel, Runs, Segments, block};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

const LANES: usize = 16;
/// Segments that fit into the four registers of a [`Table`].
const IN_REGISTERS: usize = 64;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// A table of up to 64 numbers in four registers.
#[derive(Clone, Copy)]
struct Table([__m512; 4]);

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(values: &[f32]) -> Self {
        let mut padded = [0f32; IN_REGISTERS];
        padded[..values.len()].copy_from_slice(values);
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

/// A table in memory.
#[derive(Clone, Copy)]
struct Gathered<'a>(&'a [f32]);

/// How a kernel finds the number of a segment.
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

impl LookUp for Gathered<'_> {
    #[inline(always)]
    unsafe fn get(self, index: __m512i) -> __m512 {
        // SAFETY: the caller has AVX-512F and indices within the table.
        unsafe { _mm512_i32gather_ps::<4>(index, self.0.as_ptr()) }
    }
}

/// The constants of [`locate`] in all lanes.
#[derive(Clone, Copy)]
struct Scale {
    step: __m512,
    centre: __m512,
    last: __m512,
}

impl Scale {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(s: &Segments<'_, f32>) -> Self {
        let [step, centre, last] = [s.step, s.centre, s.last].map(|value| _mm512_set1_ps(value));
        Self { step, centre, last }
    }
}

/// (index of the segment, t) of 16 inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn locate(x: __m512, s: Scale) -> (__m512i, __m512) {
    // The divider works beside the units that the rest keeps busy: a product with the inverse, corrected to round as a
    // division does, takes longer.
    let u = _mm512_add_ps(_mm512_div_ps(x, s.step), s.centre);
    // The second operand is taken where u is NaN, so the index is always valid.
    let clamped = _mm512_min_ps(_mm512_max_ps(u, _mm512_setzero_ps()), s.last);
    let index = _mm512_cvttps_epi32(clamped);
    (index, _mm512_sub_ps(u, _mm512_cvtepi32_ps(index)))
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
    let scale = Scale::new(s);
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
                let (i, t) = block::locate(*x.add(k), s.step, s.centre, s.last);
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
/// How far ahead memory is asked for, in elements.
const AHEAD: usize = 512;

/// # Safety
/// As for [`Kernel::backward`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
#[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
unsafe fn backward(
    s: &Segments<'_, f32>,
    slope: &[f32],
    slope_of: impl LookUp,
    runs: Runs,
    x: *const f32,
    dy: *const f32,
    dx: *mut f32,
    sums: &mut [f32],
) {
    let scale = Scale::new(s);
    let copy = sums.len() / COPIES;
    assert!(copy == 2 * slope.len());
    // `unpack` puts the pairs (∂y, ∂y·t) of elements 0, 1, 4, 5, 8, … into one vector and those of 2, 3, 6, 7, … into another:
    // in that order the addresses are kept, too, and neighbours in that order have different copies of the sums.
    let order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    let copies: [i32; LANES] = std::array::from_fn(|lane| ((lane % COPIES) * copy) as i32);
    // SAFETY: 16 integers.
    let copies = unsafe { _mm512_loadu_si512(copies.as_ptr().cast()) };
    let mut at = [const { MaybeUninit::<u32>::uninit() }; RING * LANES];
    let mut pairs = [const { MaybeUninit::<f32>::uninit() }; 2 * RING * LANES];
    let (at, pairs) = (at.as_mut_ptr().cast::<u32>(), pairs.as_mut_ptr().cast::<f32>());
    let sums_at = sums.as_mut_ptr();
    // SAFETY of its calls: slot `vector % RING` holds addresses of pairs within the sums, segments being clamped to K−2.
    let add = |vector: usize| unsafe {
        let (at, pairs) = (at.add(vector % RING * LANES), pairs.add(vector % RING * 2 * LANES));
        add_pairs(sums_at, at, pairs);
        add_pairs(sums_at, at.add(4), pairs.add(8));
        add_pairs(sums_at, at.add(8), pairs.add(16));
        add_pairs(sums_at, at.add(12), pairs.add(24));
    };
    let mut vectors = 0;
    let whole = runs.len / LANES * LANES;
    for (start, next) in runs.starts() {
        for k in (0..whole).step_by(LANES) {
            let ahead = if k + AHEAD < whole { start + k + AHEAD } else { next + k % AHEAD };
            let here = start + k;
            // SAFETY: here + 16 is within the run and the slot within the ring; a prefetch may go anywhere.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(ahead).cast());
                _mm_prefetch::<_MM_HINT_T0>(dy.wrapping_add(ahead).cast());
                _mm_prefetch::<_MM_HINT_ET0>(dx.wrapping_add(ahead).cast());
                let g = _mm512_loadu_ps(dy.add(here));
                let (i, t) = locate(_mm512_loadu_ps(x.add(here)), scale);
                _mm512_storeu_ps(dx.add(here), _mm512_mul_ps(g, slope_of.get(i)));
                let address = _mm512_add_epi32(_mm512_slli_epi32::<1>(_mm512_permutexvar_epi32(order, i)), copies);
                let slot = vectors % RING * LANES;
                _mm512_storeu_si512(at.add(slot).cast(), address);
                let gt = _mm512_mul_ps(g, t);
                _mm512_storeu_ps(pairs.add(2 * slot), _mm512_unpacklo_ps(g, gt));
                _mm512_storeu_ps(pairs.add(2 * slot + LANES), _mm512_unpackhi_ps(g, gt));
            }
            vectors += 1;
            if vectors > LAG {
                add(vectors - 1 - LAG);
            }
        }
    }
    for vector in vectors.saturating_sub(LAG)..vectors {
        add(vector);
    }
    for (start, _) in runs.starts() {
        for k in start + whole..start + runs.len {
            // SAFETY: within the run.
            unsafe {
                let (x, dy) = (*x.add(k), *dy.add(k));
                let (i, t) = block::locate(x, s.step, s.centre, s.last);
                *dx.add(k) = dy * slope[i];
                sums[2 * i] += dy;
                sums[2 * i + 1] += dy * t;
            }
        }
    }
}

/// Adds four pairs of floats to the sums at four addresses.
///
/// # Safety
/// The addresses must be pairs within the sums, and neighbours must differ.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn add_pairs(sums: *mut f32, at: *const u32, pairs: *const f32) {
    // SAFETY: by the caller's promise; a pair of floats is moved as one number of 8 bytes.
    unsafe {
        let add_two = |at: *const u32, pairs: *const f32| {
            let (first, second) = (sums.add(*at as usize).cast::<f64>(), sums.add(*at.add(1) as usize).cast::<f64>());
            let both = _mm_loadh_pd(_mm_load_sd(first), second);
            let both = _mm_castps_pd(_mm_add_ps(_mm_castpd_ps(both), _mm_loadu_ps(pairs)));
            _mm_storel_pd(first, both);
            _mm_storeh_pd(second, both);
        };
        add_two(at, pairs);
        add_two(at.add(2), pairs.add(4));
    }
}

impl Kernel<f32> for Avx512 {
    unsafe fn forward(self, s: &Segments<'_, f32>, runs: Runs, x: *const f32, y: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe {
            if s.value.len() <= IN_REGISTERS {
                forward(s, Table::load(s.value), Table::load(s.rise), runs, x, y);
            } else {
                forward(s, Gathered(s.value), Gathered(s.rise), runs, x, y);
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
        sums: &mut [f32],
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            if slope.len() <= IN_REGISTERS {
                backward(s, slope, Table::load(slope), runs, x, dy, dx, sums);
            } else {
                backward(s, slope, Gathered(slope), runs, x, dy, dx, sums);
            }
        }
    }
}
