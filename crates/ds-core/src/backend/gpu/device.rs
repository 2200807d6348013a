//! A device that runs kernels.

use super::arguments::{Address, Argument, LaunchDims, int};
use super::launch::Limits;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Machine code and PTX of a crate's kernels, as its `build.rs` leaves them; empty without the feature `cuda`.
#[derive(Debug)]
pub struct Kernels {
    /// The module's name, unique on a device.
    pub name: &'static str,
    /// The fat binary.
    pub image: &'static [u8],
}

/// The kernels of this crate.
pub static KERNELS: Kernels =
    Kernels { name: "ds-core", image: include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")) };

/// A device that runs kernels.
pub trait Gpu: Sized + 'static {
    /// An array on the device, freed when it is dropped.
    type Buffer: Send + Sync + 'static;

    /// The device's properties that launches depend on.
    ///
    /// # Errors
    /// If the device cannot be queried.
    fn limits(&self) -> Result<Limits>;

    /// The compute capability (major, minor).
    ///
    /// # Errors
    /// If the device cannot be queried.
    fn compute_capability(&self) -> Result<(i32, i32)>;

    /// An uninitialised array.
    ///
    /// # Errors
    /// If the device is out of memory.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Self::Buffer>;

    /// The address of an array.
    ///
    /// # Errors
    /// If the array's type has no kernels.
    fn address(&self, buffer: &Self::Buffer) -> Result<Address>;

    /// The address of the elements of a contiguous tensor of this type. It is valid while the tensor or a clone of it lives; what
    /// was launched before the tensor is dropped still finds its elements, because memory is freed in the order of the stream.
    ///
    /// # Errors
    /// If the tensor is elsewhere, strided or of another type; the message names the op.
    fn address_of(&self, tensor: &Tensor, dtype: DType, op: &str) -> Result<Address>;

    /// Launches a kernel on the device's stream.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, and what it reads and writes with this launch must lie inside its arrays.
    ///
    /// # Errors
    /// If there is no such kernel or no such launch.
    unsafe fn launch(&self, kernel: &str, blocks: LaunchDims, arguments: &[Argument<'_>]) -> Result<()>;

    /// The product (m, n) of two matrices of one type, each of which may be given transposed.
    fn matmul(&self, sizes: (usize, usize, usize), a: Matrix<'_, Self>, b: Matrix<'_, Self>) -> Result<Self::Buffer>;
}

/// A factor of [`Gpu::matmul`].
pub struct Matrix<'a, G: Gpu> {
    /// The elements, row by row.
    pub input: GpuInput<'a, G>,
    /// Whether the transpose of these rows is the factor.
    pub transposed: bool,
}

/// An input on a GPU: contiguous.
pub struct GpuInput<'a, G: Gpu> {
    /// The array.
    pub buffer: &'a G::Buffer,
    /// Shape and offset.
    pub layout: &'a Layout,
    /// The type of the elements.
    pub dtype: DType,
    /// The address of the first element.
    pub address: Address,
}

impl<G: Gpu> Clone for GpuInput<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<G: Gpu> Copy for GpuInput<'_, G> {}

impl<'a, G: Gpu> GpuInput<'a, G> {
    /// An array as an input.
    ///
    /// # Errors
    /// If the layout is strided, or the type has no kernels; the message names the op.
    pub fn new(gpu: &G, buffer: &'a G::Buffer, layout: &'a Layout, dtype: DType, op: &str) -> Result<Self> {
        let Some((start, _)) = layout.contiguous_offsets() else {
            bail!("{op}: the op needs a contiguous tensor, got strides {:?}", layout.stride())
        };
        let Address(first) = gpu.address(buffer)?;
        let address = Address(first + (start * dtype.size_in_bytes()) as u64);
        Ok(Self { buffer, layout, dtype, address })
    }

    /// The shape.
    pub fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    /// The address of elements of this type.
    ///
    /// # Errors
    /// If the elements have another type; the message names the op.
    pub fn of_type(&self, dtype: DType, op: &str) -> Result<Address> {
        if self.dtype != dtype {
            bail!("{op}: the GPU kernel takes {dtype:?}, got {:?}", self.dtype);
        }
        Ok(self.address)
    }
}

/// The sums (count) of partial results (pieces, count, every) over the pieces: of each `every` numbers the one at `first`.
///
/// # Safety
/// `partial` must hold these numbers.
pub unsafe fn reduce_partials<G: Gpu>(
    gpu: &G,
    partial: &G::Buffer,
    first: usize,
    (pieces, count, every): (usize, usize, usize),
) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, count)?;
    let start = Address(gpu.address(partial)?.0 + 8 * first as u64);
    let arguments = [start.into(), gpu.address(&out)?.into(), int(pieces)?, int(count)?, int(every)?];
    // SAFETY: as the caller promises.
    unsafe { gpu.launch("merge", LaunchDims::for_each(count), &arguments)? };
    Ok(out)
}

/// A tensor of these elements, outside any graph.
pub fn tensor_on(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
