//! The linear spline on a GPU. Inputs are f32, f16 or bf16; coefficients and their gradients are f32 with all of them.

use crate::Grid;
use crate::backend::gpu::launch::Launch;
use crate::backend::gpu::{Address, Argument, Gpu, LaunchDims, int, knots, rows_of};
use crate::backend::planes::Planes;
use candle_core::{DType, Result, bail};

/// The name of the op.
pub(super) const NAME: &str = "linear-spline";

/// The name of a kernel for data of this type.
fn kernel_of(kernel: &str, launch: &Launch, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(format!("{kernel}_{}_{}", launch.mapping.name(), dtype.as_str())),
        other => {
            bail!("{NAME}: the GPU kernels take f32, f16 and bf16 with coefficients in f32, got {other:?}")
        }
    }
}

/// σ(x) for x (N, C, …) and c (C, K).
pub(super) fn forward<G: Gpu>(
    gpu: &G,
    grid: Grid,
    planes: Planes,
    dtype: DType,
    (x, c): (Address, Address),
) -> Result<G::Buffer> {
    let y = gpu.alloc(dtype, planes.elements())?;
    if planes.elements() == 0 {
        return Ok(y);
    }
    let bytes = dtype.size_in_bytes();
    let launch = Launch::forward(planes, grid.size() - 1, bytes, x.is_aligned(), gpu.limits()?)?;
    let knots = knots(grid);
    let (to, knots, row_bytes) = (gpu.address(&y)?, Argument::Struct(&knots), int(launch.row_bytes())?);
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), c.into(), to.into(), knots, row_bytes];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the arguments are those of the kernel, and the launch covers its arrays and no more.
    unsafe { gpu.launch(&kernel_of("spline_forward", &launch, dtype)?, launch.into(), &arguments)? };
    Ok(y)
}

/// (∂x, ∂c).
pub(super) fn backward<G: Gpu>(
    gpu: &G,
    grid: Grid,
    planes: Planes,
    dtype: DType,
    (x, c): (Address, Address),
    dy: Address,
) -> Result<(G::Buffer, G::Buffer)> {
    let size = grid.size();
    let dx = gpu.alloc(dtype, planes.elements())?;
    let dc = gpu.alloc(DType::F32, planes.channels * size)?;
    let is_empty = planes.elements() == 0;
    let aligned = x.is_aligned() && dy.is_aligned();
    let launch = Launch::backward(planes, size - 1, dtype.size_in_bytes(), aligned, gpu.limits()?)?;
    let columns = launch.mapping.columns_of_a_channel(planes);
    let pieces = if is_empty { 0 } else { launch.pieces };
    let partial = gpu.alloc(DType::F32, pieces * planes.channels * columns * size)?;
    let (of_pieces, knots) = (gpu.address(&partial)?, knots(grid));
    let (to, knots) = (gpu.address(&dx)?, Argument::Struct(&knots));
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), c.into(), dy.into(), to.into(), of_pieces.into(), knots];
    arguments.extend(rows_of(planes, &launch)?);
    let (pieces, channels, columns) = (int(pieces)?, int(planes.channels)?, int(columns)?);
    int(planes.channels * size)?;
    let merge = [of_pieces.into(), gpu.address(&dc)?.into(), pieces, channels, columns, int(size)?];
    // SAFETY: the arguments are those of the kernels, and the launches cover their arrays and no more.
    unsafe {
        if !is_empty {
            gpu.launch(&kernel_of("spline_backward", &launch, dtype)?, launch.into(), &arguments)?;
        }
        gpu.launch("spline_merge", LaunchDims::for_each(planes.channels * size), &merge)?;
    }
    Ok((dx, dc))
}
