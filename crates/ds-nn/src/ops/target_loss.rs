//! The losses with their targets in a tensor, so that these may lie on a GPU, and sums of losses and right answers that stay
//! there as well.

use super::loss::{BinaryCrossEntropy, CrossEntropy, MeanSquaredError};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, InplaceOp3, Layout, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};
#[cfg(feature = "cuda")]
use ds_core::ops::gpu::{
    Address,
    cuda::{CudaGpu, address, address_of, address_of_type, tensor_on},
};

/// A mean over a batch: predictions (N, C) or (N, 1) and N targets → one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetLoss {
    /// [`CrossEntropy`]; targets are classes (u8).
    CrossEntropy,
    /// [`BinaryCrossEntropy`]; targets are f32.
    Binary,
    /// [`MeanSquaredError`]; targets are f32.
    Squared,
}

impl TargetLoss {
    const NAME: &'static str = "target-loss";

    /// (N, C).
    fn sizes(self, x: &Shape, targets: &Shape) -> Result<(usize, usize)> {
        match (x.dims(), targets.dims()) {
            (&[n, classes], &[of_targets])
                if n == of_targets && n > 0 && (self == Self::CrossEntropy || classes == 1) =>
            {
                Ok((n, classes))
            }
            (&[n], &[of_targets]) if n == of_targets && n > 0 && self != Self::CrossEntropy => Ok((n, 1)),
            _ => bail!("{}: predictions {x:?} for targets {targets:?} of {self:?}", Self::NAME),
        }
    }

    /// The op that holds its targets.
    fn on_cpu(self, targets: &CpuStorage, layout: &Layout) -> Result<Box<dyn CustomOp1>> {
        Ok(match self {
            Self::CrossEntropy => Box::new(CrossEntropy { labels: contiguous::<u8>(targets, layout)?.into() }),
            Self::Binary => Box::new(BinaryCrossEntropy { targets: contiguous::<f32>(targets, layout)?.into() }),
            Self::Squared => Box::new(MeanSquaredError { targets: contiguous::<f32>(targets, layout)?.into() }),
        })
    }

    #[cfg(feature = "cuda")]
    fn target_type(self) -> DType {
        if self == Self::CrossEntropy { DType::U8 } else { DType::F32 }
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(self, targets: Address, classes: usize) -> super::gpu::loss::Loss {
        use super::gpu::loss::Loss;
        match self {
            Self::CrossEntropy => Loss::CrossEntropy { labels: targets, classes },
            Self::Binary => Loss::Binary { targets },
            Self::Squared => Loss::Squared { targets },
        }
    }
}

fn contiguous<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("target-loss: the op needs contiguous tensors, got strides {:?}", layout.stride()),
    }
}

impl CustomOp2 for TargetLoss {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, t: &CpuStorage, tl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.sizes(xl.shape(), tl.shape())?;
        self.on_cpu(t, tl)?.cpu_fwd(x, xl)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, t: &CudaStorage, tl: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, classes) = self.sizes(xl.shape(), tl.shape())?;
        let gpu = CudaGpu::new(&x.device, &super::gpu::KERNELS)?;
        let loss = self.on_gpu(address(t, tl, self.target_type(), Self::NAME)?, classes);
        let mean = super::gpu::loss::mean(&gpu, loss, address(x, xl, DType::F32, Self::NAME)?, rows)?;
        Ok((mean, Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, t: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(x, &super::gpu::KERNELS)? {
            let (rows, classes) = self.sizes(x.shape(), t.shape())?;
            let (x, t, gradient) = (x.contiguous()?, t.contiguous()?, gradient.contiguous()?);
            let loss = self.on_gpu(address_of_type(&t, self.target_type(), Self::NAME)?, classes);
            let (from, scale) = (address_of(&x, Self::NAME)?, address_of(&gradient, Self::NAME)?);
            let dx = super::gpu::loss::gradient(&gpu, loss, from, scale, rows)?;
            return Ok((Some(tensor_on(dx, x.shape())), None));
        }
        let t = t.contiguous()?;
        let (storage, layout) = t.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cpu(storage) => Ok((self.on_cpu(storage, layout)?.bwd(x, y, gradient)?, None)),
            _ => bail!("{}: targets are on {:?}, predictions are not", Self::NAME, t.device().location()),
        }
    }
}

