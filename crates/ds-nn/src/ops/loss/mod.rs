//! Losses, each a mean over the batch, fused with the function before it: softmax + cross-entropy, sigmoid + binary
//! cross-entropy, and the mean squared error.

mod gpu;
mod kind;

pub use kind::Kind;

use crate::backend::KERNELS;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Shape, Tensor, bail};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::real::Real;
use std::cell::Cell;
use std::ops::Range;

/// Predictions and targets → the mean loss of the batch. On a GPU predictions are f32.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The loss.
    pub kind: Kind,
    /// What the logit of the right class is reduced by in a cross-entropy, so that classes are also kept apart where they are
    /// right already (the offset of Prach & Lampert 2022); 0 for the plain loss. Correct predictions are counted without it.
    pub margin: f64,
    /// Running sums (2) in f64 on the device of the predictions, to which the forward pass adds (Σ loss, correct predictions).
    pub totals: Option<Tensor>,
}

impl From<Kind> for Loss {
    fn from(kind: Kind) -> Self {
        Self { kind, margin: 0.0, totals: None }
    }
}

/// The logits of one row, that of the right class reduced by the margin.
fn logits<T: Real>(row: &[T], label: usize, margin: f64) -> impl Iterator<Item = f64> + Clone + '_ {
    row.iter().enumerate().map(move |(class, v)| v.to_f64() - if class == label { margin } else { 0.0 })
}

fn log_sum_exp(logits: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + logits.map(|v| (v - largest).exp()).sum::<f64>().ln()
}

/// The first of the largest entries.
fn argmax<T: Real>(row: &[T]) -> usize {
    (1..row.len()).fold(0, |best, k| if row[k] > row[best] { k } else { best })
}

impl Kind {
    fn target_type(self) -> DType {
        if self == Self::CrossEntropy { DType::U8 } else { DType::F32 }
    }

    /// (N, C).
    fn sizes(self, x: &Shape, targets: &Shape) -> Result<(usize, usize)> {
        match (x.dims(), targets.dims()) {
            (&[n, classes], &[of_targets])
                if n == of_targets && n > 0 && (classes == 1 || self == Self::CrossEntropy && classes > 0) =>
            {
                Ok((n, classes))
            }
            (&[n], &[of_targets]) if n == of_targets && n > 0 && self != Self::CrossEntropy => Ok((n, 1)),
            _ => bail!("{}: predictions {x:?} for targets {targets:?} of {self:?}", Loss::NAME),
        }
    }

    /// The loss of one number and its target.
    fn value(self, x: f64, target: f64) -> f64 {
        match self {
            Self::MeanSquaredError => (x - target).powi(2),
            // log(1 + e^x) − t·x, without overflow.
            _ => x.max(0.0) - x * target + (-x.abs()).exp().ln_1p(),
        }
    }

    /// Its derivative with respect to the number.
    fn slope(self, x: f64, target: f64) -> f64 {
        match self {
            Self::MeanSquaredError => 2.0 * (x - target),
            _ => 1.0 / (1.0 + (-x).exp()) - target,
        }
    }
}

/// Labels, each of which is a class.
fn labels<'a>(targets: &CpuInput<'a>, classes: usize) -> Result<&'a [u8]> {
    let labels = targets.elements::<u8>()?;
    match labels.iter().find(|&&label| usize::from(label) >= classes) {
        None => Ok(labels),
        Some(label) => bail!("{}: label {label} with {classes} classes", Loss::NAME),
    }
}

impl Op for Loss {
    const NAME: &'static str = "loss";
    const INPUTS: Range<usize> = 2..3;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        self.kind.sizes(inputs[0], inputs[1])?;
        Ok(Shape::from(()))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (kind, [x, targets]) = (self.kind, [inputs[0], inputs[1]]);
        let (rows, classes) = kind.sizes(x.shape(), targets.shape())?;
        let (x, mut correct) = (x.elements::<T>()?, 0);
        let sum: f64 = if kind == Kind::CrossEntropy {
            let pairs = || Ok::<_, candle_core::Error>(x.chunks_exact(classes).zip(labels(&targets, classes)?));
            if self.totals.is_some() {
                correct = pairs()?.filter(|(row, label)| argmax(row) == usize::from(**label)).count();
            }
            let loss = |(row, &label): (&[T], &u8)| {
                let label = usize::from(label);
                log_sum_exp(logits(row, label, self.margin)) - (row[label].to_f64() - self.margin)
            };
            pairs()?.map(loss).sum()
        } else {
            let pairs = x.iter().zip(targets.elements::<f32>()?);
            if kind == Kind::BinaryCrossEntropy && self.totals.is_some() {
                correct = pairs.clone().filter(|(x, t)| (**x > T::ZERO) == (**t > 0.5)).count();
            }
            pairs.map(|(x, &t)| kind.value(x.to_f64(), f64::from(t))).sum()
        };
        let mean = T::from_f64(sum / rows as f64);
        if let Some(totals) = &self.totals {
            let terms = [mean.to_f64() * rows as f64, correct as f64];
            totals.inplace_op1(&OnTotals(|totals: &mut [f64; 2]| {
                totals.iter_mut().zip(terms).for_each(|(total, term)| *total += term);
            }))?;
        }
        Ok(vec![mean])
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (kind, [x, targets]) = (self.kind, [pass.inputs[0], pass.inputs[1]]);
        let (rows, classes) = kind.sizes(x.shape(), targets.shape())?;
        let (x, scale) = (x.elements::<T>()?, pass.dy.elements::<T>()?[0].to_f64() / rows as f64);
        if kind != Kind::CrossEntropy {
            let pairs = x.iter().zip(targets.elements::<f32>()?);
            let slope = |(x, &t): (&T, &f32)| T::from_f64(scale * kind.slope(x.to_f64(), f64::from(t)));
            return Ok(gradient(pairs.map(slope).collect()));
        }
        let mut dx = Vec::with_capacity(x.len());
        for (row, &label) in x.chunks_exact(classes).zip(labels(&targets, classes)?) {
            let logits = logits(row, usize::from(label), self.margin);
            let normaliser = log_sum_exp(logits.clone());
            dx.extend(logits.enumerate().map(|(class, v)| {
                let target = if class == usize::from(label) { 1.0 } else { 0.0 };
                T::from_f64(scale * ((v - normaliser).exp() - target))
            }));
        }
        Ok(gradient(dx))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let totals = self.totals.as_ref().map(|totals| gpu.address_of(totals, DType::F64, Self::NAME)).transpose()?;
        let of = self.gpu_inputs(inputs)?;
        // SAFETY: the totals are two numbers that only losses on this stream write.
        unsafe { gpu::forward(gpu, self.kind, self.margin, of, totals.unwrap_or(Address::NONE)) }
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let of = self.gpu_inputs(pass.inputs)?;
        let dy = pass.dy.of_type(DType::F32, Self::NAME)?;
        Ok(gradient(gpu::backward(gpu, self.kind, self.margin, of, dy)?))
    }
}

