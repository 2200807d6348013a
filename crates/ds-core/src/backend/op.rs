//! The contract of an op with one result, and its adapter to Candle's custom ops.
//!
//! An op states the shape of its result and how the CPU and a GPU compute it and its gradient. [`Apply`] makes a Candle custom op
//! of it; [`forward`] and [`backward`] run it outside any graph, which is what `ds_nn::tape::Tape` records.

use super::gpu::cuda::CudaGpu;
use super::gpu::{Gpu, GpuInput, KERNELS, Kernels};
use super::pointwise::real_dtype;
use super::real::Real;
use crate::dispatch_real;
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, WithDType, bail,
};
use std::ops::Range;

/// The most inputs of an op: Candle's custom ops have no more.
pub const MAX_INPUTS: usize = 3;

/// An op with one result.
pub trait Op: Clone + Send + Sync + 'static {
    /// The name in error messages.
    const NAME: &'static str;

    /// The numbers of inputs that the op takes; the last ones may be optional.
    const INPUTS: Range<usize>;

    /// The shape of the result.
    ///
    /// # Errors
    /// If the inputs' shapes do not fit each other.
    fn shape(&self, inputs: &[&Shape]) -> Result<Shape>;

    /// The result on the CPU, in the element type of the first input.
    ///
    /// # Errors
    /// If an input has the wrong type.
    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>>;

    /// The inputs' gradients on the CPU.
    ///
    /// # Errors
    /// If an input has the wrong type.
    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>>;

    /// Whether [`gpu_foreach`](Self::gpu_foreach) computes many results in one launch. Such an op is small, and its inputs are
    /// parameters or come from parameters.
    const FOREACH: bool = false;

    /// Whether the op's gradient on a GPU takes the gradient of its result as two that are to be added, which spares a launch.
    const TAKES_TWO_GRADIENTS: bool = false;

    /// Whether the op does the same as another one of its type.
    fn is_same(&self, _other: &Self) -> bool {
        true
    }

    /// The module that holds the op's GPU kernels.
    fn kernels(&self) -> &'static Kernels {
        &KERNELS
    }

    /// The result on a GPU.
    ///
    /// # Errors
    /// If the op has no GPU kernels, or the launch fails.
    fn gpu<G: Gpu>(&self, _gpu: &G, _inputs: &[GpuInput<'_, G>]) -> Result<G::Buffer> {
        bail!("{}: there is no GPU kernel for this op", Self::NAME)
    }

    /// The inputs' gradients on a GPU.
    ///
    /// # Errors
    /// As for [`gpu`](Self::gpu).
    fn gpu_backward<G: Gpu>(&self, _gpu: &G, _pass: &Backward<'_, GpuInput<'_, G>>) -> Result<Gradients<G::Buffer>> {
        bail!("{}: there is no GPU kernel for this op's gradient", Self::NAME)
    }

    /// The results for many lists of inputs, as the `_foreach_` functions of PyTorch.
    ///
    /// # Errors
    /// As for [`gpu`](Self::gpu).
    fn gpu_foreach<G: Gpu>(gpu: &G, all: &[(&Self, &[GpuInput<'_, G>])]) -> Result<Vec<G::Buffer>> {
        all.iter().map(|(op, inputs)| op.gpu(gpu, inputs)).collect()
    }

    /// The gradients for many passes.
    ///
    /// # Errors
    /// As for [`gpu`](Self::gpu).
    fn gpu_backward_foreach<G: Gpu>(
        gpu: &G,
        all: &[(&Self, Backward<'_, GpuInput<'_, G>>)],
    ) -> Result<Vec<Gradients<G::Buffer>>> {
        all.iter().map(|(op, pass)| op.gpu_backward(gpu, pass)).collect()
    }
}

/// The only element of what an op computes for one list of inputs by its form for many.
///
/// # Errors
/// If there is none.
pub fn only<T>(all: Vec<T>) -> Result<T> {
    match all.into_iter().next() {
        Some(one) => Ok(one),
        None => bail!("an op gave no result"),
    }
}

/// What a backward pass is given.
pub struct Backward<'a, I> {
    /// The inputs of the forward pass.
    pub inputs: &'a [I],
    /// Its result.
    pub y: I,
    /// The gradient of the result.
    pub dy: I,
    /// What is to be added to it, for ops that [take two](Op::TAKES_TWO_GRADIENTS).
    pub more: Option<I>,
}

impl<I: Copy> Clone for Backward<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I: Copy> Copy for Backward<'_, I> {}

/// The gradient of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gradient<V> {
    /// The input takes no gradient.
    #[default]
    None,
    /// The gradient, in the input's shape.
    Value(V),
    /// The gradient of the result itself.
    Output,
}

impl<V> Gradient<V> {
    fn map<W>(self, f: impl FnOnce(V) -> W) -> Gradient<W> {
        match self {
            Self::None => Gradient::None,
            Self::Value(value) => Gradient::Value(f(value)),
            Self::Output => Gradient::Output,
        }
    }
}

impl<V> From<Option<V>> for Gradient<V> {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::None, Self::Value)
    }
}

