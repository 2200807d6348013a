//! The splines of all channels, and the kernel that each call takes.

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::block;
#[cfg(target_arch = "x86_64")]
use super::kernel::is_f32;
use super::kernel::{Argument, Kernel, Knots, Runs, Segments};
use super::sums::Sums;
use crate::Grid;
use crate::backend::planes::Planes;
use crate::backend::real::Real;
use crate::backend::simd::{Instructions, instructions};

/// The splines of all channels, with the tables their kernels look values up in, for ops that fuse a spline with what comes
/// before it.
pub struct Channels<'a, T> {
    instructions: Instructions,
    grid: Grid,
    coefficients: &'a [T],
    rises: Vec<T>,
    slopes: Vec<T>,
}

impl<'a, T: Real> Channels<'a, T> {
    /// Splines with coefficients (C, K).
    pub fn new(grid: Grid, coefficients: &'a [T]) -> Self {
        Self::with(instructions(), grid, coefficients)
    }

    pub(super) fn with(instructions: Instructions, grid: Grid, coefficients: &'a [T]) -> Self {
        let rises: Vec<T> =
            coefficients.chunks_exact(grid.size()).flat_map(|c| c.windows(2).map(|w| w[1] - w[0])).collect();
        let step = T::from_f64(grid.step());
        let slopes = rises.iter().map(|&r| r / step).collect();
        Self { instructions, grid, coefficients, rises, slopes }
    }

    fn segments(&self, channel: usize) -> Segments<'_, T> {
        let size = self.grid.size();
        Segments {
            value: &self.coefficients[channel * size..(channel + 1) * size - 1],
            rise: &self.rises[self.of(channel)],
            knots: Knots::new(self.grid),
        }
    }

    /// Whether the machine has registers for the tables.
    #[cfg(target_arch = "x86_64")]
    fn fits_registers(&self) -> bool {
        self.instructions == Instructions::Avx512 && self.grid.size() - 1 <= avx512::IN_REGISTERS
    }

    /// The segments of a channel in the tables.
    fn of(&self, channel: usize) -> std::ops::Range<usize> {
        channel * (self.grid.size() - 1)..(channel + 1) * (self.grid.size() - 1)
    }

    /// # Safety
    /// As for [`Kernel::forward`].
    pub(super) unsafe fn forward_runs(
        &self,
        channel: usize,
        argument: Argument<T>,
        runs: Runs,
        x: *const T,
        y: *mut T,
    ) {
        let segments = &self.segments(channel);
        // SAFETY: by the caller's promise; the casts are for f32 only and keep the type.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if is_f32::<T>() && self.instructions >= Instructions::Avx2 {
                let (segments, argument) = (&*std::ptr::from_ref(segments).cast(), argument.as_f32());
                if self.fits_registers() {
                    avx512::Avx512.forward(segments, argument, runs, x.cast(), y.cast());
                } else {
                    avx2::Avx2.forward(segments, argument, runs, x.cast(), y.cast());
                }
                return;
            }
            match self.instructions {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 | Instructions::Avx512 => block::Avx2.forward(segments, argument, runs, x, y),
                _ => block::Portable.forward(segments, argument, runs, x, y),
            }
        }
    }

    /// # Safety
    /// As for [`Kernel::backward`].
    #[expect(clippy::too_many_arguments, reason = "those of a kernel")]
    pub(super) unsafe fn backward_runs(
        &self,
        channel: usize,
        argument: Argument<T>,
        runs: Runs,
        x: *const T,
        dy: *const T,
        dz: *mut T,
        sums: &mut Sums<T>,
    ) -> [f64; 2] {
        let (segments, slope) = (&self.segments(channel), &self.slopes[self.of(channel)]);
        // SAFETY: as above.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if is_f32::<T>() && self.instructions >= Instructions::Avx2 {
                let (segments, argument) = (&*std::ptr::from_ref(segments).cast(), argument.as_f32());
                let slope = &*(std::ptr::from_ref(slope) as *const [f32]);
                let (x, dy, dz) = (x.cast(), dy.cast(), dz.cast());
                let sums = &mut *std::ptr::from_mut(sums).cast::<Sums<f32>>();
                return if self.fits_registers() {
                    avx512::Avx512.backward(segments, slope, argument, runs, x, dy, dz, sums)
                } else {
                    avx2::Avx2.backward(segments, slope, argument, runs, x, dy, dz, sums)
                };
            }
            match self.instructions {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 | Instructions::Avx512 => {
                    block::Avx2.backward(segments, slope, argument, runs, x, dy, dz, sums)
                }
                _ => block::Portable.backward(segments, slope, argument, runs, x, dy, dz, sums),
            }
        }
    }

    /// Zeros for [`normalised_backward`](Self::normalised_backward) to add to, for that many elements in all.
    pub fn sums(&self, elements: usize) -> Sums<T> {
        Sums::new(self.grid.size() - 1, elements)
    }
}

/// (the first element, the planes from there on) of some rows of a channel.
pub(super) fn runs_of(planes: Planes, rows: std::ops::Range<usize>, channel: usize) -> (usize, Runs) {
    let runs = Runs { count: rows.len(), len: planes.inner, stride: planes.channels * planes.inner };
    (planes.offset(rows.start, channel), runs)
}
