//! Passes of ops outside any graph.

use super::contract::{DynOp, Op};
use super::values::{Backward, CpuInput, Gradient, Gradients, MAX_INPUTS};
use crate::backend::gpu::GpuInput;
use crate::backend::gpu::cuda::CudaGpu;
use crate::backend::pointwise::real_dtype;
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaStorage, Layout, Result, Shape, Storage, Tensor, bail};
use std::ops::Deref;

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

/// The result on the CPU, and its shape.
pub(super) fn on_cpu<const N: usize>(
    op: &dyn DynOp,
    inputs: [(&CpuStorage, &Layout); N],
) -> Result<(CpuStorage, Shape)> {
    let inputs = inputs.map(|(storage, layout)| CpuInput::of_cpu(storage, layout));
    let shape = op.result_shape(&inputs.map(|input| input.shape()))?;
    Ok((op.on_cpu(real_dtype(inputs[0].storage()?, op.name())?, &inputs)?, shape))
}

/// The result on a GPU, and its shape.
pub(super) fn on_cuda<const N: usize>(
    op: &dyn DynOp,
    inputs: [(&CudaStorage, &Layout); N],
) -> Result<(CudaStorage, Shape)> {
    let shape = op.result_shape(&inputs.map(|(_, layout)| layout.shape()))?;
    let gpu = CudaGpu::new(inputs[0].0.device(), op.cuda_kernels())?;
    let input = |&(storage, layout): &(_, _)| GpuInput::of_storage(&gpu, storage, layout, op.name());
    Ok((op.on_cuda(&gpu, &inputs.iter().map(input).collect::<Result<Vec<_>>>()?)?, shape))
}

impl dyn DynOp {
    /// The op's result, outside any graph.
    ///
    /// # Errors
    /// If the number of inputs or their shapes, types or devices do not fit.
    pub fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        match *inputs {
            [a] => forward_of(self, [a]),
            [a, b] => forward_of(self, [a, b]),
            [a, b, c] => forward_of(self, [a, b, c]),
            _ => too_many(self, inputs.len()),
        }
    }

    /// The inputs' gradients from that of the result, outside any graph. For ops that take two (`Op::TAKES_TWO_GRADIENTS`), the
    /// gradient of the result may be the sum of two.
    ///
    /// # Errors
    /// If the number of inputs or shapes, types or devices do not fit, or the op does not take two.
    pub fn backward(
        &self,
        inputs: &[&Tensor],
        y: &Tensor,
        dy: (&Tensor, Option<&Tensor>),
    ) -> Result<[Option<Tensor>; MAX_INPUTS]> {
        match *inputs {
            [a] => backward_of(self, [a], y, dy),
            [a, b] => backward_of(self, [a, b], y, dy),
            [a, b, c] => backward_of(self, [a, b, c], y, dy),
            _ => too_many(self, inputs.len()),
        }
    }
}

/// Ops take 1 to [`MAX_INPUTS`].
fn too_many<T>(op: &dyn DynOp, inputs: usize) -> Result<T> {
    op.check_count(inputs)?;
    bail!("{}: {inputs} inputs, and ops take 1 to {MAX_INPUTS}", op.name())
}

fn forward_of<const N: usize>(op: &dyn DynOp, inputs: [&Tensor; N]) -> Result<Tensor> {
    if !inputs.iter().all(|input| input.is_contiguous()) {
        let copies = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
        return forward_of(op, std::array::from_fn::<_, N, _>(|k| &copies[k]));
    }
    let shape = op.result_shape(&inputs.map(|input| input.shape()))?;
    let guards = inputs.map(|input| input.storage_and_layout());
    let y = if let Storage::Cuda(first) = &*guards[0].0 {
        let gpu = CudaGpu::new(first.device(), op.cuda_kernels())?;
        Storage::Cuda(op.on_cuda(&gpu, &all_on_gpu(&gpu, &guards, op)?)?)
    } else {
        let inputs = guards.each_ref().map(|(storage, layout)| CpuInput::new(storage, layout));
        Storage::Cpu(op.on_cpu(real_dtype(inputs[0].storage()?, op.name())?, &inputs)?)
    };
    Ok(Tensor::from_storage(y, shape, BackpropOp::none(), false))
}

