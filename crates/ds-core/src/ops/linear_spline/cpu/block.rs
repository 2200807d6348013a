//! The plain kernels, in blocks that the compiler turns into vectors: one source for f32 and f64, compiled for the
//! baseline and for AVX2 + FMA.

use super::kernel::{Argument, Kernel, Knots, Line, Runs, Segments};
use super::sums::{COPIES, Place, Sums};
use crate::backend::real::Real;
use std::slice::{from_raw_parts, from_raw_parts_mut};

pub(super) const BLOCK: usize = 32;

/// The segment of x, counted from the first, and the position t in it.
#[inline(always)]
pub(super) fn locate<T: Real>(x: T, knots: Knots<T>) -> (usize, T) {
    let (i, t) = locate_from_centre(x, knots);
    ((i + knots.centre) as usize, t)
}

#[inline(always)]
fn locate_from_centre<T: Real>(x: T, knots: Knots<T>) -> (i32, T) {
    let u = x / knots.step;
    let clamped = u.maximum(knots.first).minimum(knots.last);
    // SAFETY: the clamp keeps the value between the first and the last segment; a NaN becomes the first.
    let toward_0 = unsafe { clamped.trunc_to_i32() };
    // The largest integer that is not above it: a call of `floor` would keep a loop from vectors.
    let i = toward_0 - i32::from(T::from_i32(toward_0) > clamped);
    (i, u - T::from_i32(i))
}

/// The same for a block.
#[inline(always)]
pub(super) fn locate_block<T: Real>(knots: Knots<T>, x: &[T; BLOCK], index: &mut [i32; BLOCK], t: &mut [T; BLOCK]) {
    for j in 0..BLOCK {
        let (i, position) = locate_from_centre(x[j], knots);
        (index[j], t[j]) = (i + knots.centre, position);
    }
}

/// One plane's arguments.
#[derive(Clone, Copy)]
enum PlaneArgument<'a, T> {
    Input,
    Line(Line<T>),
    Sum(Line<T>, &'a [T]),
}

impl<T: Real> Argument<T> {
    /// Those of the plane that begins `start` elements after the first.
    ///
    /// # Safety
    /// `len` elements of the residual must be readable from there on, for as long as the result is used.
    #[inline(always)]
    unsafe fn of_plane<'a>(self, start: usize, len: usize) -> PlaneArgument<'a, T> {
        match self {
            Self::Input => PlaneArgument::Input,
            Self::Line(line) => PlaneArgument::Line(line),
            // SAFETY: by the caller's promise.
            Self::Sum(line, r) => PlaneArgument::Sum(line, unsafe { from_raw_parts(r.add(start), len) }),
        }
    }
}

impl<T: Real> PlaneArgument<'_, T> {
    /// z for `N` inputs, the first of which is element `first` of the plane.
    #[inline(always)]
    fn of<const N: usize>(self, first: usize, x: [T; N]) -> [T; N] {
        match self {
            Self::Input => x,
            Self::Line(line) => x.map(|x| line.scale * x + line.shift),
            Self::Sum(line, r) => {
                let r = &r[first..first + N];
                std::array::from_fn(|j| (line.scale * x[j] + line.shift) + r[j])
            }
        }
    }

    fn mean(self) -> Option<T> {
        match self {
            Self::Input => None,
            Self::Line(line) | Self::Sum(line, _) => Some(line.mean),
        }
    }
}

#[inline(always)]
fn forward<T: Real>(s: &Segments<'_, T>, argument: PlaneArgument<'_, T>, x: &[T], y: &mut [T]) {
    let (mut index, mut t) = ([0i32; BLOCK], [T::ZERO; BLOCK]);
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (y_blocks, y_tail) = y.as_chunks_mut::<BLOCK>();
    for ((k, x), y) in blocks.iter().enumerate().zip(y_blocks) {
        locate_block(s.knots, &argument.of(k * BLOCK, *x), &mut index, &mut t);
        for j in 0..BLOCK {
            // SAFETY: 0 <= index <= K−2, and both tables have K−1 entries.
            let (value, rise) = unsafe {
                let i = index[j] as usize;
                (*s.value.get_unchecked(i), *s.rise.get_unchecked(i))
            };
            y[j] = value + t[j] * rise;
        }
    }
    let first = x.len() - tail.len();
    for ((k, &x), y) in tail.iter().enumerate().zip(y_tail) {
        let [z] = argument.of(first + k, [x]);
        let (i, t) = locate(z, s.knots);
        *y = s.value[i] + t * s.rise[i];
    }
}

