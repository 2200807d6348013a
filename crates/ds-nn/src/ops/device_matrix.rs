//! Matrices on a GPU, in f32, as factors of products.

use candle_core::{DType, Layout, Result};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, Matrix};

/// A matrix that an op has computed.
pub(super) struct DeviceMatrix<G: Gpu> {
    pub(super) buffer: G::Buffer,
    layout: Layout,
}

impl<G: Gpu> DeviceMatrix<G> {
    pub(super) fn new(buffer: G::Buffer, rows: usize, columns: usize) -> Self {
        Self { buffer, layout: Layout::contiguous((rows, columns)) }
    }

    /// Of numbers that are anything.
    pub(super) fn alloc(gpu: &G, rows: usize, columns: usize) -> Result<Self> {
        Ok(Self::new(gpu.alloc(DType::F32, rows * columns)?, rows, columns))
    }

    pub(super) fn input(&self, gpu: &G, op: &str) -> Result<GpuInput<'_, G>> {
        GpuInput::new(gpu, &self.buffer, &self.layout, DType::F32, op)
    }

    pub(super) fn address(&self, gpu: &G) -> Result<Address> {
        gpu.address(&self.buffer)
    }
}

/// The layout of an input, such as a kernel (O, I, k, k), as a matrix.
pub(super) fn as_matrix<G: Gpu>(input: &GpuInput<'_, G>, rows: usize, columns: usize) -> Layout {
    Layout::contiguous_with_offset((rows, columns), input.layout.start_offset())
}

/// A factor as it is.
pub(super) fn plain<'a, G: Gpu>(input: &GpuInput<'a, G>) -> Matrix<'a, G> {
    Matrix { input: *input, transposed: false }
}

/// The transpose of what is given.
pub(super) fn transpose<'a, G: Gpu>(input: &GpuInput<'a, G>) -> Matrix<'a, G> {
    Matrix { input: *input, transposed: true }
}
