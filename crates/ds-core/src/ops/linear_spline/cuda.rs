//! The op's storages on a GPU.

use super::LinearSpline;
use crate::Grid;
use crate::ops::gpu::cuda::{CudaGpu, Kernels, address};
use crate::ops::gpu::{Gpu, linear_spline};
use crate::ops::planes::Planes;
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result};

static KERNELS: Kernels =
    Kernels { name: "linear-spline", image: include_bytes!(concat!(env!("OUT_DIR"), "/linear_spline.fatbin")) };

const NAME: &str = LinearSpline::NAME;

/// y = σ(x).
pub(super) fn forward(
    grid: Grid,
    planes: Planes,
    (x, xl): (&CudaStorage, &Layout),
    (c, cl): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (gpu, dtype) = (CudaGpu::new(&x.device, &KERNELS)?, x.dtype());
    if planes.elements() == 0 {
        return gpu.alloc(dtype, 0);
    }
    let (x, c) = (address(x, xl, dtype, NAME)?, address(c, cl, DType::F32, NAME)?);
    linear_spline::forward(&gpu, grid, planes, dtype, x, c)
}

/// (∂x, ∂c).
pub(super) fn backward(
    grid: Grid,
    planes: Planes,
    (x, xl): (&CudaStorage, &Layout),
    (c, cl): (&CudaStorage, &Layout),
    (dy, dyl): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, CudaStorage)> {
    let (gpu, dtype) = (CudaGpu::new(&x.device, &KERNELS)?, x.dtype());
    if planes.elements() == 0 {
        let zeros = gpu.device().alloc_zeros::<f32>(planes.channels * grid.size())?;
        return Ok((gpu.alloc(dtype, 0)?, CudaStorage::wrap_cuda_slice(zeros, gpu.device().clone())));
    }
    let (x, c) = (address(x, xl, dtype, NAME)?, address(c, cl, DType::F32, NAME)?);
    linear_spline::backward(&gpu, grid, planes, dtype, (x, c), address(dy, dyl, dtype, NAME)?)
}
