//! f32 kernels with AVX-512: the tables stay in registers, and a look-up is a permutation.

use super::kernel::{Argument, Kernel, Knots, Runs, Segments};
use super::loops::{backward_at, forward_at};
use super::simd::{Lines, Simd, Slopes};
use super::sums::{COPIES, Sums};
use std::arch::x86_64::*;

const LANES: usize = 16;
/// Segments that fit into the four registers of a [`Table`].
pub(super) const IN_REGISTERS: usize = 64;

/// For machines with AVX-512, and up to [`IN_REGISTERS`] segments.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// A table of up to 64 numbers in four registers, turned so that the knot at 0 comes first and negative segments are at the
/// end: a permutation sees only the last bits of an index.
#[derive(Clone, Copy)]
struct Table([__m512; 4]);

impl Table {
    #[inline(always)]
    unsafe fn load(values: &[f32], knots: Knots<f32>) -> Self {
        let (negative, positive) = values.split_at(knots.centre as usize);
        let mut padded = [0f32; IN_REGISTERS];
        padded[..positive.len()].copy_from_slice(positive);
        padded[IN_REGISTERS - negative.len()..].copy_from_slice(negative);
        // SAFETY: 16 floats from k·16 on are inside the padded array of 64.
        Self([0, 1, 2, 3].map(|k| unsafe { _mm512_loadu_ps(padded.as_ptr().add(k * LANES)) }))
    }

    #[inline(always)]
    unsafe fn look_up(self, index: __m512i) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe {
            let low = _mm512_permutex2var_ps(self.0[0], index, self.0[1]);
            let high = _mm512_permutex2var_ps(self.0[2], index, self.0[3]);
            let is_high = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
            _mm512_mask_blend_ps(is_high, low, high)
        }
    }
}

/// Values and rises.
#[derive(Clone, Copy)]
struct TwoTables(Table, Table);

impl Lines<Avx512> for TwoTables {
    #[inline(always)]
    unsafe fn at(self, segments: __m512i, t: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_fmadd_ps(t, self.1.look_up(segments), self.0.look_up(segments)) }
    }
}

impl Slopes<Avx512> for Table {
    #[inline(always)]
    unsafe fn of(self, segments: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { self.look_up(segments) }
    }
}

/// [`Knots`] in all lanes.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    step: __m512,
    first: __m512,
    last: __m512,
    centre: __m512i,
}

impl Simd for Avx512 {
    type Vector = __m512;
    type Integers = __m512i;
    type Scale = Scale;

    #[inline(always)]
    unsafe fn scale(knots: Knots<f32>) -> Scale {
        // SAFETY: the caller has AVX-512, here and below.
        unsafe {
            Scale {
                step: _mm512_set1_ps(knots.step),
                first: _mm512_set1_ps(knots.first),
                last: _mm512_set1_ps(knots.last),
                centre: _mm512_set1_epi32(knots.centre),
            }
        }
    }
    #[inline(always)]
    unsafe fn locate(z: __m512, s: Scale) -> (__m512i, __m512) {
        // SAFETY: as above.
        unsafe {
            // The divider works beside the units that the rest keeps busy: a product with the inverse, corrected to round as
            // division does, takes longer.
            let u = _mm512_div_ps(z, s.step);
            // The second operand is taken where u is NaN, so the segment is always valid.
            let clamped = _mm512_min_ps(_mm512_max_ps(u, s.first), s.last);
            let segment = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(clamped);
            (_mm512_cvtps_epi32(segment), _mm512_sub_ps(u, segment))
        }
    }
    #[inline(always)]
    unsafe fn from_first(segments: __m512i, s: Scale) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(segments, s.centre) }
    }
    #[inline(always)]
    unsafe fn interleave(g: __m512, h: __m512) -> (__m512, __m512) {
        // SAFETY: as above.
        unsafe { (_mm512_unpacklo_ps(g, h), _mm512_unpackhi_ps(g, h)) }
    }
    #[inline(always)]
    unsafe fn offsets_by_pair(segments: __m512i, row: u32) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let first = _mm512_mul_epu32(segments, _mm512_set1_epi64(i64::from(row)));
            // The second segment times 16: what is shifted in from the first is zeros.
            _mm512_add_epi64(first, _mm512_srli_epi64::<28>(segments))
        }
    }
    #[inline(always)]
    unsafe fn offsets_by_segment(segments: __m512i, first: &[u32; COPIES]) -> __m512i {
        // SAFETY: as above; eight integers are read.
        unsafe {
            let order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            let first = _mm512_broadcast_i64x4(_mm256_loadu_si256(first.as_ptr().cast()));
            _mm512_add_epi32(_mm512_slli_epi32::<1>(_mm512_permutexvar_epi32(order, segments)), first)
        }
    }
    #[inline(always)]
    unsafe fn store(integers: __m512i, to: *mut u32) {
        // SAFETY: as above, and writable by the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), integers) }
    }
}

impl Kernel<f32> for Avx512 {
    unsafe fn forward(self, s: &Segments<'_, f32>, argument: Argument<f32>, runs: Runs, x: *const f32, y: *mut f32) {
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
        unsafe fn run(s: &Segments<'_, f32>, argument: Argument<f32>, runs: Runs, x: *const f32, y: *mut f32) {
            // SAFETY: by the promise of the method around this function.
            unsafe {
                let lines = TwoTables(Table::load(s.value, s.knots), Table::load(s.rise, s.knots));
                forward_at::<Avx512>(s, lines, argument, runs, x, y);
            }
        }
        // SAFETY: by the caller's promise.
        unsafe { run(s, argument, runs, x, y) }
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
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
        #[expect(clippy::too_many_arguments, reason = "those of a kernel")]
        unsafe fn run(
            s: &Segments<'_, f32>,
            slope: &[f32],
            argument: Argument<f32>,
            runs: Runs,
            x: *const f32,
            dy: *const f32,
            dz: *mut f32,
            sums: &mut Sums<f32>,
        ) -> [f64; 2] {
            // SAFETY: as above.
            unsafe {
                let slopes = Table::load(slope, s.knots);
                backward_at::<Avx512>(s, slope, slopes, argument, runs, x, dy, dz, sums)
            }
        }
        // SAFETY: by the caller's promise.
        unsafe { run(s, slope, argument, runs, x, dy, dz, sums) }
    }
}
