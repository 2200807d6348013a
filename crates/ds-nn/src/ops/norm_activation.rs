//! Batch normalisation (Ioffe and Szegedy 2015), the sum with a residual branch and the activation as one op.
//!
//! z = γ·(x − μ)/√(σ² + ε) + β + r and y = f(z), channel by channel, so that a channel's elements are still in the cache when
//! the statistics are known. Only x, r and the parameters are kept for the backward pass, which computes z again: its first
//! pass reads x, r and ∂y and gives ∂z, the sums of the channel and ∂c, its second one turns ∂z into ∂x.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use ds_core::ops::linear_spline::Channels;
use ds_core::ops::parallel::{SERIAL_BELOW, SharedSlice, filled, for_each_piece};
use ds_core::ops::planes::Planes;
use ds_core::ops::pointwise::{real_dtype, sums_of_pairs, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};
use ds_core::{Grid, dispatch_real};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Mean and variance of each channel.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// C means.
    pub mean: Vec<f64>,
    /// C biased variances.
    pub variance: Vec<f64>,
}

/// Where the statistics come from.
#[derive(Debug, Clone)]
pub enum Statistics {
    /// From the batch; the op leaves them here for the running statistics and for its backward pass.
    Batch(Arc<Mutex<Moments>>),
    /// Given, as in evaluation; no gradient flows through them.
    Fixed(Arc<Moments>),
}

/// What follows the normalisation.
#[derive(Debug, Clone, Copy)]
pub enum Function {
    /// y = z.
    Identity,
    /// y = z where z > 0, slope·z elsewhere.
    Rectifier {
        /// 0 for ReLU.
        slope: f64,
    },
    /// The linear spline of each channel on this grid.
    Spline(Grid),
}

impl Function {
    /// Parameters of a channel: γ, β and the coefficients.
    fn width(self) -> usize {
        match self {
            Self::Spline(grid) => 2 + grid.size(),
            Self::Identity | Self::Rectifier { .. } => 2,
        }
    }
}

/// x (N, C, …) and parameters (C, 2) or (C, 2 + K) as [`ChannelParameters`] puts them together → f(normalised x); as the op of
/// three arguments x, residual (like x), parameters → f(normalised x + residual).
#[derive(Debug, Clone)]
pub struct NormActivation {
    /// μ and σ².
    pub statistics: Statistics,
    /// ε.
    pub epsilon: f64,
    /// f.
    pub function: Function,
}

/// γ (C), β (C) and coefficients (C, K) side by side: (C, 2 + K); (C, 2) without coefficients.
#[derive(Debug, Clone, Copy)]
pub struct ChannelParameters;

/// Elements that go through the first-level cache between two steps of a fused pass.
const CHUNK: usize = 1024;

ds_core::vectorized! {
    /// Σ x, in 16 lanes so that the compiler may use vectors.
    pub(super) fn plane_sum<T>(x: &[T]) -> T {
        let mut lanes = [T::ZERO; 16];
        let (blocks, tail) = x.as_chunks::<16>();
        for block in blocks {
            for (lane, &x) in lanes.iter_mut().zip(block) {
                *lane += x;
            }
        }
        let mut sum = T::ZERO;
        for &x in lanes.iter().chain(tail) {
            sum += x;
        }
        sum
    }
}

ds_core::vectorized! {
    /// Σ (x − mean)².
    fn plane_squares<T>(mean: T, x: &[T]) -> T {
        let mut lanes = [T::ZERO; 16];
        let (blocks, tail) = x.as_chunks::<16>();
        for block in blocks {
            for (lane, &x) in lanes.iter_mut().zip(block) {
                *lane += (x - mean) * (x - mean);
            }
        }
        let mut sum = T::ZERO;
        for lane in lanes {
            sum += lane;
        }
        for &x in tail {
            sum += (x - mean) * (x - mean);
        }
        sum
    }
}

ds_core::vectorized! {
    /// (Σ ∂z·(x − mean), Σ ∂z).
    fn plane_products<T>(mean: T, x: &[T], dz: &[T]) -> (T, T) {
        let [sum, total] = sums_of_pairs(x, dz, |x, dz| [dz * (x - mean), dz]);
        (sum, total)
    }
}

