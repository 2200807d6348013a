//! What the f32 kernels evaluate a spline at, vector by vector.

use super::kernel::Line;
use crate::backend::lanes::Lanes;
use std::arch::x86_64::*;

/// What the spline is evaluated at.
pub(super) trait Source<L>: Copy {
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
pub(super) struct Plain(pub *const f32);

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
        prefetch_read(self.0, at);
    }
    #[inline(always)]
    fn mean(self) -> f32 {
        0.0
    }
}

/// z = scale·x + shift.
#[derive(Clone, Copy)]
pub(super) struct Affine<L> {
    x: *const f32,
    line: Line<f32>,
    scale: L,
    shift: L,
}

impl<L: Lanes<Element = f32>> Affine<L> {
    /// # Safety
    /// The instructions must be there.
    #[inline(always)]
    pub unsafe fn new(x: *const f32, line: Line<f32>) -> Self {
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
            (x, self.scale.mul_add(x, self.shift))
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
        prefetch_read(self.x, at);
    }
    #[inline(always)]
    fn mean(self) -> f32 {
        self.line.mean
    }
}

/// z = scale·x + shift + r.
#[derive(Clone, Copy)]
pub(super) struct AffineSum<L>(pub Affine<L>, pub *const f32);

impl<L: Lanes<Element = f32>> Source<L> for AffineSum<L> {
    const NORMALISED: bool = true;

    #[inline(always)]
    unsafe fn vector(self, at: usize) -> (L, L) {
        // SAFETY: as above.
        unsafe {
            let (x, z) = self.0.vector(at);
            (x, z.add(L::load(self.1.add(at))))
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
        prefetch_read(self.1, at);
    }
    #[inline(always)]
    fn mean(self) -> f32 {
        self.0.line.mean
    }
}

#[inline(always)]
pub(super) fn prefetch_read(from: *const f32, at: usize) {
    // SAFETY: a prefetch may go anywhere.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at).cast()) };
}

#[inline(always)]
pub(super) fn prefetch_write(to: *mut f32, at: usize) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_add(at).cast()) };
}
