//! Projections on 1-Lipschitz splines, on a GPU.

use crate::backend::gpu::{Address, Argument, Gpu, LaunchDims, int};
use candle_core::{DType, Result};

/// The sizes of a projection: C, K, columns of the result, and T.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(super) channels: usize,
    pub(super) size: usize,
    pub(super) width: usize,
    pub(super) step: f64,
}

impl Sizes {
    /// The launch of a kernel with a thread for each channel, and its last arguments. Kernels count coefficients in `int`.
    pub(crate) fn launch(&self) -> Result<(LaunchDims, [Argument<'static>; 4])> {
        // Small blocks: threads read rows of their own, which keeps a multiprocessor busy with few of them.
        int(self.channels * self.size.max(self.width))?;
        let blocks = LaunchDims { grid: (self.channels.div_ceil(32).max(1), 1), threads: 32, shared: 0 };
        Ok((blocks, [int(self.channels)?, int(self.size)?, int(self.width)?, self.step.into()]))
    }
}

/// The coefficients of the projection, divided by α if there is a ln α.
pub(super) fn project<G: Gpu>(gpu: &G, sizes: Sizes, c: Address, log_alpha: Option<Address>) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, sizes.channels * sizes.width)?;
    let (blocks, last) = sizes.launch()?;
    let mut arguments: Vec<Argument<'_>> =
        vec![c.into(), log_alpha.unwrap_or(Address::NONE).into(), gpu.address(&out)?.into()];
    arguments.extend(last);
    // SAFETY: the kernel's arguments; it stays below the number of channels.
    unsafe { gpu.launch("slope_projection", blocks, &arguments)? };
    Ok(out)
}

/// (∂c, ∂ln α) from the result and its gradient.
pub(super) fn pull_back<G: Gpu>(
    gpu: &G,
    sizes: Sizes,
    (c, log_alpha): (Address, Option<Address>),
    (y, dy): (Address, Address),
) -> Result<(G::Buffer, Option<G::Buffer>)> {
    let dc = gpu.alloc(DType::F32, sizes.channels * sizes.size)?;
    let d_log_alpha = log_alpha.map(|_| gpu.alloc(DType::F32, sizes.channels)).transpose()?;
    let of_scaling = d_log_alpha.as_ref().map_or(Ok(Address::NONE), |array| gpu.address(array))?;
    let (blocks, last) = sizes.launch()?;
    let log_alpha = log_alpha.unwrap_or(Address::NONE);
    let mut arguments: Vec<Argument<'_>> =
        [c, log_alpha, y, dy, gpu.address(&dc)?, of_scaling].into_iter().map(Argument::from).collect();
    arguments.extend(last);
    // SAFETY: the kernel's arguments; it stays below the number of channels.
    unsafe { gpu.launch("slope_projection_gradient", blocks, &arguments)? };
    Ok((dc, d_log_alpha))
}
