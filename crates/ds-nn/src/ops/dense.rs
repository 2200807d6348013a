//! Fully connected layers: y = x·Wᵀ + b as one op.

use super::bias;
use super::device_matrix::{plain, transpose};
use super::product::product;
use crate::backend::KERNELS;
use candle_core::{DType, Result, Shape, bail};
use ds_core::backend::gpu::{Gpu, GpuInput, Kernels};
use ds_core::backend::op::{Backward, CpuInput, Gradient, Gradients, Op, dyn_op};
use ds_core::backend::planes::Planes;
use ds_core::backend::real::Real;
use std::ops::Range;

/// x (N, I), W (O, I) and, optionally, b (O) → (N, O). On a GPU W has the type of x, f32 or bf16, and b is f32.
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    /// Whether ∂x is wanted.
    pub input_gradient: bool,
}

/// Below this many multiplications plain loops beat the preparations of a tuned matrix product.
const PLAIN_BELOW: usize = 16 * 1024;

struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Dense {
    fn sizes(x: &Shape, w: &Shape, b: Option<&Shape>) -> Result<Sizes> {
        match (x.dims(), w.dims()) {
            (_, &[outputs, inputs]) if outputs == 0 || inputs == 0 => {
                bail!("{}: a layer of {inputs} inputs and {outputs} outputs", Self::NAME)
            }
            (&[rows, inputs], &[outputs, i]) if i == inputs && b.is_none_or(|b| b.dims() == [outputs]) => {
                Ok(Sizes { rows, inputs, outputs })
            }
            _ => bail!("{}: input {x:?}, weight {w:?} and bias {b:?} do not fit (N, I), (O, I), (O)", Self::NAME),
        }
    }

    fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], b: Option<&[T]>) -> Vec<T> {
        let mut y = Vec::with_capacity(s.rows * s.outputs);
        if s.rows * s.inputs * s.outputs < PLAIN_BELOW {
            for x in x.chunks_exact(s.inputs) {
                for (o, w) in w.chunks_exact(s.inputs).enumerate() {
                    let mut sum = b.map_or(T::ZERO, |b| b[o]);
                    for (&x, &w) in x.iter().zip(w) {
                        sum += x * w;
                    }
                    y.push(sum);
                }
            }
            return y;
        }
        for _ in 0..s.rows {
            match b {
                Some(b) => y.extend_from_slice(b),
                None => y.resize(y.len() + s.outputs, T::ZERO),
            }
        }
        product(s.rows, s.outputs, s.inputs, &mut y, true, (x, s.inputs, 1), (w, 1, s.inputs));
        y
    }

    fn backward<T: Real>(&self, s: &Sizes, x: &[T], w: &[T], dy: &[T]) -> (Option<Vec<T>>, Vec<T>, Vec<T>) {
        let mut dw = vec![T::ZERO; s.outputs * s.inputs];
        let mut db = vec![T::ZERO; s.outputs];
        let mut dx = self.input_gradient.then(|| vec![T::ZERO; s.rows * s.inputs]);
        for dy in dy.chunks_exact(s.outputs) {
            for (db, &dy) in db.iter_mut().zip(dy) {
                *db += dy;
            }
        }
        if s.rows * s.inputs * s.outputs < PLAIN_BELOW {
            for (n, (x, dy)) in x.chunks_exact(s.inputs).zip(dy.chunks_exact(s.outputs)).enumerate() {
                for (dw, &dy) in dw.chunks_exact_mut(s.inputs).zip(dy) {
                    for (dw, &x) in dw.iter_mut().zip(x) {
                        *dw += dy * x;
                    }
                }
                let Some(dx) = dx.as_mut() else { continue };
                let dx = &mut dx[n * s.inputs..(n + 1) * s.inputs];
                for (w, &dy) in w.chunks_exact(s.inputs).zip(dy) {
                    for (dx, &w) in dx.iter_mut().zip(w) {
                        *dx += dy * w;
                    }
                }
            }
        } else {
            product(s.outputs, s.inputs, s.rows, &mut dw, false, (dy, 1, s.outputs), (x, s.inputs, 1));
            if let Some(dx) = dx.as_mut() {
                product(s.rows, s.inputs, s.outputs, dx, false, (dy, s.outputs, 1), (w, s.inputs, 1));
            }
        }
        (dx, dw, db)
    }
}

impl Op for Dense {
    const NAME: &'static str = "dense";
    const INPUTS: Range<usize> = 2..4;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let s = Self::sizes(inputs[0], inputs[1], inputs.get(2).copied())?;
        Ok(Shape::from((s.rows, s.outputs)))
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let s = Self::sizes(inputs[0].shape(), inputs[1].shape(), None)?;
        let b = inputs.get(2).map(|b| b.elements::<T>()).transpose()?;
        Ok(Self::forward(&s, inputs[0].elements::<T>()?, inputs[1].elements::<T>()?, b))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let [x, w] = [pass.inputs[0], pass.inputs[1]];
        let s = Self::sizes(x.shape(), w.shape(), None)?;
        let (dx, dw, db) = self.backward(&s, x.elements::<T>()?, w.elements::<T>()?, pass.dy.elements::<T>()?);
        let db = (pass.inputs.len() > 2).then_some(db);
        Ok([dx.into(), Gradient::Value(dw), db.into()])
    }

    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    fn gpu<G: Gpu>(&self, gpu: &G, inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        let [x, w] = [&inputs[0], &inputs[1]];
        let s = Self::sizes(x.shape(), w.shape(), None)?;
        let y = gpu.matmul((s.rows, s.outputs, s.inputs), plain(x), transpose(w))?;
        if let Some(b) = inputs.get(2) {
            let planes = Planes { outer: s.rows, channels: s.outputs, inner: 1 };
            let b = b.of_type(DType::F32, Self::NAME)?;
            // SAFETY: the product is nobody else's.
            unsafe { bias::gpu::add_bias(gpu, planes, x.dtype, gpu.address(&y)?, b)? };
        }
        Ok(y)
    }

    fn gpu_backward<G: Gpu>(&self, gpu: &G, pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        let ([x, w], dy) = ([&pass.inputs[0], &pass.inputs[1]], &pass.dy);
        let s = Self::sizes(x.shape(), w.shape(), None)?;
        let of_x = || gpu.matmul((s.rows, s.inputs, s.outputs), plain(dy), plain(w));
        let dx = self.input_gradient.then(of_x).transpose()?;
        let dw = gpu.matmul((s.outputs, s.inputs, s.rows), transpose(dy), plain(x))?;
        let of_b = || bias::gpu::channel_sums(gpu, bias::planes(dy.shape())?, dy.dtype, dy.address);
        let db = (pass.inputs.len() > 2).then(of_b).transpose()?;
        Ok([dx.into(), Gradient::Value(dw), db.into()])
    }
}
