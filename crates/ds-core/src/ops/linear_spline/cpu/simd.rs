//! What the vectors of AVX-512 and of AVX2 do for the f32 kernels.

use super::kernel::Knots;
use super::sums::COPIES;
use crate::backend::lanes::Lanes;

/// Vectors of a machine. All methods must be called where it has their instructions, and are inlined into kernels that are
/// compiled for them.
pub(super) trait Simd: Copy {
    type Vector: Lanes<Element = f32>;
    /// As many integers of 32 bits.
    type Integers: Copy;
    /// What [`locate`](Self::locate) needs of the grid.
    type Scale: Copy;

    /// # Safety
    /// The instructions must be there, here and below.
    unsafe fn scale(knots: Knots<f32>) -> Self::Scale;
    /// (the segments counted from the knot at 0, t); a NaN is in the first or the last segment.
    ///
    /// # Safety
    /// As above.
    unsafe fn locate(z: Self::Vector, scale: Self::Scale) -> (Self::Integers, Self::Vector);
    /// The segments counted from the first one.
    ///
    /// # Safety
    /// As above.
    unsafe fn from_first(segments: Self::Integers, scale: Self::Scale) -> Self::Integers;
    /// (the lower halves of all 128 bits of g and h, element by element in turn; the upper ones).
    ///
    /// # Safety
    /// As above.
    unsafe fn interleave(g: Self::Vector, h: Self::Vector) -> (Self::Vector, Self::Vector);
    /// For neighbours in segments i and j: i·row + j·16, in numbers of 64 bits.
    ///
    /// # Safety
    /// As above.
    unsafe fn offsets_by_pair(segments: Self::Integers, row: u32) -> Self::Integers;
    /// 2·segment + the first of as many numbers as there are, in the order of [`interleave`](Self::interleave).
    ///
    /// # Safety
    /// As above.
    unsafe fn offsets_by_segment(segments: Self::Integers, first: &[u32; COPIES]) -> Self::Integers;
    /// # Safety
    /// As above; as many integers must be writable.
    unsafe fn store(integers: Self::Integers, to: *mut u32);
}

/// Finds the line of each element's segment.
pub(super) trait Lines<W: Simd>: Copy {
    /// value + t·rise.
    ///
    /// # Safety
    /// The instructions must be there, and each segment be one of the K−1, counted from the knot at 0.
    unsafe fn at(self, segments: W::Integers, t: W::Vector) -> W::Vector;
}

/// Finds the slope of each element's segment.
pub(super) trait Slopes<W: Simd>: Copy {
    /// # Safety
    /// As for [`Lines::at`].
    unsafe fn of(self, segments: W::Integers) -> W::Vector;
}
