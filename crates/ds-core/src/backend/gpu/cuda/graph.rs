//! Launches that are captured once and repeated as a whole: what a host needs for each of them is needed once.

use super::arena::Arena;
use super::memory;
use super::overlap::without_overlap;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode, CUstreamCaptureStatus,
};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, result};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Error, Result, bail};
use std::sync::Arc;

/// What a closure has launched on a device.
///
/// Arrays that were allocated in it live in memory of the graph's. All others must live as long as the graph is launched, and
/// their contents may change between two launches; what was passed by value stays what it was.
pub struct Graph {
    captured: CUgraph,
    executable: CUgraphExec,
    device: CudaDevice,
    /// What it allocates, but for Candle's own ops; `None` where allocations are nodes of the graph.
    _arena: Option<Arc<Arena>>,
}

/// Runs `launches` so that what ops upload in them (the strides of a tensor) stays on the device, from where a graph can read it. A
/// capture finds there what its rehearsals have left, and fails where it must upload something else.
pub fn warm_up<T>(device: &CudaDevice, launches: impl FnOnce() -> T) -> T {
    let _kept = device.enable_cuda_graph_htod_cache();
    launches()
}

/// Whether launches are captured now instead of being run.
pub fn is_capturing(device: &CudaDevice) -> Result<bool> {
    Ok(device.cuda_stream().capture_status().w()? != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// A stream that records, which it ends when it is dropped.
struct Capture {
    stream: Arc<CudaStream>,
    ended: bool,
}

impl Capture {
    fn begin(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        // What has failed before is no error of this capture.
        let _ = stream.context().check_err();
        // Relaxed, since the arena's pool grows meanwhile.
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).w()?;
        Ok(Self { stream, ended: false })
    }

    fn end(&mut self) -> Result<Captured> {
        self.ended = true;
        // SAFETY: the stream exists; it belongs to the context that beginning has bound to this thread.
        Ok(Captured(unsafe { result::stream::end_capture(self.stream.cu_stream()) }.w()?))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.ended {
            // Where a capture has failed, this does so, too; the stream runs again after it.
            let _ = self.end();
        }
        // So do arrays that were freed in it, which is no error of what comes next.
        let _ = self.stream.context().check_err();
    }
}

/// A captured graph, destroyed when it is dropped.
struct Captured(CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it is a graph that nobody else has.
            let _ = unsafe { result::graph::destroy(self.0) };
        }
    }
}

impl Graph {
    /// Records what `launches` launches, on one stream and without running it, and makes a graph of it. Memory that the device
    /// has kept for other tensors is given back before.
    ///
    /// `launches` must have been run before, by [`warm_up`], so that kernels are loaded and algorithms chosen; it must free
    /// what it allocates, and must not fetch anything, nor free what was allocated before.
    ///
    /// # Safety
    /// Until it returns, nobody else may launch, allocate or free anything on this device with the stream of `device` or a clone
    /// of it: that would be captured, too, instead of being done.
    ///
    /// # Errors
    /// Those of `launches`, or if something of it cannot be captured. Nothing of it has been run then, and the device works as
    /// before.
    pub unsafe fn capture(device: &CudaDevice, launches: impl Fn() -> Result<()>) -> Result<Self> {
        let of_kernels = Self::capture_once(device, Some(Arena::new(device)?), &launches);
        // A library's fill or copy is a node that no kernel after it can be launched early from, and that needs its array where the
        // graph is made: an arena has it back by then, while allocations that are nodes keep theirs.
        of_kernels.or_else(|first| {
            without_overlap(|| Self::capture_once(device, None, &launches))
                .map_err(|second| second.context(format!("as a graph of kernels alone: {first}")))
        })
    }

    fn capture_once(device: &CudaDevice, arena: Option<Arc<Arena>>, launches: impl Fn() -> Result<()>) -> Result<Self> {
        memory::remember_peak(device)?;
        memory::give_back_freed(device)?;
        let mut capture = Capture::begin(device)?;
        match &arena {
            Some(arena) => arena.while_current(|| warm_up(device, launches))?,
            None => warm_up(device, launches)?,
        }
        let mut captured = capture.end()?;
        // What arrays that could not be freed have left.
        device.cuda_stream().context().check_err().w()?;
        if captured.0.is_null() {
            bail!("nothing was captured");
        }
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        // SAFETY: it was captured just now.
        let executable = unsafe { result::graph::instantiate(captured.0, flags) }
            .map_err(|error| Error::wrap(error).context("a graph was captured but cannot be made executable"))?;
        let captured = std::mem::replace(&mut captured.0, std::ptr::null_mut());
        if let Some(arena) = &arena {
            arena.count()?;
        }
        let graph = Self { captured, executable, device: device.clone(), _arena: arena };
        // Its memory is taken here, where a lack of it can be answered by going on without a graph.
        // SAFETY: both are valid.
        unsafe { result::graph::upload(graph.executable, device.cuda_stream().cu_stream()) }.w()?;
        Ok(graph)
    }

    /// Runs all of it after what was launched before.
    ///
    /// # Safety
    /// The arrays that it works on and does not allocate itself must be where they were when it was captured.
    ///
    /// # Errors
    /// If the device does not take it.
    pub unsafe fn launch(&self) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        // SAFETY: both are valid; its arrays are there, as the caller promises.
        unsafe { result::graph::launch(self.executable, stream.cu_stream()) }.w()?;
        Ok(())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let stream = self.device.cuda_stream();
        let context = stream.context();
        // It may still run.
        context.record_err(stream.synchronize());
        // SAFETY: nobody else has them.
        unsafe {
            context.record_err(result::graph::exec_destroy(self.executable));
            context.record_err(result::graph::destroy(self.captured));
        }
        // What is not given back is kept for the next graph.
        let _ = memory::give_back_of_graphs(&self.device);
    }
}
