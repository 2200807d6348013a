//! The memory of a captured graph: a pool of its own, on a stream of its own that is not captured.
//!
//! Allocations on the captured stream would become nodes of the graph between its kernels, and a kernel could no longer be launched
//! while the one before it ends. Launches are captured in one order, so that what is freed may be taken again at once.

use crate::backend::sync::lock;
use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::result::mem_pool;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUmemAllocationType, CUmemLocationType, CUmemPool_attribute, CUmemPoolProps, CUmemoryPool,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

thread_local! {
    /// Where launches that this thread captures allocate.
    static CURRENT: RefCell<Option<(DeviceId, Arc<Arena>)>> = const { RefCell::new(None) };
}

/// The bytes of the arenas of a device.
static HELD: LazyLock<Mutex<HashMap<DeviceId, u64>>> = LazyLock::new(Mutex::default);

/// The bytes that the graphs of a device hold in arenas.
pub(super) fn held(device: &CudaDevice) -> u64 {
    lock(&HELD).get(&device.id()).copied().unwrap_or(0)
}

/// Memory that lives as long as a graph.
pub(super) struct Arena {
    pool: CUmemoryPool,
    stream: Arc<CudaStream>,
    of: DeviceId,
    /// What is counted in [`HELD`].
    bytes: Mutex<u64>,
}

// SAFETY: a pool may be used by any thread.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    pub(super) fn new(device: &CudaDevice) -> Result<Arc<Self>> {
        let stream = device.cuda_stream().context().new_stream().w()?;
        // SAFETY: numbers and null pointers, for which 0 is what a pool has by default.
        let mut properties: CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        let ordinal = i32::try_from(stream.context().ordinal()).unwrap_or(0);
        // SAFETY: a location is a type and an ordinal of four bytes each, which newer toolkits put into a union.
        unsafe { std::ptr::from_mut(&mut properties.location).cast::<i32>().add(1).write(ordinal) };
        // SAFETY: these are properties of a pool.
        let pool = unsafe { mem_pool::create(&properties) }.w()?;
        let arena = Arc::new(Self { pool, stream, of: device.id(), bytes: Mutex::new(0) });
        let mut keep_all = u64::MAX;
        let what = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool exists, and the attribute has 64 bits.
        unsafe { mem_pool::set_attribute(pool, what, std::ptr::from_mut(&mut keep_all).cast()) }.w()?;
        Ok(arena)
    }

    /// Runs `launches`, which allocate here.
    pub(super) fn while_current<T>(self: &Arc<Self>, launches: impl FnOnce() -> T) -> T {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        CURRENT.set(Some((self.of, self.clone())));
        let _restore = Restore;
        launches()
    }

    /// Counts what has been taken so far as held by a graph.
    pub(super) fn count(&self) -> Result<()> {
        let mut taken = 0u64;
        let what = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: the pool exists, and the attribute has 64 bits.
        unsafe { mem_pool::get_attribute(self.pool, what, std::ptr::from_mut(&mut taken).cast()) }.w()?;
        *lock(&self.bytes) = taken;
        *lock(&HELD).entry(self.of).or_default() += taken;
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(held) = lock(&HELD).get_mut(&self.of) {
            *held -= *lock(&self.bytes);
        }
        let context = self.stream.context();
        context.record_err(self.stream.synchronize());
        // SAFETY: nobody else has it, and all of its arrays are freed.
        context.record_err(unsafe { mem_pool::destroy(self.pool) });
    }
}

/// An array of `len` elements of anything: of the arena that is current, or of the device's own pool.
///
/// # Safety
/// As for [`CudaDevice::alloc`].
pub(super) unsafe fn alloc<T: candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
    device: &CudaDevice,
    len: usize,
) -> Result<CudaSlice<T>> {
    let arena = CURRENT.with_borrow(|current| match current {
        Some((of, arena)) if *of == device.id() => Some(arena.clone()),
        _ => None,
    });
    let Some(Arena { pool, stream, .. }) = arena.as_deref() else {
        // SAFETY: as the caller promises.
        return unsafe { device.alloc::<T>(len) };
    };
    // SAFETY: the pool and the stream exist; the array is freed on this stream when the slice is dropped.
    unsafe {
        let start = mem_pool::alloc_async(*pool, len * size_of::<T>(), stream.cu_stream()).w()?;
        Ok(stream.upgrade_device_ptr(start, len))
    }
}
