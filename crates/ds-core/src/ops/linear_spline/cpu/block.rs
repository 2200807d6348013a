//! The plain kernels, in blocks that the compiler turns into vectors: one source for f32 and f64, compiled for the
//! baseline and for AVX2 + FMA.

use super::sums::{COPIES, Place, Sums};
use super::{Kernel, Knots, Runs, Segments};
use crate::ops::real::Real;
use std::slice::{from_raw_parts, from_raw_parts_mut};

const BLOCK: usize = 32;

/// The segment of x, counted from the first, and the position t in it.
#[inline(always)]
pub(super) fn locate<T: Real>(x: T, knots: Knots<T>) -> (usize, T) {
    let (i, t) = locate_from_centre(x, knots);
    ((i + knots.centre) as usize, t)
}

#[inline(always)]
fn locate_from_centre<T: Real>(x: T, knots: Knots<T>) -> (i32, T) {
    let u = x / knots.step;
    let clamped = u.larger(knots.first).smaller(knots.last);
    // SAFETY: the clamp keeps the value between the first and the last segment; a NaN becomes the first.
    let toward_0 = unsafe { clamped.truncated() };
    // The largest integer that is not above it: a call of `floor` would keep a loop from vectors.
    let i = toward_0 - i32::from(T::of_int(toward_0) > clamped);
    (i, u - T::of_int(i))
}

#[inline(always)]
fn locate_block<T: Real>(knots: Knots<T>, x: &[T; BLOCK], index: &mut [i32; BLOCK], t: &mut [T; BLOCK]) {
    for j in 0..BLOCK {
        let (i, position) = locate_from_centre(x[j], knots);
        (index[j], t[j]) = (i + knots.centre, position);
    }
}

#[inline(always)]
fn forward<T: Real>(s: &Segments<'_, T>, x: &[T], y: &mut [T]) {
    let (mut index, mut t) = ([0i32; BLOCK], [T::ZERO; BLOCK]);
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (y_blocks, y_tail) = y.as_chunks_mut::<BLOCK>();
    for (x, y) in blocks.iter().zip(y_blocks) {
        locate_block(s.knots, x, &mut index, &mut t);
        for j in 0..BLOCK {
            // SAFETY: 0 <= index <= K−2, and both tables have K−1 entries.
            let (value, rise) = unsafe {
                let i = index[j] as usize;
                (*s.value.get_unchecked(i), *s.rise.get_unchecked(i))
            };
            y[j] = value + t[j] * rise;
        }
    }
    for (&x, y) in tail.iter().zip(y_tail) {
        let (i, t) = locate(x, s.knots);
        *y = s.value[i] + t * s.rise[i];
    }
}

#[inline(always)]
fn backward<T: Real>(s: &Segments<'_, T>, slope: &[T], x: &[T], dy: &[T], dx: &mut [T], sums: &mut Sums<T>) {
    let (mut index, mut t) = ([0i32; BLOCK], [T::ZERO; BLOCK]);
    assert_eq!(s.value.len(), slope.len());
    let mut place = sums.place(slope.len());
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (dy_blocks, dy_tail) = dy.as_chunks::<BLOCK>();
    let (dx_blocks, dx_tail) = dx.as_chunks_mut::<BLOCK>();
    for ((x, dy), dx) in blocks.iter().zip(dy_blocks).zip(dx_blocks) {
        locate_block(s.knots, x, &mut index, &mut t);
        for j in 0..BLOCK {
            // SAFETY: 0 <= index <= K−2, and there are K−1 slopes.
            dx[j] = dy[j] * unsafe { *slope.get_unchecked(index[j] as usize) };
        }
        match &mut place {
            Place::ByPair { pairs, row, .. } => {
                for j in (0..BLOCK).step_by(2) {
                    let terms = [dy[j], dy[j] * t[j], dy[j + 1], dy[j + 1] * t[j + 1]];
                    let at = index[j] as usize * *row + 4 * index[j + 1] as usize;
                    // SAFETY: both segments are among the K−1, and each pair has four sums.
                    let sums = unsafe { &mut *pairs.as_mut_ptr().add(at).cast::<[T; 4]>() };
                    for (sum, term) in sums.iter_mut().zip(terms) {
                        *sum += term;
                    }
                }
            }
            Place::BySegment(sums) => {
                let copy = sums.len() / COPIES;
                for j in 0..BLOCK {
                    let at = (j % COPIES) * copy + 2 * index[j] as usize;
                    // SAFETY: each copy has two sums for each segment.
                    unsafe {
                        *sums.get_unchecked_mut(at) += dy[j];
                        *sums.get_unchecked_mut(at + 1) += dy[j] * t[j];
                    }
                }
            }
        }
    }
    let (Place::BySegment(single) | Place::ByPair { single, .. }) = place;
    for ((&x, &dy), dx) in tail.iter().zip(dy_tail).zip(dx_tail) {
        let (i, t) = locate(x, s.knots);
        *dx = dy * slope[i];
        single[2 * i] += dy;
        single[2 * i + 1] += dy * t;
    }
}

