//! Almost-orthogonal kernels on a GPU.

use super::sizes::{NAME, Sizes};
use crate::ops::device_matrix::{DeviceMatrix, as_matrix, plain, transpose};
use candle_core::{DType, Layout, Result};
use ds_core::backend::gpu::{Address, Argument, Gpu, GpuInput, LaunchDims, int};

impl Sizes {
    fn elements(&self) -> usize {
        self.outputs * self.in_row()
    }

    /// k, stride and side, the last arguments of kernels that go from one layout to the other.
    fn window(&self) -> Result<[Argument<'static>; 3]> {
        Ok([int(self.kernel)?, int(self.stride)?, int(self.side)?])
    }

    /// A kernel, or its gradient, as the matrix of its phases; with stride 1 it is one.
    fn phases<G: Gpu>(&self, gpu: &G, weight: &GpuInput<'_, G>) -> Result<Option<DeviceMatrix<G>>> {
        if self.stride == 1 {
            return Ok(None);
        }
        let elements = self.outputs * self.columns();
        let out = DeviceMatrix::alloc(gpu, self.outputs, self.columns())?;
        let mut arguments = vec![weight.address.into(), out.address(gpu)?.into()];
        arguments.extend([int(elements)?, int(self.columns())?, int(self.in_row())?]);
        arguments.extend(self.window()?);
        // SAFETY: the kernel's arguments; it stays below the number of elements.
        unsafe { gpu.launch("aol_phases", LaunchDims::for_each(elements), &arguments)? };
        Ok(Some(out))
    }

    /// The layout of the matrix where the kernel is one.
    fn layout<G: Gpu>(&self, weight: &GpuInput<'_, G>) -> Layout {
        as_matrix(weight, self.outputs, self.columns())
    }

    /// MᵀM.
    fn gram<G: Gpu>(&self, gpu: &G, matrix: &GpuInput<'_, G>) -> Result<DeviceMatrix<G>> {
        let columns = self.columns();
        int(self.channels * self.channels * self.shifts())?;
        let gram = gpu.matmul((columns, columns, self.outputs), transpose(matrix), plain(matrix))?;
        Ok(DeviceMatrix::new(gram, columns, columns))
    }

    /// d of each channel, and the gradients of the totals where that of the matrix is given.
    fn scales<G: Gpu>(
        &self,
        gpu: &G,
        gram: Address,
        matrix: Address,
        gradient: Address,
    ) -> Result<(G::Buffer, G::Buffer)> {
        let (scales, of_totals) = (gpu.alloc(DType::F32, self.channels)?, gpu.alloc(DType::F32, self.channels)?);
        let addresses = [gram, matrix, gradient, gpu.address(&scales)?, gpu.address(&of_totals)?];
        let mut arguments: Vec<Argument<'_>> = addresses.map(Into::into).to_vec();
        arguments.extend([int(self.channels)?, int(self.outputs)?, int(self.side)?]);
        let threads = LaunchDims::THREADS;
        let blocks = LaunchDims { grid: (self.channels, 1), threads, shared: 8 * threads };
        // SAFETY: the kernel's arguments; a block for each channel.
        unsafe { gpu.launch("aol_scales", blocks, &arguments)? };
        Ok((scales, of_totals))
    }
}

/// The scaled kernel.
pub(super) fn scaled<G: Gpu>(gpu: &G, sizes: Sizes, weight: &GpuInput<'_, G>) -> Result<G::Buffer> {
    let (phases, layout) = (sizes.phases(gpu, weight)?, sizes.layout(weight));
    let matrix = match &phases {
        Some(phases) => phases.input(gpu, NAME)?,
        None => GpuInput { layout: &layout, ..*weight },
    };
    let gram = sizes.gram(gpu, &matrix)?;
    let (scales, _) = sizes.scales(gpu, gram.address(gpu)?, matrix.address, Address::NONE)?;
    let out = gpu.alloc(DType::F32, sizes.elements())?;
    let mut arguments: Vec<Argument<'_>> =
        [weight.address, gpu.address(&scales)?, gpu.address(&out)?].map(Into::into).to_vec();
    arguments.extend([int(sizes.elements())?, int(sizes.in_row())?]);
    arguments.extend(sizes.window()?);
    // SAFETY: the kernel's arguments; it stays below the number of elements.
    unsafe { gpu.launch("aol_forward", LaunchDims::for_each(sizes.elements()), &arguments)? };
    Ok(out)
}

/// The gradient of the kernel from that of the scaled one.
pub(super) fn gradient<G: Gpu>(
    gpu: &G,
    sizes: Sizes,
    weight: &GpuInput<'_, G>,
    dy: &GpuInput<'_, G>,
) -> Result<G::Buffer> {
    let (phases, of_gradient, layout) = (sizes.phases(gpu, weight)?, sizes.phases(gpu, dy)?, sizes.layout(weight));
    let (matrix, of_matrix) = match (&phases, &of_gradient) {
        (Some(phases), Some(of_gradient)) => (phases.input(gpu, NAME)?, of_gradient.address(gpu)?),
        _ => (GpuInput { layout: &layout, ..*weight }, dy.address),
    };
    let (gram, columns) = (sizes.gram(gpu, &matrix)?, sizes.columns());
    let gram = gram.address(gpu)?;
    let (scales, of_totals) = sizes.scales(gpu, gram, matrix.address, of_matrix)?;
    let signs = DeviceMatrix::alloc(gpu, columns, columns)?;
    let arguments = [
        gram.into(),
        gpu.address(&of_totals)?.into(),
        signs.address(gpu)?.into(),
        int(sizes.channels)?,
        int(sizes.side)?,
    ];
    let products = sizes.channels * sizes.channels * sizes.shifts();
    // SAFETY: the kernel's arguments; each (i, j, p) writes the products that are its own, and together they are all.
    unsafe { gpu.launch("aol_signs", LaunchDims::for_each(products), &arguments)? };
    let through = gpu.matmul((sizes.outputs, columns, columns), plain(&matrix), plain(&signs.input(gpu, NAME)?))?;
    let out = gpu.alloc(DType::F32, sizes.elements())?;
    let addresses = [dy.address, gpu.address(&scales)?, gpu.address(&through)?, gpu.address(&out)?];
    let mut arguments: Vec<Argument<'_>> = addresses.map(Into::into).to_vec();
    arguments.extend([int(sizes.elements())?, int(columns)?, int(sizes.in_row())?]);
    arguments.extend(sizes.window()?);
    // SAFETY: the kernel's arguments; it stays below the number of elements.
    unsafe { gpu.launch("aol_backward", LaunchDims::for_each(sizes.elements()), &arguments)? };
    Ok(out)
}
