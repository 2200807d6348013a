//! The GPU side of ops: which kernel, with how many threads, on which arrays.
//!
//! It is written against [`Gpu`], which with the feature `cuda` is a CUDA device (`cuda::CudaGpu`) and in tests an emulation
//! on the CPU that runs the same kernels compiled as C++. Launches and arguments are so tested where there is no GPU.
//! All arrays are contiguous; numbers are f32 where nothing else is said. Where a function takes a [`DType`] it is that of x, y and
//! their gradients: f32 or bf16. Kernels compute in f32 with both; parameters, their gradients and sums stay f32 or f64.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod linear_spline;
pub mod norm;
pub mod pointwise;
pub mod reparametrization;

use super::linear_spline::geometry::{Launch, Limits, Mapping};
use super::planes::Planes;
use crate::Grid;
use candle_core::{DType, Error, Result, bail};

/// What runs kernels.
pub trait Gpu {
    /// An array of a device, freed when it is dropped.
    type Buffer;

    /// What launches depend on.
    ///
    /// # Errors
    /// If the device does not tell.
    fn limits(&self) -> Result<Limits>;

    /// An array whose contents are anything.
    ///
    /// # Errors
    /// If there is no memory left.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Self::Buffer>;

    /// Where an array begins.
    ///
    /// # Errors
    /// If its type has no kernels.
    fn address(&self, buffer: &Self::Buffer) -> Result<Address>;

    /// Starts a kernel after those that were started before.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, and what it reads and writes with this launch must lie inside its arrays.
    ///
    /// # Errors
    /// If there is no such kernel or no such launch.
    unsafe fn launch(&self, kernel: &str, blocks: Blocks, arguments: &[Argument<'_>]) -> Result<()>;
}

/// An address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// That of no array, where a kernel can do without.
    pub const NONE: Self = Self(0);

    /// Whether 16 bytes can be read at once there.
    pub fn is_aligned(self) -> bool {
        self.0.is_multiple_of(16)
    }
}

/// 1 if all arrays begin at multiples of 16 bytes, as a kernel takes it.
pub fn all_aligned(addresses: &[Address]) -> Argument<'static> {
    Argument::Int(i32::from(addresses.iter().all(|address| address.is_aligned())))
}

/// The grid of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Blocks in both directions.
    pub grid: (usize, usize),
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory of a block.
    pub shared: usize,
}

impl Blocks {
    /// Threads of a block where nothing asks for another number.
    pub const THREADS: usize = 256;

    /// A thread for each of `n`.
    pub fn for_each(n: usize) -> Self {
        Self { grid: (n.div_ceil(Self::THREADS).max(1), 1), threads: Self::THREADS, shared: 0 }
    }

    /// One block.
    pub fn one(shared: usize) -> Self {
        Self { grid: (1, 1), threads: Self::THREADS, shared }
    }
}

impl From<Launch> for Blocks {
    fn from(launch: Launch) -> Self {
        Self { grid: (launch.pieces, launch.across), threads: launch.threads, shared: launch.shared }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument<'a> {
    /// An array.
    Array(Address),
    /// `int`.
    Int(i32),
    /// `unsigned long long`.
    Long(u64),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
    /// A struct of this many bytes, in words.
    Struct(&'a [u64]),
}

impl From<Address> for Argument<'_> {
    fn from(address: Address) -> Self {
        Self::Array(address)
    }
}
impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}
impl From<f64> for Argument<'_> {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// The name of a kernel for data of this type.
///
/// # Errors
/// If there is none.
pub fn kernel_of(kernel: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 | DType::BF16 => Ok(format!("{kernel}_{}", dtype.as_str())),
        other => bail!("{kernel}: the GPU kernels take f32 and bf16, got {other:?}"),
    }
}

/// Numbers of a type in 16 bytes.
pub fn in_vector(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

/// A size as kernels count.
///
/// # Errors
/// If it is 2³¹ or more.
pub fn int(value: usize) -> Result<Argument<'static>> {
    Ok(Argument::Int(integer(value)?))
}

pub(crate) fn integer(value: usize) -> Result<i32> {
    i32::try_from(value)
        .map_err(|_| Error::Msg(format!("{value} elements are more than a GPU kernel can count: use smaller batches")))
}

/// `Knots` of the kernels: what the segment of an input is found with.
pub fn knots(grid: Grid) -> [u64; 3] {
    let (step, centre, segments) = (grid.step() as f32, grid.size() / 2, grid.size() - 1);
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let (first, last) = (-(centre as f32), segments as f32 - 1.0 - centre as f32);
    [
        pair(step.to_bits(), (1.0 / step).to_bits()),
        pair(first.to_bits(), last.to_bits()),
        pair(centre as u32, segments as u32),
    ]
}

/// Rows, channels, elements of a plane and rows of a block, the last arguments of kernels that go channel by channel.
///
/// # Errors
/// If one is 2³¹ or more.
pub fn rows_of(planes: Planes, launch: &Launch) -> Result<[Argument<'static>; 4]> {
    Ok([int(planes.outer)?, int(planes.channels)?, int(planes.inner)?, int(launch.rows_per_block)?])
}

/// Vectors where planes consist of whole ones, otherwise elements.
pub fn mapping(planes: Planes, dtype: DType, aligned: bool) -> Mapping {
    let of_vectors = aligned && planes.inner.is_multiple_of(in_vector(dtype));
    if of_vectors { Mapping::Vectors } else { Mapping::Scalars }
}

/// A launch of a kernel that goes channel by channel over data of a type, 256 threads a block; `tables`: its shared memory in
/// bytes.
///
/// # Errors
/// If the device cannot hold the tables or the grid.
pub fn by_channel(limits: Limits, planes: Planes, dtype: DType, aligned: bool, tables: usize) -> Result<Launch> {
    Launch::by_channel(planes, mapping(planes, dtype, aligned), tables, limits)
        .map_err(|reason| Error::Msg(reason.to_string()))
}

/// Σ over the pieces of partial (pieces, count, every), of each `every` numbers the one at `first`.
///
/// # Safety
/// `partial` must hold these numbers.
///
/// # Errors
/// Those of the launch.
pub unsafe fn merged<G: Gpu>(
    gpu: &G,
    partial: &G::Buffer,
    first: usize,
    (pieces, count, every): (usize, usize, usize),
) -> Result<G::Buffer> {
    let out = gpu.alloc(DType::F32, count)?;
    let start = Address(gpu.address(partial)?.0 + 8 * first as u64);
    let arguments = [start.into(), gpu.address(&out)?.into(), int(pieces)?, int(count)?, int(every)?];
    // SAFETY: as the caller promises.
    unsafe { gpu.launch("merge", Blocks::for_each(count), &arguments)? };
    Ok(out)
}
