//! What tensors take on a device: its pool, and the memory of its graphs.

use super::arena;
use crate::backend::sync::lock;
use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUgraphMem_attribute, CUmemPool_attribute};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex};

/// The most that a device had in use before a graph was captured there. What steps take in the pool until then, they take in
/// their graph afterwards, so that the two must not be added.
static BEFORE: LazyLock<Mutex<HashMap<DeviceId, u64>>> = LazyLock::new(Mutex::default);

fn pool_of(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let stream = device.cuda_stream();
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device of a context exists, and there is room for the answer.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, stream.context().cu_device()) }.result().w()?;
    Ok(pool)
}

fn set_pool(device: &CudaDevice, what: CUmemPool_attribute, mut value: u64) -> Result<()> {
    let value = std::ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: the attributes that are set here are 64 bits.
    unsafe { sys::cuMemPoolSetAttribute(pool_of(device)?, what, value) }.result().w()?;
    Ok(())
}

/// Lets a device keep freed memory for what comes next, instead of giving it back at every synchronisation.
pub(super) fn keep_freed(device: &CudaDevice) -> Result<()> {
    set_pool(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)
}

/// Gives back what a device has kept; waits for all that was launched there.
pub(super) fn give_back_freed(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().synchronize().w()?;
    // SAFETY: the pool exists.
    unsafe { sys::cuMemPoolTrimTo(pool_of(device)?, 0) }.result().w()?;
    Ok(())
}

/// Gives back what the graphs that are gone have kept.
pub(super) fn give_back_of_graphs(device: &CudaDevice) -> Result<()> {
    // SAFETY: the device of a context exists.
    unsafe { sys::cuDeviceGraphMemTrim(device.cuda_stream().context().cu_device()) }.result().w()?;
    Ok(())
}

fn of_graphs(device: &CudaDevice, what: CUgraphMem_attribute) -> Result<u64> {
    let mut bytes = 0u64;
    let value = std::ptr::from_mut(&mut bytes).cast::<c_void>();
    // SAFETY: the attributes that are read here are 64 bits.
    unsafe { sys::cuDeviceGetGraphMemAttribute(device.cuda_stream().context().cu_device(), what, value) }
        .result()
        .w()?;
    Ok(bytes)
}

/// The most memory of a device that tensors held at a time, in bytes, since [`reset_peak_memory`]; that of graphs included.
pub fn peak_memory(device: &CudaDevice) -> Result<u64> {
    let mut bytes = 0u64;
    let (what, value) = (CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, std::ptr::from_mut(&mut bytes));
    // SAFETY: the attribute is 64 bits.
    unsafe { sys::cuMemPoolGetAttribute(pool_of(device)?, what, value.cast()) }.result().w()?;
    // A graph keeps its memory between launches.
    let highest = of_graphs(device, CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)?;
    let now = of_graphs(device, CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT)?;
    let before = lock(&BEFORE).get(&device.id()).copied().unwrap_or(0);
    Ok(before.max(bytes + highest.max(now) + arena::held(device)))
}

fn start_again(device: &CudaDevice) -> Result<()> {
    set_pool(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)?;
    let (mut zero, what) = (0u64, CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH);
    let value = std::ptr::from_mut(&mut zero).cast::<c_void>();
    // SAFETY: the attribute is 64 bits.
    unsafe { sys::cuDeviceSetGraphMemAttribute(device.cuda_stream().context().cu_device(), what, value) }
        .result()
        .w()?;
    Ok(())
}

/// Starts [`peak_memory`] again.
///
/// # Errors
/// If the device does not take it.
pub fn reset_peak_memory(device: &CudaDevice) -> Result<()> {
    lock(&BEFORE).remove(&device.id());
    start_again(device)
}

/// Remembers the peak so far apart from what follows.
pub(super) fn remember_peak(device: &CudaDevice) -> Result<()> {
    let peak = peak_memory(device)?;
    lock(&BEFORE).insert(device.id(), peak);
    start_again(device)
}
