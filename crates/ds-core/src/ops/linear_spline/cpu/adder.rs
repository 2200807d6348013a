//! Where the f32 kernels add what elements give to ∂c, vector by vector.

use super::simd::Simd;
use super::sums::COPIES;
use crate::backend::lanes::Lanes;
use std::arch::x86_64::*;

/// Where the sums of a vector's elements are added.
pub(super) trait Adder<W: Simd>: Copy {
    /// Where the elements in these segments, counted from the first, are added.
    ///
    /// # Safety
    /// The instructions must be there, and each segment be one of the K−1.
    unsafe fn offsets(self, segments: W::Integers) -> W::Integers;

    /// Adds (∂y, ∂y·t) of each element, in the order of [`Simd::interleave`].
    ///
    /// # Safety
    /// `offsets` must be what the method of that name gave.
    unsafe fn add(self, offsets: *const u32, pairs: *const f32);
}

/// Sums by segment, in copies.
#[derive(Clone, Copy)]
pub(super) struct BySegment {
    pub sums: *mut f32,
    /// Where each copy begins.
    copies: [u32; COPIES],
}

impl BySegment {
    pub fn new(sums: &mut [f32]) -> Self {
        let copy = sums.len() / COPIES;
        Self { sums: sums.as_mut_ptr(), copies: std::array::from_fn(|k| (k * copy) as u32) }
    }
}

impl<W: Simd> Adder<W> for BySegment {
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
pub(super) struct ByPair {
    pub sums: *mut f32,
    /// The bytes of a row of pairs.
    pub row: u32,
}

impl<W: Simd> Adder<W> for ByPair {
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