ds_core::vectorized! {
    /// z = scale·x + shift.
    fn affine<T>(line: &[T; 2], x: &[T], z: &mut [T]) {
        for (z, &x) in z.iter_mut().zip(x) {
            *z = line[0] * x + line[1];
        }
    }
}

ds_core::vectorized! {
    /// z = scale·x + shift + r.
    fn affine_with_residual<T>(line: &[T; 2], x: &[T], r: &[T], z: &mut [T]) {
        for ((z, &x), &r) in z.iter_mut().zip(x).zip(r) {
            *z = (line[0] * x + line[1]) + r;
        }
    }
}

/// z = scale·x + shift (+ r).
fn normalise<T: Real>(line: &[T; 2], x: &[T], r: Option<&[T]>, z: &mut [T]) {
    match r {
        Some(r) => affine_with_residual(line, x, r, z),
        None => affine(line, x, z),
    }
}

ds_core::vectorized! {
    fn rectify<T>(slope: T, z: &mut [T]) {
        for z in z {
            let negative = slope * *z;
            *z = if *z > T::ZERO { *z } else { negative };
        }
    }
}

ds_core::vectorized! {
    fn rectify_gradient<T>(slope: T, z: &[T], dy: &[T], dz: &mut [T]) {
        for ((dz, &z), &dy) in dz.iter_mut().zip(z).zip(dy) {
            let negative = slope * dy;
            *dz = if z > T::ZERO { dy } else { negative };
        }
    }
}

ds_core::vectorized! {
    /// dx = k·dz + m·x + shift.
    fn input_gradient<T>(line: &[T; 3], x: &[T], dz: &[T], dx: &mut [T]) {
        let [k, m, shift] = *line;
        for ((dx, &x), &dz) in dx.iter_mut().zip(x).zip(dz) {
            *dx = k * dz + m * x + shift;
        }
    }
}

ds_core::vectorized! {
    /// The same where ∂x takes the place of ∂z.
    fn input_gradient_in_place<T>(line: &[T; 3], x: &[T], dx: &mut [T]) {
        let [k, m, shift] = *line;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = k * *dx + m * x + shift;
        }
    }
}

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

    /// `f` of each piece of a channel: some rows, whatever the number of threads. `f` gets the ranges of the planes.
    fn pieces<R: Send>(
        self,
        channel: usize,
        f: impl Fn(&mut dyn Iterator<Item = Range<usize>>) -> R + Send + Sync,
    ) -> Vec<R> {
        let Self { planes, rows, nested } = self;
        let piece = |first: usize| {
            let mut ranges = (first..planes.outer.min(first + rows)).map(|n| {
                let start = planes.offset(n, channel);
                start..start + planes.inner
            });
            f(&mut ranges)
        };
        if nested {
            (0..planes.outer.div_ceil(rows)).into_par_iter().map(|k| piece(k * rows)).collect()
        } else {
            (0..planes.outer).step_by(rows).map(piece).collect()
        }
    }

    /// Σ over the planes of a channel, in the order of the pieces.
    fn sum<T: Real>(self, channel: usize, f: impl Fn(Range<usize>) -> T + Send + Sync) -> f64 {
        let of_piece =
            |ranges: &mut dyn Iterator<Item = Range<usize>>| ranges.map(|range| f(range).to_f64()).sum::<f64>();
        self.pieces(channel, of_piece).into_iter().sum()
    }
}

/// A range in chunks.
fn chunks(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(CHUNK).map(move |start| start..end.min(start + CHUNK))
}

/// γ, β and the coefficients of all channels, taken apart.
struct Split<T> {
    scale: Vec<T>,
    shift: Vec<T>,
    coefficients: Vec<T>,
}

impl<T: Real> Split<T> {
    fn new(function: Function, parameters: &[T]) -> Self {
        let rows = || parameters.chunks_exact(function.width());
        Self {
            scale: rows().map(|row| row[0]).collect(),
            shift: rows().map(|row| row[1]).collect(),
            coefficients: rows().flat_map(|row| row[2..].iter().copied()).collect(),
        }
    }

    fn channels(&self, function: Function) -> Option<Channels<'_, T>> {
        match function {
            Function::Spline(grid) => Some(Channels::new(grid, &self.coefficients)),
            Function::Identity | Function::Rectifier { .. } => None,
        }
    }
}

impl NormActivation {
    const NAME: &'static str = "norm-activation";

