//! Linear splines that are 1-Lipschitz whatever their parameters are.

mod gpu;

use super::init::{self, Init};
use crate::backend::gpu::cuda::CudaGpu;
use crate::backend::gpu::{Gpu, KERNELS};
use crate::backend::op::forward;
use crate::backend::real::in_double_precision;
use crate::graph::{Gradients, Graph};
use crate::ops::channel_affine::ChannelAffine;
use crate::ops::linear_spline::LinearSpline;
use crate::ops::slope_projection::{SlopeProjection, epsilon};
use crate::parameter::{Group, L2, Parameter, new_variable};
use crate::regularization::measures::significant_sign;
use crate::regularization::norm::{Norm, sign};
use crate::{Error, Grid, Result};
use candle_core::{DType, Device, Tensor};

/// A layer of learned linear splines with slopes in [−1, 1], one function per channel (Ducotterd et al. 2024).
///
/// The K coefficients of a function are free; what is evaluated is their projection
/// ([`SlopeProjection`]). With a learned scaling it is σ̃(x) = σ(α·x)/α, α > 0 one a channel, which stretches the knots over
/// the values that arrive and leaves slopes and TV² as they are; ln α is the parameter, and α starts at 1.
///
/// K may be even, then no knot lies at 0. Less than 3 knots make a straight line, which is no activation.
#[derive(Debug, Clone)]
pub struct LipschitzSpline {
    projection: SlopeProjection,
    /// Of the op: the knots, one more for an even K, moved by T/2 to the right.
    grid: Grid,
    channels: usize,
    coefficients: Tensor,
    log_scaling: Option<Tensor>,
}

impl LipschitzSpline {
    /// The least number of knots.
    pub const MIN_SIZE: usize = 3;

    /// Functions of `size` knots on [−range, range], with a learned scaling or α = 1.
    ///
    /// Shapes that have their kink at 0 are the nearest that an even number of knots allows.
    ///
    /// # Errors
    /// If `size` is below 3, `range` is not a positive finite number or there are no channels.
    pub fn new(
        channels: usize,
        size: usize,
        range: f64,
        init: Init,
        scaling: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if channels == 0 {
            return Err(Error::Empty("the number of channels"));
        }
        if size < Self::MIN_SIZE {
            return Err(Error::LipschitzSize(size));
        }
        if !(range.is_finite() && range > 0.0) {
            return Err(Error::Grid { what: "range", value: range });
        }
        let projection = SlopeProjection { size, step: 2.0 * range / (size - 1) as f64 };
        let grid = Grid::from_step(projection.width(), projection.step)?;
        let fold = init::fold(size, projection.step);
        let mut rows = Vec::with_capacity(channels * size);
        for channel in 0..channels {
            rows.extend((0..size).map(|k| init.value(projection.knot(k), fold, channel, channels)));
        }
        let coefficients = new_variable(rows, &[channels, size], dtype, device)?;
        let log_scaling = scaling.then(|| new_variable(vec![0.0; channels], &[channels], dtype, device)).transpose()?;
        Ok(Self { projection, grid, channels, coefficients, log_scaling })
    }

    /// The number of functions.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The number of knots K.
    pub fn size(&self) -> usize {
        self.projection.size
    }

    /// The distance T of the knots, where α is 1.
    pub fn step(&self) -> f64 {
        self.projection.step
    }

    /// The positions of the knots, where α is 1.
    pub fn knots(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        (0..self.size()).map(|k| self.projection.knot(k))
    }

    /// The free coefficients (C, K).
    pub fn coefficients(&self) -> &Tensor {
        &self.coefficients
    }

    /// ln α (C), if the scaling is learned.
    pub fn log_scaling(&self) -> Option<&Tensor> {
        self.log_scaling.as_ref()
    }

    /// The same splines with other parameters of these shapes.
    pub(super) fn with_parameters(&self, coefficients: Tensor, log_scaling: Option<Tensor>) -> Self {
        Self { coefficients, log_scaling, ..self.clone() }
    }

