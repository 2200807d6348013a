//! CPU kernels of the linear spline, chosen at run time: AVX-512, AVX2 + FMA, or portable code. For f32 the registers of the
//! first two are planned by hand; f64 goes through plain loops, compiled for AVX2 or the baseline.

#[cfg(target_arch = "x86_64")]
mod adder;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod channels;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod loops;
mod normalised;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod source;
mod sums;
mod units;

pub use channels::Channels;
pub use normalised::Normalised;
pub use sums::Sums;

use channels::runs_of;
use kernel::{Argument, Knots};

use crate::Grid;
use crate::backend::parallel::{SharedSlice, filled, for_each_piece};
use crate::backend::planes::Planes;
use crate::backend::pointwise::sum_of_blocks;
use crate::backend::real::Real;
use crate::backend::simd::{Instructions, instructions};
use candle_core::Result;

pub(super) fn forward<T: Real>(grid: Grid, planes: Planes, x: &[T], c: &[T]) -> Result<Vec<T>> {
    forward_with(instructions(), grid, planes, x, c)
}

pub(super) fn backward<T: Real>(grid: Grid, planes: Planes, x: &[T], c: &[T], dy: &[T]) -> Result<(Vec<T>, Vec<T>)> {
    backward_with(instructions(), grid, planes, x, c, dy)
}

pub(crate) fn forward_with<T: Real>(
    instructions: Instructions,
    grid: Grid,
    planes: Planes,
    x: &[T],
    c: &[T],
) -> Result<Vec<T>> {
    if planes.inner < units::SMALL {
        return units::forward(grid.size(), planes, Knots::new(grid), x, c);
    }
    let channels = Channels::with(instructions, grid, c);
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(blocks * planes.channels, x.len(), |piece| {
            let (block, channel) = (piece / planes.channels, piece % planes.channels);
            let (first, runs) = runs_of(planes, block * rows..planes.outer.min((block + 1) * rows), channel);
            let y = y.pointer(first, runs.reach());
            let x = &x[first..first + runs.reach()];
            // SAFETY: both reach to the end of the last run, and every plane belongs to one piece only.
            unsafe { channels.forward_runs(channel, Argument::Input, runs, x.as_ptr(), y) };
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, and the kernels write each one without reading it.
    unsafe { filled(x.len(), fill) }
}

pub(crate) fn backward_with<T: Real>(
    instructions: Instructions,
    grid: Grid,
    planes: Planes,
    x: &[T],
    c: &[T],
    dy: &[T],
) -> Result<(Vec<T>, Vec<T>)> {
    let size = grid.size();
    if planes.inner < units::SMALL {
        return units::backward(size, planes, Knots::new(grid), x, c, dy);
    }
    let channels = Channels::with(instructions, grid, c);
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let mut partial = vec![T::ZERO; blocks * planes.channels * size];
    let partials = SharedSlice::new(&mut partial);
    let fill = |dx: &mut [T]| {
        let dx = SharedSlice::new(dx);
        for_each_piece(blocks * planes.channels, x.len(), |piece| {
            let (block, channel) = (piece / planes.channels, piece % planes.channels);
            let (first, runs) = runs_of(planes, block * rows..planes.outer.min((block + 1) * rows), channel);
            let mut sums = channels.sums(runs.count * runs.len);
            let dx = dx.pointer(first, runs.reach());
            let reached = first..first + runs.reach();
            let (x, dy) = (&x[reached.clone()], &dy[reached]);
            // SAFETY: all reach to the end of the last run, and every plane belongs to one piece only.
            unsafe { channels.backward_runs(channel, Argument::Input, runs, x.as_ptr(), dy.as_ptr(), dx, &mut sums) };
            // SAFETY: every piece has its own row of partial sums.
            let partial = unsafe { partials.part(piece * size, size) };
            sums.merge_into(partial);
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, and the kernels write each one without reading it.
    let dx = unsafe { filled(x.len(), fill)? };
    Ok((dx, sum_of_blocks(partial, planes.channels * size)))
}

#[cfg(test)]
mod tests;
