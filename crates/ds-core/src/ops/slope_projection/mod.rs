//! Splines whose slopes stay in [−1, 1]: free coefficients are projected on those of a 1-Lipschitz spline.
//!
//! The projection is SplineProj of Ducotterd et al., *Improving Lipschitz-Constrained Neural Networks by Learning
//! Activation Functions* (JMLR 2024, section 4.2): c ↦ D†·Clip(D·c) + mean(c), with D the slopes between neighbouring
//! knots and Clip to [−1, 1]. It keeps the mean of the coefficients, and what is 1-Lipschitz already.

mod gpu;

use crate::backend::gpu::{Address, Gpu, GpuInput};
use crate::backend::op::{Backward, CpuInput, Gradient, Gradients, Op, dyn_op, gradient, gradients2};
use crate::backend::real::{Real, to_f64};
use candle_core::{DType, Result, Shape, bail};
use std::ops::Range;

/// Free coefficients c (C, K) → coefficients (C, K or K+1) of splines with slopes in [−1, 1].
///
/// As the op of two arguments it takes ln α (C) too, for σ̃(x) = σ(α·x)/α with α > 0, and gives the coefficients of σ/α.
///
/// An even K gets one more column that goes on with the last slope. Such a spline is one of odd size whose knots lie T/2
/// further left, so that [`LinearSpline`](super::linear_spline::LinearSpline) evaluates it at x − T/2.
///
/// Sums are in f64. Rounding the result to f32 moves each value by at most ε/2 of itself, so that slopes of what is stored
/// exceed 1 by no more than ε·max|c|/T. A slope that is 1 but for such rounding is free and takes a gradient; one that was
/// clipped takes none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlopeProjection {
    /// K ≥ 2.
    pub size: usize,
    /// The distance T of neighbouring knots.
    pub step: f64,
}

impl SlopeProjection {
    /// The columns of the result: K, or K+1 for an even K.
    pub fn width(&self) -> usize {
        self.size + usize::from(self.size.is_multiple_of(2))
    }

    /// The position of knot `k`; the knots are centred at 0.
    pub(crate) fn knot(&self, k: usize) -> f64 {
        (k as f64 - 0.5 * (self.size - 1) as f64) * self.step
    }

