//! Convolutions through cuDNN. Its algorithms are found by measuring them once for a shape, or by its heuristic where results shall
//! be deterministic; the workspace is kept.

use super::shapes::{Direction, Shapes, Tensors};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{DType, Error, Result, bail};
use ds_core::backend::gpu::cuda::{CudaGpu, is_capturing};
use ds_core::backend::gpu::{Address, Gpu};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use sys::{cudnnDeterminism_t as Determinism, cudnnMathType_t as MathType, cudnnStatus_t as Status};

/// The most memory that an algorithm may use beside its tensors; all of it is taken while they are measured.
const WORKSPACE: usize = 256 << 20;

/// The type of the data and the arithmetic that cuDNN may use with it.
fn data_and_math(dtype: DType, tf32: bool) -> Result<(sys::cudnnDataType_t, MathType)> {
    match dtype {
        DType::F32 if tf32 => Ok((sys::cudnnDataType_t::CUDNN_DATA_FLOAT, MathType::CUDNN_DEFAULT_MATH)),
        DType::F32 => Ok((sys::cudnnDataType_t::CUDNN_DATA_FLOAT, MathType::CUDNN_FMA_MATH)),
        // Tensor cores take it as it is.
        DType::BF16 => Ok((sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, MathType::CUDNN_TENSOR_OP_MATH)),
        other => bail!("conv2d: a GPU takes f32 and bf16, got {other:?}"),
    }
}

/// What was found, as cuDNN counts it.
#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// The descriptors of a convolution in one direction, and its algorithm. They live as long as the thread.
#[derive(Clone, Copy)]
struct Plan {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
    algorithm: Algorithm,
    workspace: usize,
}

/// cuDNN on a device, for one thread: its handles are not to be shared.
struct Library {
    handle: sys::cudnnHandle_t,
    plans: HashMap<(Shapes, Direction), Plan>,
    workspace: Option<CudaSlice<u8>>,
}

thread_local! {
    static LIBRARIES: RefCell<HashMap<DeviceId, Library>> = RefCell::default();
}

fn failed(error: result::CudnnError) -> Error {
    Error::Msg(format!("conv2d: cuDNN failed: {error}"))
}

fn ints(values: [usize; 4]) -> Result<[c_int; 4]> {
    let mut all = [0; 4];
    for (int, value) in all.iter_mut().zip(values) {
        *int = c_int::try_from(value).map_err(|_| Error::Msg(format!("conv2d: a side of {value} is too large")))?;
    }
    Ok(all)
}

fn pointer(address: Address) -> *mut c_void {
    address.0 as *mut c_void
}

impl Library {
    fn new(device: &CudaDevice) -> Result<Self> {
        let handle = result::create_handle().map_err(failed)?;
        // SAFETY: both are valid; the stream is the device's and lives as long as it.
        unsafe { result::set_stream(handle, device.cuda_stream().cu_stream() as sys::cudaStream_t) }.map_err(failed)?;
        Ok(Self { handle, plans: HashMap::new(), workspace: None })
    }

    /// The start of at least so many bytes.
    fn workspace(&mut self, device: &CudaDevice, bytes: usize) -> Result<*mut c_void> {
        if bytes == 0 {
            return Ok(std::ptr::null_mut());
        }
        if self.workspace.as_ref().is_none_or(|held| held.len() < bytes) {
            // SAFETY: contents of a workspace are anything.
            self.workspace = Some(unsafe { device.alloc::<u8>(bytes)? });
        }
        let held = self.workspace.as_ref().map(|held| held.device_ptr(&device.cuda_stream()).0);
        Ok(held.unwrap_or(0) as *mut c_void)
    }

    fn plan(&mut self, device: &CudaDevice, shapes: Shapes, direction: Direction, tensors: Tensors) -> Result<Plan> {
        let key = (shapes, direction);
        if let Some(plan) = self.plans.get(&key) {
            return Ok(*plan);
        }
        if is_capturing(device)? {
            bail!("conv2d: the algorithm for {shapes:?} ({direction:?}) must be found before it can be captured");
        }
        let plan = self.found(device, shapes, direction, tensors);
        // What steps need is less, and comes with the first of them.
        self.workspace = None;
        let plan = plan?;
        self.plans.insert(key, plan);
        Ok(plan)
    }

