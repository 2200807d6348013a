//! Kernels on CUDA devices, and tensors that lie there.

mod graph;
mod memory;

pub use graph::{Graph, is_recording, rehearse};
pub use memory::{peak_memory, reset_peak_memory};

use super::{Address, Argument, Blocks, Gpu, integer};
use crate::ops::linear_spline::geometry::Limits;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// From this size on a kernel must ask for its shared memory.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

/// Machine code and PTX of some kernels, as `build.rs` leaves them.
#[derive(Debug)]
pub struct Kernels {
    /// Tells them from others on the same device.
    pub name: &'static str,
    /// The fat binary.
    pub image: &'static [u8],
}

/// Those of this folder.
pub static KERNELS: Kernels =
    Kernels { name: "ds-core", image: include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")) };

/// A device with a stream of its own, for one process that does all its work there.
///
/// `Device::new_cuda` takes the stream of the calling thread, so that what one thread launches does not wait for another; here
/// there is one order for all. Freed memory is kept for what comes next instead of being given back at every synchronisation.
///
/// # Errors
/// If there is no such device, or no driver that it works with.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: there is one stream, so that events between streams are of no use.
    unsafe { cuda.disable_event_tracking() };
    memory::keep_freed(cuda)?;
    Ok(device)
}

/// How many devices there are.
///
/// # Errors
/// If the driver does not tell.
pub fn count() -> Result<usize> {
    Ok(usize::try_from(CudaContext::device_count().w()?).unwrap_or(0))
}

/// What the maker calls a device.
///
/// # Errors
/// If the device does not tell.
pub fn name(device: &CudaDevice) -> Result<String> {
    device.cuda_stream().context().name().w()
}

/// (major, minor) compute capability.
///
/// # Errors
/// If the device does not tell.
pub fn compute_capability(device: &CudaDevice) -> Result<(i32, i32)> {
    device.cuda_stream().context().compute_capability().w()
}

