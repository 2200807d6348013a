//! Splines of what batch norm, or its sum with a residual branch, makes of x.

use super::channels::{Channels, runs_of};
use super::kernel::{Argument, Line};
use super::sums::Sums;
use crate::backend::parallel::SharedSlice;
use crate::backend::planes::Planes;
use crate::backend::real::Real;
use std::ops::Range;

/// z = scale·x + shift of one channel, or z = scale·x + shift + r.
#[derive(Debug, Clone, Copy)]
pub struct Normalised<'a, T> {
    /// γ/σ.
    pub scale: T,
    /// β − μ·γ/σ.
    pub shift: T,
    /// μ, for the sum of the backward pass.
    pub mean: T,
    /// The whole residual r, of the same shape as x.
    pub residual: Option<&'a [T]>,
}

impl<T: Real> Normalised<'_, T> {
    /// The argument for runs that begin at an element and reach so far.
    fn argument(&self, first: usize, reach: usize) -> Argument<T> {
        let line = Line { scale: self.scale, shift: self.shift, mean: self.mean };
        match self.residual {
            None => Argument::Line(line),
            Some(residual) => Argument::Sum(line, residual[first..first + reach].as_ptr()),
        }
    }
}

impl<T: Real> Channels<'_, T> {
    /// y = σ(z) for some rows of a channel; x, y and the residual are those of all channels.
    ///
    /// # Safety
    /// Nobody else may use these elements of y at the same time.
    pub unsafe fn normalised_forward(
        &self,
        channel: usize,
        planes: Planes,
        rows: Range<usize>,
        z: &Normalised<'_, T>,
        x: &[T],
        y: &SharedSlice<T>,
    ) {
        if rows.is_empty() || planes.inner == 0 {
            return;
        }
        let (first, runs) = runs_of(planes, rows, channel);
        let (argument, y) = (z.argument(first, runs.reach()), y.pointer(first, runs.reach()));
        let x = &x[first..first + runs.reach()];
        // SAFETY: all reach to the end of the last run; y is ours by the caller's promise.
        unsafe { self.forward_runs(channel, argument, runs, x.as_ptr(), y) };
    }

    /// ∂z = ∂y·σ'(z) for some rows of a channel; what they give to ∂c is added to `sums`. Returns (Σ ∂z·(x − mean), Σ ∂z).
    ///
    /// # Safety
    /// Nobody else may use these elements of ∂z at the same time.
    #[expect(clippy::too_many_arguments, reason = "where, what at, two inputs, two outputs")]
    pub unsafe fn normalised_backward(
        &self,
        channel: usize,
        planes: Planes,
        rows: Range<usize>,
        z: &Normalised<'_, T>,
        x: &[T],
        dy: &[T],
        dz: &SharedSlice<T>,
        sums: &mut Sums<T>,
    ) -> [f64; 2] {
        if rows.is_empty() || planes.inner == 0 {
            return [0.0; 2];
        }
        let (first, runs) = runs_of(planes, rows, channel);
        let (argument, dz) = (z.argument(first, runs.reach()), dz.pointer(first, runs.reach()));
        let (x, dy) = (&x[first..first + runs.reach()], &dy[first..first + runs.reach()]);
        // SAFETY: as above.
        unsafe { self.backward_runs(channel, argument, runs, x.as_ptr(), dy.as_ptr(), dz, sums) }
    }
}
