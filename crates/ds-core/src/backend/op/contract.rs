//! What an op states, and its form as a trait object.

use super::values::{Backward, CpuInput, Gradients};
use crate::backend::gpu::cuda::CudaGpu;
use crate::backend::gpu::{Gpu, GpuInput, KERNELS, Kernels};
use crate::backend::real::Real;
use crate::dispatch_real;
use candle_core::{CpuStorage, CudaStorage, DType, Result, Shape, bail};
use std::any::{Any, TypeId};
use std::ops::Range;
use std::sync::Arc;

/// An op with one result.
pub trait Op: Clone + Send + Sync + 'static {
    /// The name in error messages.
    const NAME: &'static str;

    /// The numbers of inputs that the op takes; the last ones may be optional.
    const INPUTS: Range<usize>;

    /// The op as a trait object: [`dyn_op!`](crate::dyn_op) has the method.
    fn as_dyn(&self) -> &dyn DynOp;

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

/// [`Op::as_dyn`] in an `impl Op`.
///
/// A generic function that made the trait object would compile the kernels of the op again in each crate that calls it. This method
/// is neither generic nor inlined, so that they are compiled in the crate of the op alone.
#[doc(hidden)]
#[macro_export]
macro_rules! dyn_op {
    () => {
        #[inline(never)]
        fn as_dyn(&self) -> &dyn $crate::backend::op::DynOp {
            self
        }
    };
}

/// An [`Op`] on the CPU or a CUDA device, as a trait object. All ops have it.
pub trait DynOp: Any + Send + Sync {
    /// [`Op::NAME`].
    fn name(&self) -> &'static str;

    /// Whether the op takes so many inputs.
    ///
    /// # Errors
    /// If not.
    fn check_count(&self, inputs: usize) -> Result<()>;

    /// The shape of the result.
    ///
    /// # Errors
    /// If the number of inputs or their shapes do not fit.
    fn result_shape(&self, inputs: &[&Shape]) -> Result<Shape>;

    /// [`Op::FOREACH`].
    fn is_foreach(&self) -> bool;

    /// [`Op::TAKES_TWO_GRADIENTS`].
    fn takes_two_gradients(&self) -> bool;

    /// The type of the op.
    fn op_type(&self) -> TypeId;

    /// Whether the other op is of the same type and does the same.
    fn is_same_as(&self, other: &dyn DynOp) -> bool;

    /// A copy.
    fn to_arc(&self) -> Arc<dyn DynOp>;

    /// The result on the CPU, in an element type.
    ///
    /// # Errors
    /// If the op has no kernel for this type, or an input has another one.
    fn on_cpu(&self, dtype: DType, inputs: &[CpuInput<'_>]) -> Result<CpuStorage>;

    /// The inputs' gradients on the CPU, in an element type.
    ///
    /// # Errors
    /// As for [`on_cpu`](Self::on_cpu).
    fn backward_on_cpu(&self, dtype: DType, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<CpuStorage>>;

    /// [`Op::kernels`].
    fn cuda_kernels(&self) -> &'static Kernels;

    /// [`Op::gpu`].
    ///
    /// # Errors
    /// If the op has no GPU kernels, or the launch fails.
    fn on_cuda(&self, gpu: &CudaGpu, inputs: &[CudaInput<'_>]) -> Result<CudaStorage>;

    /// [`Op::gpu_backward`].
    ///
    /// # Errors
    /// As for [`on_cuda`](Self::on_cuda).
    fn backward_on_cuda(&self, gpu: &CudaGpu, pass: &Backward<'_, CudaInput<'_>>) -> Result<Gradients<CudaStorage>>;

    /// [`Op::gpu_foreach`], for ops of this type.
    ///
    /// # Errors
    /// As for [`on_cuda`](Self::on_cuda), or if an op is of another type.
    fn foreach_on_cuda(&self, gpu: &CudaGpu, all: &[(&dyn DynOp, &[CudaInput<'_>])]) -> Result<Vec<CudaStorage>>;

    /// [`Op::gpu_backward_foreach`], for ops of this type.
    ///
    /// # Errors
    /// As for [`foreach_on_cuda`](Self::foreach_on_cuda).
    fn backward_foreach_on_cuda(
        &self,
        gpu: &CudaGpu,
        all: &[(&dyn DynOp, Backward<'_, CudaInput<'_>>)],
    ) -> Result<Vec<Gradients<CudaStorage>>>;
}

type CudaInput<'a> = GpuInput<'a, CudaGpu>;

impl<O: Op> DynOp for O {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn check_count(&self, inputs: usize) -> Result<()> {
        if O::INPUTS.contains(&inputs) {
            return Ok(());
        }
        bail!("{}: {inputs} inputs, expected {:?}", O::NAME, O::INPUTS)
    }

    fn result_shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        self.check_count(inputs.len())?;
        self.shape(inputs)
    }

    fn is_foreach(&self) -> bool {
        O::FOREACH
    }

    fn takes_two_gradients(&self) -> bool {
        O::TAKES_TWO_GRADIENTS
    }

    fn op_type(&self) -> TypeId {
        TypeId::of::<O>()
    }

    fn is_same_as(&self, other: &dyn DynOp) -> bool {
        of_type::<O>(other).is_ok_and(|other| self.is_same(other))
    }

    fn to_arc(&self) -> Arc<dyn DynOp> {
        Arc::new(self.clone())
    }

    fn on_cpu(&self, dtype: DType, inputs: &[CpuInput<'_>]) -> Result<CpuStorage> {
        dispatch_real!(dtype, O::NAME, T => Ok(T::to_cpu_storage_owned(self.cpu::<T>(inputs)?)))
    }

    fn backward_on_cpu(&self, dtype: DType, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<CpuStorage>> {
        dispatch_real!(dtype, O::NAME, T => {
            Ok(self.cpu_backward::<T>(pass)?.map(|gradient| gradient.map(T::to_cpu_storage_owned)))
        })
    }

    fn cuda_kernels(&self) -> &'static Kernels {
        self.kernels()
    }

    fn on_cuda(&self, gpu: &CudaGpu, inputs: &[CudaInput<'_>]) -> Result<CudaStorage> {
        self.gpu(gpu, inputs)
    }

    fn backward_on_cuda(&self, gpu: &CudaGpu, pass: &Backward<'_, CudaInput<'_>>) -> Result<Gradients<CudaStorage>> {
        self.gpu_backward(gpu, pass)
    }

    fn foreach_on_cuda(&self, gpu: &CudaGpu, all: &[(&dyn DynOp, &[CudaInput<'_>])]) -> Result<Vec<CudaStorage>> {
        let all = all.iter().map(|(op, inputs)| Ok((of_type::<O>(*op)?, *inputs))).collect::<Result<Vec<_>>>()?;
        O::gpu_foreach(gpu, &all)
    }

    fn backward_foreach_on_cuda(
        &self,
        gpu: &CudaGpu,
        all: &[(&dyn DynOp, Backward<'_, CudaInput<'_>>)],
    ) -> Result<Vec<Gradients<CudaStorage>>> {
        let all = all.iter().map(|(op, pass)| Ok((of_type::<O>(*op)?, *pass))).collect::<Result<Vec<_>>>()?;
        O::gpu_backward_foreach(gpu, &all)
    }
}

fn of_type<O: Op>(op: &dyn DynOp) -> Result<&O> {
    match (op as &dyn Any).downcast_ref() {
        Some(op) => Ok(op),
        None => bail!("{} is not {}", op.name(), O::NAME),
    }
}
