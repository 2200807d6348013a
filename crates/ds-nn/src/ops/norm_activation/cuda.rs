//! The op on a GPU.

use super::{NormActivation, Statistics};
use crate::ops::gpu::KERNELS;
use crate::ops::gpu::norm::{Constants, Inputs, backward, forward};
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor, Var, bail};
use ds_core::ops::gpu::Address;
use ds_core::ops::gpu::cuda::{CudaGpu, address, address_of, address_of_type, tensor_on};
use ds_core::ops::planes::Planes;
use std::sync::{Arc, Mutex, PoisonError};

/// Statistics that stay on the device.
#[derive(Debug, Clone)]
pub struct OnDevice {
    /// The running mean (C); in training the batch goes into it.
    pub running_mean: Var,
    /// The running variance (C), likewise.
    pub running_variance: Var,
    /// What the batch counts in them.
    pub momentum: f64,
    /// Whether the statistics are those of the batch.
    pub training: bool,
    /// What the forward pass leaves for its backward pass.
    moments: Arc<Mutex<Option<Tensor>>>,
}

impl OnDevice {
    /// With the running statistics of a layer.
    pub fn new(running_mean: Var, running_variance: Var, momentum: f64, training: bool) -> Self {
        Self { running_mean, running_variance, momentum, training, moments: Arc::default() }
    }
}

impl NormActivation {
    fn on_device(&self) -> Result<&OnDevice> {
        match &self.statistics {
            Statistics::OnDevice(statistics) => Ok(statistics),
            _ => bail!("{}: the input is on a GPU, its statistics are not", Self::NAME),
        }
    }

    pub(super) fn cuda_output(
        &self,
        (x, xl): (&CudaStorage, &Layout),
        residual: Option<(&CudaStorage, &Layout)>,
        (p, pl): (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape)> {
        let planes = self.planes(xl.shape(), residual.map(|(_, l)| l.shape()), pl.shape())?;
        let statistics = self.on_device()?;
        let gpu = CudaGpu::new(&x.device, &KERNELS)?;
        let dtype = x.dtype();
        let of = |storage, layout| address(storage, layout, dtype, Self::NAME);
        let residual = residual.map_or(Ok(Address::NONE), |(r, l)| of(r, l))?;
        let parameters = address(p, pl, DType::F32, Self::NAME)?;
        let inputs = Inputs { dtype, x: of(x, xl)?, residual, parameters };
        let running = (&statistics.running_mean, &statistics.running_variance);
        if running.0.elem_count() != planes.channels || running.1.elem_count() != planes.channels {
            bail!("{}: running statistics of {} channels for {planes:?}", Self::NAME, running.0.elem_count());
        }
        let running = (address_of(running.0, Self::NAME)?, address_of(running.1, Self::NAME)?);
        let constants = Constants { momentum: statistics.momentum, epsilon: self.epsilon };
        // SAFETY: the layer is the only one that writes its running statistics.
        let (y, moments) =
            unsafe { forward(&gpu, planes, self.function, inputs, running, statistics.training, constants)? };
        let moments = tensor_on(moments, (planes.channels, 2));
        *statistics.moments.lock().unwrap_or_else(PoisonError::into_inner) = Some(moments);
        Ok((y, xl.shape().clone()))
    }

    pub(super) fn cuda_gradients(
        &self,
        planes: Planes,
        x: &Tensor,
        residual: Option<&Tensor>,
        parameters: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>, Tensor)> {
        let statistics = self.on_device()?;
        let moments = statistics.moments.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(moments) = moments else { bail!("{}: a backward pass without its forward pass", Self::NAME) };
        let gpu = CudaGpu::new(x.device().as_cuda_device()?, &KERNELS)?;
        let (x, p, dy) = (x.contiguous()?, parameters.contiguous()?, dy.contiguous()?);
        let residual = residual.map(Tensor::contiguous).transpose()?;
        let dtype = x.dtype();
        let of = |tensor| address_of_type(tensor, dtype, Self::NAME);
        let residual = residual.as_ref().map_or(Ok(Address::NONE), of)?;
        let inputs = Inputs { dtype, x: of(&x)?, residual, parameters: address_of(&p, Self::NAME)? };
        let of_moments = address_of_type(&moments, DType::F64, Self::NAME)?;
        let (training, epsilon) = (statistics.training, self.epsilon);
        let all = backward(&gpu, planes, self.function, inputs, (of_moments, of(&dy)?), training, epsilon)?;
        let residual = all.residual.map(|dr| tensor_on(dr, x.shape()));
        Ok((tensor_on(all.x, x.shape()), residual, tensor_on(all.parameters, p.shape())))
    }
}
