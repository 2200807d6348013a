//! Training in bf16 as a GPU does it, on the CPU: ops compute in f32 what they are given in bf16, and round what they give. An
//! argument of another type than the op's kernels take is an error here as it is there.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use ds_core::backend::op::{Apply, Op};
use ds_core::graph::Graph;
use std::borrow::Cow;

/// Candle's own graph with such ops. Values are what flows between layers, in bf16, and parameters in f32.
pub struct NarrowGraph;

impl Graph for NarrowGraph {
    type Value = Tensor;

    fn constant(&mut self, tensor: &Tensor) -> Tensor {
        tensor.clone()
    }

    fn parameter(&mut self, parameter: &Tensor) -> Tensor {
        parameter.clone()
    }

    fn tensor<'a>(&self, value: &'a Tensor) -> &'a Tensor {
        value
    }

    fn is_tracked(&self, value: &Tensor) -> bool {
        value.track_op()
    }

    fn apply<O: Op, const N: usize>(&mut self, op: O, inputs: [&Tensor; N]) -> Result<Tensor> {
        match inputs.as_slice() {
            [a] => a.apply_op1(Narrow(Apply(op))),
            [a, b] => a.apply_op2(b, Narrow(Apply(op))),
            [a, b, c] => a.apply_op3(b, c, Narrow(Apply(op))),
            _ => bail!("{}: {N} inputs", O::NAME),
        }
    }

    fn reshape(&mut self, value: &Tensor, shape: &[usize]) -> Result<Tensor> {
        value.reshape(shape)
    }

    fn to_dtype(&mut self, value: &Tensor, dtype: DType) -> Result<Tensor> {
        value.to_dtype(dtype)
    }
}

/// An op that computes in f32.
struct Narrow<O>(O);

/// Whether the second of some arguments has the type of the first: a weight or a residual; all others are f32.
fn second_is_data(op: &str, arguments: usize) -> bool {
    matches!(op, "conv2d" | "dense" | "sum") || (op == "norm-activation" && arguments == 3)
}

fn check(op: &str, types: &[DType]) -> Result<()> {
    for (k, &dtype) in types.iter().enumerate().skip(1) {
        let wanted = if k == 1 && second_is_data(op, types.len()) { types[0] } else { DType::F32 };
        // Classes are bytes.
        if dtype != wanted && dtype != DType::U8 {
            bail!("{op}: argument {k} is {dtype:?} and not {wanted:?}, with data in {:?}", types[0]);
        }
    }
    Ok(())
}

/// In f32, and where.
fn wide<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<(Cow<'a, CpuStorage>, Layout)> {
    if storage.dtype() == DType::BF16 {
        return Ok((Cow::Owned(storage.to_dtype(layout, f32::DTYPE)?), Layout::contiguous(layout.shape())));
    }
    Ok((Cow::Borrowed(storage), layout.clone()))
}

fn narrow((y, shape): (CpuStorage, Shape), dtype: DType) -> Result<(CpuStorage, Shape)> {
    Ok((y.to_dtype(&Layout::contiguous(&shape), dtype)?, shape))
}

fn wide_tensor(t: &Tensor) -> Result<Tensor> {
    if t.dtype() == DType::BF16 { t.detach().to_dtype(DType::F32) } else { Ok(t.clone()) }
}

fn narrow_gradient(gradient: Option<Tensor>, of: &Tensor) -> Result<Option<Tensor>> {
    gradient.map(|gradient| gradient.to_dtype(of.dtype())).transpose()
}

impl<O: CustomOp1> CustomOp1 for Narrow<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (wide, wide_layout) = wide(x, l)?;
        narrow(self.0.cpu_fwd(&wide, &wide_layout)?, x.dtype())
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        narrow_gradient(self.0.bwd(&wide_tensor(x)?, &wide_tensor(y)?, &wide_tensor(dy)?)?, x)
    }
}

impl<O: CustomOp2> CustomOp2 for Narrow<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        check(self.name(), &[a.dtype(), b.dtype()])?;
        let ((wide_a, al), (wide_b, bl)) = (wide(a, al)?, wide(b, bl)?);
        narrow(self.0.cpu_fwd(&wide_a, &al, &wide_b, &bl)?, a.dtype())
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (wide_a, wide_b) = (wide_tensor(a)?, wide_tensor(b)?);
        let (da, db) = self.0.bwd(&wide_a, &wide_b, &wide_tensor(y)?, &wide_tensor(dy)?)?;
        Ok((narrow_gradient(da, a)?, narrow_gradient(db, b)?))
    }
}

impl<O: CustomOp3> CustomOp3 for Narrow<O> {
    fn name(&self) -> &'static str {
        self.0.name()
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
        check(self.name(), &[a.dtype(), b.dtype(), c.dtype()])?;
        let ((wide_a, al), (wide_b, bl), (wide_c, cl)) = (wide(a, al)?, wide(b, bl)?, wide(c, cl)?);
        narrow(self.0.cpu_fwd(&wide_a, &al, &wide_b, &bl, &wide_c, &cl)?, a.dtype())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (wide_a, wide_b, wide_c) = (wide_tensor(a)?, wide_tensor(b)?, wide_tensor(c)?);
        let (da, db, dc) = self.0.bwd(&wide_a, &wide_b, &wide_c, &wide_tensor(y)?, &wide_tensor(dy)?)?;
        Ok((narrow_gradient(da, a)?, narrow_gradient(db, b)?, narrow_gradient(dc, c)?))
    }
}
