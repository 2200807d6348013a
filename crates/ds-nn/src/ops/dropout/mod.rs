//! Dropout (Srivastava et al. 2014): elements are dropped with probability p and the others divided by 1 − p.

mod gpu;

use crate::backend::{KERNELS, put_word};
use crate::ops::blocks::{LANES, features_in_blocks};
use crate::rng::hash;
use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::parallel::in_pieces;
use ds_core::backend::real::Real;
use std::ops::Range;

/// The key of a step on a GPU, where kernels find it: what was launched for one step can be launched again for another.
#[derive(Debug, Clone)]
pub struct StepKey(Tensor);

impl StepKey {
    /// Room for it.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self(Tensor::zeros(1, DType::I64, device)?))
    }

    /// The key in a tensor of one i64, which is read when kernels run.
    pub fn from_tensor(key: Tensor) -> Self {
        Self(key)
    }

    /// Puts the key of the next step there, in the order of all other work on the device.
    ///
    /// # Errors
    /// If it is not on a GPU.
    pub fn put(&self, key: u64) -> Result<()> {
        let Some(gpu) = CudaGpu::of(&self.0, &KERNELS)? else {
            let device = self.0.device().location();
            bail!("dropout: the key {key} of a step is put on {device:?}, which has no kernels here")
        };
        let there = gpu.address_of(&self.0, DType::I64, Dropout::NAME)?;
        // SAFETY: the array is this key's.
        unsafe { put_word(&gpu, key, there) }
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

/// The mask is a function of the key and the position, so the backward pass draws it again instead of keeping it. Images in blocks,
/// (N/16, C, H, W, 16), have the mask that they have one after the other.
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
    /// Position of the first element in memory.
    first: u64,
    /// Elements whose 32 bits are below it are dropped.
    threshold: u64,
    scale: T,
}

/// What an element at a position becomes.
#[inline(always)]
fn kept<T: Real>(mask: &Mask<T>, position: u64, x: T) -> T {
    let keep = hash(mask.key, position) >> 32 >= mask.threshold;
    let kept = x * mask.scale;
    if keep { kept } else { T::ZERO }
}

ds_core::vectorized! {
    fn masked<T>(mask: Mask<T>, x: &[T], y: &mut [T]) {
        for (k, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            *y = kept(&mask, mask.first + k as u64, x);
        }
    }
}

ds_core::vectorized! {
    /// Images in blocks, from a pixel on: the position of an element is that in (N, features).
    fn masked_blocks<T>(mask: Mask<T>, features: usize, x: &[T], y: &mut [T]) {
        let lanes: [u64; LANES] = std::array::from_fn(|lane| (lane * features) as u64);
        let pixel = mask.first as usize / LANES;
        let (mut block, mut feature) = (pixel / features, pixel % features);
        for (y, x) in y.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
            let first = (block * LANES * features + feature) as u64;
            for ((y, &x), &lane) in y.iter_mut().zip(x).zip(&lanes) {
                *y = kept(&mask, first + lane, x);
            }
            (block, feature) = if feature + 1 < features { (block, feature + 1) } else { (block + 1, 0) };
        }
    }
}

impl Dropout {
    /// Of a layer, in a step with this key.
    pub fn of_layer(probability: f64, step: Key<'_>, layer: u64) -> Self {
        match step {
            Key::Number(key) => Self { probability, key: hash(key, layer), step: None },
            Key::OnDevice(step) => Self { probability, key: layer, step: Some(step.clone()) },
        }
    }

    fn masked<T: Real>(&self, x: &CpuInput<'_>) -> Result<Vec<T>> {
        if self.step.is_some() {
            bail!("{}: the key of the step is on a GPU, its input is not", Self::NAME);
        }
        let scale = T::from_f64(1.0 / (1.0 - self.probability));
        let threshold = (self.probability * (1u64 << 32) as f64) as u64;
        let (features, x) = (features_in_blocks(x.shape()), x.elements::<T>()?);
        let fill = |range: Range<usize>, y: &mut [T]| {
            let mask = Mask { key: self.key, first: range.start as u64, threshold, scale };
            match features {
                None => masked(mask, &x[range], y),
                Some(features) => {
                    debug_assert!(range.start.is_multiple_of(LANES), "a piece begins within a pixel");
                    masked_blocks(mask, features, &x[range], y);
                }
            }
        };
        // SAFETY: an element is written for each of x, whose blocks are whole pixels, and none is read.
        unsafe { in_pieces(x.len(), fill) }
    }

    fn masked_on<G: Gpu>(&self, gpu: &G, x: &GpuInput<'_, G>) -> Result<G::Buffer> {
        let step = self.step.as_ref().map(|StepKey(step)| gpu.address_of(step, DType::I64, Self::NAME)).transpose()?;
        gpu::dropout(gpu, self.probability, (step, self.key), x.dtype, x.address, x.shape().elem_count())
    }
}

impl Op for Dropout {
    const NAME: &'static str = "dropout";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        self.masked(&inputs[0])
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        Ok(gradient(self.masked(&pass.dy)?))
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        self.masked_on(gpu, &inputs[0])
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        Ok(gradient(self.masked_on(gpu, &pass.dy)?))
    }
}
