//! The parameters of a fused op in one tensor: Candle's custom ops take three arguments at most.

#[cfg(feature = "cuda")]
use crate::ops::gpu::{KERNELS, norm as on_gpu};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};
use ds_core::dispatch_real;
#[cfg(feature = "cuda")]
use ds_core::ops::gpu::{
    Address,
    cuda::{CudaGpu, address, address_of, tensor_on},
};
use ds_core::ops::pointwise::real_dtype;
use ds_core::ops::real::{Real, elements};

/// γ (C), β (C) and coefficients (C, K) side by side: (C, 2 + K); (C, 2) without coefficients.
#[derive(Debug, Clone, Copy)]
pub struct ChannelParameters;

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

    /// [∂γ, ∂β, ∂c], if they are on a GPU.
    #[cfg(feature = "cuda")]
    fn split_on_gpu(dp: &Tensor) -> Result<Option<[Tensor; 3]>> {
        let Some(gpu) = CudaGpu::of(dp, &KERNELS)? else { return Ok(None) };
        let (dp, (channels, width)) = (dp.contiguous()?, dp.dims2()?);
        let [dg, db, dc] = on_gpu::unpacked(&gpu, channels, width, address_of(&dp, Self::NAME)?)?;
        let dc = tensor_on(dc, (channels, width - 2));
        Ok(Some([tensor_on(dg, channels), tensor_on(db, channels), dc]))
    }

    fn split(dp: &Tensor, knots: usize) -> Result<(Tensor, Tensor, Tensor)> {
        #[cfg(feature = "cuda")]
        if let Some([dg, db, dc]) = Self::split_on_gpu(dp)? {
            return Ok((dg, db, dc));
        }
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, g: &CudaStorage, gl: &Layout, b: &CudaStorage, bl: &Layout) -> Result<(CudaStorage, Shape)> {
        let (channels, _) = Self::sizes(gl.shape(), bl.shape(), None)?;
        let gpu = CudaGpu::new(&g.device, &KERNELS)?;
        let of = |storage, layout| address(storage, layout, DType::F32, Self::NAME);
        let packed = on_gpu::packed(&gpu, channels, 2, [of(g, gl)?, of(b, bl)?, Address::NONE])?;
        Ok((packed, Shape::from((channels, 2))))
    }

    fn bwd(&self, _g: &Tensor, _b: &Tensor, _y: &Tensor, dp: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let Some([dg, db, _]) = Self::split_on_gpu(dp)? {
            return Ok((Some(dg), Some(db)));
        }
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        g: &CudaStorage,
        gl: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (channels, knots) = Self::sizes(gl.shape(), bl.shape(), Some(cl.shape()))?;
        let gpu = CudaGpu::new(&g.device, &KERNELS)?;
        let of = |storage, layout| address(storage, layout, DType::F32, Self::NAME);
        let packed = on_gpu::packed(&gpu, channels, 2 + knots, [of(g, gl)?, of(b, bl)?, of(c, cl)?])?;
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
