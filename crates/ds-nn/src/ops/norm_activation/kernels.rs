//! The loops over the elements of a plane.

use ds_core::backend::pointwise::{rectified, rectified_gradient, sum_of_pairs};
use ds_core::backend::real::Real;
use std::iter::repeat;

/// Elements that share a step of a loop, for the compiler to put into vectors.
const LANES: usize = 16;

ds_core::vectorized! {
    /// Σ x.
    pub(in crate::ops) fn plane_sum<T>(x: &[T]) -> T {
        let mut lanes = [T::ZERO; LANES];
        let (blocks, tail) = x.as_chunks::<LANES>();
        for block in blocks {
            for (lane, &x) in lanes.iter_mut().zip(block) {
                *lane += x;
            }
        }
        total(lanes, tail.iter().copied())
    }
}

ds_core::vectorized! {
    /// Σ (x − mean)².
    pub(super) fn plane_squares<T>(mean: T, x: &[T]) -> T {
        let mut lanes = [T::ZERO; LANES];
        let (blocks, tail) = x.as_chunks::<LANES>();
        for block in blocks {
            for (lane, &x) in lanes.iter_mut().zip(block) {
                *lane += (x - mean) * (x - mean);
            }
        }
        total(lanes, tail.iter().map(|&x| (x - mean) * (x - mean)))
    }
}

ds_core::vectorized! {
    /// [Σ ∂z·(x − mean), Σ ∂z].
    pub(super) fn products<T>(mean: T, x: &[T], dz: &[T]) -> [T; 2] {
        [sum_of_pairs(x, dz, |x, dz| dz * (x - mean)), sum_of_pairs(x, dz, |_, dz| dz)]
    }
}

ds_core::vectorized! {
    /// z = scale·x + shift + r, with `line` = [scale, shift].
    pub(super) fn normalise<T>(line: &[T; 2], x: &[T], r: Option<&[T]>, z: &mut [T]) {
        match r {
            None => {
                for (z, &x) in z.iter_mut().zip(x) {
                    *z = line[0] * x + line[1];
                }
            }
            Some(r) => {
                for ((z, &x), &r) in z.iter_mut().zip(x).zip(r) {
                    *z = (line[0] * x + line[1]) + r;
                }
            }
        }
    }
}

ds_core::vectorized! {
    /// The rectifier of the same.
    pub(super) fn rectify<T>(line: &[T; 2], slope: T, x: &[T], r: Option<&[T]>, y: &mut [T]) {
        match r {
            None => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = rectified(slope, line[0] * x + line[1]);
                }
            }
            Some(r) => {
                for ((y, &x), &r) in y.iter_mut().zip(x).zip(r) {
                    *y = rectified(slope, (line[0] * x + line[1]) + r);
                }
            }
        }
    }
}

/// What a rectifier's backward pass knows of a channel.
pub(super) struct Rectified<T> {
    /// [scale, shift].
    pub line: [T; 2],
    pub mean: T,
    /// That of the negative side.
    pub slope: T,
}

ds_core::vectorized! {
    /// ∂z of a rectifier, and [Σ ∂z·(x − mean), Σ ∂z].
    pub(super) fn rectifier_gradient<T>(
        of: &Rectified<T>,
        x: &[T],
        r: Option<&[T]>,
        dy: &[T],
        dz: &mut [T],
    ) -> [T; 2] {
        match r {
            None => gradient_and_sums(of, x, repeat(&[T::ZERO; LANES]), repeat(&T::ZERO), dy, dz),
            Some(r) => {
                let (blocks, tail) = r.as_chunks::<LANES>();
                gradient_and_sums(of, x, blocks.iter(), tail.iter(), dy, dz)
            }
        }
    }
}

#[inline(always)]
fn gradient_and_sums<'a, T: Real>(
    of: &Rectified<T>,
    x: &[T],
    residual: impl Iterator<Item = &'a [T; LANES]>,
    residual_tail: impl Iterator<Item = &'a T>,
    dy: &[T],
    dz: &mut [T],
) -> [T; 2] {
    let [scale, shift] = of.line;
    let gradient = |x: T, r: T, dy: T| rectified_gradient(of.slope, (scale * x + shift) + r, dy);
    let (mut with_x, mut alone) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    let ((xs, x_tail), (dys, dy_tail)) = (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
    let (dzs, dz_tail) = dz.as_chunks_mut::<LANES>();
    for (((x, r), dy), dz) in xs.iter().zip(residual).zip(dys).zip(dzs) {
        // A loop for each result: one for all would mix the lanes.
        for lane in 0..LANES {
            dz[lane] = gradient(x[lane], r[lane], dy[lane]);
        }
        for lane in 0..LANES {
            with_x[lane] += dz[lane] * (x[lane] - of.mean);
        }
        for lane in 0..LANES {
            alone[lane] += dz[lane];
        }
    }
    for (((&x, &r), &dy), dz) in x_tail.iter().zip(residual_tail).zip(dy_tail).zip(dz_tail) {
        *dz = gradient(x, r, dy);
        with_x[0] += *dz * (x - of.mean);
        alone[0] += *dz;
    }
    [total(with_x, []), total(alone, [])]
}

ds_core::vectorized! {
    /// dx = k·dz + m·x + shift.
    pub(super) fn input_gradient<T>(line: &[T; 3], x: &[T], dz: &[T], dx: &mut [T]) {
        let [k, m, shift] = *line;
        for ((dx, &x), &dz) in dx.iter_mut().zip(x).zip(dz) {
            *dx = k * dz + m * x + shift;
        }
    }
}

ds_core::vectorized! {
    /// The same where ∂x takes the place of ∂z.
    pub(super) fn input_gradient_in_place<T>(line: &[T; 3], x: &[T], dx: &mut [T]) {
        let [k, m, shift] = *line;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = k * *dx + m * x + shift;
        }
    }
}

#[inline(always)]
fn total<T: Real>(lanes: [T; LANES], tail: impl IntoIterator<Item = T>) -> T {
    let mut sum = T::ZERO;
    for term in lanes.into_iter().chain(tail) {
        sum += term;
    }
    sum
}
