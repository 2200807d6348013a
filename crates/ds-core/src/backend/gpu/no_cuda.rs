//! The stand-in for `cuda` where the feature is off: a device type without values, so that host code compiles on any machine.

use super::arguments::{Address, Argument, LaunchDims};
use super::device::{Gpu, Kernels, Matrix};
use super::launch::Limits;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Result, Tensor};

/// A CUDA device; there is none in this build.
#[derive(Clone, Copy)]
pub enum CudaGpu {}

impl CudaGpu {
    pub fn new(_device: &CudaDevice, _kernels: &Kernels) -> Result<Self> {
        Err(Error::NotCompiledWithCudaSupport)
    }

    /// `None`: tensors are on the CPU.
    pub fn of(_tensor: &Tensor, _kernels: &Kernels) -> Result<Option<Self>> {
        Ok(None)
    }

    /// The device.
    pub fn device(&self) -> &CudaDevice {
        match *self {}
    }
}

impl Gpu for CudaGpu {
    type Buffer = CudaStorage;

    fn limits(&self) -> Result<Limits> {
        match *self {}
    }

    fn compute_capability(&self) -> Result<(i32, i32)> {
        match *self {}
    }

    fn alloc(&self, _dtype: DType, _len: usize) -> Result<CudaStorage> {
        match *self {}
    }

    fn address(&self, _buffer: &CudaStorage) -> Result<Address> {
        match *self {}
    }

    fn address_of(&self, _tensor: &Tensor, _dtype: DType, _op: &str) -> Result<Address> {
        match *self {}
    }

    unsafe fn launch(&self, _kernel: &str, _blocks: LaunchDims, _arguments: &[Argument<'_>]) -> Result<()> {
        match *self {}
    }

    fn matmul(&self, _: (usize, usize, usize), _: Matrix<'_, Self>, _: Matrix<'_, Self>) -> Result<CudaStorage> {
        match *self {}
    }
}

pub fn open(_ordinal: usize) -> Result<Device> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn with_another_stream(_device: &CudaDevice) -> Result<Device> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn count() -> Result<usize> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn name(_device: &CudaDevice) -> Result<String> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn compute_capability(_device: &CudaDevice) -> Result<(i32, i32)> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn peak_memory(_device: &CudaDevice) -> Result<u64> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn reset_peak_memory(_device: &CudaDevice) -> Result<()> {
    Err(Error::NotCompiledWithCudaSupport)
}

/// A captured graph; there is none in this build.
pub enum Graph {}

impl Graph {
    /// # Safety
    /// None is needed.
    pub unsafe fn capture(_device: &CudaDevice, _launches: impl Fn() -> Result<()>) -> Result<Self> {
        Err(Error::NotCompiledWithCudaSupport)
    }

    /// # Safety
    /// None is needed.
    pub unsafe fn launch(&self) -> Result<()> {
        match *self {}
    }
}

/// Runs `launches`.
pub fn warm_up<T>(_device: &CudaDevice, launches: impl FnOnce() -> T) -> T {
    launches()
}
