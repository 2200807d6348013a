//! The polar factor on a GPU, in f32: no number is read back, so that a training step can be captured as a graph.

use super::tall::{NAME, Tall};
use crate::ops::device_matrix::{DeviceMatrix, as_matrix, plain, transpose};
use candle_core::{DType, Layout, Result};
use ds_core::backend::gpu::{Address, Gpu, GpuInput, LaunchDims, int, pointwise};

/// Steps of Björck's iteration. Each multiplies small singular values by 15/8: those from 0.03 on become 1. In training a weight is
/// near its polar factor, since every step writes that back, and two are enough.
const STEPS: usize = 6;

impl Tall {
    /// A weight (O, …) on a GPU as a matrix of O rows.
    fn layout<G: Gpu>(&self, weight: &GpuInput<'_, G>) -> Layout {
        let (outputs, inputs) = if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) };
        as_matrix(weight, outputs, inputs)
    }

    /// AᵀB (columns, columns) of two such matrices.
    fn inner_on<G: Gpu>(&self, gpu: &G, a: &GpuInput<'_, G>, b: &GpuInput<'_, G>) -> Result<DeviceMatrix<G>> {
        let n = self.columns;
        let (a, b) = if self.transposed { (plain(a), transpose(b)) } else { (transpose(a), plain(b)) };
        Ok(DeviceMatrix::new(gpu.matmul((n, n, self.rows), a, b)?, n, n))
    }

    /// A·S for a symmetric S (columns, columns), laid out as A is.
    fn times_on<G: Gpu>(&self, gpu: &G, a: &GpuInput<'_, G>, s: &GpuInput<'_, G>) -> Result<DeviceMatrix<G>> {
        let (rows, n) = (self.rows, self.columns);
        if self.transposed {
            Ok(DeviceMatrix::new(gpu.matmul((n, rows, n), plain(s), plain(a))?, n, rows))
        } else {
            Ok(DeviceMatrix::new(gpu.matmul((rows, n, n), plain(a), plain(s))?, rows, n))
        }
    }
}

/// What a kernel writes that takes these arrays, the result (n, n) and n, and has a thread for each number of the result.
fn square<G: Gpu>(gpu: &G, kernel: &str, n: usize, inputs: &[Address]) -> Result<DeviceMatrix<G>> {
    let out = DeviceMatrix::alloc(gpu, n, n)?;
    let mut arguments: Vec<_> = inputs.iter().map(|&address| address.into()).collect();
    arguments.extend([out.address(gpu)?.into(), int(n)?]);
    int(n * n)?;
    // SAFETY: the kernel's arguments; it stays below n².
    unsafe { gpu.launch(kernel, LaunchDims::for_each(n * n), &arguments)? };
    Ok(out)
}

/// The polar factor of a weight, by a fixed number of steps.
pub(super) fn polar_factor<G: Gpu>(gpu: &G, tall: Tall, weight: &GpuInput<'_, G>) -> Result<G::Buffer> {
    let (n, layout) = (tall.columns, tall.layout(weight));
    int(n * n)?;
    let weight = GpuInput { layout: &layout, ..*weight };
    let gram = tall.inner_on(gpu, &weight, &weight)?;
    let gram = gram.address(gpu)?;
    let (sums, scale) = (gpu.alloc(DType::F64, 4 * n)?, gpu.alloc(DType::F32, 1)?);
    let (sums, scale) = (gpu.address(&sums)?, gpu.address(&scale)?);
    let mut e = DeviceMatrix::alloc(gpu, n, n)?;
    let blocks = LaunchDims { grid: (n, 1), threads: LaunchDims::THREADS, shared: 8 * LaunchDims::THREADS };
    // SAFETY: the kernels' arguments; a block for each row, and a thread for each of n² numbers.
    unsafe {
        gpu.launch("bjorck_rows", blocks, &[gram.into(), sums.into(), int(n)?])?;
        let arguments = [gram.into(), sums.into(), e.address(gpu)?.into(), scale.into(), int(n)?];
        gpu.launch("bjorck_start", LaunchDims { shared: blocks.shared, ..LaunchDims::for_each(n * n) }, &arguments)?;
    }
    let mut factor: Option<DeviceMatrix<G>> = None;
    for step in 0..STEPS {
        let squared = {
            let e = e.input(gpu, NAME)?;
            DeviceMatrix::<G>::new(gpu.matmul((n, n, n), plain(&e), plain(&e))?, n, n)
        };
        let scale = if step == 0 { scale } else { Address::NONE };
        let addresses = [e.address(gpu)?, squared.address(gpu)?, scale];
        let polynomial = square(gpu, "bjorck_factor", n, &addresses)?;
        let next = match &factor {
            None => tall.times_on(gpu, &weight, &polynomial.input(gpu, NAME)?)?,
            Some(factor) => tall.times_on(gpu, &factor.input(gpu, NAME)?, &polynomial.input(gpu, NAME)?)?,
        };
        if step + 1 < STEPS {
            let gram = tall.inner_on(gpu, &next.input(gpu, NAME)?, &next.input(gpu, NAME)?)?;
            e = square(gpu, "from_identity", n, &[gram.address(gpu)?])?;
        }
        factor = Some(next);
    }
    match factor {
        Some(factor) => Ok(factor.buffer),
        None => candle_core::bail!("polar-factor: no steps"),
    }
}

/// ∂Q − Q·sym(Qᵀ∂Q), and transposed for rows.
pub(super) fn gradient<G: Gpu>(
    gpu: &G,
    tall: Tall,
    factor: &GpuInput<'_, G>,
    of_factor: &GpuInput<'_, G>,
) -> Result<G::Buffer> {
    let (of_q, of_g) = (tall.layout(factor), tall.layout(of_factor));
    let (q, g) = (GpuInput { layout: &of_q, ..*factor }, GpuInput { layout: &of_g, ..*of_factor });
    let inner = tall.inner_on(gpu, &q, &g)?;
    let symmetric = square(gpu, "symmetric_part", tall.columns, &[inner.address(gpu)?])?;
    let normal = tall.times_on(gpu, &q, &symmetric.input(gpu, NAME)?)?;
    let arrays = [g.address, normal.address(gpu)?];
    // SAFETY: the kernel's arguments.
    unsafe { pointwise(gpu, "difference", DType::F32, tall.rows * tall.columns, &arrays, &[]) }
}
