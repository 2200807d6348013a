//! Batch normalisation (Ioffe and Szegedy 2015) of (N, C, H, W).

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::ops::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::ops::planes::Planes;
use ds_core::ops::pointwise::{channel_sums, real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};
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

/// x (N, C, H, W), γ (C), β (C) → γ·(x − μ)/√(σ² + ε) + β.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// μ and σ².
    pub statistics: Statistics,
    /// ε.
    pub epsilon: f64,
}

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
    /// (Σ ∂y·(x − mean), Σ ∂y).
    fn plane_products<T>(mean: T, x: &[T], dy: &[T]) -> (T, T) {
        let (mut with_x, mut alone) = ([T::ZERO; 16], [T::ZERO; 16]);
        let (xs, x_tail) = x.as_chunks::<16>();
        let (dys, dy_tail) = dy.as_chunks::<16>();
        for (x, dy) in xs.iter().zip(dys) {
            for j in 0..16 {
                with_x[j] += dy[j] * (x[j] - mean);
                alone[j] += dy[j];
            }
        }
        for (&x, &dy) in x_tail.iter().zip(dy_tail) {
            with_x[0] += dy * (x - mean);
            alone[0] += dy;
        }
        let (mut sum, mut total) = (T::ZERO, T::ZERO);
        for j in 0..16 {
            sum += with_x[j];
            total += alone[j];
        }
        (sum, total)
    }
}

ds_core::vectorized! {
    /// y = k·a + m·x + shift.
    fn plane_line<T>(line: &[T; 3], x: &[T], a: &[T], y: &mut [T]) {
        let [k, m, shift] = *line;
        for ((y, &x), &a) in y.iter_mut().zip(x).zip(a) {
            *y = k * a + m * x + shift;
        }
    }
}

fn moments<T: Real>(planes: Planes, x: &[T]) -> Moments {
    let count = (planes.outer * planes.inner) as f64;
    let sums = channel_sums(planes, 1, |_, plane, sum: &mut [T]| sum[0] += plane_sum(&x[plane]));
    let mean: Vec<f64> = sums.iter().map(|s| s.to_f64() / count).collect();
    let squares = channel_sums(planes, 1, |c, plane, sum: &mut [T]| {
        sum[0] += plane_squares(T::from_f64(mean[c]), &x[plane]);
    });
    let variance = squares.iter().map(|s| s.to_f64() / count).collect();
    Moments { mean, variance }
}

impl BatchNorm {
    const NAME: &'static str = "batch-norm";

    fn planes(x: &Shape, gamma: &Shape, beta: &Shape) -> Result<Planes> {
        if gamma.rank() != 1 || gamma != beta {
            bail!("{}: scale {gamma:?} and shift {beta:?} must both be (C)", Self::NAME);
        }
        let planes = Planes::new(x, gamma.elem_count(), Self::NAME)?;
        if planes.outer * planes.inner == 0 {
            bail!("{}: empty batch {x:?}", Self::NAME);
        }
        Ok(planes)
    }

    fn moments(&self) -> Moments {
        match &self.statistics {
            Statistics::Batch(of_batch) => of_batch.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Statistics::Fixed(fixed) => fixed.as_ref().clone(),
        }
    }

    fn backward<T: Real>(&self, planes: Planes, x: &[T], gamma: &[T], dy: &[T]) -> Result<(Vec<T>, Vec<T>, Vec<T>)> {
        let Moments { mean, variance } = self.moments();
        let scale: Vec<f64> = variance.iter().map(|v| 1.0 / (v + self.epsilon).sqrt()).collect();
        let sums = channel_sums(planes, 2, |c, plane, sums: &mut [T]| {
            let (with_x, alone) = plane_products(T::from_f64(mean[c]), &x[plane.clone()], &dy[plane]);
            sums[0] += with_x;
            sums[1] += alone;
        });
        let from_batch = matches!(self.statistics, Statistics::Batch(_));
        let count = (planes.outer * planes.inner) as f64;
        // ∂x = γ/σ·(∂y − mean(∂y) − x̂·mean(∂y·x̂)), as k·∂y + m·x + n with numbers of the channel.
        let line: Vec<[T; 3]> = (0..planes.channels)
            .map(|c| {
                let k = gamma[c].to_f64() * scale[c];
                if !from_batch {
                    return [T::from_f64(k), T::ZERO, T::ZERO];
                }
                let (with_x, alone) = (sums[2 * c].to_f64() / count, sums[2 * c + 1].to_f64() / count);
                let m = -k * with_x * scale[c] * scale[c];
                [T::from_f64(k), T::from_f64(m), T::from_f64(-k * alone - m * mean[c])]
            })
            .collect();
        let dx = per_plane_line(planes, x, dy, &line)?;
        let dgamma = (0..planes.channels).map(|c| T::from_f64(sums[2 * c].to_f64() * scale[c])).collect();
        let dbeta = (0..planes.channels).map(|c| sums[2 * c + 1]).collect();
        Ok((dx, dgamma, dbeta))
    }
}

/// k·a + m·x + n for every element, with [k, m, n] of its channel.
fn per_plane_line<T: Real>(planes: Planes, x: &[T], a: &[T], line: &[[T; 3]]) -> Result<Vec<T>> {
    let rows = planes.rows_per_piece();
    let blocks = planes.outer.div_ceil(rows);
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(blocks, x.len(), |block| {
            for n in block * rows..planes.outer.min((block + 1) * rows) {
                for (channel, line) in line.iter().enumerate() {
                    let start = planes.offset(n, channel);
                    // SAFETY: every plane belongs to one piece only.
                    let y = unsafe { y.part(start, planes.inner) };
                    let range = start..start + planes.inner;
                    plane_line(line, &x[range.clone()], &a[range], y);
                }
            }
        });
        Ok(())
    };
    // SAFETY: the planes cover all elements, which are written only.
    unsafe { filled(x.len(), fill) }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        gamma: &CpuStorage,
        gl: &Layout,
        beta: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let planes = Self::planes(xl.shape(), gl.shape(), bl.shape())?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let (x, gamma, beta) = (elements::<T>(x, xl)?, elements::<T>(gamma, gl)?, elements::<T>(beta, bl)?);
            if let Statistics::Batch(of_batch) = &self.statistics {
                *of_batch.lock().unwrap_or_else(PoisonError::into_inner) = moments(planes, x);
            }
            let Moments { mean, variance } = self.moments();
            let line: Vec<[T; 3]> = (0..planes.channels)
                .map(|c| {
                    let k = gamma[c].to_f64() / (variance[c] + self.epsilon).sqrt();
                    [T::from_f64(k), T::ZERO, T::from_f64(beta[c].to_f64() - k * mean[c])]
                })
                .collect();
            Ok(T::to_cpu_storage_owned(per_plane_line(planes, x, x, &line)?))
        })?;
        Ok((y, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let planes = Self::planes(x.shape(), gamma.shape(), beta.shape())?;
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let (dx, dgamma, dbeta) = with_elements::<T, _>(x, |xs| with_elements::<T, _>(gamma, |gamma| {
                with_elements::<T, _>(dy, |dy| self.backward(planes, xs, gamma, dy))
            }))?;
            Ok((
                Some(tensor_of(dx, x.shape())),
                Some(tensor_of(dgamma, gamma.shape())),
                Some(tensor_of(dbeta, beta.shape())),
            ))
        })
    }
}
