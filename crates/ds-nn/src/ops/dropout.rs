//! Dropout (Srivastava et al. 2014): elements are dropped with probability p and the others divided by 1 − p.

use crate::rng::hash;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use ds_core::dispatch_real;
#[cfg(feature = "cuda")]
use ds_core::ops::gpu::{
    Address,
    cuda::{CudaGpu, address, address_of_type, tensor_on},
};
use ds_core::ops::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};

/// The key of a step on a GPU, where kernels find it: what was launched for one step can be launched again for another.
#[derive(Debug, Clone)]
pub struct StepKey(Tensor);

impl StepKey {
    /// Room for it.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self(Tensor::zeros(1, DType::I64, device)?))
    }

    /// Puts the key of the next step there, in the order of all other work on the device.
    ///
    /// # Errors
    /// If it is not on a GPU.
    pub fn put(&self, key: u64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(&self.0, &super::gpu::KERNELS)? {
            // SAFETY: the array is this key's.
            return unsafe { super::gpu::put_word(&gpu, key, self.address()?) };
        }
        bail!("dropout: the key {key} of a step is put on {:?}, which has no kernels here", self.0.device().location())
    }

    #[cfg(feature = "cuda")]
    fn address(&self) -> Result<Address> {
        address_of_type(&self.0, DType::I64, "dropout")
    }
}

/// What the masks of a step are drawn from (see [`crate::rng::Seed::key`]).
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    /// This number.
    Number(u64),
    /// What is there when kernels run, on the network's device.
    OnDevice(&'a StepKey),
}

/// The mask is a function of the key and the position, so the backward pass draws it again instead of keeping it.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// p, in [0, 1).
    pub probability: f64,
    /// From the seed of the run, the step and the layer; from the layer alone, where there is a [`step`](Self::step).
    pub key: u64,
    /// The key of the step, if it is read when the op is run: the two make the same key as [`hash`] of it and the layer.
    pub step: Option<StepKey>,
}

struct Mask<T> {
    key: u64,
    /// Position of the first element.
    first: u64,
    /// Elements whose 32 bits are below it are dropped.
    threshold: u64,
    scale: T,
}

ds_core::vectorized! {
    fn masked<T>(mask: Mask<T>, x: &[T], y: &mut [T]) {
        for (k, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let keep = hash(mask.key, mask.first + k as u64) >> 32 >= mask.threshold;
            let kept = x * mask.scale;
            *y = if keep { kept } else { T::ZERO };
        }
    }
}

const PIECE: usize = 16 * 1024;

impl Dropout {
    /// Of a layer, in a step with this key.
    pub fn of_layer(probability: f64, step: Key<'_>, layer: u64) -> Self {
        match step {
            Key::Number(key) => Self { probability, key: hash(key, layer), step: None },
            Key::OnDevice(step) => Self { probability, key: layer, step: Some(step.clone()) },
        }
    }

    #[cfg(feature = "cuda")]
    fn draw(&self) -> Result<super::gpu::pointwise::Draw> {
        let step = self.step.as_ref().map_or(Ok(Address::NONE), StepKey::address)?;
        Ok(super::gpu::pointwise::Draw { probability: self.probability, step, key: self.key })
    }

    fn masked<T: Real>(&self, x: &[T]) -> Result<Vec<T>> {
        if self.step.is_some() {
            bail!("{}: the key of the step is on a GPU, its input is not", self.name());
        }
        let scale = T::from_f64(1.0 / (1.0 - self.probability));
        let threshold = (self.probability * (1u64 << 32) as f64) as u64;
        let fill = |y: &mut [T]| {
            let y = SharedSlice::new(y);
            for_each_piece(x.len().div_ceil(PIECE), x.len(), |piece| {
                let range = piece * PIECE..x.len().min((piece + 1) * PIECE);
                // SAFETY: pieces do not overlap.
                let y = unsafe { y.part(range.start, range.len()) };
                masked(Mask { key: self.key, first: range.start as u64, threshold, scale }, &x[range], y);
            });
            Ok(())
        };
        // SAFETY: the pieces cover all elements, which are written only.
        unsafe { filled(x.len(), fill) }
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            Ok(T::to_cpu_storage_owned(self.masked(elements::<T>(x, l)?)?))
        })?;
        Ok((y, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let gpu = CudaGpu::new(&x.device, &super::gpu::KERNELS)?;
        let (dtype, n) = (x.dtype(), l.shape().elem_count());
        let from = address(x, l, dtype, self.name())?;
        Ok((super::gpu::pointwise::dropout(&gpu, self.draw()?, dtype, from, n)?, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = CudaGpu::of(dy, &super::gpu::KERNELS)? {
            let dy = dy.contiguous()?;
            let (dtype, n) = (dy.dtype(), dy.elem_count());
            let from = address_of_type(&dy, dtype, self.name())?;
            let dx = super::gpu::pointwise::dropout(&gpu, self.draw()?, dtype, from, n)?;
            return Ok(Some(tensor_on(dx, x.shape())));
        }
        dispatch_real!(x.dtype(), self.name(), T => {
            Ok(Some(tensor_of(with_elements::<T, _>(dy, |dy| self.masked(dy))?, x.shape())))
        })
    }
}
