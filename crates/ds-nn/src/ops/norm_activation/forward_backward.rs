//! The passes over the channels.

use super::kernels::{
    Rectified, input_gradient, input_gradient_in_place, normalise, plane_squares, plane_sum, products,
    rectifier_gradient, rectify,
};
use super::{Function, Moments, NormActivation};
use candle_core::Result;
use ds_core::backend::parallel::{SERIAL_BELOW, SharedSlice, filled, for_each_piece};
use ds_core::backend::planes::Planes;
use ds_core::backend::real::Real;
use ds_core::ops::linear_spline::Channels;
use rayon::prelude::*;
use std::ops::Range;

/// Elements whose gradients are summed in their own type before the sums go on in f64.
const IN_SINGLE: usize = 4096;

/// How the planes of a channel are cut, and whether its pieces are worth threads of their own.
#[derive(Clone, Copy)]
struct Cut {
    planes: Planes,
    rows: usize,
    nested: bool,
}

impl Cut {
    fn new(planes: Planes) -> Self {
        let many = planes.elements() >= SERIAL_BELOW && rayon::current_num_threads() > planes.channels;
        Self { planes, rows: planes.rows_per_piece(), nested: many }
    }

    /// Calls `f` for every channel.
    fn channels(self, f: impl Fn(usize) + Send + Sync) {
        for_each_piece(self.planes.channels, self.planes.elements(), f);
    }

    /// `f` of each piece of a channel: some rows, whatever the number of threads.
    fn pieces<R: Send>(self, f: impl Fn(Range<usize>) -> R + Send + Sync) -> Vec<R> {
        let Self { planes, rows, nested } = self;
        let piece = |first: usize| f(first..planes.outer.min(first + rows));
        if nested {
            (0..planes.outer.div_ceil(rows)).into_par_iter().map(|k| piece(k * rows)).collect()
        } else {
            (0..planes.outer).step_by(rows).map(piece).collect()
        }
    }

    /// The elements of some rows of a channel.
    fn of_rows(self, channel: usize, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        rows.map(move |n| {
            let start = self.planes.offset(n, channel);
            start..start + self.planes.inner
        })
    }

    /// Σ over the planes of a channel, in the order of the pieces.
    fn sum<T: Real>(self, channel: usize, f: impl Fn(Range<usize>) -> T + Send + Sync) -> f64 {
        let of_piece = |rows| self.of_rows(channel, rows).map(|plane| f(plane).to_f64()).sum::<f64>();
        self.pieces(of_piece).into_iter().sum()
    }
}

/// A range in parts of at most [`IN_SINGLE`].
fn parts(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(IN_SINGLE).map(move |start| start..end.min(start + IN_SINGLE))
}

/// γ and β of each channel, and the coefficients of all.
struct Split<T> {
    lines: Vec<(T, T)>,
    coefficients: Vec<T>,
}

impl<T: Real> Split<T> {
    fn new(function: Function, parameters: &[T]) -> Self {
        let rows = || parameters.chunks_exact(function.width());
        Self {
            lines: rows().map(|row| (row[0], row[1])).collect(),
            coefficients: rows().flat_map(|row| row[2..].iter().copied()).collect(),
        }
    }

    fn kind(&self, function: Function) -> Kind<'_, T> {
        match function {
            Function::Identity => Kind::Identity,
            Function::Rectifier { slope } => Kind::Rectifier(T::from_f64(slope)),
            Function::Spline(grid) => Kind::Splines(Channels::new(grid, &self.coefficients)),
        }
    }
}

/// [`Function`] with what its loops need.
enum Kind<'a, T> {
    Identity,
    Rectifier(T),
    Splines(Channels<'a, T>),
}

/// What some rows of a channel give to the gradients.
struct Sums<T> {
    /// Σ ∂z·(x − μ) and Σ ∂z.
    products: [f64; 2],
    coefficients: Vec<T>,
}

impl NormActivation {
    /// y and the moments that x was normalised with: those that are given, or those of the batch.
    pub(super) fn forward<T: Real>(
        &self,
        planes: Planes,
        given: Option<Moments>,
        x: &[T],
        residual: Option<&[T]>,
        parameters: &[T],
    ) -> Result<(Vec<T>, Moments)> {
        let split = Split::new(self.function, parameters);
        let kind = split.kind(self.function);
        let (cut, count) = (Cut::new(planes), (planes.outer * planes.inner) as f64);
        let mut of_batch = vec![[0f64; 2]; if given.is_none() { planes.channels } else { 0 }];
        let batch = SharedSlice::new(&mut of_batch);
        let fill = |y: &mut [T]| {
            let y = SharedSlice::new(y);
            cut.channels(|c| {
                let (mean, variance) = if let Some(given) = &given {
                    (given.mean[c], given.variance[c])
                } else {
                    let mean = cut.sum(c, |plane| plane_sum(&x[plane])) / count;
                    let variance = cut.sum(c, |plane| plane_squares(T::from_f64(mean), &x[plane])) / count;
                    // SAFETY: every channel has its own pair.
                    unsafe { batch.part(c, 1)[0] = [mean, variance] };
                    (mean, variance)
                };
                let z = self.normalised(split.lines[c], (mean, variance), residual);
                let line = [z.scale, z.shift];
                cut.pieces(|rows| {
                    if let Kind::Splines(splines) = &kind {
                        // SAFETY: every plane belongs to one piece only.
                        return unsafe { splines.normalised_forward(c, planes, rows, &z, x, &y) };
                    }
                    for plane in cut.of_rows(c, rows) {
                        // SAFETY: as above.
                        let y = unsafe { y.part(plane.start, plane.len()) };
                        let (x, r) = (&x[plane.clone()], residual.map(|r| &r[plane]));
                        match kind {
                            Kind::Rectifier(slope) => rectify(&line, slope, x, r, y),
                            _ => normalise(&line, x, r, y),
                        }
                    }
                });
            });
            Ok(())
        };
        // SAFETY: the planes cover all elements, and each is written before it is read.
        let y = unsafe { filled(x.len(), fill)? };
        let moments = given.unwrap_or_else(|| {
            let (mean, variance) = of_batch.iter().map(|&[mean, variance]| (mean, variance)).unzip();
            Moments { mean, variance }
        });
        Ok((y, moments))
    }