/// The gradients of the inputs, in their order.
pub type Gradients<V> = [Gradient<V>; MAX_INPUTS];

/// The gradient of an op's only input, or of its first one.
pub fn gradient<V>(dx: V) -> Gradients<V> {
    [Gradient::Value(dx), Gradient::None, Gradient::None]
}

/// The gradients of two inputs.
pub fn gradients2<V>(a: V, b: V) -> Gradients<V> {
    [Gradient::Value(a), Gradient::Value(b), Gradient::None]
}

/// The gradients of three inputs.
pub fn gradients3<V>(a: V, b: V, c: V) -> Gradients<V> {
    [Gradient::Value(a), Gradient::Value(b), Gradient::Value(c)]
}

/// An input on the CPU.
#[derive(Clone, Copy)]
pub struct CpuInput<'a> {
    /// `None` for a tensor on another device.
    storage: Option<&'a CpuStorage>,
    layout: &'a Layout,
}

impl<'a> CpuInput<'a> {
    fn new(storage: &'a Storage, layout: &'a Layout) -> Self {
        let storage = if let Storage::Cpu(storage) = storage { Some(storage) } else { None };
        Self { storage, layout }
    }

    /// The shape.
    pub fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    fn storage(&self) -> Result<&'a CpuStorage> {
        match self.storage {
            Some(storage) => Ok(storage),
            None => bail!("a tensor of shape {:?} is on a GPU, others are on the CPU", self.shape()),
        }
    }

    /// The elements, row by row.
    ///
    /// # Errors
    /// If the tensor is strided, has another type or is on another device.
    pub fn elements<T: WithDType>(&self) -> Result<&'a [T]> {
        super::real::elements(self.storage()?, self.layout)
    }
}

/// An [`Op`] as a Candle custom op of one, two or three arguments.
#[derive(Debug, Clone, Copy)]
pub struct Apply<O>(pub O);

fn check_count<O: Op>(inputs: usize) -> Result<()> {
    if O::INPUTS.contains(&inputs) { Ok(()) } else { bail!("{}: {inputs} inputs, expected {:?}", O::NAME, O::INPUTS) }
}

fn on_cpu<O: Op, const N: usize>(op: &O, inputs: [CpuInput<'_>; N]) -> Result<(CpuStorage, Shape)> {
    check_count::<O>(N)?;
    let shape = op.shape(&inputs.map(|input| input.shape()))?;
    let y = dispatch_real!(real_dtype(inputs[0].storage()?, O::NAME)?, O::NAME, T => {
        Ok(T::to_cpu_storage_owned(op.cpu::<T>(&inputs)?))
    })?;
    Ok((y, shape))
}

fn of_cpu<'a, const N: usize>(inputs: [(&'a CpuStorage, &'a Layout); N]) -> [CpuInput<'a>; N] {
    inputs.map(|(storage, layout)| CpuInput { storage: Some(storage), layout })
}

