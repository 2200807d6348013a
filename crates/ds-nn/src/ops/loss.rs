//! Losses, each a mean over the batch, fused with the function before it: softmax + cross-entropy, sigmoid + binary
//! cross-entropy, and the mean squared error.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};
use std::sync::Arc;

/// Cross-entropy of logits (N, C) with class labels, through a softmax.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    /// N classes below C.
    pub labels: Arc<[u8]>,
}

/// Binary cross-entropy of logits (N, 1) or (N) with targets in [0, 1], through a sigmoid.
#[derive(Debug, Clone)]
pub struct BinaryCrossEntropy {
    /// N targets.
    pub targets: Arc<[f32]>,
}

/// Mean squared error of predictions (N, 1) or (N).
#[derive(Debug, Clone)]
pub struct MeanSquaredError {
    /// N targets.
    pub targets: Arc<[f32]>,
}

impl CrossEntropy {
    const NAME: &'static str = "cross-entropy";

    fn classes(&self, logits: &Shape) -> Result<usize> {
        match logits.dims() {
            &[n, classes] if n == self.labels.len() && n > 0 => {
                match self.labels.iter().find(|&&label| usize::from(label) >= classes) {
                    None => Ok(classes),
                    Some(label) => bail!("{}: label {label} with {classes} classes", Self::NAME),
                }
            }
            _ => bail!("{}: logits {logits:?} for {} labels", Self::NAME, self.labels.len()),
        }
    }
}

/// log Σ exp of one row, and its largest entry.
fn log_sum_exp<T: Real>(row: &[T]) -> f64 {
    let largest = row.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.to_f64()));
    largest + row.iter().map(|v| (v.to_f64() - largest).exp()).sum::<f64>().ln()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, logits: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let classes = self.classes(l.shape())?;
        let loss = dispatch_real!(real_dtype(logits, Self::NAME)?, Self::NAME, T => {
            let rows = elements::<T>(logits, l)?.chunks_exact(classes);
            let sum: f64 = rows.zip(self.labels.iter())
                .map(|(row, &label)| log_sum_exp(row) - row[usize::from(label)].to_f64())
                .sum();
            Ok(T::to_cpu_storage_owned(vec![T::from_f64(sum / self.labels.len() as f64)]))
        })?;
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let classes = self.classes(logits.shape())?;
        dispatch_real!(logits.dtype(), Self::NAME, T => {
            let scale = with_elements::<T, _>(gradient, |g| Ok(g[0].to_f64()))? / self.labels.len() as f64;
            let dx = with_elements::<T, _>(logits, |logits| {
                let mut dx = Vec::with_capacity(logits.len());
                for (row, &label) in logits.chunks_exact(classes).zip(self.labels.iter()) {
                    let normaliser = log_sum_exp(row);
                    dx.extend(row.iter().enumerate().map(|(class, v)| {
                        let target = if class == usize::from(label) { 1.0 } else { 0.0 };
                        T::from_f64(scale * ((v.to_f64() - normaliser).exp() - target))
                    }));
                }
                Ok(dx)
            })?;
            Ok(Some(tensor_of(dx, logits.shape())))
        })
    }
}

/// The losses of one prediction and one target: a mean of `value`, with the derivative `slope`.
trait Pointwise {
    const NAME: &'static str;
    fn targets(&self) -> &[f32];
    fn value(prediction: f64, target: f64) -> f64;
    fn slope(prediction: f64, target: f64) -> f64;

    fn check(&self, predictions: &Shape) -> Result<()> {
        let n = self.targets().len();
        match predictions.dims() {
            &[rows] | &[rows, 1] if rows == n && n > 0 => Ok(()),
            _ => bail!("{}: predictions {predictions:?} for {n} targets", Self::NAME),
        }
    }

    fn forward(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.check(l.shape())?;
        let n = self.targets().len() as f64;
        let loss = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let pairs = elements::<T>(x, l)?.iter().zip(self.targets());
            let sum: f64 = pairs.map(|(x, &t)| Self::value(x.to_f64(), f64::from(t))).sum();
            Ok(T::to_cpu_storage_owned(vec![T::from_f64(sum / n)]))
        })?;
        Ok((loss, Shape::from(())))
    }

    fn backward(&self, x: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let n = self.targets().len() as f64;
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let scale = with_elements::<T, _>(gradient, |g| Ok(g[0].to_f64()))? / n;
            let dx = with_elements::<T, _>(x, |xs| {
                let pairs = xs.iter().zip(self.targets());
                Ok(pairs.map(|(x, &t)| T::from_f64(scale * Self::slope(x.to_f64(), f64::from(t)))).collect::<Vec<T>>())
            })?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}

impl Pointwise for BinaryCrossEntropy {
    const NAME: &'static str = "binary-cross-entropy";
    fn targets(&self) -> &[f32] {
        &self.targets
    }
    fn value(x: f64, target: f64) -> f64 {
        // log(1 + e^x) − t·x, without overflow.
        x.max(0.0) - x * target + (-x.abs()).exp().ln_1p()
    }
    fn slope(x: f64, target: f64) -> f64 {
        1.0 / (1.0 + (-x).exp()) - target
    }
}

impl Pointwise for MeanSquaredError {
    const NAME: &'static str = "mean-squared-error";
    fn targets(&self) -> &[f32] {
        &self.targets
    }
    fn value(x: f64, target: f64) -> f64 {
        (x - target).powi(2)
    }
    fn slope(x: f64, target: f64) -> f64 {
        2.0 * (x - target)
    }
}

macro_rules! pointwise_loss {
    ($type:ty) => {
        impl CustomOp1 for $type {
            fn name(&self) -> &'static str {
                <Self as Pointwise>::NAME
            }
            fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
                self.forward(x, l)
            }
            fn bwd(&self, x: &Tensor, _loss: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
                self.backward(x, gradient)
            }
        }
    };
}
pointwise_loss!(BinaryCrossEntropy);
pointwise_loss!(MeanSquaredError);