/// # Safety
/// As for [`Kernel::forward`].
#[inline(always)]
unsafe fn forward_runs<T: Real>(s: &Segments<'_, T>, runs: Runs, x: *const T, y: *mut T) {
    for (start, _) in runs.starts() {
        // SAFETY: by the caller's promise.
        let (x, y) = unsafe { (from_raw_parts(x.add(start), runs.len), from_raw_parts_mut(y.add(start), runs.len)) };
        forward(s, x, y);
    }
}

/// # Safety
/// As for [`Kernel::backward`].
#[inline(always)]
unsafe fn backward_runs<T: Real>(
    s: &Segments<'_, T>,
    slope: &[T],
    runs: Runs,
    x: *const T,
    dy: *const T,
    dx: *mut T,
    sums: &mut Sums<T>,
) {
    for (start, _) in runs.starts() {
        // SAFETY: by the caller's promise.
        let (x, dy, dx) = unsafe {
            let inputs = (from_raw_parts(x.add(start), runs.len), from_raw_parts(dy.add(start), runs.len));
            (inputs.0, inputs.1, from_raw_parts_mut(dx.add(start), runs.len))
        };
        backward(s, slope, x, dy, dx, sums);
    }
}

macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident $(, $features:literal)?) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl<T: Real> Kernel<T> for $name {
            unsafe fn forward(self, s: &Segments<'_, T>, runs: Runs, x: *const T, y: *mut T) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run<T: Real>(s: &Segments<'_, T>, runs: Runs, x: *const T, y: *mut T) {
                    // SAFETY: by the promise of the method around this function.
                    unsafe { forward_runs(s, runs, x, y) }
                }
                // SAFETY: by the caller's promise.
                unsafe { run(s, runs, x, y) }
            }
            unsafe fn backward(
                self,
                s: &Segments<'_, T>,
                slope: &[T],
                runs: Runs,
                x: *const T,
                dy: *const T,
                dx: *mut T,
                sums: &mut Sums<T>,
            ) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run<T: Real>(
                    s: &Segments<'_, T>,
                    slope: &[T],
                    runs: Runs,
                    x: *const T,
                    dy: *const T,
                    dx: *mut T,
                    sums: &mut Sums<T>,
                ) {
                    // SAFETY: by the promise of the method around this function.
                    unsafe { backward_runs(s, slope, runs, x, dy, dx, sums) }
                }
                // SAFETY: by the caller's promise.
                unsafe { run(s, slope, runs, x, dy, dx, sums) }
            }
        }
    };
}

kernel!(
    /// For the instructions that the target has anyway.
    Portable
);
#[cfg(target_arch = "x86_64")]
kernel!(
    /// For machines with AVX2 and FMA.
    Avx2,
    "avx2,fma"
);