    fn planes(&self, x: &Shape, residual: Option<&Shape>, parameters: &Shape) -> Result<Planes> {
        let &[channels, width] = parameters.dims() else {
            bail!("{}: parameters must be (C, 2 + K), got {parameters:?}", Self::NAME)
        };
        if width != self.function.width() {
            bail!("{}: {width} parameters a channel, {:?} has {}", Self::NAME, self.function, self.function.width());
        }
        if let Some(residual) = residual.filter(|&residual| residual != x) {
            bail!("{}: residual {residual:?} does not fit input {x:?}", Self::NAME);
        }
        let planes = Planes::new(x, channels, Self::NAME)?;
        if planes.outer * planes.inner == 0 {
            bail!("{}: empty batch {x:?}", Self::NAME);
        }
        if let Statistics::Fixed(fixed) = &self.statistics
            && (fixed.mean.len() != channels || fixed.variance.len() != channels)
        {
            bail!("{}: statistics of {} channels for {channels}", Self::NAME, fixed.mean.len());
        }
        Ok(planes)
    }

    fn is_of_batch(&self) -> bool {
        matches!(self.statistics, Statistics::Batch(_))
    }

    fn moments(&self) -> Moments {
        match &self.statistics {
            Statistics::Batch(of_batch) => of_batch.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Statistics::Fixed(fixed) => fixed.as_ref().clone(),
        }
    }

    fn inverse_deviation(&self, variance: f64) -> f64 {
        1.0 / (variance + self.epsilon).sqrt()
    }

    /// z = scale·x + shift as [scale, shift].
    fn line<T: Real>(&self, scale: T, shift: T, mean: f64, variance: f64) -> [T; 2] {
        let k = scale.to_f64() * self.inverse_deviation(variance);
        [T::from_f64(k), T::from_f64(shift.to_f64() - k * mean)]
    }

    fn forward<T: Real>(&self, planes: Planes, x: &[T], residual: Option<&[T]>, parameters: &[T]) -> Result<Vec<T>> {
        let split = Split::new(self.function, parameters);
        let splines = split.channels(self.function);
        let (cut, count) = (Cut::new(planes), (planes.outer * planes.inner) as f64);
        let mut of_batch = vec![[0f64; 2]; if self.is_of_batch() { planes.channels } else { 0 }];
        let fixed = if self.is_of_batch() { Moments::default() } else { self.moments() };
        let batch = SharedSlice::new(&mut of_batch);
        let fill = |y: &mut [T]| {
            let y = SharedSlice::new(y);
            cut.channels(|c| {
                let [mean, variance] = if self.is_of_batch() {
                    let mean = cut.sum(c, |plane| plane_sum(&x[plane])) / count;
                    let variance = cut.sum(c, |plane| plane_squares(T::from_f64(mean), &x[plane])) / count;
                    // SAFETY: every channel has its own pair.
                    unsafe { batch.part(c, 1)[0] = [mean, variance] };
                    [mean, variance]
                } else {
                    [fixed.mean[c], fixed.variance[c]]
                };
                let line = self.line(split.scale[c], split.shift[c], mean, variance);
                cut.pieces(c, |ranges| {
                    let mut buffer = [T::ZERO; CHUNK];
                    for chunk in ranges.flat_map(chunks) {
                        // SAFETY: every plane belongs to one piece only.
                        let y = unsafe { y.part(chunk.start, chunk.len()) };
                        let (x, r) = (&x[chunk.clone()], residual.map(|r| &r[chunk]));
                        match (&splines, self.function) {
                            (Some(splines), _) => {
                                let z = &mut buffer[..x.len()];
                                normalise(&line, x, r, z);
                                splines.forward(c, z, y);
                            }
                            (None, Function::Rectifier { slope }) => {
                                normalise(&line, x, r, y);
                                rectify(T::from_f64(slope), y);
                            }
                            (None, _) => normalise(&line, x, r, y),
                        }
                    }
                });
            });
            Ok(())
        };
        // SAFETY: the chunks cover all planes, and each is written before it is read.
        let y = unsafe { filled(x.len(), fill)? };
        if let Statistics::Batch(shared) = &self.statistics {
            let (mean, variance) = of_batch.iter().map(|&[mean, variance]| (mean, variance)).unzip();
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = Moments { mean, variance };
        }
        Ok(y)
    }