fn backward_of<const N: usize>(
    op: &dyn DynOp,
    inputs: [&Tensor; N],
    y: &Tensor,
    (dy, more): (&Tensor, Option<&Tensor>),
) -> Result<[Option<Tensor>; MAX_INPUTS]> {
    if !inputs.iter().chain([&y, &dy]).copied().chain(more).all(|tensor| tensor.is_contiguous()) {
        let copies = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
        let inputs = std::array::from_fn::<_, N, _>(|k| &copies[k]);
        let more = more.map(Tensor::contiguous).transpose()?;
        return backward_of(op, inputs, &y.contiguous()?, (&dy.contiguous()?, more.as_ref()));
    }
    if let Some(more) = more
        && (!op.takes_two_gradients() || !dy.device().is_cuda() || more.shape() != dy.shape())
    {
        bail!("{}: two gradients, {:?} and {:?}", op.name(), dy.shape(), more.shape());
    }
    if dy.shape() != y.shape() || dy.dtype() != y.dtype() {
        let (got, wanted) = ((dy.shape(), dy.dtype()), (y.shape(), y.dtype()));
        bail!("{}: gradient {got:?} does not fit the result {wanted:?}", op.name());
    }
    op.check_count(N)?;
    let guards = inputs.map(|input| input.storage_and_layout());
    let ((ys, yl), (ds, dl)) = (y.storage_and_layout(), dy.storage_and_layout());
    let found = if let Storage::Cuda(of_dy) = &*ds {
        let gpu = CudaGpu::new(of_dy.device(), op.cuda_kernels())?;
        let of = |storage, layout| GpuInput::of(&gpu, storage, layout, op.name());
        let more_guard = more.map(Tensor::storage_and_layout);
        let more = more_guard.as_ref().map(|(storage, layout)| of(&**storage, *layout)).transpose()?;
        let all = all_on_gpu(&gpu, &guards, op)?;
        let pass = Backward { inputs: &all, y: of(&ys, yl)?, dy: of(&ds, dl)?, more };
        op.backward_on_cuda(&gpu, &pass)?.map(|gradient| gradient.map(Storage::Cuda))
    } else {
        let all = guards.each_ref().map(|(storage, layout)| CpuInput::new(storage, layout));
        let pass = Backward { inputs: &all, y: CpuInput::new(&ys, yl), dy: CpuInput::new(&ds, dl), more: None };
        let dtype = real_dtype(pass.dy.storage()?, op.name())?;
        op.backward_on_cpu(dtype, &pass)?.map(|gradient| gradient.map(Storage::Cpu))
    };
    Ok(placed(found, &inputs, dy))
}

/// The op's result, outside any graph.
///
/// # Errors
/// If the inputs' shapes, types or devices do not fit.
pub fn forward<const N: usize>(op: &impl Op, inputs: [&Tensor; N]) -> Result<Tensor> {
    op.as_dyn().forward(&inputs)
}

/// The inputs' gradients from that of the result, outside any graph.
///
/// # Errors
/// If shapes, types or devices do not fit.
pub fn backward<const N: usize>(
    op: &impl Op,
    inputs: [&Tensor; N],
    y: &Tensor,
    dy: &Tensor,
) -> Result<[Option<Tensor>; MAX_INPUTS]> {
    op.as_dyn().backward(&inputs, y, (dy, None))
}

/// The results of an op for many lists of inputs, outside any graph: together on a GPU, one after the other on the CPU. All ops are
/// of one type.
///
/// # Errors
/// If shapes, types or devices do not fit.
pub fn forward_foreach(all: &[(&dyn DynOp, &[&Tensor])]) -> Result<Vec<Tensor>> {
    let on_gpu = |tensor: &&Tensor| tensor.is_contiguous() && tensor.device().is_cuda();
    let (true, Some((first, _))) = (all.iter().flat_map(|(_, inputs)| *inputs).all(on_gpu), all.first()) else {
        return all.iter().map(|(op, inputs)| op.forward(inputs)).collect();
    };
    let shapes = all.iter().map(|(op, inputs)| shape_of(*op, inputs)).collect::<Result<Vec<_>>>()?;
    let guards: Vec<Vec<_>> =
        all.iter().map(|(_, inputs)| inputs.iter().map(|input| input.storage_and_layout()).collect()).collect();
    let gpu = gpu_of(guards.iter().flatten().map(|(storage, _)| &**storage), *first)?;
    let inputs = guards.iter().map(|guards| all_on_gpu(&gpu, guards, *first)).collect::<Result<Vec<_>>>()?;
    let items: Vec<_> = all.iter().zip(&inputs).map(|((op, _), inputs)| (*op, inputs.as_slice())).collect();
    let found = first.foreach_on_cuda(&gpu, &items)?;
    let tensor = |(y, shape)| Tensor::from_storage(Storage::Cuda(y), shape, BackpropOp::none(), false);
    Ok(found.into_iter().zip(shapes).map(tensor).collect())
}

