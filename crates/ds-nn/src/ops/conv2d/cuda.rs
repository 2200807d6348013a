//! The convolution on a GPU.

use super::{Conv2d, Planes};
use crate::ops::gpu::KERNELS;
use crate::ops::gpu::conv2d::{Shapes, forward, input_gradient, weight_gradient};
use crate::ops::gpu::pointwise::add_bias;
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor, bail};
use ds_core::ops::gpu::Gpu;
use ds_core::ops::gpu::cuda::{CudaGpu, address, address_of_type, tensor_on};

impl Conv2d {
    fn shapes(&self, dtype: DType, x: &Shape, outputs: usize) -> Result<Shapes> {
        let Planes { images, channels, height, width, out_height, out_width, lanes } =
            self.window.planes(x, Self::NAME)?;
        if lanes != 1 {
            bail!("{}: a GPU takes images as (N, C, H, W), got {x:?}", Self::NAME);
        }
        let output = [images, outputs, out_height, out_width];
        Ok(Shapes::new(dtype, [images, channels, height, width], output, self.window))
    }

    pub(super) fn cuda_output(
        &self,
        (x, xl): (&CudaStorage, &Layout),
        (w, wl): (&CudaStorage, &Layout),
        b: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (_, shape) = self.sizes(xl.shape(), wl.shape(), b.map(|(_, l)| l.shape()))?;
        let dtype = x.dtype();
        let shapes = self.shapes(dtype, xl.shape(), wl.dims()[0])?;
        let gpu = CudaGpu::new(&x.device, &KERNELS)?;
        let of = |storage, layout| address(storage, layout, dtype, Self::NAME);
        let y = forward(&gpu, shapes, of(x, xl)?, of(w, wl)?)?;
        if let Some((b, bl)) = b {
            let planes = ds_core::ops::planes::Planes::new(&shape, wl.dims()[0], Self::NAME)?;
            let bias = address(b, bl, DType::F32, Self::NAME)?;
            // SAFETY: the output is nobody else's.
            unsafe { add_bias(&gpu, planes, dtype, gpu.address(&y)?, bias)? };
        }
        Ok((y, shape))
    }

    pub(super) fn cuda_gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dtype = x.dtype();
        let shapes = self.shapes(dtype, x.shape(), w.dims()[0])?;
        let gpu = CudaGpu::new(x.device().as_cuda_device()?, &KERNELS)?;
        let (x, w, dy) = (x.contiguous()?, w.contiguous()?, dy.contiguous()?);
        let of = |tensor| address_of_type(tensor, dtype, Self::NAME);
        let dx = self.input_gradient.then(|| input_gradient(&gpu, shapes, of(&w)?, of(&dy)?)).transpose()?;
        let dw = self.weight_gradient.then(|| weight_gradient(&gpu, shapes, of(&x)?, of(&dy)?)).transpose()?;
        Ok((dx.map(|dx| tensor_on(dx, x.shape())), dw.map(|dw| tensor_on(dw, w.shape()))))
    }
}