/// (Σ ∂z·(x − mean), Σ ∂z), and 0 where z is x.
#[inline(always)]
fn backward<T: Real>(
    s: &Segments<'_, T>,
    slope: &[T],
    argument: PlaneArgument<'_, T>,
    x: &[T],
    dy: &[T],
    dz: &mut [T],
    sums: &mut Sums<T>,
) -> [f64; 2] {
    let (mut index, mut t) = ([0i32; BLOCK], [T::ZERO; BLOCK]);
    let (mut with_x, mut alone) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK]);
    assert_eq!(s.value.len(), slope.len());
    let mut place = sums.place(slope.len());
    let (blocks, tail) = x.as_chunks::<BLOCK>();
    let (dy_blocks, dy_tail) = dy.as_chunks::<BLOCK>();
    let (dz_blocks, dz_tail) = dz.as_chunks_mut::<BLOCK>();
    for (((k, x), dy), dz) in blocks.iter().enumerate().zip(dy_blocks).zip(dz_blocks) {
        locate_block(s.knots, &argument.of(k * BLOCK, *x), &mut index, &mut t);
        for j in 0..BLOCK {
            // SAFETY: 0 <= index <= K−2, and there are K−1 slopes.
            dz[j] = dy[j] * unsafe { *slope.get_unchecked(index[j] as usize) };
        }
        if let Some(mean) = argument.mean() {
            for j in 0..BLOCK {
                with_x[j] += dz[j] * (x[j] - mean);
            }
            for j in 0..BLOCK {
                alone[j] += dz[j];
            }
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
    let first = x.len() - tail.len();
    for (((k, &x), &dy), dz) in tail.iter().enumerate().zip(dy_tail).zip(dz_tail) {
        let [z] = argument.of(first + k, [x]);
        let (i, t) = locate(z, s.knots);
        *dz = dy * slope[i];
        if let Some(mean) = argument.mean() {
            with_x[0] += *dz * (x - mean);
            alone[0] += *dz;
        }
        single[2 * i] += dy;
        single[2 * i + 1] += dy * t;
    }
    [with_x, alone].map(|lanes| lanes.iter().map(|lane| lane.to_f64()).sum())
}

/// # Safety
/// As for [`Kernel::forward`].
#[inline(always)]
unsafe fn forward_runs<T: Real>(s: &Segments<'_, T>, argument: Argument<T>, runs: Runs, x: *const T, y: *mut T) {
    for (start, _) in runs.starts() {
        // SAFETY: by the caller's promise.
        let (x, y, argument) = unsafe {
            let (x, y) = (from_raw_parts(x.add(start), runs.len), from_raw_parts_mut(y.add(start), runs.len));
            (x, y, argument.of_plane(start, runs.len))
        };
        forward(s, argument, x, y);
    }
}

/// # Safety
/// As for [`Kernel::backward`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "those of a kernel")]
unsafe fn backward_runs<T: Real>(
    s: &Segments<'_, T>,
    slope: &[T],
    argument: Argument<T>,
    runs: Runs,
    x: *const T,
    dy: *const T,
    dz: *mut T,
    sums: &mut Sums<T>,
) -> [f64; 2] {
    let mut products = [0.0; 2];
    for (start, _) in runs.starts() {
        // SAFETY: by the caller's promise.
        let (x, dy, dz, argument) = unsafe {
            let inputs = (from_raw_parts(x.add(start), runs.len), from_raw_parts(dy.add(start), runs.len));
            let dz = from_raw_parts_mut(dz.add(start), runs.len);
            (inputs.0, inputs.1, dz, argument.of_plane(start, runs.len))
        };
        let of_plane = backward(s, slope, argument, x, dy, dz, sums);
        products = [products[0] + of_plane[0], products[1] + of_plane[1]];
    }
    products
}

macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident $(, $features:literal)?) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl<T: Real> Kernel<T> for $name {
            unsafe fn forward(self, s: &Segments<'_, T>, argument: Argument<T>, runs: Runs, x: *const T, y: *mut T) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run<T: Real>(
                    s: &Segments<'_, T>,
                    argument: Argument<T>,
                    runs: Runs,
                    x: *const T,
                    y: *mut T,
                ) {
                    // SAFETY: by the promise of the method around this function.
                    unsafe { forward_runs(s, argument, runs, x, y) }
                }
                // SAFETY: by the caller's promise.
                unsafe { run(s, argument, runs, x, y) }
            }
            unsafe fn backward(
                self,
                s: &Segments<'_, T>,
                slope: &[T],
                argument: Argument<T>,
                runs: Runs,
                x: *const T,
                dy: *const T,
                dz: *mut T,
                sums: &mut Sums<T>,
            ) -> [f64; 2] {
                $(#[target_feature(enable = $features)])?
                #[expect(clippy::too_many_arguments, reason = "those of a kernel")]
                unsafe fn run<T: Real>(
                    s: &Segments<'_, T>,
                    slope: &[T],
                    argument: Argument<T>,
                    runs: Runs,
                    x: *const T,
                    dy: *const T,
                    dz: *mut T,
                    sums: &mut Sums<T>,
                ) -> [f64; 2] {
                    // SAFETY: by the promise of the method around this function.
                    unsafe { backward_runs(s, slope, argument, runs, x, dy, dz, sums) }
                }
                // SAFETY: by the caller's promise.
                unsafe { run(s, slope, argument, runs, x, dy, dz, sums) }
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
