//! Ops as custom ops of Candle.

use super::contract::Op;
use super::run::{backward, on_cpu, on_cuda};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

/// An [`Op`] as a Candle custom op of one, two or three arguments.
#[derive(Debug, Clone, Copy)]
pub struct Apply<O>(pub O);

impl<O: Op> CustomOp1 for Apply<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.0.as_dyn(), [(a, al)])
    }

    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.0.as_dyn(), [(a, al)])
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
        on_cpu(self.0.as_dyn(), [(a, al), (b, bl)])
    }

    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.0.as_dyn(), [(a, al), (b, bl)])
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
        on_cpu(self.0.as_dyn(), [(a, al), (b, bl), (c, cl)])
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
        on_cuda(self.0.as_dyn(), [(a, al), (b, bl), (c, cl)])
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
