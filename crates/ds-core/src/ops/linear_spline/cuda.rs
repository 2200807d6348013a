//! The linear spline on a GPU: kernels from `kernel.cu`, launched as `geometry` says.

use super::geometry::{Launch, Limits};
use crate::Grid;
use crate::ops::planes::Planes;
use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaView, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDType, CudaDevice, DeviceId, WrapErr};
use candle_core::{CudaStorage, Error, Layout, Result, bail};
use half::{bf16, f16};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Machine code and PTX, by `build.rs`.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/linear_spline.fatbin"));

/// From this size on a kernel must ask for its shared memory.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

/// The types of inputs; coefficients and their sums are f32 with all of them.
pub(super) trait Input: CudaDType + DeviceRepr {
    /// As it stands in the names of the kernels.
    const NAME: &'static str;
}

impl Input for f32 {
    const NAME: &'static str = "f32";
}
impl Input for f16 {
    const NAME: &'static str = "f16";
}
impl Input for bf16 {
    const NAME: &'static str = "bf16";
}

/// `Knots` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct Knots {
    step: f32,
    inverse: f32,
    first: f32,
    last: f32,
    centre: i32,
    segments: i32,
}

// SAFETY: the layout of the struct of that name in kernel.cu: numbers of four bytes in the same order.
unsafe impl DeviceRepr for Knots {}

impl Knots {
    fn new(grid: Grid) -> Self {
        let (step, centre, segments) = (grid.step() as f32, grid.size() as i32 / 2, grid.size() as i32 - 1);
        let last = (segments - 1 - centre) as f32;
        Self { step, inverse: 1.0 / step, first: -centre as f32, last, centre, segments }
    }
}

/// A device's kernels and what they may use.
#[derive(Clone)]
struct Loaded {
    module: Arc<CudaModule>,
    limits: Limits,
}