    /// (∂x, ∂r if there is a residual, ∂parameters).
    #[expect(clippy::type_complexity, reason = "three gradients, one of them optional")]
    pub(super) fn backward<T: Real>(
        &self,
        planes: Planes,
        moments: &Moments,
        x: &[T],
        residual: Option<&[T]>,
        parameters: &[T],
        dy: &[T],
    ) -> Result<(Vec<T>, Option<Vec<T>>, Vec<T>)> {
        let split = Split::new(self.function, parameters);
        let kind = split.kind(self.function);
        let (cut, count) = (Cut::new(planes), (planes.outer * planes.inner) as f64);
        let width = self.function.width();
        let mut gradients = vec![T::ZERO; parameters.len()];
        let shared_gradients = SharedSlice::new(&mut gradients);
        // ∂z goes where ∂r will be, or else where ∂x will be.
        let run = |dx: &mut [T], dr: Option<&mut [T]>| {
            let dx = SharedSlice::new(dx);
            let dr = dr.map(SharedSlice::new);
            let dz = dr.as_ref().unwrap_or(&dx);
            cut.channels(|c| {
                let (mean, deviation) = (moments.mean[c], self.inverse_deviation(moments.variance[c]));
                let z = self.normalised(split.lines[c], (mean, moments.variance[c]), residual);
                let sums = cut.pieces(|rows| {
                    if let Kind::Splines(splines) = &kind {
                        let mut of_splines = splines.sums(rows.len() * planes.inner);
                        // SAFETY: every plane belongs to one piece only.
                        let products =
                            unsafe { splines.normalised_backward(c, planes, rows, &z, x, dy, dz, &mut of_splines) };
                        let mut coefficients = vec![T::ZERO; width - 2];
                        of_splines.merge_into(&mut coefficients);
                        return Sums { products, coefficients };
                    }
                    let mut sum = [0.0; 2];
                    for part in cut.of_rows(c, rows).flat_map(parts) {
                        // SAFETY: as above.
                        let dz = unsafe { dz.part(part.start, part.len()) };
                        let (x, dy, r) = (&x[part.clone()], &dy[part.clone()], residual.map(|r| &r[part]));
                        let of_part = match kind {
                            Kind::Rectifier(slope) => {
                                let of = Rectified { line: [z.scale, z.shift], mean: z.mean, slope };
                                rectifier_gradient(&of, x, r, dy, dz)
                            }
                            _ => {
                                dz.copy_from_slice(dy);
                                products(z.mean, x, dz)
                            }
                        };
                        sum = [sum[0] + of_part[0].to_f64(), sum[1] + of_part[1].to_f64()];
                    }
                    Sums { products: sum, coefficients: Vec::new() }
                });
                // SAFETY: every channel has its own row of parameters.
                let gradients = unsafe { shared_gradients.part(c * width, width) };
                let (mut with_x, mut alone) = (0.0, 0.0);
                for Sums { products: [of_x, of_1], coefficients } in sums {
                    with_x += of_x;
                    alone += of_1;
                    for (sum, dc) in gradients[2..].iter_mut().zip(coefficients) {
                        *sum += dc;
                    }
                }
                gradients[0] = T::from_f64(with_x * deviation);
                gradients[1] = T::from_f64(alone);
                // ∂x = γ/σ·(∂z − mean(∂z) − x̂·mean(∂z·x̂)), as k·∂z + m·x + n with numbers of the channel.
                let k = split.lines[c].0.to_f64() * deviation;
                let line = if self.statistics.training {
                    let m = -k * (with_x / count) * deviation * deviation;
                    [T::from_f64(k), T::from_f64(m), T::from_f64(-k * alone / count - m * mean)]
                } else {
                    [T::from_f64(k), T::ZERO, T::ZERO]
                };
                cut.pieces(|rows| {
                    for plane in cut.of_rows(c, rows) {
                        // SAFETY: as above; ∂r is only read from here on.
                        unsafe {
                            let dx = dx.part(plane.start, plane.len());
                            match &dr {
                                Some(dr) => {
                                    input_gradient(&line, &x[plane.clone()], dr.part(plane.start, plane.len()), dx)
                                }
                                None => input_gradient_in_place(&line, &x[plane], dx),
                            }
                        }
                    }
                });
            });
        };
        // SAFETY: the planes are all elements, and each is written before it is read.
        unsafe {
            if residual.is_none() {
                let dx = filled(x.len(), |dx| {
                    run(dx, None);
                    Ok(())
                })?;
                return Ok((dx, None, gradients));
            }
            let mut dx = None;
            let dr = filled(x.len(), |dr| {
                dx = Some(filled(x.len(), |dx| {
                    run(dx, Some(dr));
                    Ok(())
                })?);
                Ok(())
            })?;
            Ok((dx.unwrap_or_default(), Some(dr), gradients))
        }
    }
}