impl Loss {
    fn gpu_inputs<G: Gpu>(&self, inputs: &[GpuInput<'_, G>]) -> Result<gpu::Inputs> {
        let [x, targets] = [&inputs[0], &inputs[1]];
        let (rows, classes) = self.kind.sizes(x.shape(), targets.shape())?;
        if self.totals.as_ref().is_some_and(|totals| totals.dims() != [2]) {
            bail!("{}: totals must be two numbers in f64", Self::NAME);
        }
        let targets = targets.of_type(self.kind.target_type(), Self::NAME)?;
        Ok(gpu::Inputs { x: x.of_type(DType::F32, Self::NAME)?, targets, rows, classes })
    }
}

/// The running sums of [`Loss`]: (Σ loss, correct predictions). They start again from 0, in place.
///
/// # Errors
/// If the totals are not two numbers in f64.
pub fn take_totals(totals: &Tensor) -> Result<[f64; 2]> {
    let taken = Cell::new([0.0; 2]);
    if totals.device().is_cpu() {
        // In one pass: steps of small networks take a few microseconds.
        totals.inplace_op1(&OnTotals(|totals: &mut [f64; 2]| taken.set(std::mem::take(totals))))?;
    } else {
        let [loss, correct] = totals.to_vec1::<f64>()?[..] else {
            bail!("{}: totals must be two numbers in f64", Loss::NAME)
        };
        taken.set([loss, correct]);
        totals.zero_set()?;
    }
    Ok(taken.get())
}

/// A change of totals on the CPU.
struct OnTotals<F>(F);

impl<F: Fn(&mut [f64; 2])> InplaceOp1 for OnTotals<F> {
    fn name(&self) -> &'static str {
        Loss::NAME
    }

    fn cpu_fwd(&self, totals: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let elements = match (totals, layout.contiguous_offsets()) {
            (CpuStorage::F64(totals), Some((start, end))) => totals.get_mut(start..end),
            _ => None,
        };
        match elements.and_then(|elements| elements.try_into().ok()) {
            Some(totals) => {
                (self.0)(totals);
                Ok(())
            }
            None => bail!("{}: totals must be two numbers in f64", Loss::NAME),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;
    use ds_core::backend::op::forward;

    #[test]
    fn totals_are_sums_of_losses_and_correct_predictions() {
        let x = Tensor::new(&[[2f32, 0.0, -1.0], [0.0, 1.0, 3.0]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[0u8, 1], &Device::Cpu).unwrap();
        let totals = Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap();
        let loss = Loss { totals: Some(totals.clone()), ..Loss::from(Kind::CrossEntropy) };
        for _ in 0..2 {
            forward(&loss, [&x, &t]).unwrap();
        }
        let row = |row: [f64; 3], label: usize| row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[label];
        let expected = 2.0 * (row([2.0, 0.0, -1.0], 0) + row([0.0, 1.0, 3.0], 1));
        let taken = take_totals(&totals).unwrap();
        assert!((taken[0] - expected).abs() < 1e-5, "{taken:?}, expected {expected}");
        assert_eq!((taken[1], take_totals(&totals).unwrap()), (2.0, [0.0; 2]));
        assert!(take_totals(&x).is_err());
        let x = Tensor::new(&[[0.5f32], [-0.5], [0.5]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[1f32, 0.0, 0.0], &Device::Cpu).unwrap();
        let totals = Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap();
        forward(&Loss { totals: Some(totals.clone()), ..Loss::from(Kind::BinaryCrossEntropy) }, [&x, &t]).unwrap();
        assert_eq!(totals.to_vec1::<f64>().unwrap()[1], 2.0);
        let error = forward(&Loss::from(Kind::CrossEntropy), [&x, &Tensor::new(&[0u8, 1, 0], &Device::Cpu).unwrap()]);
        assert!(error.unwrap_err().to_string().contains("label 1 with 1 classes"));
        let nothing = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
        let labels = Tensor::zeros(3, DType::U8, &Device::Cpu).unwrap();
        assert!(forward(&Loss::from(Kind::CrossEntropy), [&nothing, &labels]).is_err());
    }
}
