//! Launches of kernels that compute each element from one of x: pointwise ones, and ones with a parameter for each channel.

use super::arguments::{
    Address, Argument, LaunchDims, all_aligned, by_channel, int, kernel_of, kernel_of_mapping, pointwise_blocks,
    rows_of,
};
use super::device::{Gpu, reduce_partials};
use crate::backend::planes::Planes;
use candle_core::{DType, Result};

/// The result of a pointwise kernel for arrays of `n` elements. The kernel takes the arrays, the result, `more`, n, and whether all are
/// aligned.
///
/// # Safety
/// These must be the kernel's arguments.
///
/// # Errors
/// If there is no kernel of this type, or the launch fails.
pub unsafe fn pointwise<G: Gpu>(
    gpu: &G,
    kernel: &str,
    dtype: DType,
    n: usize,
    arrays: &[Address],
    more: &[Argument<'_>],
) -> Result<G::Buffer> {
    let out = gpu.alloc(dtype, n)?;
    let arrays = [arrays, &[gpu.address(&out)?]].concat();
    let mut arguments: Vec<Argument<'_>> = arrays.iter().map(|&array| array.into()).collect();
    arguments.extend_from_slice(more);
    arguments.extend([int(n)?, all_aligned(&arrays)]);
    // SAFETY: the kernel's arguments, as the caller promises; it stays below n.
    unsafe { gpu.launch(&kernel_of(kernel, dtype)?, pointwise_blocks(n, dtype), &arguments)? };
    Ok(out)
}

/// A function of x with a parameter for each channel.
pub struct OfChannels<'a> {
    /// The kernel; that of the gradient ends with `_gradient`.
    pub kernel: &'a str,
    /// The planes that blocks go over.
    pub planes: Planes,
    /// The elements of x.
    pub elements: usize,
    /// The type of x, y and their gradients.
    pub dtype: DType,
    /// The input.
    pub x: Address,
    /// The parameters.
    pub parameters: Address,
}

impl OfChannels<'_> {
    /// Shared memory of a forward kernel: room for what its first thread makes of the parameter.
    const SHARED: usize = 16;

    /// y. The kernel takes x, the parameters, y, `more`, and the rows of a block.
    ///
    /// # Safety
    /// These must be the kernel's arguments.
    ///
    /// # Errors
    /// If there is no kernel of this type, or the launch fails.
    pub unsafe fn forward<G: Gpu>(&self, gpu: &G, more: &[Argument<'_>]) -> Result<G::Buffer> {
        let y = gpu.alloc(self.dtype, self.elements)?;
        if self.elements == 0 {
            return Ok(y);
        }
        let to = gpu.address(&y)?;
        let aligned = self.x.is_aligned() && to.is_aligned();
        let launch = by_channel(gpu.limits()?, self.planes, self.dtype, aligned, Self::SHARED)?;
        let mut arguments: Vec<Argument<'_>> = vec![self.x.into(), self.parameters.into(), to.into()];
        arguments.extend_from_slice(more);
        arguments.extend(rows_of(self.planes, &launch)?);
        // SAFETY: the kernel's arguments, as the caller promises; the launch covers the rows and no more.
        unsafe { gpu.launch(&kernel_of_mapping(self.kernel, &launch, self.dtype)?, launch.into(), &arguments)? };
        Ok(y)
    }

    /// (∂x, ∂parameters). The kernel takes x, the parameters, ∂y, ∂x, sums by piece and channel, and the rows of a block.
    ///
    /// # Safety
    /// These must be the arguments of the gradient's kernel.
    ///
    /// # Errors
    /// If there is no kernel of this type, or the launch fails.
    pub unsafe fn backward<G: Gpu>(&self, gpu: &G, dy: Address) -> Result<(G::Buffer, G::Buffer)> {
        let Self { planes, dtype, x, .. } = *self;
        let dx = gpu.alloc(dtype, self.elements)?;
        let to = gpu.address(&dx)?;
        let aligned = [x, dy, to].iter().all(|a| a.is_aligned());
        let launch = by_channel(gpu.limits()?, planes, dtype, aligned, 8 * LaunchDims::THREADS)?;
        // No elements have sums of 0, over no pieces.
        let pieces = if self.elements == 0 { 0 } else { launch.pieces };
        let partial = gpu.alloc(DType::F64, pieces * planes.channels)?;
        let mut arguments: Vec<Argument<'_>> =
            vec![x.into(), self.parameters.into(), dy.into(), to.into(), gpu.address(&partial)?.into()];
        arguments.extend(rows_of(planes, &launch)?);
        let kernel = kernel_of_mapping(&format!("{}_gradient", self.kernel), &launch, dtype)?;
        // SAFETY: the kernel's arguments, as the caller promises; the launch covers the rows and no more, and has a sum of each piece
        // and channel.
        let of_parameters = unsafe {
            if pieces > 0 {
                gpu.launch(&kernel, launch.into(), &arguments)?;
            }
            reduce_partials(gpu, &partial, 0, (pieces, planes.channels, 1))?
        };
        Ok((dx, of_parameters))
    }
}