fn on_cuda<O: Op, const N: usize>(op: &O, inputs: [(&CudaStorage, &Layout); N]) -> Result<(CudaStorage, Shape)> {
    check_count::<O>(N)?;
    let shape = op.shape(&inputs.map(|(_, layout)| layout.shape()))?;
    let gpu = CudaGpu::new(inputs[0].0.device(), op.kernels())?;
    let input = |&(storage, layout): &(_, _)| GpuInput::of_storage(&gpu, storage, layout, O::NAME);
    let inputs = inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
    Ok((op.gpu(&gpu, &inputs)?, shape))
}

impl<'a> GpuInput<'a, CudaGpu> {
    fn of_storage(gpu: &CudaGpu, storage: &'a CudaStorage, layout: &'a Layout, op: &str) -> Result<Self> {
        Self::new(gpu, storage, layout, storage.dtype(), op)
    }

    fn of(gpu: &CudaGpu, storage: &'a Storage, layout: &'a Layout, op: &str) -> Result<Self> {
        match storage {
            Storage::Cuda(storage) => Self::of_storage(gpu, storage, layout, op),
            _ => bail!("{op}: a tensor of shape {:?} is not on the GPU, others are", layout.shape()),
        }
    }
}

/// The op's result, outside any graph.
///
/// # Errors
/// If the inputs' shapes, types or devices do not fit.
pub fn forward<O: Op, const N: usize>(op: &O, inputs: [&Tensor; N]) -> Result<Tensor> {
    if !inputs.iter().all(|input| input.is_contiguous()) {
        let copies = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
        return forward(op, std::array::from_fn::<_, N, _>(|k| &copies[k]));
    }
    let guards = inputs.map(|input| input.storage_and_layout());
    let (y, shape) = match guards.first().map(|(storage, _)| &**storage) {
        Some(Storage::Cuda(first)) => {
            check_count::<O>(N)?;
            let shape = op.shape(&inputs.map(|input| input.shape()))?;
            let gpu = CudaGpu::new(first.device(), op.kernels())?;
            let input = |(storage, layout)| GpuInput::of(&gpu, storage, layout, O::NAME);
            let all = guards.iter().map(|(storage, layout)| input((&**storage, *layout)));
            (Storage::Cuda(op.gpu(&gpu, &all.collect::<Result<Vec<_>>>()?)?), shape)
        }
        _ => {
            let inputs = guards.each_ref().map(|(storage, layout)| CpuInput::new(storage, layout));
            let (y, shape) = on_cpu(op, inputs)?;
            (Storage::Cpu(y), shape)
        }
    };
    Ok(Tensor::from_storage(y, shape, BackpropOp::none(), false))
}

/// The inputs' gradients from those of the result, outside any graph.
///
/// # Errors
/// If shapes, types or devices do not fit.
pub fn backward<O: Op, const N: usize>(
    op: &O,
    inputs: [&Tensor; N],
    y: &Tensor,
    dy: &Tensor,
) -> Result<[Option<Tensor>; MAX_INPUTS]> {
    backward_of_sum(op, inputs, y, (dy, None))
}