    /// (∂x, ∂r if there is a residual, ∂parameters).
    #[expect(clippy::type_complexity, reason = "three gradients, one of them optional")]
    fn backward<T: Real>(
        &self,
        planes: Planes,
        x: &[T],
        residual: Option<&[T]>,
        parameters: &[T],
        dy: &[T],
    ) -> Result<(Vec<T>, Option<Vec<T>>, Vec<T>)> {
        let split = Split::new(self.function, parameters);
        let splines = split.channels(self.function);
        let (cut, count) = (Cut::new(planes), (planes.outer * planes.inner) as f64);
        let moments = self.moments();
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
                let line = self.line(split.scale[c], split.shift[c], mean, moments.variance[c]);
                let sums = cut.pieces(c, |ranges| {
                    let mut buffer = [T::ZERO; CHUNK];
                    let elements = cut.rows * cut.planes.inner;
                    let mut of_splines = splines.as_ref().map(|s| s.sums(elements)).unwrap_or_default();
                    let (mut with_x, mut alone) = (0.0, 0.0);
                    for chunk in ranges.flat_map(chunks) {
                        let (x, dy) = (&x[chunk.clone()], &dy[chunk.clone()]);
                        // SAFETY: every plane belongs to one piece only.
                        let dz = unsafe { dz.part(chunk.start, chunk.len()) };
                        if matches!(self.function, Function::Identity) {
                            dz.copy_from_slice(dy);
                        } else {
                            let z = &mut buffer[..chunk.len()];
                            normalise(&line, x, residual.map(|r| &r[chunk]), z);
                            match (&splines, self.function) {
                                (Some(splines), _) => splines.backward(c, z, dy, dz, &mut of_splines),
                                (None, Function::Rectifier { slope }) => {
                                    rectify_gradient(T::from_f64(slope), z, dy, dz)
                                }
                                (None, _) => {}
                            }
                        }
                        let (of_x, of_1) = plane_products(T::from_f64(mean), x, dz);
                        with_x += of_x.to_f64();
                        alone += of_1.to_f64();
                    }
                    let mut dc = vec![T::ZERO; width - 2];
                    if !dc.is_empty() {
                        of_splines.merge_into(&mut dc);
                    }
                    (with_x, alone, dc)
                });
                // SAFETY: every channel has its own row of parameters.
                let gradients = unsafe { shared_gradients.part(c * width, width) };
                let (mut with_x, mut alone) = (0.0, 0.0);
                for (of_x, of_1, dc) in sums {
                    with_x += of_x;
                    alone += of_1;
                    for (sum, dc) in gradients[2..].iter_mut().zip(dc) {
                        *sum += dc;
                    }
                }
                gradients[0] = T::from_f64(with_x * deviation);
                gradients[1] = T::from_f64(alone);
                // ∂x = γ/σ·(∂z − mean(∂z) − x̂·mean(∂z·x̂)), as k·∂z + m·x + n with numbers of the channel.
                let k = split.scale[c].to_f64() * deviation;
                let line = if self.is_of_batch() {
                    let m = -k * (with_x / count) * deviation * deviation;
                    [T::from_f64(k), T::from_f64(m), T::from_f64(-k * alone / count - m * mean)]
                } else {
                    [T::from_f64(k), T::ZERO, T::ZERO]
                };
                cut.pieces(c, |ranges| {
                    for plane in ranges {
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
        // SAFETY: the chunks cover all planes, and each element is written before it is read.
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

    fn gradients(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        parameters: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>, Tensor)> {
        let planes = self.planes(x.shape(), residual.map(Tensor::shape), parameters.shape())?;
        if dy.shape() != x.shape() {
            bail!("{}: gradient {:?} does not fit input {:?}", Self::NAME, dy.shape(), x.shape());
        }
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let (dx, dr, dp) = with_elements::<T, _>(x, |xs| with_elements::<T, _>(parameters, |p| {
                with_elements::<T, _>(dy, |dy| match residual {
                    Some(r) => with_elements::<T, _>(r, |r| self.backward(planes, xs, Some(r), p, dy)),
                    None => self.backward(planes, xs, None, p, dy),
                })
            }))?;
            Ok((tensor_of(dx, x.shape()), dr.map(|dr| tensor_of(dr, x.shape())), tensor_of(dp, parameters.shape())))
        })
    }
}

impl CustomOp2 for NormActivation {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, p: &CpuStorage, pl: &Layout) -> Result<(CpuStorage, Shape)> {
        let planes = self.planes(xl.shape(), None, pl.shape())?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let y = self.forward(planes, elements::<T>(x, xl)?, None, elements::<T>(p, pl)?)?;
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, p: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, _, dp) = self.gradients(x, None, p, dy)?;
        Ok((Some(dx), Some(dp)))
    }
}

