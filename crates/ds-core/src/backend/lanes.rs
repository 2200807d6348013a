//! Vectors of numbers for kernels whose registers are planned by hand.

use super::real::Real;

/// A vector of numbers. All methods must be called where the machine has the vector's instructions, and are inlined into
/// kernels that are compiled for them.
pub trait Lanes: Copy {
    /// What it holds.
    type Element: Real;
    /// How many.
    const COUNT: usize;

    /// Reads `COUNT` elements.
    ///
    /// # Safety
    /// The instructions must be there, and the elements readable.
    unsafe fn load(from: *const Self::Element) -> Self;
    /// Writes `COUNT` elements.
    ///
    /// # Safety
    /// The instructions must be there, and the elements writable.
    unsafe fn store(self, to: *mut Self::Element);
    /// One element in all lanes.
    ///
    /// # Safety
    /// The instructions must be there.
    unsafe fn splat(value: Self::Element) -> Self;
    /// self·b + c.
    ///
    /// # Safety
    /// The instructions must be there.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// self + b.
    ///
    /// # Safety
    /// The instructions must be there.
    unsafe fn add(self, b: Self) -> Self;
    /// self − b.
    ///
    /// # Safety
    /// The instructions must be there.
    unsafe fn sub(self, b: Self) -> Self;
    /// self·b.
    ///
    /// # Safety
    /// The instructions must be there.
    unsafe fn mul(self, b: Self) -> Self;
    /// The sum of all lanes.
    ///
    /// # Safety
    /// The instructions must be there.
    unsafe fn reduce_add(self) -> Self::Element;
}

impl<T: Real> Lanes for [T; 4] {
    type Element = T;
    const COUNT: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: writable by the caller's promise.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(value: T) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // Two roundings: a fused operation is a function call where the machine has none.
        std::array::from_fn(|k| self[k] * b[k] + c[k])
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        std::array::from_fn(|k| self[k] + b[k])
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        std::array::from_fn(|k| self[k] - b[k])
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        std::array::from_fn(|k| self[k] * b[k])
    }
    #[inline(always)]
    unsafe fn reduce_add(self) -> T {
        (self[0] + self[2]) + (self[1] + self[3])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// A vector by its instructions; `$reduce` is the sum of its lanes.
    macro_rules! lanes {
        ($vector:ty, $element:ty, $count:literal: $load:ident, $store:ident, $splat:ident, $fused:ident, $add:ident, $sub:ident,
         $mul:ident, $reduce:expr) => {
            impl Lanes for $vector {
                type Element = $element;
                const COUNT: usize = $count;

                #[inline(always)]
                unsafe fn load(from: *const $element) -> Self {
                    // SAFETY: by the caller's promise, here and below.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $element) {
                    // SAFETY: as above.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn splat(value: $element) -> Self {
                    // SAFETY: as above.
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fused(self, b, c) }
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $add(self, b) }
                }
                #[inline(always)]
                unsafe fn sub(self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $sub(self, b) }
                }
                #[inline(always)]
                unsafe fn mul(self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul(self, b) }
                }
                #[inline(always)]
                unsafe fn reduce_add(self) -> $element {
                    // SAFETY: as above.
                    unsafe { $reduce(self) }
                }
            }
        };
    }

    #[inline(always)]
    unsafe fn reduce_ps(v: __m256) -> f32 {
        let mut lanes = [0f32; 8];
        // SAFETY: by the caller's promise.
        unsafe { v.store(lanes.as_mut_ptr()) };
        let half: [f32; 4] = std::array::from_fn(|k| lanes[k] + lanes[k + 4]);
        (half[0] + half[2]) + (half[1] + half[3])
    }

    #[inline(always)]
    unsafe fn reduce_pd(v: __m256d) -> f64 {
        let mut lanes = [0f64; 4];
        // SAFETY: by the caller's promise.
        unsafe { v.store(lanes.as_mut_ptr()) };
        (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
    }

    lanes!(__m256, f32, 8: _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_sub_ps,
        _mm256_mul_ps, reduce_ps);
    lanes!(__m512, f32, 16: _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_sub_ps,
        _mm512_mul_ps, _mm512_reduce_add_ps);
    lanes!(__m256d, f64, 4: _mm256_loadu_pd, _mm256_storeu_pd, _mm256_set1_pd, _mm256_fmadd_pd, _mm256_add_pd, _mm256_sub_pd,
        _mm256_mul_pd, reduce_pd);
    lanes!(__m512d, f64, 8: _mm512_loadu_pd, _mm512_storeu_pd, _mm512_set1_pd, _mm512_fmadd_pd, _mm512_add_pd, _mm512_sub_pd,
        _mm512_mul_pd, _mm512_reduce_add_pd);
}