/// The same where the gradient of the result is the sum of two, for ops that [take two](Op::TAKES_TWO_GRADIENTS).
///
/// # Errors
/// As for [`backward`], or if the op does not take two.
pub fn backward_of_sum<O: Op, const N: usize>(
    op: &O,
    inputs: [&Tensor; N],
    y: &Tensor,
    (dy, more): (&Tensor, Option<&Tensor>),
) -> Result<[Option<Tensor>; MAX_INPUTS]> {
    check_count::<O>(N)?;
    if !inputs.iter().chain([&y, &dy]).copied().chain(more).all(|tensor| tensor.is_contiguous()) {
        let copies = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
        let inputs = std::array::from_fn::<_, N, _>(|k| &copies[k]);
        let more = more.map(Tensor::contiguous).transpose()?;
        return backward_of_sum(op, inputs, &y.contiguous()?, (&dy.contiguous()?, more.as_ref()));
    }
    if let Some(more) = more
        && (!O::TAKES_TWO_GRADIENTS || !dy.device().is_cuda() || more.shape() != dy.shape())
    {
        bail!("{}: two gradients, {:?} and {:?}", O::NAME, dy.shape(), more.shape());
    }
    if dy.shape() != y.shape() || dy.dtype() != y.dtype() {
        let (got, wanted) = ((dy.shape(), dy.dtype()), (y.shape(), y.dtype()));
        bail!("{}: gradient {got:?} does not fit the result {wanted:?}", O::NAME);
    }
    let guards = inputs.map(|input| input.storage_and_layout());
    let ((ys, yl), (ds, dl)) = (y.storage_and_layout(), dy.storage_and_layout());
    let mut gradients = [const { None }; MAX_INPUTS];
    if let Storage::Cuda(of_dy) = &*ds {
        let gpu = CudaGpu::new(of_dy.device(), op.kernels())?;
        let of = |storage, layout| GpuInput::of(&gpu, storage, layout, O::NAME);
        let all = guards.iter().map(|(storage, layout)| of(&**storage, *layout)).collect::<Result<Vec<_>>>()?;
        let more_guard = more.map(Tensor::storage_and_layout);
        let more = more_guard.as_ref().map(|(storage, layout)| of(&**storage, *layout)).transpose()?;
        let pass = Backward { inputs: &all, y: of(&ys, yl)?, dy: of(&ds, dl)?, more };
        let found = op.gpu_backward(&gpu, &pass)?.map(|gradient| gradient.map(Storage::Cuda));
        place(&mut gradients, found, inputs, dy);
    } else {
        let all = guards.each_ref().map(|(storage, layout)| CpuInput::new(storage, layout));
        let pass = Backward { inputs: &all, y: CpuInput::new(&ys, yl), dy: CpuInput::new(&ds, dl), more: None };
        dispatch_real!(real_dtype(pass.dy.storage()?, O::NAME)?, O::NAME, T => {
            let found = op.cpu_backward::<T>(&pass)?;
            let found = found.map(|gradient| gradient.map(|values| Storage::Cpu(T::to_cpu_storage_owned(values))));
            place(&mut gradients, found, inputs, dy);
            Ok(())
        })?;
    }
    Ok(gradients)
}

/// The results of an op for many lists of inputs, outside any graph: together on a GPU, one after the other on the CPU.
///
/// # Errors
/// As for [`forward`].
pub fn forward_foreach<O: Op, const N: usize>(all: &[(&O, [&Tensor; N])]) -> Result<Vec<Tensor>> {
    let on_gpu =
        all.iter().flat_map(|(_, inputs)| inputs).all(|tensor| tensor.is_contiguous() && tensor.device().is_cuda());
    let (true, Some((first, _))) = (on_gpu, all.first()) else {
        return all.iter().map(|(op, inputs)| forward(*op, *inputs)).collect();
    };
    check_count::<O>(N)?;
    let shapes =
        all.iter().map(|(op, inputs)| op.shape(&inputs.map(|input| input.shape()))).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = all.iter().map(|(_, inputs)| inputs.map(|input| input.storage_and_layout())).collect();
    let gpu = gpu_of(guards.iter().flatten().map(|(storage, _)| &**storage), first.kernels(), O::NAME)?;
    let inputs = guards.iter().map(|guards| on_gpu_all(&gpu, guards, O::NAME)).collect::<Result<Vec<_>>>()?;
    let items: Vec<_> = all.iter().zip(&inputs).map(|((op, _), inputs)| (*op, inputs.as_slice())).collect();
    let found = O::gpu_foreach(&gpu, &items)?;
    let tensor = |(y, shape)| Tensor::from_storage(Storage::Cuda(y), shape, BackpropOp::none(), false);
    Ok(found.into_iter().zip(shapes).map(tensor).collect())
}