/// totals (2), in f64, += (Σ loss, right answers) of predictions (N, C) or (N, 1) and N targets.
#[derive(Debug, Clone, Copy)]
pub struct Tally(pub TargetLoss);

impl InplaceOp3 for Tally {
    fn name(&self) -> &'static str {
        "tally"
    }

    fn cpu_fwd(
        &self,
        totals: &mut CpuStorage,
        totals_l: &Layout,
        x: &CpuStorage,
        xl: &Layout,
        t: &CpuStorage,
        tl: &Layout,
    ) -> Result<()> {
        let (rows, classes) = self.0.sizes(xl.shape(), tl.shape())?;
        let (mean, _) = CustomOp2::cpu_fwd(&self.0, x, xl, t, tl)?;
        let (mean, x) = (f64::from(mean.as_slice::<f32>()?[0]), contiguous::<f32>(x, xl)?);
        let right = match self.0 {
            TargetLoss::CrossEntropy => {
                let first_of_largest =
                    |row: &[f32]| (0..classes).fold(0, |best, k| if row[k] > row[best] { k } else { best });
                let pairs = x.chunks_exact(classes).zip(contiguous::<u8>(t, tl)?);
                pairs.filter(|(row, label)| first_of_largest(row) == usize::from(**label)).count()
            }
            TargetLoss::Binary => {
                x.iter().zip(contiguous::<f32>(t, tl)?).filter(|(x, t)| (**x > 0.0) == (**t > 0.5)).count()
            }
            TargetLoss::Squared => 0,
        };
        match (totals, totals_l.contiguous_offsets()) {
            (CpuStorage::F64(totals), Some((start, end))) if end - start == 2 => {
                totals[start] += mean * rows as f64;
                totals[start + 1] += right as f64;
                Ok(())
            }
            _ => bail!("{}: totals must be two numbers in f64", self.name()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        totals: &mut CudaStorage,
        totals_l: &Layout,
        x: &CudaStorage,
        xl: &Layout,
        t: &CudaStorage,
        tl: &Layout,
    ) -> Result<()> {
        let (rows, classes) = self.0.sizes(xl.shape(), tl.shape())?;
        if totals_l.dims() != [2] {
            bail!("{}: totals must be two numbers in f64, got {:?}", self.name(), totals_l.shape());
        }
        let gpu = CudaGpu::new(&x.device, &super::gpu::KERNELS)?;
        let loss = self.0.on_gpu(address(t, tl, self.0.target_type(), self.name())?, classes);
        let x = address(x, xl, DType::F32, self.name())?;
        let totals = address(totals, totals_l, DType::F64, self.name())?;
        // SAFETY: two numbers, which the op has to itself.
        unsafe { super::gpu::loss::tally(&gpu, loss, x, totals, rows) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    #[test]
    fn totals_are_sums_of_losses_and_right_answers() {
        let x = Tensor::new(&[[2f32, 0.0, -1.0], [0.0, 1.0, 3.0]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[0u8, 1], &Device::Cpu).unwrap();
        let totals = Tensor::zeros(2, candle_core::DType::F64, &Device::Cpu).unwrap();
        for _ in 0..2 {
            totals.inplace_op3(&x, &t, &Tally(TargetLoss::CrossEntropy)).unwrap();
        }
        let row = |row: [f64; 3], label: usize| row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[label];
        let expected = 2.0 * (row([2.0, 0.0, -1.0], 0) + row([0.0, 1.0, 3.0], 1));
        let totals = totals.to_vec1::<f64>().unwrap();
        assert!((totals[0] - expected).abs() < 1e-5, "{totals:?}, expected {expected}");
        assert_eq!(totals[1], 2.0);
    }
}
