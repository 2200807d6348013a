//! Threads for kernels: pieces are cut by shape, never by the number of threads, so sums come out the same everywhere.

use candle_core::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Below this many elements a kernel stays on the calling thread: waking another costs more.
pub const SERIAL_BELOW: usize = 32 * 1024;

/// Calls `f` for every piece, in parallel if there is enough work.
pub fn for_each_piece(pieces: usize, work: usize, f: impl Fn(usize) + Send + Sync) {
    if work < SERIAL_BELOW || pieces < 2 {
        (0..pieces).for_each(f);
    } else {
        (0..pieces).into_par_iter().for_each(f);
    }
}

/// A mutable slice of which several threads write disjoint parts.
pub struct SharedSlice<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: the slice is only reached through `part`, whose callers keep the parts disjoint.
unsafe impl<T: Send> Send for SharedSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

impl<T> SharedSlice<T> {
    /// Shares a slice; it must outlive all parts, which the caller's scope sees to.
    pub fn new(slice: &mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The part of `len` elements from `start` on.
    ///
    /// # Safety
    /// No two parts that are alive at once may overlap, and the shared slice must still be alive.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts of one slice, as the safety section demands")]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len, "part {start}+{len} of {}", self.len);
        // SAFETY: in bounds as just checked; disjoint and alive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// A pointer to element `start`, with at least `len` elements from there on; for parts that are not contiguous, which the
    /// caller keeps disjoint.
    pub fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start + len <= self.len, "part {start}+{len} of {}", self.len);
        self.start.wrapping_add(start)
    }
}

/// A vector of `len` elements that `fill` writes completely; it is not zeroed first.
///
/// # Errors
/// Those of `fill`.
///
/// # Safety
/// `fill` must write every element before it returns `Ok`, and must not read one before that.
pub unsafe fn filled<T: Copy>(len: usize, fill: impl FnOnce(&mut [T]) -> Result<()>) -> Result<Vec<T>> {
    let mut data = Vec::<T>::with_capacity(len);
    // SAFETY: the capacity is there; T is Copy (no drop), and `fill` only writes until all is written.
    unsafe {
        fill(std::slice::from_raw_parts_mut(data.as_mut_ptr(), len))?;
        data.set_len(len);
    }
    Ok(data)
}

/// Elements of a piece of a pointwise op.
pub const PIECE: usize = 16 * 1024;

/// A vector of `len` elements that `f` fills piece by piece: it is called with the range of a piece and its elements.
///
/// # Safety
/// `f` must write all elements of its piece, and must not read one before it has written it.
pub unsafe fn in_pieces<T: Copy + Send>(
    len: usize,
    f: impl Fn(Range<usize>, &mut [T]) + Send + Sync,
) -> Result<Vec<T>> {
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(len.div_ceil(PIECE), len, |piece| {
            let range = piece * PIECE..len.min((piece + 1) * PIECE);
            // SAFETY: pieces do not overlap.
            let y = unsafe { y.part(range.start, range.len()) };
            f(range, y);
        });
        Ok(())
    };
    // SAFETY: the pieces cover all elements, and `f` writes those of each by the caller's promise.
    unsafe { filled(len, fill) }
}