/// Kernels that a device has loaded, and what they may use.
struct Loaded {
    module: Arc<CudaModule>,
    limits: Limits,
    /// With the shared memory that each may have.
    functions: Mutex<HashMap<String, (CudaFunction, usize)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type OfDevices = Mutex<HashMap<(DeviceId, &'static str), Arc<Loaded>>>;

impl Loaded {
    /// Loads them when they are first asked for.
    fn on(device: &CudaDevice, kernels: &Kernels) -> Result<Arc<Self>> {
        static ALL: LazyLock<OfDevices> = LazyLock::new(Mutex::default);
        let mut all = locked(&ALL);
        if let Some(loaded) = all.get(&(device.id(), kernels.name)) {
            return Ok(loaded.clone());
        }
        let stream = device.cuda_stream();
        let module = stream.context().load_module(Ptx::from_binary(kernels.image.to_vec())).w()?;
        let loaded = Arc::new(Self { module, limits: limits(stream.context())?, functions: Mutex::default() });
        all.insert((device.id(), kernels.name), loaded.clone());
        Ok(loaded)
    }

    fn function(&self, name: &str, shared: usize) -> Result<CudaFunction> {
        let mut functions = locked(&self.functions);
        if let Some((function, allowed)) = functions.get(name)
            && shared <= *allowed
        {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name).w()?;
        if shared > SHARED_WITHOUT_ASKING {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, integer(shared)?).w()?;
        }
        functions.insert(name.to_owned(), (function.clone(), shared.max(SHARED_WITHOUT_ASKING)));
        Ok(function)
    }
}

fn limits(context: &CudaContext) -> Result<Limits> {
    let attribute = |which| -> Result<usize> { Ok(usize::try_from(context.attribute(which).w()?).unwrap_or(0)) };
    use CUdevice_attribute as Of;
    Ok(Limits {
        multiprocessors: attribute(Of::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_per_block: attribute(Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_per_multiprocessor: attribute(Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
    })
}

/// A CUDA device with some kernels.
#[derive(Clone)]
pub struct CudaGpu {
    device: CudaDevice,
    loaded: Arc<Loaded>,
}

impl CudaGpu {
    /// The device with these kernels.
    ///
    /// # Errors
    /// If it cannot load them.
    pub fn new(device: &CudaDevice, kernels: &Kernels) -> Result<Self> {
        Ok(Self { device: device.clone(), loaded: Loaded::on(device, kernels)? })
    }

    /// The device that a tensor is on, if that is a CUDA device.
    ///
    /// # Errors
    /// If it cannot load the kernels.
    pub fn of(tensor: &Tensor, kernels: &Kernels) -> Result<Option<Self>> {
        match tensor.device() {
            Device::Cuda(device) => Self::new(device, kernels).map(Some),
            _ => Ok(None),
        }
    }

    /// The device.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }
}

impl Gpu for CudaGpu {
    type Buffer = CudaStorage;

    fn limits(&self) -> Result<Limits> {
        Ok(self.loaded.limits)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<CudaStorage> {
        // A device gives no empty arrays.
        let len = len.max(1);
        // SAFETY: contents are anything, as the trait says.
        unsafe {
            Ok(match dtype {
                DType::F32 => CudaStorage::wrap_cuda_slice(self.device.alloc::<f32>(len)?, self.device.clone()),
                DType::F64 => CudaStorage::wrap_cuda_slice(self.device.alloc::<f64>(len)?, self.device.clone()),
                DType::F16 => CudaStorage::wrap_cuda_slice(self.device.alloc::<f16>(len)?, self.device.clone()),
                DType::BF16 => CudaStorage::wrap_cuda_slice(self.device.alloc::<bf16>(len)?, self.device.clone()),
                DType::U8 => CudaStorage::wrap_cuda_slice(self.device.alloc::<u8>(len)?, self.device.clone()),
                other => bail!("no GPU kernel makes arrays of {other:?}"),
            })
        }
    }

    fn address(&self, buffer: &CudaStorage) -> Result<Address> {
        start_of(buffer)
    }

    unsafe fn launch(&self, kernel: &str, blocks: Blocks, arguments: &[Argument<'_>]) -> Result<()> {
        let function = self.loaded.function(kernel, blocks.shared)?;
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Array(Address(address)) => builder.arg(address),
                Argument::Int(value) => builder.arg(value),
                Argument::Long(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
                Argument::Double(value) => builder.arg(value),
                // An argument is passed as the address of its first byte.
                Argument::Struct([first, ..]) => builder.arg(first),
                Argument::Struct([]) => bail!("{kernel}: an empty argument"),
            };
        }
        let unsigned = |value| Ok::<_, Error>(integer(value)?.unsigned_abs());
        let config = LaunchConfig {
            grid_dim: (unsigned(blocks.grid.0)?, unsigned(blocks.grid.1)?, 1),
            block_dim: (unsigned(blocks.threads)?, 1, 1),
            shared_mem_bytes: unsigned(blocks.shared)?,
        };
        // SAFETY: as the caller promises.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// Where a storage begins.
fn start_of(storage: &CudaStorage) -> Result<Address> {
    let stream = storage.device.cuda_stream();
    let address = match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I64(slice) => slice.device_ptr(&stream).0,
        _ => bail!("no GPU kernel reads arrays of {:?}", storage.dtype()),
    };
    Ok(Address(address))
}

/// Where the elements of a contiguous tensor of this type begin.
///
/// # Errors
/// If it is strided or has another type; the message names the op.
pub fn address(storage: &CudaStorage, layout: &Layout, dtype: DType, op: &str) -> Result<Address> {
    if storage.dtype() != dtype {
        bail!("{op}: the GPU kernel takes {dtype:?}, got {:?}", storage.dtype());
    }
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(Address(start_of(storage)?.0 + (start * dtype.size_in_bytes()) as u64)),
        None => bail!("{op}: the op needs a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

/// Where the elements of a contiguous f32 tensor begin. They stay there as long as the tensor or a clone of it lives; what was
/// launched before it is dropped still finds them, because memory is given back in the order of the stream.
///
/// # Errors
/// If it is on another kind of device, strided or of another type; the message names the op.
pub fn address_of(tensor: &Tensor, op: &str) -> Result<Address> {
    address_of_type(tensor, DType::F32, op)
}

/// The same for elements of another type.
///
/// # Errors
/// As for [`address_of`].
pub fn address_of_type(tensor: &Tensor, dtype: DType, op: &str) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => address(storage, layout, dtype, op),
        _ => bail!("{op}: a tensor is on {:?}, the others on a GPU", tensor.device().location()),
    }
}

/// A tensor of these elements, outside any graph.
pub fn tensor_on(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
