//! The linear spline on a GPU: kernels from `kernel.cu`, launched as `geometry` says. Inputs are f32, f16 or bf16; coefficients and
//! their sums are f32 with all of them.

use super::LinearSpline;
use super::geometry::{Launch, NoLaunch};
use crate::Grid;
use crate::ops::gpu::cuda::{CudaGpu, Kernels, address};
use crate::ops::gpu::{Argument, Blocks, Gpu, int, knots, rows_of};
use crate::ops::planes::Planes;
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Error, Layout, Result, bail};

static KERNELS: Kernels =
    Kernels { name: "linear-spline", image: include_bytes!(concat!(env!("OUT_DIR"), "/linear_spline.fatbin")) };

const NAME: &str = LinearSpline::NAME;

/// The type as it stands in the names of the kernels.
fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => bail!("{NAME}: the GPU kernels take f32, f16 and bf16 with coefficients in f32, got {other:?}"),
    }
}

fn no_launch(reason: NoLaunch) -> Error {
    Error::Msg(format!("{NAME}: {reason}"))
}

/// y = σ(x).
pub(super) fn forward(
    grid: Grid,
    planes: Planes,
    (x, xl): (&CudaStorage, &Layout),
    (c, cl): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (gpu, dtype) = (CudaGpu::new(&x.device, &KERNELS)?, x.dtype());
    let suffix = suffix(dtype)?;
    let y = gpu.alloc(dtype, planes.elements())?;
    if planes.elements() == 0 {
        return Ok(y);
    }
    let (from, coefficients) = (address(x, xl, dtype, NAME)?, address(c, cl, DType::F32, NAME)?);
    let (bytes, limits) = (dtype.size_in_bytes(), gpu.limits()?);
    let launch = Launch::forward(planes, grid.size() - 1, bytes, from.is_aligned(), limits).map_err(no_launch)?;
    let knots = knots(grid);
    let mut arguments: Vec<Argument<'_>> =
        vec![from.into(), coefficients.into(), gpu.address(&y)?.into(), Argument::Struct(&knots)];
    arguments.extend(rows_of(planes, &launch)?);
    let kernel = format!("spline_forward_{}_{suffix}", launch.mapping.name());
    // SAFETY: the arguments are those of the kernel, and the launch covers its tensors and no more.
    unsafe { gpu.launch(&kernel, launch.into(), &arguments)? };
    Ok(y)
}

/// (∂x, ∂c).
pub(super) fn backward(
    grid: Grid,
    planes: Planes,
    (x, xl): (&CudaStorage, &Layout),
    (c, cl): (&CudaStorage, &Layout),
    (dy, dyl): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, CudaStorage)> {
    let (gpu, dtype, size) = (CudaGpu::new(&x.device, &KERNELS)?, x.dtype(), grid.size());
    let suffix = suffix(dtype)?;
    let dx = gpu.alloc(dtype, planes.elements())?;
    if planes.elements() == 0 {
        let zeros = gpu.device().alloc_zeros::<f32>(planes.channels * size)?;
        return Ok((dx, CudaStorage::wrap_cuda_slice(zeros, gpu.device().clone())));
    }
    let (from, gradient) = (address(x, xl, dtype, NAME)?, address(dy, dyl, dtype, NAME)?);
    let coefficients = address(c, cl, DType::F32, NAME)?;
    let aligned = from.is_aligned() && gradient.is_aligned();
    let launch =
        Launch::backward(planes, size - 1, dtype.size_in_bytes(), aligned, gpu.limits()?).map_err(no_launch)?;
    let columns = launch.mapping.columns_of_a_channel(planes);
    let partial = gpu.alloc(DType::F32, launch.pieces * planes.channels * columns * size)?;
    let dc = gpu.alloc(DType::F32, planes.channels * size)?;
    let (of_pieces, knots) = (gpu.address(&partial)?, knots(grid));
    let mut arguments: Vec<Argument<'_>> = vec![
        from.into(),
        coefficients.into(),
        gradient.into(),
        gpu.address(&dx)?.into(),
        of_pieces.into(),
        Argument::Struct(&knots),
    ];
    arguments.extend(rows_of(planes, &launch)?);
    let kernel = format!("spline_backward_{}_{suffix}", launch.mapping.name());
    let (pieces, channels, columns) = (int(launch.pieces)?, int(planes.channels)?, int(columns)?);
    let merge = [of_pieces.into(), gpu.address(&dc)?.into(), pieces, channels, columns, int(size)?];
    // SAFETY: the arguments are those of the kernels, and the launches cover their tensors and no more.
    unsafe {
        gpu.launch(&kernel, launch.into(), &arguments)?;
        gpu.launch("spline_merge", Blocks::for_each(planes.channels * size), &merge)?;
    }
    Ok((dx, dc))
}
