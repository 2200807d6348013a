//! The linear spline. Inputs are f32, f16 or bf16; coefficients and their sums are f32 with all of them.

use super::{Address, Argument, Blocks, Gpu, int, knots, rows_of};
use crate::Grid;
use crate::ops::linear_spline::geometry::{Launch, NoLaunch};
use crate::ops::planes::Planes;
use candle_core::{DType, Error, Result, bail};

const NAME: &str = "linear-spline";

/// The type as it stands in the names of the kernels.
fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(dtype.as_str()),
        other => bail!("{NAME}: the GPU kernels take f32, f16 and bf16 with coefficients in f32, got {other:?}"),
    }
}

fn no_launch(reason: NoLaunch) -> Error {
    Error::Msg(format!("{NAME}: {reason}"))
}

/// σ(x) for x (N, C, …) of this type, which is not empty, and c (C, K).
///
/// # Errors
/// If there are no kernels for the type, too many knots or channels, or those of the device.
pub fn forward<G: Gpu>(gpu: &G, grid: Grid, planes: Planes, dtype: DType, x: Address, c: Address) -> Result<G::Buffer> {
    let (suffix, bytes) = (suffix(dtype)?, dtype.size_in_bytes());
    let y = gpu.alloc(dtype, planes.elements())?;
    let launch = Launch::forward(planes, grid.size() - 1, bytes, x.is_aligned(), gpu.limits()?).map_err(no_launch)?;
    let knots = knots(grid);
    let (to, knots, row_bytes) = (gpu.address(&y)?, Argument::Struct(&knots), int(launch.row_bytes())?);
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), c.into(), to.into(), knots, row_bytes];
    arguments.extend(rows_of(planes, &launch)?);
    let kernel = format!("spline_forward_{}_{suffix}", launch.mapping.name());
    // SAFETY: the arguments are those of the kernel, and the launch covers its arrays and no more.
    unsafe { gpu.launch(&kernel, launch.into(), &arguments)? };
    Ok(y)
}

/// (∂x, ∂c).
///
/// # Errors
/// As for [`forward`].
pub fn backward<G: Gpu>(
    gpu: &G,
    grid: Grid,
    planes: Planes,
    dtype: DType,
    (x, c): (Address, Address),
    dy: Address,
) -> Result<(G::Buffer, G::Buffer)> {
    let (suffix, bytes, size) = (suffix(dtype)?, dtype.size_in_bytes(), grid.size());
    let dx = gpu.alloc(dtype, planes.elements())?;
    let aligned = x.is_aligned() && dy.is_aligned();
    let launch = Launch::backward(planes, size - 1, bytes, aligned, gpu.limits()?).map_err(no_launch)?;
    let columns = launch.mapping.columns_of_a_channel(planes);
    let partial = gpu.alloc(DType::F32, launch.pieces * planes.channels * columns * size)?;
    let dc = gpu.alloc(DType::F32, planes.channels * size)?;
    let (of_pieces, knots) = (gpu.address(&partial)?, knots(grid));
    let (to, knots) = (gpu.address(&dx)?, Argument::Struct(&knots));
    let mut arguments: Vec<Argument<'_>> = vec![x.into(), c.into(), dy.into(), to.into(), of_pieces.into(), knots];
    arguments.extend(rows_of(planes, &launch)?);
    let kernel = format!("spline_backward_{}_{suffix}", launch.mapping.name());
    let (pieces, channels, columns) = (int(launch.pieces)?, int(planes.channels)?, int(columns)?);
    let merge = [of_pieces.into(), gpu.address(&dc)?.into(), pieces, channels, columns, int(size)?];
    // SAFETY: the arguments are those of the kernels, and the launches cover their arrays and no more.
    unsafe {
        gpu.launch(&kernel, launch.into(), &arguments)?;
        gpu.launch("spline_merge", Blocks::for_each(planes.channels * size), &merge)?;
    }
    Ok((dx, dc))
}