impl CustomOp3 for NormActivation {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        r: &CpuStorage,
        rl: &Layout,
        p: &CpuStorage,
        pl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let planes = self.planes(xl.shape(), Some(rl.shape()), pl.shape())?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let (x, r) = (elements::<T>(x, xl)?, elements::<T>(r, rl)?);
            Ok(T::to_cpu_storage_owned(self.forward(planes, x, Some(r), elements::<T>(p, pl)?)?))
        })?;
        Ok((y, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        r: &Tensor,
        p: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dr, dp) = self.gradients(x, Some(r), p, dy)?;
        Ok((Some(dx), dr, Some(dp)))
    }
}

impl ChannelParameters {
    const NAME: &'static str = "channel-parameters";

    /// (channels, coefficients of one).
    fn sizes(gamma: &Shape, beta: &Shape, coefficients: Option<&Shape>) -> Result<(usize, usize)> {
        let knots = match coefficients.map(Shape::dims) {
            None => Some(0),
            Some(&[channels, knots]) if [channels] == gamma.dims() => Some(knots),
            Some(_) => None,
        };
        match (gamma.dims(), knots) {
            (&[channels], Some(knots)) if gamma == beta => Ok((channels, knots)),
            _ => bail!(
                "{}: scale {gamma:?}, shift {beta:?} and coefficients {coefficients:?} must be (C), (C) and (C, K)",
                Self::NAME
            ),
        }
    }

    fn packed<T: Real>(gamma: &[T], beta: &[T], coefficients: &[T], knots: usize) -> Vec<T> {
        let mut packed = Vec::with_capacity(gamma.len() * (2 + knots));
        for (c, (&gamma, &beta)) in gamma.iter().zip(beta).enumerate() {
            packed.extend([gamma, beta]);
            packed.extend_from_slice(&coefficients[c * knots..(c + 1) * knots]);
        }
        packed
    }

    fn split(dp: &Tensor, knots: usize) -> Result<(Tensor, Tensor, Tensor)> {
        let part = |start, len| dp.narrow(1, start, len)?.contiguous();
        Ok((part(0, 1)?.flatten_all()?, part(1, 1)?.flatten_all()?, part(2, knots)?))
    }
}

impl CustomOp2 for ChannelParameters {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, g: &CpuStorage, gl: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (channels, _) = Self::sizes(gl.shape(), bl.shape(), None)?;
        let packed = dispatch_real!(real_dtype(g, Self::NAME)?, Self::NAME, T => {
            Ok(T::to_cpu_storage_owned(Self::packed::<T>(elements(g, gl)?, elements(b, bl)?, &[], 0)))
        })?;
        Ok((packed, Shape::from((channels, 2))))
    }

    fn bwd(&self, _g: &Tensor, _b: &Tensor, _y: &Tensor, dp: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let part = |k| dp.narrow(1, k, 1)?.contiguous()?.flatten_all();
        Ok((Some(part(0)?), Some(part(1)?)))
    }
}

impl CustomOp3 for ChannelParameters {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        gl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
        c: &CpuStorage,
        cl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (channels, knots) = Self::sizes(gl.shape(), bl.shape(), Some(cl.shape()))?;
        let packed = dispatch_real!(real_dtype(g, Self::NAME)?, Self::NAME, T => {
            let packed = Self::packed::<T>(elements(g, gl)?, elements(b, bl)?, elements(c, cl)?, knots);
            Ok(T::to_cpu_storage_owned(packed))
        })?;
        Ok((packed, Shape::from((channels, 2 + knots))))
    }

    fn bwd(
        &self,
        _g: &Tensor,
        _b: &Tensor,
        c: &Tensor,
        _y: &Tensor,
        dp: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dg, db, dc) = Self::split(dp, c.dim(1)?)?;
        Ok((Some(dg), Some(db), Some(dc)))
    }
}
