//! What the CPU kernels of the linear spline take.

use super::sums::Sums;
use crate::Grid;
use crate::backend::real::Real;
#[cfg(target_arch = "x86_64")]
use std::any::TypeId;

/// What an input's segment is found with. Segments are counted from the knot at 0, so that x/step needs no offset that would
/// be rounded again, and an input that is just left of a knot stays there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knots<T> {
    pub step: T,
    /// The first and the last segment.
    pub first: T,
    pub last: T,
    /// The segments left of 0.
    pub centre: i32,
}

impl<T: Real> Knots<T> {
    pub fn new(grid: Grid) -> Self {
        let (centre, last) = (grid.size() as i32 / 2, grid.size() as i32 - 2);
        Self { step: T::from_f64(grid.step()), first: T::from_i32(-centre), last: T::from_i32(last - centre), centre }
    }
}

/// The two tables a kernel looks values up in, for one channel.
///
/// `value[i]` = c_i and `rise[i]` = c_{i+1} − c_i, for the K−1 segments.
pub(super) struct Segments<'a, T> {
    pub value: &'a [T],
    pub rise: &'a [T],
    pub knots: Knots<T>,
}

/// The planes of one channel: `count` of them, `len` elements each, `stride` elements from one to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    pub count: usize,
    pub len: usize,
    pub stride: usize,
}

impl Runs {
    /// Elements from the beginning of the first plane to the end of the last.
    pub fn reach(self) -> usize {
        (self.count - 1) * self.stride + self.len
    }

    /// Where each plane begins, and where the one after it does (the last plane's own beginning for the last).
    pub fn starts(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count).map(move |k| (k * self.stride, (k + 1).min(self.count - 1) * self.stride))
    }
}

/// A kernel over planes of one channel.
pub(super) trait Kernel<T>: Copy + Send + Sync {
    /// y = σ(z).
    ///
    /// # Safety
    /// x, and the residual of the argument, must be readable and y writable at all elements of the runs, the planes of y not
    /// shared, and the machine must have the kernel's instructions.
    unsafe fn forward(self, segments: &Segments<'_, T>, argument: Argument<T>, runs: Runs, x: *const T, y: *mut T);
    /// ∂z = ∂y·σ'(z), and what the elements give to ∂c is added to `sums`; (Σ ∂z·(x − mean), Σ ∂z), which is 0 where z is x.
    ///
    /// # Safety
    /// As for `forward`, with dy like x and dz like y.
    #[expect(clippy::too_many_arguments, reason = "two tables, two inputs, two outputs")]
    unsafe fn backward(
        self,
        segments: &Segments<'_, T>,
        slope: &[T],
        argument: Argument<T>,
        runs: Runs,
        x: *const T,
        dy: *const T,
        dz: *mut T,
        sums: &mut Sums<T>,
    ) -> [f64; 2];
}

/// z = scale·x + shift of one channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<T> {
    pub scale: T,
    pub shift: T,
    pub mean: T,
}

/// What a kernel evaluates a spline at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument<T> {
    /// x.
    Input,
    /// scale·x + shift.
    Line(Line<T>),
    /// scale·x + shift + r, with r from the element on where the kernel's x begins.
    Sum(Line<T>, *const T),
}

#[cfg(target_arch = "x86_64")]
impl<T: Real> Argument<T> {
    /// The same.
    ///
    /// # Panics
    /// If T is not f32.
    pub fn as_f32(self) -> Argument<f32> {
        assert!(is_f32::<T>(), "these are no f32");
        // The conversion changes nothing.
        let line = |line: Line<T>| Line {
            scale: line.scale.to_f64() as f32,
            shift: line.shift.to_f64() as f32,
            mean: line.mean.to_f64() as f32,
        };
        match self {
            Self::Input => Argument::Input,
            Self::Line(of) => Argument::Line(line(of)),
            Self::Sum(of, residual) => Argument::Sum(line(of), residual.cast()),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) fn is_f32<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<f32>()
}
