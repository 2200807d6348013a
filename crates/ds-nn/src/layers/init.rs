//! How weights are drawn.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// How weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightInit {
    /// Uniform in ±1/√fan_in, biases too: PyTorch's default.
    Uniform,
    /// Normal with variance 2/fan_out (He et al. 2015); biases 0.
    HeFanOut,
    /// Normal with this standard deviation; biases 0.
    Normal(f64),
}

pub(super) fn draw(
    rng: &mut ChaCha8Rng,
    shape: &[usize],
    fan_in: usize,
    fan_out: usize,
    init: WeightInit,
) -> Result<Tensor> {
    let n = shape.iter().product();
    let data: Vec<f32> = match init {
        WeightInit::Uniform => {
            let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
            (0..n).map(|_| rng.random_range(-bound..bound) as f32).collect()
        }
        WeightInit::HeFanOut | WeightInit::Normal(_) => {
            let deviation = match init {
                WeightInit::Normal(deviation) => deviation,
                _ => (2.0 / fan_out.max(1) as f64).sqrt(),
            };
            let normal = Normal::new(0.0, deviation).map_err(candle_core::Error::wrap)?;
            (0..n).map(|_| normal.sample(rng) as f32).collect()
        }
    };
    Ok(Var::from_vec(data, shape, &Device::Cpu)?.into_inner())
}

pub(super) fn draw_bias(rng: &mut ChaCha8Rng, outputs: usize, fan_in: usize, init: WeightInit) -> Result<Tensor> {
    match init {
        WeightInit::Uniform => draw(rng, &[outputs], fan_in, outputs, init),
        _ => zeros(outputs),
    }
}

/// A new variable of zeros.
pub(super) fn zeros(outputs: usize) -> Result<Tensor> {
    Ok(Var::zeros(outputs, DType::F32, &Device::Cpu)?.into_inner())
}
