//! CUDA devices: loaded kernels, launches, and tensors on the device.

mod arena;
mod graph;
mod memory;
mod overlap;

pub use graph::{Graph, is_capturing, warm_up};
pub use memory::{peak_memory, reset_peak_memory};

use super::arguments::{Address, Argument, LaunchDims, integer};
use super::device::{Gpu, GpuInput, Kernels, Matrix};
use super::launch::Limits;
use crate::backend::sync::lock;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUfunction_attribute, CUlaunchConfig, cuLaunchKernelEx,
};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaFunction, CudaModule, DevicePtr};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{CudaStorage, DType, Device, Error, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex};

/// From this size on a kernel must ask for its shared memory.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

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

/// The same device with another stream, for work that does not wait for what the first one does.
///
/// # Errors
/// If the driver gives none.
pub fn with_another_stream(device: &CudaDevice) -> Result<Device> {
    open(device.cuda_stream().context().ordinal())
}

/// How many devices there are.
///
/// # Errors
/// If the driver does not tell.
pub fn count() -> Result<usize> {
    Ok(usize::try_from(CudaContext::device_count().w()?).unwrap_or(0))
}

/// What the maker calls a device.
pub fn name(device: &CudaDevice) -> Result<String> {
    device.cuda_stream().context().name().w()
}

/// (major, minor) compute capability.
pub fn compute_capability(device: &CudaDevice) -> Result<(i32, i32)> {
    device.cuda_stream().context().compute_capability().w()
}

/// Kernels that a device has loaded, and what they may use.
struct Loaded {
    module: Arc<CudaModule>,
    limits: Limits,
    compute_capability: (i32, i32),
    /// With the shared memory that each may have.
    functions: Mutex<HashMap<String, (CudaFunction, usize)>>,
}

type OfDevices = Mutex<HashMap<(DeviceId, &'static str), Arc<Loaded>>>;

impl Loaded {
    /// Loads them when they are first asked for.
    fn on(device: &CudaDevice, kernels: &Kernels) -> Result<Arc<Self>> {
        static ALL: LazyLock<OfDevices> = LazyLock::new(Mutex::default);
        let mut all = lock(&ALL);
        if let Some(loaded) = all.get(&(device.id(), kernels.name)) {
            return Ok(loaded.clone());
        }
        let stream = device.cuda_stream();
        let module = stream.context().load_module(Ptx::from_binary(kernels.image.to_vec())).w()?;
        let context = stream.context();
        let (limits, compute_capability) = (limits(context)?, context.compute_capability().w()?);
        let loaded = Arc::new(Self { module, limits, compute_capability, functions: Mutex::default() });
        all.insert((device.id(), kernels.name), loaded.clone());
        Ok(loaded)
    }

    fn function(&self, name: &str, shared: usize) -> Result<CudaFunction> {
        let mut functions = lock(&self.functions);
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

    fn compute_capability(&self) -> Result<(i32, i32)> {
        Ok(self.loaded.compute_capability)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<CudaStorage> {
        // A device gives no empty arrays.
        let len = len.max(1);
        // SAFETY: contents are anything, as the trait says.
        unsafe {
            Ok(match dtype {
                DType::F32 => {
                    CudaStorage::wrap_cuda_slice(arena::alloc::<f32>(&self.device, len)?, self.device.clone())
                }
                DType::F64 => {
                    CudaStorage::wrap_cuda_slice(arena::alloc::<f64>(&self.device, len)?, self.device.clone())
                }
                DType::F16 => {
                    CudaStorage::wrap_cuda_slice(arena::alloc::<f16>(&self.device, len)?, self.device.clone())
                }
                DType::BF16 => {
                    CudaStorage::wrap_cuda_slice(arena::alloc::<bf16>(&self.device, len)?, self.device.clone())
                }
                DType::U8 => CudaStorage::wrap_cuda_slice(arena::alloc::<u8>(&self.device, len)?, self.device.clone()),
                other => bail!("no GPU kernel makes arrays of {other:?}"),
            })
        }
    }

    fn address(&self, buffer: &CudaStorage) -> Result<Address> {
        start_of(buffer)
    }

    fn address_of(&self, tensor: &Tensor, dtype: DType, op: &str) -> Result<Address> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("{op}: a tensor is on {:?}, the others on a GPU", tensor.device().location())
        };
        GpuInput::new(self, storage, layout, storage.dtype(), op)?.of_type(dtype, op)
    }

    fn matmul(
        &self,
        (m, n, k): (usize, usize, usize),
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
    ) -> Result<CudaStorage> {
        let layout = |matrix: &Matrix<'_, Self>| match matrix.transposed {
            true => matrix.input.layout.transpose(0, 1),
            false => Ok(matrix.input.layout.clone()),
        };
        a.input.buffer.matmul(b.input.buffer, (1, m, n, k), &layout(&a)?, &layout(&b)?)
    }

    unsafe fn launch(&self, kernel: &str, blocks: LaunchDims, arguments: &[Argument<'_>]) -> Result<()> {
        let function = self.loaded.function(kernel, blocks.shared)?;
        let stream = self.device.cuda_stream();
        let mut parameters = Vec::with_capacity(arguments.len());
        for argument in arguments {
            // A kernel copies its arguments from their addresses.
            parameters.push(match argument {
                Argument::Array(Address(address)) => std::ptr::from_ref(address).cast_mut().cast::<c_void>(),
                Argument::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Long(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Double(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Struct([]) => bail!("{kernel}: an empty argument"),
                Argument::Struct(words) => words.as_ptr().cast_mut().cast(),
            });
        }
        let unsigned = |value| Ok::<_, Error>(integer(value)?.unsigned_abs());
        let (mut attribute, attributes) = overlap::attribute(self.loaded.compute_capability);
        let config = CUlaunchConfig {
            gridDimX: unsigned(blocks.grid.0)?,
            gridDimY: unsigned(blocks.grid.1)?,
            gridDimZ: 1,
            blockDimX: unsigned(blocks.threads)?,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: unsigned(blocks.shared)?,
            hStream: stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: attributes,
        };
        stream.context().bind_to_thread().w()?;
        let (function, parameters) = (function.cu_function(), parameters.as_mut_ptr());
        // SAFETY: as the caller promises.
        unsafe { cuLaunchKernelEx(&raw const config, function, parameters, std::ptr::null_mut()) }.result().w()?;
        Ok(())
    }
}

/// The address of a storage.
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