    /// The trainable parameters: coefficients in the group of the splines, and scalings.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let of = |name: &str, tensor, group| Parameter::of(format!("{prefix}.{name}"), tensor, group, L2::Exempt);
        let scaling = self.log_scaling.as_ref().and_then(|tensor| of("log_scaling", tensor, Group::Scalings));
        of("coefficients", &self.coefficients, Group::Splines).into_iter().chain(scaling).collect()
    }

    /// σ̃(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> candle_core::Result<G::Value> {
        let shift = ChannelAffine { shift: self.shift() };
        let coefficients = graph.parameter(&self.coefficients);
        let (z, c) = match &self.log_scaling {
            Some(log_scaling) => {
                let log_scaling = graph.parameter(log_scaling);
                let c = graph.apply(self.projection, [&coefficients, &log_scaling])?;
                (graph.apply(shift, [x, &log_scaling])?, c)
            }
            None => {
                let c = graph.apply(self.projection, [&coefficients])?;
                (if shift.shift == 0.0 { x.clone() } else { graph.apply(shift, [x])? }, c)
            }
        };
        let y = graph.apply(LinearSpline::new(self.grid), [&z, &c])?;
        graph.forward_hook(self.grid, &z, y)
    }

    /// The grid of the op, in α·x.
    pub(crate) fn grid(&self) -> Grid {
        self.grid
    }

    /// What is added to α·x before the op: an even number of knots is an odd one on a grid that is moved.
    fn shift(&self) -> f64 {
        if self.size().is_multiple_of(2) { -0.5 * self.step() } else { 0.0 }
    }

    /// The projected coefficients (C, K) divided by α: the values of σ̃ at its knots x_k/α, as the forward pass has them.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn projected_coefficients(&self) -> candle_core::Result<Tensor> {
        self.evaluated_coefficients()?.narrow(1, 0, self.size())?.contiguous()
    }

    /// The coefficients of the op, with the column that an even number of knots gets.
    fn evaluated_coefficients(&self) -> candle_core::Result<Tensor> {
        match &self.log_scaling {
            Some(log_scaling) => forward(&self.projection, [&self.coefficients, log_scaling]),
            None => forward(&self.projection, [&self.coefficients]),
        }
    }

    /// α (C) in the precision that the forward pass multiplies in; ones if it is not learned.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn scaling(&self) -> candle_core::Result<Vec<f64>> {
        let Some(log_scaling) = &self.log_scaling else { return Ok(vec![1.0; self.channels]) };
        let single = log_scaling.dtype() == DType::F32;
        let rounded = |alpha: f64| if single { f64::from(alpha as f32) } else { alpha };
        Ok(in_double_precision(log_scaling)?.into_iter().map(|log_alpha| rounded(log_alpha.exp())).collect())
    }

    /// The K−1 slopes of each function, computed in f64 from the coefficients and scaling that the forward pass uses.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn slopes(&self) -> candle_core::Result<Vec<Vec<f64>>> {
        let first = |mut row: Evaluated| {
            row.slopes.truncate(self.size() - 1);
            row.slopes
        };
        Ok(self.evaluated()?.into_iter().map(first).collect())
    }

    /// Each function as it is evaluated, in f64 from the coefficients and scaling that the forward pass uses.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub(crate) fn evaluated(&self) -> candle_core::Result<Vec<Evaluated>> {
        let coefficients = in_double_precision(&self.evaluated_coefficients()?)?;
        let rows = coefficients.chunks_exact(self.grid.size()).zip(self.scaling()?);
        let of_row = |(values, alpha): (&[f64], f64)| Evaluated {
            knots: (0..values.len()).map(|k| self.projection.knot(k) / alpha).collect(),
            slopes: values.windows(2).map(|c| alpha * (c[1] - c[0]) / self.step()).collect(),
            values: values.to_vec(),
        };
        Ok(rows.map(of_row).collect())
    }

    /// The slope changes at the K−2 inner knots of each function.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn slope_changes(&self) -> candle_core::Result<Vec<Vec<f64>>> {
        let coefficients = in_double_precision(&self.coefficients)?;
        let of_row = |c: &[f64]| {
            let slopes: Vec<f64> = self.projection.clipped(c).map(|difference| difference / self.step()).collect();
            slopes.windows(2).map(|s| s[1] - s[0]).collect()
        };
        Ok(coefficients.chunks_exact(self.size()).map(of_row).collect())
    }

    /// How many knots of each function have a slope change above `threshold`.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn active_knots(&self, threshold: f64) -> candle_core::Result<Vec<usize>> {
        let changes = self.slope_changes()?;
        Ok(changes.iter().map(|a| a.iter().filter(|a| a.abs() > threshold).count()).collect())
    }

    /// How many knots of each function have a slope change that is more than the rounding of the coefficients can make.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn significant_knots(&self) -> candle_core::Result<Vec<usize>> {
        let epsilon = epsilon(self.coefficients.dtype());
        let coefficients = in_double_precision(&self.coefficients)?;
        let of_row = |c: &[f64]| {
            let is_clipped = |k: usize| (c[k + 1] - c[k]).abs() >= self.step();
            // Between two segments that are clipped to the same slope there is no knot.
            let straight = |k: usize| is_clipped(k) && is_clipped(k + 1) && (c[k + 1] > c[k]) == (c[k + 2] > c[k + 1]);
            let is_bent = |k: usize| significant_sign([c[k], c[k + 1], c[k + 2]], epsilon) != 0.0;
            (0..c.len() - 2).filter(|&k| !straight(k) && is_bent(k)).count()
        };
        Ok(coefficients.chunks_exact(self.size()).map(of_row).collect())
    }

    /// TV² or BV² of each function, that is, of the projected and scaled one; α does not change TV².
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn norms(&self, norm: Norm) -> candle_core::Result<Vec<f64>> {
        let mut norms: Vec<f64> = self.slope_changes()?.iter().map(|a| a.iter().map(|a| a.abs()).sum()).collect();
        if norm == Norm::Bv2 {
            let coefficients = in_double_precision(&self.evaluated_coefficients()?)?;
            let rows = coefficients.chunks_exact(self.grid.size()).zip(self.scaling()?);
            for (norm, (c, alpha)) in norms.iter_mut().zip(rows) {
                *norm += [0.0, 1.0].map(|x| self.segment(c, alpha, x).value.abs()).iter().sum::<f64>();
            }
        }
        Ok(norms)
    }

    /// Where the argument `x` of σ̃ lies among the coefficients that are evaluated.
    fn segment(&self, c: &[f64], alpha: f64, x: f64) -> Segment {
        let (i, t) = self.grid.locate(alpha * x + self.shift());
        let difference = c[i + 1] - c[i];
        Segment { i, t, value: c[i] + t * difference, slope: difference / self.step() }
    }

    /// Adds `weight` times the gradient of Σ TV² or Σ BV² to the gradients of the parameters, with sign(0) = 0; on a GPU in one
    /// launch, in place.
    ///
    /// # Errors
    /// If the parameters are not f32, or f64 on the CPU.
    pub fn add_norm_gradient(
        &self,
        norm: Norm,
        weight: f64,
        gradients: &mut impl Gradients,
    ) -> candle_core::Result<()> {
        if let Some(gpu) = CudaGpu::of(&self.coefficients, &KERNELS)? {
            return self.add_norm_gradient_on(&gpu, norm, weight, gradients);
        }
        let dtype = self.coefficients.dtype();
        let coefficients = in_double_precision(&self.coefficients)?;
        let (mut of_coefficients, mut of_scaling) = (Vec::with_capacity(coefficients.len()), Vec::new());
        for (c, alpha) in coefficients.chunks_exact(self.size()).zip(self.scaling()?) {
            let unit = weight / self.step();
            let slopes: Vec<f64> = self.projection.clipped(c).collect();
            let signs: Vec<f64> = slopes.windows(2).map(|s| unit * sign(s[1] - s[0])).collect();
            // A slope takes part in the change on its left and in the one on its right.
            let at = |k: usize| signs.get(k).copied().unwrap_or(0.0);
            let of_differences = (0..slopes.len()).map(|j| at(j.wrapping_sub(1)) - at(j));
            let mut gradient = self.projection.through_clip(c, epsilon(dtype), of_differences);
            let mut of_log_alpha = 0.0;
            if norm == Norm::Bv2 {
                let evaluated: Vec<f64> = self.projection.project(c).into_iter().map(|p| p / alpha).collect();
                let mut of_evaluated = vec![0.0; evaluated.len()];
                for x in [0.0, 1.0] {
                    let Segment { i, t, value, slope } = self.segment(&evaluated, alpha, x);
                    let sign = weight * sign(value);
                    of_evaluated[i] += sign * (1.0 - t) / alpha;
                    of_evaluated[i + 1] += sign * t / alpha;
                    // α moves the argument, and divides the values.
                    of_log_alpha += sign * (slope * alpha * x - value);
                }
                let of_values = self.projection.pull_back(c, epsilon(dtype), &of_evaluated);
                gradient.iter_mut().zip(of_values).for_each(|(g, v)| *g += v);
            }
            of_coefficients.extend(gradient);
            of_scaling.push(of_log_alpha);
        }
        let mut add = |parameter: &Tensor, values: Vec<f64>| -> candle_core::Result<()> {
            let term = Tensor::from_vec(values, parameter.shape(), &Device::Cpu)?.to_dtype(dtype)?;
            let sum = match gradients.gradient(parameter) {
                Some(gradient) => gradient.add(&term)?,
                None => term,
            };
            gradients.set_gradient(parameter, sum);
            Ok(())
        };
        add(&self.coefficients, of_coefficients)?;
        match &self.log_scaling {
            Some(log_scaling) if norm == Norm::Bv2 => add(log_scaling, of_scaling),
            _ => Ok(()),
        }
    }

    /// [`add_norm_gradient`](Self::add_norm_gradient) with parameters on a GPU.
    ///
    /// # Errors
    /// If a parameter is elsewhere or not f32, or the launch fails.
    #[doc(hidden)]
    pub fn add_norm_gradient_on<G: Gpu>(
        &self,
        gpu: &G,
        norm: Norm,
        weight: f64,
        gradients: &mut impl Gradients,
    ) -> candle_core::Result<()> {
        let parameters = gpu::Parameters {
            projection: self.projection,
            channels: self.channels,
            coefficients: &self.coefficients,
            log_scaling: self.log_scaling.as_ref(),
        };
        gpu::add_norm_gradient(gpu, &parameters, norm, weight, gradients)
    }
}

/// A function as it is evaluated: for an even K with one knot more, right of the last. The slope there is that of the segment
/// before it but for the rounding of the stored values.
pub(crate) struct Evaluated {
    pub(crate) knots: Vec<f64>,
    pub(crate) values: Vec<f64>,
    /// Between neighbouring knots, and beyond the outermost ones.
    pub(crate) slopes: Vec<f64>,
}

/// A point of a function: its segment i, where in it, and value and slope there, by the op's argument.
struct Segment {
    i: usize,
    t: f64,
    value: f64,
    slope: f64,
}
