//! The plain kernels, in blocks that the compiler turns into vectors: one source for f32 and f64, compiled for the
//! baseline and for AVX2 + FMA.

use super::{COPIES, Kernel, Runs, Segments};
use crate::ops::real::Real;
use std::slice::{from_raw_parts, from_raw_parts_mut};

const BLOCK: usize = 32;

/// The segment of x and the position t in it.
#[inline(always)]
pub(super) fn locate<T: Real>(x: T, step: T, centre: T, last: T) -> (usize, T) {
    let u = x / step + centre;
    // SAFETY: the clamp keeps the value within 0..=K−2; a NaN becomes 0.
    let i = unsafe { u.larger(T::ZERO).smaller(last).truncated() };
    (i as usize, u - T::of_int(i))
}

#[inline(always)]
fn locate_block<T: Real>(s: &Segments<'_, T>, x: &[T; BLOCK], index: &mut [i32; BLOCK], t: &mut [T; BLOCK]) {
    for j in 0..BLOCK {
        let u = x[j] / s.step + s.centre;
        // SAFETY: as in `locate`.
        index[j] = unsafe { u.larger(T::ZERO).smaller(s.last).truncated() };
        t[j] = u - T::of_int(index[j]);
    }
}

#[inline(always)]
fn forward<T: Real>(s: &Segments<'_, T>, x: &[T], y: &mut [T]) {
    let (mut index, mut t) = ([0i32; BLOCK], [T::ZERO; BLOCK]);
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (y_blocks, y_tail) = y.as_chunks_mut::<BLOCK>();
    for (x, y) in blocks.iter().zip(y_blocks) {
        locate_block(s, x, &mut index, &mut t);
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
        let (i, t) = locate(x, s.step, s.centre, s.last);
        *y = s.value[i] + t * s.rise[i];
    }
}

#[inline(always)]
fn backward<T: Real>(s: &Segments<'_, T>, slope: &[T], x: &[T], dy: &[T], dx: &mut [T], sums: &mut [T]) {
    let (mut index, mut t) = ([0i32; BLOCK], [T::ZERO; BLOCK]);
    let copy = sums.len() / COPIES;
    assert!(copy == 2 * slope.len() && s.value.len() == slope.len());
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (dy_blocks, dy_tail) = dy.as_chunks::<BLOCK>();
    let (dx_blocks, dx_tail) = dx.as_chunks_mut::<BLOCK>();
    for ((x, dy), dx) in blocks.iter().zip(dy_blocks).zip(dx_blocks) {
        locate_block(s, x, &mut index, &mut t);
        for j in 0..BLOCK {
            let i = index[j] as usize;
            // SAFETY: 0 <= index <= K−2, the slopes have K−1 entries and each copy of the sums twice as many.
            unsafe {
                dx[j] = dy[j] * *slope.get_unchecked(i);
                let at = (j % COPIES) * copy + 2 * i;
                *sums.get_unchecked_mut(at) += dy[j];
                *sums.get_unchecked_mut(at + 1) += dy[j] * t[j];
            }
        }
    }
    for ((&x, &dy), dx) in tail.iter().zip(dy_tail).zip(dx_tail) {
        let (i, t) = locate(x, s.step, s.centre, s.last);
        *dx = dy * slope[i];
        sums[2 * i] += dy;
        sums[2 * i + 1] += dy * t;
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
    sums: &mut [T],
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
                sums: &mut [T],
            ) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run<T: Real>(
                    s: &Segments<'_, T>,
                    slope: &[T],
                    runs: Runs,
                    x: *const T,
                    dy: *const T,
                    dx: *mut T,
                    sums: &mut [T],
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