    /// The differences of neighbouring coefficients, clipped to [−T, T].
    pub(crate) fn clipped<'a>(&self, c: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let step = self.step;
        c.windows(2).map(move |c| (c[1] - c[0]).clamp(-step, step))
    }

    /// The projection of one row.
    pub(crate) fn project(&self, c: &[f64]) -> Vec<f64> {
        let mut p = Vec::with_capacity(self.width());
        p.push(0.0);
        // In one pass, since each of the sums is a chain of additions that wait for each other.
        let (mut sum, mut last) = (0.0, 0.0);
        let (mut of_free, mut of_projected) = (c[0], 0.0);
        for (difference, c) in self.clipped(c).zip(&c[1..]) {
            sum += difference;
            last = difference;
            of_free += c;
            of_projected += sum;
            p.push(sum);
        }
        let shift = (of_free - of_projected) / self.size as f64;
        if p.len() < self.width() {
            p.push(sum + last);
        }
        p.iter_mut().for_each(|p| *p += shift);
        p
    }

    /// The gradient of the differences, where they are free, turned into that of one row of coefficients. `epsilon` is the
    /// distance of 1 from the next number in the coefficients' type.
    pub(crate) fn through_clip(&self, c: &[f64], epsilon: f64, of_differences: impl Iterator<Item = f64>) -> Vec<f64> {
        let limit = self.step + 4.0 * epsilon * c.iter().fold(0.0f64, |m, c| m.max(c.abs()));
        let mut gradient = vec![0.0; c.len()];
        for (j, of_difference) in of_differences.enumerate() {
            if (c[j + 1] - c[j]).abs() <= limit {
                gradient[j + 1] += of_difference;
                gradient[j] -= of_difference;
            }
        }
        gradient
    }

    /// The gradient of one row of free coefficients from that of its projection.
    pub(crate) fn pull_back(&self, c: &[f64], epsilon: f64, of_projection: &[f64]) -> Vec<f64> {
        let (of_knots, of_last) = of_projection.split_at(self.size);
        // The column after the last is its neighbour and one more difference.
        let of_last: f64 = of_last.iter().sum();
        let mean = (of_knots.iter().sum::<f64>() + of_last) / self.size as f64;
        let mut of_differences = vec![0.0; self.size - 1];
        let mut sum = of_last;
        for j in (0..self.size - 1).rev() {
            sum += of_knots[j + 1] - mean;
            of_differences[j] = if j == self.size - 2 { sum + of_last } else { sum };
        }
        let mut gradient = self.through_clip(c, epsilon, of_differences.into_iter());
        gradient.iter_mut().for_each(|g| *g += mean);
        gradient
    }

    /// Of `channels` rows.
    pub(crate) fn sizes(&self, channels: usize) -> gpu::Sizes {
        gpu::Sizes { channels, size: self.size, width: self.width(), step: self.step }
    }

    fn channels(&self, c: &Shape, log_alpha: Option<&Shape>) -> Result<usize> {
        if !(self.step > 0.0 && self.step.is_finite()) {
            bail!("{}: the distance of the knots is {}, expected a positive number", Self::NAME, self.step);
        }
        match c.dims() {
            &[channels, size]
                if size == self.size && size > 1 && log_alpha.is_none_or(|alpha| alpha.dims() == [channels]) =>
            {
                Ok(channels)
            }
            _ => bail!(
                "{}: expected coefficients (C, {}) with at least 2 columns and ln α (C), got {c:?} and {log_alpha:?}",
                Self::NAME,
                self.size
            ),
        }
    }

    fn forward<T: Real>(&self, c: &[T], log_alpha: Option<&[T]>) -> Vec<T> {
        let rows = c.chunks_exact(self.size).enumerate();
        rows.flat_map(|(channel, c)| {
            let alpha = log_alpha.map_or(1.0, |log_alpha| log_alpha[channel].to_f64().exp());
            self.project(&to_f64(c)).into_iter().map(move |p| T::from_f64(p / alpha))
        })
        .collect()
    }

    /// (∂c, ∂ln α); of a scaled projection with ln α and the result of the forward pass.
    fn backward<T: Real>(&self, c: &[T], scaled: Option<(&[T], &[T])>, gradient: &[T]) -> (Vec<T>, Vec<T>) {
        let (mut dc, mut d_log_alpha) = (Vec::with_capacity(c.len()), Vec::new());
        let rows = c.chunks_exact(self.size).zip(gradient.chunks_exact(self.width()));
        for (channel, (c, gradient)) in rows.enumerate() {
            let mut gradient = to_f64(gradient);
            if let Some((log_alpha, out)) = scaled {
                let out = &out[channel * self.width()..][..self.width()];
                let of_scale: f64 = out.iter().zip(&gradient).map(|(out, g)| out.to_f64() * g).sum();
                d_log_alpha.push(T::from_f64(-of_scale));
                let alpha = log_alpha[channel].to_f64().exp();
                gradient.iter_mut().for_each(|g| *g /= alpha);
            }
            let of_row = self.pull_back(&to_f64(c), epsilon(T::DTYPE), &gradient);
            dc.extend(of_row.into_iter().map(T::from_f64));
        }
        (dc, d_log_alpha)
    }
}

/// c and ln α on a GPU.
fn addresses<G: Gpu>(inputs: &[GpuInput<'_, G>]) -> Result<(Address, Option<Address>)> {
    let of = |input: &GpuInput<'_, G>| input.of_type(DType::F32, SlopeProjection::NAME);
    Ok((of(&inputs[0])?, inputs.get(1).map(of).transpose()?))
}

/// The distance of 1 from the next number.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    if dtype == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

impl Op for SlopeProjection {
    const NAME: &'static str = "slope-projection";
    const INPUTS: Range<usize> = 1..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let channels = self.channels(inputs[0], inputs.get(1).copied())?;
        Ok(Shape::from((channels, self.width())))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let log_alpha = inputs.get(1).map(|alpha| alpha.elements::<T>()).transpose()?;
        Ok(self.forward(inputs[0].elements::<T>()?, log_alpha))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (c, dy) = (pass.inputs[0].elements::<T>()?, pass.dy.elements::<T>()?);
        match pass.inputs.get(1) {
            None => Ok(gradient(self.backward(c, None, dy).0)),
            Some(alpha) => {
                let (dc, da) = self.backward(c, Some((alpha.elements::<T>()?, pass.y.elements::<T>()?)), dy);
                Ok(gradients2(dc, da))
            }
        }
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let channels = inputs[0].shape().dims()[0];
        let (c, log_alpha) = addresses(inputs)?;
        gpu::project(gpu, self.sizes(channels), c, log_alpha)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let channels = pass.inputs[0].shape().dims()[0];
        let result = (pass.y.address, pass.dy.address);
        let (dc, da) = gpu::pull_back(gpu, self.sizes(channels), addresses(pass.inputs)?, result)?;
        Ok([Gradient::Value(dc), da.into(), Gradient::None])
    }
}