impl Loaded {
    /// Those of a device, loaded when they are first asked for.
    fn on(device: &CudaDevice) -> Result<Self> {
        static ALL: LazyLock<Mutex<HashMap<DeviceId, Loaded>>> = LazyLock::new(Mutex::default);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = all.get(&device.id()) {
            return Ok(loaded.clone());
        }
        let stream = device.cuda_stream();
        let context = stream.context();
        let attribute = |which| -> Result<usize> { Ok(usize::try_from(context.attribute(which).w()?).unwrap_or(0)) };
        use CUdevice_attribute as Of;
        let limits = Limits {
            multiprocessors: attribute(Of::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_block: attribute(Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_per_multiprocessor: attribute(Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        };
        let module = context.load_module(Ptx::from_binary(KERNELS.to_vec())).w()?;
        let loaded = Self { module, limits };
        all.insert(device.id(), loaded.clone());
        Ok(loaded)
    }

    fn kernel(&self, name: &str, shared: usize) -> Result<CudaFunction> {
        let function = self.module.load_function(name).w()?;
        if shared > SHARED_WITHOUT_ASKING {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, integer(shared)?).w()?;
        }
        Ok(function)
    }
}

fn integer(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::Msg(format!("linear-spline: {value} is more than a kernel can count")))
}

fn unsigned(value: usize) -> Result<u32> {
    Ok(integer(value)?.unsigned_abs())
}

/// N, C, the elements of a plane and the rows of a block, as kernels take them.
fn sizes(planes: Planes, launch: &Launch) -> Result<[i32; 4]> {
    let Planes { outer, channels, inner } = planes;
    Ok([integer(outer)?, integer(channels)?, integer(inner)?, integer(launch.rows_per_block)?])
}

fn config(launch: &Launch) -> Result<LaunchConfig> {
    Ok(LaunchConfig {
        grid_dim: (unsigned(launch.pieces)?, unsigned(launch.across)?, 1),
        block_dim: (unsigned(launch.threads)?, 1, 1),
        shared_mem_bytes: unsigned(launch.shared)?,
    })
}

/// The elements of a contiguous tensor.
fn view<'a, T: CudaDType>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(storage.as_cuda_slice::<T>()?.slice(start..end)),
        None => bail!("the op needs a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

/// Whether a tensor begins at a multiple of 16 bytes, as every allocation does.
fn aligned<T>(layout: &Layout) -> bool {
    (layout.start_offset() * size_of::<T>()).is_multiple_of(16)
}

fn no_launch(reason: super::geometry::NoLaunch) -> Error {
    Error::Msg(format!("linear-spline: {reason}"))
}

/// y = σ(x).
pub(super) fn forward<T: Input>(
    grid: Grid,
    planes: Planes,
    (x, xl): (&CudaStorage, &Layout),
    (c, cl): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let device = &x.device;
    // SAFETY: the kernel writes every element.
    let y = unsafe { device.alloc::<T>(planes.elements())? };
    if planes.elements() > 0 {
        let (x, c) = (view::<T>(x, xl)?, view::<f32>(c, cl)?);
        let loaded = Loaded::on(device)?;
        let launch = Launch::forward(planes, grid.size() - 1, size_of::<T>(), aligned::<T>(xl), loaded.limits)
            .map_err(no_launch)?;
        let name = format!("spline_forward_{}_{}", launch.mapping.name(), T::NAME);
        let (kernel, stream, knots) = (loaded.kernel(&name, launch.shared)?, device.cuda_stream(), Knots::new(grid));
        let [rows, channels, inner, rows_per_block] = sizes(planes, &launch)?;
        let mut builder = stream.launch_builder(&kernel);
        builder.arg(&x).arg(&c).arg(&y).arg(&knots).arg(&rows).arg(&channels).arg(&inner).arg(&rows_per_block);
        // SAFETY: the arguments are those of the kernel, and the launch covers its tensors and no more.
        unsafe { builder.launch(config(&launch)?) }.w()?;
    }
    Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
}

/// (∂x, ∂c).
pub(super) fn backward<T: Input>(
    grid: Grid,
    planes: Planes,
    (x, xl): (&CudaStorage, &Layout),
    (c, cl): (&CudaStorage, &Layout),
    (dy, dyl): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, CudaStorage)> {
    let (device, size) = (&x.device, grid.size());
    let wrap = |dx: CudaSlice<T>, dc: CudaSlice<f32>| {
        (CudaStorage::wrap_cuda_slice(dx, device.clone()), CudaStorage::wrap_cuda_slice(dc, device.clone()))
    };
    // SAFETY: the kernel writes every element.
    let dx = unsafe { device.alloc::<T>(planes.elements())? };
    if planes.elements() == 0 {
        return Ok(wrap(dx, device.alloc_zeros::<f32>(planes.channels * size)?));
    }
    let is_aligned = aligned::<T>(xl) && aligned::<T>(dyl);
    let (x, c, dy) = (view::<T>(x, xl)?, view::<f32>(c, cl)?, view::<T>(dy, dyl)?);
    let loaded = Loaded::on(device)?;
    let launch = Launch::backward(planes, size - 1, size_of::<T>(), is_aligned, loaded.limits).map_err(no_launch)?;
    let columns = launch.mapping.columns_of_a_channel(planes);
    // SAFETY: the kernels write every element.
    let (partial, dc) = unsafe {
        let partial = device.alloc::<f32>(launch.pieces * planes.channels * columns * size)?;
        (partial, device.alloc::<f32>(planes.channels * size)?)
    };
    let [rows, channels, inner, rows_per_block] = sizes(planes, &launch)?;
    let (stream, knots) = (device.cuda_stream(), Knots::new(grid));
    let name = format!("spline_backward_{}_{}", launch.mapping.name(), T::NAME);
    let kernel = loaded.kernel(&name, launch.shared)?;
    let mut builder = stream.launch_builder(&kernel);
    builder.arg(&x).arg(&c).arg(&dy).arg(&dx).arg(&partial).arg(&knots);
    builder.arg(&rows).arg(&channels).arg(&inner).arg(&rows_per_block);
    // SAFETY: the arguments are those of the kernel, and the launch covers its tensors and no more.
    unsafe { builder.launch(config(&launch)?) }.w()?;
    let kernel = loaded.kernel("spline_merge", 0)?;
    let (pieces, columns, size) = (integer(launch.pieces)?, integer(columns)?, integer(size)?);
    let mut builder = stream.launch_builder(&kernel);
    builder.arg(&partial).arg(&dc).arg(&pieces).arg(&channels).arg(&columns).arg(&size);
    let threads = Launch::MERGE_THREADS;
    let blocks = (planes.channels * grid.size()).div_ceil(threads);
    let config = LaunchConfig {
        grid_dim: (unsigned(blocks)?, 1, 1),
        block_dim: (unsigned(threads)?, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: as above; the kernel leaves out what is beyond the coefficients.
    unsafe { builder.launch(config) }.w()?;
    Ok(wrap(dx, dc))
}
