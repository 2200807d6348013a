//! Sums over GPUs of one machine by NCCL, one process a GPU.

use super::Communicator;
use crate::backend::KERNELS;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::nccl::{result, sys};
use candle_core::{CudaDevice, DType, Error, Result, Tensor, bail};
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::{Address, Gpu};
use std::ffi::{CStr, c_void};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What processes that want to communicate must share; one of them, or who starts them, makes it.
#[derive(Clone, Copy)]
pub struct UniqueId(sys::ncclUniqueId);

impl UniqueId {
    /// A new one. The process that makes it must live until all others have joined.
    pub fn new() -> Result<Self> {
        result::get_uniqueid().map(Self).map_err(|error| nccl_error("ncclGetUniqueId", &error))
    }
}

/// In hexadecimal.
impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.internal.iter().try_for_each(|byte| write!(f, "{:02x}", *byte as u8))
    }
}

impl FromStr for UniqueId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let byte = |k: usize| text.get(2 * k..2 * k + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let mut internal = [0; 128];
        for (k, to) in internal.iter_mut().enumerate() {
            let Some(byte) = byte(k) else { bail!("an id of NCCL has 256 hexadecimal digits, got {text:?}") };
            *to = byte as std::ffi::c_char;
        }
        Ok(Self(sys::ncclUniqueId { internal }))
    }
}

/// This process among those that have the same id. Sums run on a stream of their own, beside the device's.
///
/// Nothing is torn down when it is dropped without [`finish`](Communicator::finish): that would wait for the others, and where it
/// happens the process fails.
pub struct Nccl {
    communicator: sys::ncclComm_t,
    rank: usize,
    size: usize,
    /// Where everything but sums is done.
    compute: Arc<CudaStream>,
    sums: Arc<CudaStream>,
}

// SAFETY: NCCL takes calls from any thread, one at a time; the type is not Sync.
unsafe impl Send for Nccl {}

impl Nccl {
    /// Joins the others, and waits until all are there.
    pub fn new(device: &CudaDevice, id: UniqueId, rank: usize, size: usize) -> Result<Self> {
        let compute = device.cuda_stream();
        // The device of the calling thread is the one that NCCL takes.
        compute.context().bind_to_thread().w()?;
        let sums = compute.context().new_stream().w()?;
        let mut communicator = std::ptr::null_mut();
        let number = |value: usize| i32::try_from(value).map_err(Error::wrap);
        // SAFETY: there is room for the answer.
        unsafe { result::comm_init_rank(&mut communicator, number(size)?, id.0, number(rank)?) }
            .map_err(|error| nccl_error("ncclCommInitRank", &error))?;
        Ok(Self { communicator, rank, size, compute, sums })
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn start_sum(&self, tensor: &Tensor) -> Result<()> {
        let kind = match tensor.dtype() {
            DType::F32 => sys::ncclDataType_t::ncclFloat32,
            DType::F64 => sys::ncclDataType_t::ncclFloat64,
            other => bail!("all-reduce: sums are of F32 or F64, got {other:?}"),
        };
        let Some(gpu) = CudaGpu::of(tensor, &KERNELS)? else {
            bail!("all-reduce: the tensor is on {:?}, not on a GPU", tensor.device().location())
        };
        let Address(address) = gpu.address_of(tensor, tensor.dtype(), "all-reduce")?;
        let (numbers, count) = (address as *mut c_void, tensor.elem_count());
        // Also makes the device that of this thread.
        self.sums.join(&self.compute).w()?;
        let (sum, stream) = (sys::ncclRedOp_t::ncclSum, self.sums.cu_stream().cast());
        // SAFETY: the tensor has so many numbers, which nobody else reads or writes until the streams are joined; memory that is
        // given back is given back in the order of the compute stream, and so after that.
        unsafe { result::all_reduce(numbers.cast_const(), numbers, count, kind, sum, self.communicator, stream) }
            .map_err(|error| nccl_error("ncclAllReduce", &error))?;
        Ok(())
    }

    fn join(&self) -> Result<()> {
        self.compute.join(&self.sums).w()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.sums.synchronize().w()?;
        // SAFETY: nothing is done with the communicator after this.
        unsafe { result::comm_destroy(self.communicator) }.map_err(|error| nccl_error("ncclCommDestroy", &error))?;
        Ok(())
    }
}

/// What NCCL says of an error.
fn nccl_error(call: &str, error: &result::NcclError) -> Error {
    // SAFETY: both are strings of NCCL, which live as long as the process.
    let (what, last) =
        unsafe { (text(sys::ncclGetErrorString(error.0)), text(sys::ncclGetLastError(std::ptr::null_mut()))) };
    let last = if last.is_empty() { String::new() } else { format!(" ({last})") };
    Error::Msg(format!("{call}: {what}{last}; NCCL_DEBUG=INFO shows what it does"))
}

/// # Safety
/// The pointer must be null or a string that ends with 0.
unsafe fn text(string: *const std::ffi::c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().trim().to_owned()
}