    fn found(&mut self, device: &CudaDevice, shapes: Shapes, direction: Direction, t: Tensors) -> Result<Plan> {
        let (input, output) = (ints(shapes.input)?, ints(shapes.output)?);
        let [kernel, stride, padding] = shapes.window;
        let [kernel, stride, padding, _] = ints([kernel, stride, padding, 0])?;
        let (layout, sums) = (sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let (data, math) = data_and_math(shapes.dtype, shapes.options.tf32)?;
        // SAFETY: descriptors are made here and set before they are used.
        let (x, w, y, convolution) = unsafe {
            let x = result::create_tensor_descriptor().map_err(failed)?;
            result::set_tensor4d_descriptor(x, layout, data, input).map_err(failed)?;
            let y = result::create_tensor_descriptor().map_err(failed)?;
            result::set_tensor4d_descriptor(y, layout, data, output).map_err(failed)?;
            let w = result::create_filter_descriptor().map_err(failed)?;
            let dims = [output[1], input[1], kernel, kernel];
            result::set_filter4d_descriptor(w, data, layout, dims).map_err(failed)?;
            let convolution = result::create_convolution_descriptor().map_err(failed)?;
            result::set_convolution2d_descriptor(convolution, padding, padding, stride, stride, 1, 1, mode, sums)
                .map_err(failed)?;
            result::set_convolution_math_type(convolution, math).map_err(failed)?;
            (x, w, y, convolution)
        };
        let is_measured = !shapes.options.deterministic;
        let room = if is_measured { self.workspace(device, WORKSPACE)? } else { std::ptr::null_mut() };
        let handle = self.handle;
        const MOST: usize = 16;
        /// The first of the results that runs, fits, repeats itself if that is asked for, and is as exact as is asked for:
        /// transformed 5×5 windows (Winograd's) lose as many bits as TF32 does. They are sorted by measured time; deterministic
        /// ones as cuDNN's heuristic expects it: measured times differ between processes, and other algorithms give other bits.
        macro_rules! fastest {
            ($find:ident, $expect:ident, $kind:ident, $inexact:expr,
             ($a:expr, $pa:expr, $b:expr, $pb:expr, $c:expr, $pc:expr)) => {{
                // SAFETY: plain numbers and enumerations that have a 0.
                let mut results: [sys::$kind; MOST] = [unsafe { std::mem::zeroed() }; MOST];
                let mut found: c_int = 0;
                let (most, first) = (MOST as c_int, results.as_mut_ptr());
                // SAFETY: descriptors and arrays fit each other; the array that is computed is the caller's to write.
                unsafe {
                    if is_measured {
                        let found = &mut found;
                        sys::$find(handle, $a, $pa, $b, $pb, convolution, $c, $pc, most, found, first, room, WORKSPACE)
                    } else {
                        sys::$expect(handle, $a, $b, convolution, $c, most, &mut found, first)
                    }
                }
                .result()
                .map_err(failed)?;
                let fits = |one: &&sys::$kind| {
                    one.status == Status::CUDNN_STATUS_SUCCESS
                        && one.memory <= WORKSPACE
                        && (math != MathType::CUDNN_FMA_MATH || one.algo != $inexact)
                        && (!shapes.options.deterministic || one.determinism == Determinism::CUDNN_DETERMINISTIC)
                };
                let of_all = &results[..usize::try_from(found).unwrap_or(0).min(MOST)];
                of_all.iter().find(fits).map(|one| (one.algo, one.memory, one.mathType))
            }};
        }
        let (dx, dw, dy) = (x, w, y);
        let (xs, ws, ys) = (pointer(t.x), pointer(t.w), pointer(t.y));
        let found = match direction {
            Direction::Forward => fastest!(
                cudnnFindConvolutionForwardAlgorithmEx,
                cudnnGetConvolutionForwardAlgorithm_v7,
                cudnnConvolutionFwdAlgoPerf_t,
                sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
                (x, xs, w, ws, y, ys)
            )
            .map(|(algorithm, memory, math)| (Algorithm::Forward(algorithm), memory, math)),
            Direction::Input => fastest!(
                cudnnFindConvolutionBackwardDataAlgorithmEx,
                cudnnGetConvolutionBackwardDataAlgorithm_v7,
                cudnnConvolutionBwdDataAlgoPerf_t,
                sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
                (w, ws, dy, ys, dx, xs)
            )
            .map(|(algorithm, memory, math)| (Algorithm::Input(algorithm), memory, math)),
            Direction::Weight => fastest!(
                cudnnFindConvolutionBackwardFilterAlgorithmEx,
                cudnnGetConvolutionBackwardFilterAlgorithm_v7,
                cudnnConvolutionBwdFilterAlgoPerf_t,
                sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
                (x, xs, dy, ys, dw, ws)
            )
            .map(|(algorithm, memory, math)| (Algorithm::Weight(algorithm), memory, math)),
        };
        let Some((algorithm, workspace, of_found)) = found else {
            bail!("conv2d: cuDNN has no algorithm for {shapes:?} ({direction:?})")
        };
        // What was found is what shall run; without TF32 nothing else than f32 was asked for.
        let math = if math == MathType::CUDNN_FMA_MATH { math } else { of_found };
        // SAFETY: the descriptor was made above.
        unsafe { result::set_convolution_math_type(convolution, math) }.map_err(failed)?;
        Ok(Plan { x, w, y, convolution, algorithm, workspace })
    }

    fn run(&mut self, gpu: &CudaGpu, shapes: Shapes, direction: Direction, t: Tensors) -> Result<()> {
        let device = gpu.device();
        let plan = self.plan(device, shapes, direction, t)?;
        // A graph has a workspace of its own: this one may be given back before it runs.
        let is_of_graph = plan.workspace > 0 && is_capturing(device)?;
        let of_graph = is_of_graph.then(|| gpu.alloc(DType::U8, plan.workspace)).transpose()?;
        let room = match &of_graph {
            Some(room) => pointer(gpu.address(room)?),
            None => self.workspace(device, plan.workspace)?,
        };
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast::<c_void>(), (&raw const zero).cast::<c_void>());
        let Plan { x, w, y, convolution, algorithm, workspace } = plan;
        let (xs, ws, ys) = (pointer(t.x), pointer(t.w), pointer(t.y));
        // SAFETY: the arrays are of these shapes, and the one that is computed is the caller's to write.
        unsafe {
            match algorithm {
                Algorithm::Forward(algorithm) => sys::cudnnConvolutionForward(
                    self.handle,
                    one,
                    x,
                    xs,
                    w,
                    ws,
                    convolution,
                    algorithm,
                    room,
                    workspace,
                    zero,
                    y,
                    ys,
                ),
                Algorithm::Input(algorithm) => sys::cudnnConvolutionBackwardData(
                    self.handle,
                    one,
                    w,
                    ws,
                    y,
                    ys,
                    convolution,
                    algorithm,
                    room,
                    workspace,
                    zero,
                    x,
                    xs,
                ),
                Algorithm::Weight(algorithm) => sys::cudnnConvolutionBackwardFilter(
                    self.handle,
                    one,
                    x,
                    xs,
                    y,
                    ys,
                    convolution,
                    algorithm,
                    room,
                    workspace,
                    zero,
                    w,
                    ws,
                ),
            }
        }
        .result()
        .map_err(failed)
    }
}

/// Computes the tensor of a direction from the two others.
pub(super) fn run(gpu: &CudaGpu, shapes: Shapes, direction: Direction, tensors: Tensors) -> Result<()> {
    let device = gpu.device();
    // cuDNN works on the thread's current device.
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(candle_core::Error::wrap)?;
    LIBRARIES.with_borrow_mut(|all| {
        let library = match all.entry(device.id()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Library::new(device)?),
        };
        library.run(gpu, shapes, direction, tensors)
    })
}
