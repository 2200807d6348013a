//! Custom Candle ops that networks need and Candle lacks, or has wrong or slow: each with its own backward pass, f32 and
//! f64 on the CPU, f32 or bf16 with parameters in f32 on a GPU (feature `cuda`), the same results for every number of threads.

pub mod almost_orthogonal;
pub mod blocks;
pub mod cast;
pub mod conv2d;
pub mod dense;
pub mod dropout;
pub mod gpu;
pub mod images;
pub mod loss;
pub mod norm_activation;
pub mod orthonormal;
pub mod pack;
pub mod pool;
mod product;
pub mod scale;
pub mod spectral;
pub mod sum;
pub mod target_loss;
mod window;

pub use window::Window;

use candle_core::{Result, Tensor};
use ds_core::dispatch_real;
use ds_core::ops::planes::Planes;
use ds_core::ops::pointwise::{channel_sums, tensor_of};
use ds_core::ops::real::with_elements;

/// Σ over all but the channels of (N, C, …): (C). The gradient of a bias.
fn channel_totals(dy: &Tensor) -> Result<Tensor> {
    let planes = Planes::new(dy.shape(), dy.dims().get(1).copied().unwrap_or(0), "channel-totals")?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = ds_core::ops::gpu::cuda::CudaGpu::of(dy, &gpu::KERNELS)? {
        let dy = dy.contiguous()?;
        let from = ds_core::ops::gpu::cuda::address_of_type(&dy, dy.dtype(), "channel-totals")?;
        let totals = gpu::pointwise::channel_totals(&gpu, planes, dy.dtype(), from)?;
        return Ok(ds_core::ops::gpu::cuda::tensor_on(totals, planes.channels));
    }
    dispatch_real!(dy.dtype(), "channel-totals", T => {
        let sums = with_elements::<T, _>(dy, |dy| {
            Ok(channel_sums(planes, 1, |_, plane, sum: &mut [T]| sum[0] += norm_activation::plane_sum(&dy[plane])))
        })?;
        Ok(tensor_of(sums, planes.channels))
    })
}
