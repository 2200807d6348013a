//! Addresses, arguments, names and grids of launches.

use super::launch::{Launch, Limits, Mapping};
use crate::Grid;
use crate::backend::planes::Planes;
use candle_core::{DType, Error, Result, bail};

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

/// The grid of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchDims {
    /// Blocks in both directions.
    pub grid: (usize, usize),
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory of a block.
    pub shared: usize,
}

impl LaunchDims {
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

impl From<Launch> for LaunchDims {
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

/// 1 if all arrays begin at multiples of 16 bytes, as a kernel takes it.
pub fn all_aligned(addresses: &[Address]) -> Argument<'static> {
    Argument::Int(i32::from(addresses.iter().all(|address| address.is_aligned())))
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

/// The name of a kernel for data of this type that goes channel by channel.
///
/// # Errors
/// If there is none.
pub fn kernel_of_mapping(kernel: &str, launch: &Launch, dtype: DType) -> Result<String> {
    kernel_of(&format!("{kernel}_{}", launch.mapping.name()), dtype)
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
    Ok(Launch::by_channel(planes, mapping(planes, dtype, aligned), tables, limits)?)
}

/// The launch of a pointwise kernel of `n` elements of a type, a vector for each thread.
pub fn pointwise_blocks(n: usize, dtype: DType) -> LaunchDims {
    LaunchDims::for_each(n.div_ceil(in_vector(dtype)))
}
