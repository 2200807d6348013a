//! f32 kernels with AVX2: tables are read from the first-level cache, one element after the other; a gather does the same and
//! takes longer on many machines.

use super::kernel::{Argument, Kernel, Knots, Runs, Segments};
use super::loops::{backward_at, forward_at};
use super::simd::{Lines, Simd, Slopes};
use super::sums::{COPIES, Sums};
use std::arch::x86_64::*;

const LANES: usize = 8;

/// For machines with AVX2 and FMA, and on those with AVX-512 for more segments than fit into registers.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Where the offsets of a vector's elements are put to be read one by one.
#[inline(always)]
unsafe fn one_by_one(segments: __m256i) -> [i32; LANES] {
    let mut places = [0i32; LANES];
    // SAFETY: eight integers; the caller has AVX2.
    unsafe { _mm256_storeu_si256(places.as_mut_ptr().cast(), segments) };
    places
}

/// (value, rise) of each segment, from the knot at 0 on.
#[derive(Clone, Copy)]
struct Pairs(*const [f32; 2]);

impl Lines<Avx2> for Pairs {
    #[inline(always)]
    unsafe fn at(self, segments: __m256i, t: __m256) -> __m256 {
        // SAFETY: the caller has AVX2, and segments within the table; a pair is moved as one number of 8 bytes.
        unsafe {
            let places = one_by_one(segments);
            let at = |lane: usize| self.0.offset(places[lane] as isize).cast::<f64>();
            let two = |lane: usize| _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(at(lane)), at(lane + 1)));
            let low = _mm256_set_m128(two(4), two(0));
            let high = _mm256_set_m128(two(6), two(2));
            let value = _mm256_shuffle_ps::<0b10_00_10_00>(low, high);
            let rise = _mm256_shuffle_ps::<0b11_01_11_01>(low, high);
            _mm256_fmadd_ps(t, rise, value)
        }
    }
}

/// The slope of each segment, from the knot at 0 on.
#[derive(Clone, Copy)]
struct OneTable(*const f32);

impl Slopes<Avx2> for OneTable {
    #[inline(always)]
    unsafe fn of(self, segments: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let places = one_by_one(segments);
            let at = |lane: usize| *self.0.offset(places[lane] as isize);
            _mm256_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7))
        }
    }
}

/// [`Knots`] in all lanes.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    step: __m256,
    first: __m256,
    last: __m256,
    centre: __m256i,
}

impl Simd for Avx2 {
    type Vector = __m256;
    type Integers = __m256i;
    type Scale = Scale;

    #[inline(always)]
    unsafe fn scale(knots: Knots<f32>) -> Scale {
        // SAFETY: the caller has AVX2, here and below.
        unsafe {
            Scale {
                step: _mm256_set1_ps(knots.step),
                first: _mm256_set1_ps(knots.first),
                last: _mm256_set1_ps(knots.last),
                centre: _mm256_set1_epi32(knots.centre),
            }
        }
    }
    #[inline(always)]
    unsafe fn locate(z: __m256, s: Scale) -> (__m256i, __m256) {
        // SAFETY: as above.
        unsafe {
            let u = _mm256_div_ps(z, s.step);
            // The second operand is taken where u is NaN, so the segment is always valid.
            let segment = _mm256_floor_ps(_mm256_min_ps(_mm256_max_ps(u, s.first), s.last));
            (_mm256_cvtps_epi32(segment), _mm256_sub_ps(u, segment))
        }
    }
    #[inline(always)]
    unsafe fn from_first(segments: __m256i, s: Scale) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(segments, s.centre) }
    }
    #[inline(always)]
    unsafe fn interleave(g: __m256, h: __m256) -> (__m256, __m256) {
        // SAFETY: as above.
        unsafe { (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h)) }
    }
    #[inline(always)]
    unsafe fn offsets_by_pair(segments: __m256i, row: u32) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let first = _mm256_mul_epu32(segments, _mm256_set1_epi64x(i64::from(row)));
            // The second segment times 16: what is shifted in from the first is zeros.
            _mm256_add_epi64(first, _mm256_srli_epi64::<28>(segments))
        }
    }
    #[inline(always)]
    unsafe fn offsets_by_segment(segments: __m256i, first: &[u32; COPIES]) -> __m256i {
        // SAFETY: as above; eight integers are read.
        unsafe {
            let order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
            let first = _mm256_loadu_si256(first.as_ptr().cast());
            _mm256_add_epi32(_mm256_slli_epi32::<1>(_mm256_permutevar8x32_epi32(segments, order)), first)
        }
    }
    #[inline(always)]
    unsafe fn store(integers: __m256i, to: *mut u32) {
        // SAFETY: as above, and writable by the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), integers) }
    }
}

impl Kernel<f32> for Avx2 {
    unsafe fn forward(self, s: &Segments<'_, f32>, argument: Argument<f32>, runs: Runs, x: *const f32, y: *mut f32) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn run(s: &Segments<'_, f32>, argument: Argument<f32>, runs: Runs, x: *const f32, y: *mut f32) {
            let lines: Vec<[f32; 2]> = s.value.iter().zip(s.rise).map(|(&value, &rise)| [value, rise]).collect();
            let lines = Pairs(lines[s.knots.centre as usize..].as_ptr());
            // SAFETY: by the promise of the method around this function.
            unsafe { forward_at::<Avx2>(s, lines, argument, runs, x, y) }
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
        #[target_feature(enable = "avx2,fma")]
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
            let slopes = OneTable(slope[s.knots.centre as usize..].as_ptr());
            // SAFETY: as above.
            unsafe { backward_at::<Avx2>(s, slope, slopes, argument, runs, x, dy, dz, sums) }
        }
        // SAFETY: by the caller's promise.
        unsafe { run(s, slope, argument, runs, x, dy, dz, sums) }
    }
}