/// What the backward pass of one of many is given: the op, its inputs, its result and the gradient of that.
pub type Pass<'a, O, const N: usize> = (&'a O, [&'a Tensor; N], &'a Tensor, &'a Tensor);

/// The inputs' gradients for many results, as [`forward_foreach`].
///
/// # Errors
/// As for [`backward`].
pub fn backward_foreach<O: Op, const N: usize>(all: &[Pass<'_, O, N>]) -> Result<Vec<[Option<Tensor>; MAX_INPUTS]>> {
    let tensors = || all.iter().flat_map(|(_, inputs, y, dy)| inputs.iter().chain([y, dy]));
    let on_gpu = tensors().all(|tensor| tensor.is_contiguous() && tensor.device().is_cuda());
    let (true, Some((first, ..))) = (on_gpu, all.first()) else {
        return all.iter().map(|(op, inputs, y, dy)| backward(*op, *inputs, y, dy)).collect();
    };
    check_count::<O>(N)?;
    let guards: Vec<_> = all.iter().map(|(_, inputs, ..)| inputs.map(|input| input.storage_and_layout())).collect();
    let of_y: Vec<_> = all.iter().map(|(_, _, y, dy)| [y.storage_and_layout(), dy.storage_and_layout()]).collect();
    let gpu = gpu_of(of_y.iter().flatten().map(|(storage, _)| &**storage), first.kernels(), O::NAME)?;
    let inputs = guards.iter().map(|guards| on_gpu_all(&gpu, guards, O::NAME)).collect::<Result<Vec<_>>>()?;
    let items = all.iter().zip(&inputs).zip(&of_y).map(|(((op, ..), inputs), of_y)| {
        let [y, dy] = on_gpu_all(&gpu, of_y, O::NAME)?;
        Ok((*op, Backward { inputs: inputs.as_slice(), y, dy, more: None }))
    });
    let found = O::gpu_backward_foreach(&gpu, &items.collect::<Result<Vec<_>>>()?)?;
    let placed = found.into_iter().zip(all).map(|(found, (_, inputs, _, dy))| {
        let mut gradients = [const { None }; MAX_INPUTS];
        place(&mut gradients, found.map(|gradient| gradient.map(Storage::Cuda)), *inputs, dy);
        gradients
    });
    Ok(placed.collect())
}

fn gpu_of<'a>(mut storages: impl Iterator<Item = &'a Storage>, kernels: &Kernels, op: &str) -> Result<CudaGpu> {
    match storages.next() {
        Some(Storage::Cuda(storage)) => CudaGpu::new(storage.device(), kernels),
        _ => bail!("{op}: no tensor on a GPU"),
    }
}

/// Tensors behind their guards as inputs on a GPU.
fn on_gpu_all<'a, S: std::ops::Deref<Target = Storage>, const N: usize>(
    gpu: &CudaGpu,
    guards: &'a [(S, &'a Layout); N],
    op: &str,
) -> Result<[GpuInput<'a, CudaGpu>; N]> {
    let all =
        guards.iter().map(|(storage, layout)| GpuInput::of(gpu, storage, layout, op)).collect::<Result<Vec<_>>>()?;
    all.try_into().map_err(|_| candle_core::Error::Msg(format!("{op}: {N} inputs")))
}

/// The gradients as tensors of the inputs' shapes.
fn place<const N: usize>(
    to: &mut [Option<Tensor>; MAX_INPUTS],
    found: Gradients<Storage>,
    inputs: [&Tensor; N],
    dy: &Tensor,
) {
    for ((to, gradient), input) in to.iter_mut().zip(found).zip(inputs) {
        *to = match gradient {
            Gradient::None => None,
            Gradient::Output => Some(dy.clone()),
            Gradient::Value(storage) => Some(Tensor::from_storage(storage, input.shape(), BackpropOp::none(), false)),
        };
    }
}

impl<O: Op> CustomOp1 for Apply<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(&self.0, of_cpu([(a, al)]))
    }

    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(&self.0, [(a, al)])
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [da, _, _] = backward(&self.0, [a], y, dy)?;
        Ok(da)
    }
}

impl<O: Op> CustomOp2 for Apply<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(&self.0, of_cpu([(a, al), (b, bl)]))
    }

    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(&self.0, [(a, al), (b, bl)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db, _] = backward(&self.0, [a, b], y, dy)?;
        Ok((da, db))
    }
}

impl<O: Op> CustomOp3 for Apply<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
        c: &CpuStorage,
        cl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        on_cpu(&self.0, of_cpu([(a, al), (b, bl), (c, cl)]))
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        on_cuda(&self.0, [(a, al), (b, bl), (c, cl)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = backward(&self.0, [a, b, c], y, dy)?;
        Ok((da, db, dc))
    }
}
