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

    impl Lanes for __m256 {
        type Element = f32;
        const COUNT: usize = 8;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller's promise, here and below.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn reduce_add(self) -> f32 {
            let mut lanes = [0f32; 8];
            // SAFETY: as above.
            unsafe { self.store(lanes.as_mut_ptr()) };
            let half: [f32; 4] = std::array::from_fn(|k| lanes[k] + lanes[k + 4]);
            (half[0] + half[2]) + (half[1] + half[3])
        }
    }

    impl Lanes for __m512 {
        type Element = f32;
        const COUNT: usize = 16;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller's promise, here and below.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn reduce_add(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(self) }
        }
    }
}
