//! f32 kernels with AVX-512: up to 65 knots the tables stay in registers and a look-up is a permutation; beyond that it is
//! a gather from the first-level cache.

use super::{COPIES, Kernel, Segments, block};
use std::arch::x86_64::*;

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

/// (index of the segment, t) of 16 inputs.
#[inline]
#[target_feature(enable = "avx512f")]
fn locate(x: __m512, step: __m512, centre: __m512, last: __m512) -> (__m512i, __m512) {
    let u = _mm512_add_ps(_mm512_div_ps(x, step), centre);
    // The second operand is taken where u is NaN, so the index is always valid.
    let clamped = _mm512_min_ps(_mm512_max_ps(u, _mm512_setzero_ps()), last);
    let index = _mm512_cvttps_epi32(clamped);
    (index, _mm512_sub_ps(u, _mm512_cvtepi32_ps(index)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn forward(s: &Segments<'_, f32>, value: impl LookUp, rise: impl LookUp, x: &[f32], y: &mut [f32]) {
    let (step, centre, last) = (_mm512_set1_ps(s.step), _mm512_set1_ps(s.centre), _mm512_set1_ps(s.last));
    let (blocks, tail) = x.as_chunks::<LANES>();
    let (y_blocks, y_tail) = y.as_chunks_mut::<LANES>();
    for (x, y) in blocks.iter().zip(y_blocks) {
        // SAFETY: 16 floats each; indices are clamped to the tables.
        unsafe {
            let (i, t) = locate(_mm512_loadu_ps(x.as_ptr()), step, centre, last);
            _mm512_storeu_ps(y.as_mut_ptr(), _mm512_fmadd_ps(t, rise.get(i), value.get(i)));
        }
    }
    for (&x, y) in tail.iter().zip(y_tail) {
        let (i, t) = block::locate(x, s.step, s.centre, s.last);
        *y = t.mul_add(s.rise[i], s.value[i]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn backward(
    s: &Segments<'_, f32>,
    slope: &[f32],
    slope_of: impl LookUp,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let (step, centre, last) = (_mm512_set1_ps(s.step), _mm512_set1_ps(s.centre), _mm512_set1_ps(s.last));
    let copy = sums.len() / COPIES;
    assert!(copy == 2 * slope.len());
    let lane_copy: [i32; LANES] = std::array::from_fn(|lane| ((lane % COPIES) * copy) as i32);
    // SAFETY: 16 integers.
    let lane_copy = unsafe { _mm512_loadu_si512(lane_copy.as_ptr().cast()) };
    let (blocks, tail) = x.as_chunks::<LANES>();
    let (dy_blocks, dy_tail) = dy.as_chunks::<LANES>();
    let (dx_blocks, dx_tail) = dx.as_chunks_mut::<LANES>();
    let mut at = [0i32; LANES];
    // Pairs (∂y, ∂y·t): `unpack` puts lanes 0, 1, 4, 5, 8, … into the first half and 2, 3, 6, 7, … into the second.
    let mut pairs = [0f32; 2 * LANES];
    const ORDER: [usize; LANES] = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15];
    for ((x, dy), dx) in blocks.iter().zip(dy_blocks).zip(dx_blocks) {
        // SAFETY: 16 floats each; indices are clamped to K−2, and a copy of the sums has 2(K−1) entries, so each pair of
        // floats at `at` is inside.
        unsafe {
            let g = _mm512_loadu_ps(dy.as_ptr());
            let (i, t) = locate(_mm512_loadu_ps(x.as_ptr()), step, centre, last);
            _mm512_storeu_ps(dx.as_mut_ptr(), _mm512_mul_ps(g, slope_of.get(i)));
            let address = _mm512_add_epi32(_mm512_slli_epi32::<1>(i), lane_copy);
            _mm512_storeu_si512(at.as_mut_ptr().cast(), address);
            let gt = _mm512_mul_ps(g, t);
            _mm512_storeu_ps(pairs.as_mut_ptr(), _mm512_unpacklo_ps(g, gt));
            _mm512_storeu_ps(pairs.as_mut_ptr().add(LANES), _mm512_unpackhi_ps(g, gt));
            for (k, &lane) in ORDER.iter().enumerate() {
                let sum = sums.as_mut_ptr().add(*at.get_unchecked(lane) as usize).cast::<f64>();
                // Two floats at once, moved as one 8-byte number.
                let pair = _mm_castpd_ps(_mm_load_sd(pairs.as_ptr().add(2 * k).cast()));
                let total = _mm_add_ps(_mm_castpd_ps(_mm_load_sd(sum)), pair);
                _mm_store_sd(sum, _mm_castps_pd(total));
            }
        }
    }
    for ((&x, &dy), dx) in tail.iter().zip(dy_tail).zip(dx_tail) {
        let (i, t) = block::locate(x, s.step, s.centre, s.last);
        *dx = dy * slope[i];
        sums[2 * i] += dy;
        sums[2 * i + 1] += dy * t;
    }
}

impl Kernel<f32> for Avx512 {
    fn forward(self, s: &Segments<'_, f32>, x: &[f32], y: &mut [f32]) {
        // SAFETY: this kernel is only chosen where the machine has AVX-512F and DQ.
        unsafe {
            if s.value.len() <= IN_REGISTERS {
                forward(s, Table::load(s.value), Table::load(s.rise), x, y);
            } else {
                forward(s, Gathered(s.value), Gathered(s.rise), x, y);
            }
        }
    }

    fn backward(self, s: &Segments<'_, f32>, slope: &[f32], x: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut [f32]) {
        // SAFETY: as above.
        unsafe {
            if slope.len() <= IN_REGISTERS {
                backward(s, slope, Table::load(slope), x, dy, dx, sums);
            } else {
                backward(s, slope, Gathered(slope), x, dy, dx, sums);
            }
        }
    }
}