/// What the backward pass of one of many is given: the op, its inputs, its result and the gradient of that.
pub type Pass<'a> = (&'a dyn DynOp, &'a [&'a Tensor], &'a Tensor, &'a Tensor);

/// The inputs' gradients for many results, as [`forward_foreach`].
///
/// # Errors
/// If shapes, types or devices do not fit.
pub fn backward_foreach(all: &[Pass<'_>]) -> Result<Vec<[Option<Tensor>; MAX_INPUTS]>> {
    let on_gpu = |tensor: &&Tensor| tensor.is_contiguous() && tensor.device().is_cuda();
    let mut tensors = all.iter().flat_map(|(_, inputs, y, dy)| inputs.iter().chain([y, dy]));
    let (true, Some((first, ..))) = (tensors.all(on_gpu), all.first()) else {
        return all.iter().map(|(op, inputs, y, dy)| op.backward(inputs, y, (*dy, None))).collect();
    };
    for (op, inputs, ..) in all {
        op.check_count(inputs.len())?;
    }
    let guards: Vec<Vec<_>> =
        all.iter().map(|(_, inputs, ..)| inputs.iter().map(|input| input.storage_and_layout()).collect()).collect();
    let of_y: Vec<_> = all.iter().map(|(_, _, y, dy)| [y.storage_and_layout(), dy.storage_and_layout()]).collect();
    let gpu = gpu_of(of_y.iter().flatten().map(|(storage, _)| &**storage), *first)?;
    let inputs = guards.iter().map(|guards| all_on_gpu(&gpu, guards, *first)).collect::<Result<Vec<_>>>()?;
    let items = all.iter().zip(&inputs).zip(&of_y).map(|(((op, ..), inputs), [(ys, yl), (ds, dl)])| {
        let of = |storage, layout| GpuInput::of(&gpu, storage, layout, op.name());
        Ok((*op, Backward { inputs: inputs.as_slice(), y: of(ys, yl)?, dy: of(ds, dl)?, more: None }))
    });
    let found = first.backward_foreach_on_cuda(&gpu, &items.collect::<Result<Vec<_>>>()?)?;
    let placed = |(found, (_, inputs, _, dy)): (Gradients<CudaStorage>, &Pass<'_>)| {
        placed(found.map(|gradient| gradient.map(Storage::Cuda)), inputs, dy)
    };
    Ok(found.into_iter().zip(all).map(placed).collect())
}

fn shape_of(op: &dyn DynOp, inputs: &[&Tensor]) -> Result<Shape> {
    op.result_shape(&inputs.iter().map(|input| input.shape()).collect::<Vec<_>>())
}

fn gpu_of<'a>(mut storages: impl Iterator<Item = &'a Storage>, op: &dyn DynOp) -> Result<CudaGpu> {
    match storages.next() {
        Some(Storage::Cuda(storage)) => CudaGpu::new(storage.device(), op.cuda_kernels()),
        _ => bail!("{}: no tensor on a GPU", op.name()),
    }
}

/// Tensors behind their guards as inputs on a GPU.
fn all_on_gpu<'a, S: Deref<Target = Storage>>(
    gpu: &CudaGpu,
    guards: &'a [(S, &'a Layout)],
    op: &dyn DynOp,
) -> Result<Vec<GpuInput<'a, CudaGpu>>> {
    guards.iter().map(|(storage, layout)| GpuInput::of(gpu, storage, layout, op.name())).collect()
}

/// The gradients as tensors of the inputs' shapes.
fn placed(found: Gradients<Storage>, inputs: &[&Tensor], dy: &Tensor) -> [Option<Tensor>; MAX_INPUTS] {
    let mut gradients = [const { None }; MAX_INPUTS];
    for ((to, gradient), input) in gradients.iter_mut().zip(found).zip(inputs) {
        *to = match gradient {
            Gradient::None => None,
            Gradient::Output => Some(dy.clone()),
            Gradient::Value(storage) => Some(Tensor::from_storage(storage, input.shape(), BackpropOp::none(), false)),
        };
    }
    gradients
}
