//! Weights under constraints on an emulated device.

use super::emulated::{TYPES, Tolerances, compare, device, random, random_of, random_shape};
use candle_core::{DType, Tensor};
use ds_nn::ops::almost_orthogonal::AlmostOrthogonal;
use ds_nn::ops::orthonormal::{PolarFactor, polar_factor};
use ds_nn::ops::scale::Scale;
use ds_nn::ops::spectral::SpectralNormalization;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const F32: DType = DType::F32;

#[test]
fn multiplications() {
    let rng = &mut ChaCha8Rng::seed_from_u64(20);
    for (round, dtype) in TYPES.into_iter().flat_map(|dtype| (0..6).map(move |round| (round, dtype))) {
        let Some(gpu) = device(round % 2) else { return };
        let shape = random_shape(rng, 1);
        let x = random_of(rng, &shape, dtype);
        let op = Scale { factor: 1.7 };
        let tolerances = Tolerances { result: 1e-6, gradients: &[1e-6], outliers: 0 };
        compare(rng, &gpu, "scale", (&op, &op), [(&x, dtype)], &tolerances);
        gpu.end();
    }
}

/// Singular values that a fixed number of steps brings to 1: of a matrix that is much longer than wide, or that a step of an
/// optimiser has moved.
fn weight(rng: &mut ChaCha8Rng, shape: &[usize], near: bool) -> Tensor {
    let w = random(rng, shape);
    if near { (polar_factor(&w).unwrap() + (random(rng, shape) * 0.02).unwrap()).unwrap() } else { w }
}

#[test]
fn polar_factors() {
    let rng = &mut ChaCha8Rng::seed_from_u64(21);
    let shapes: [&[usize]; 9] =
        [&[1, 1], &[3, 40], &[40, 3], &[10, 2, 3, 3], &[16, 16], &[64, 20], &[20, 64], &[8, 8, 2, 2], &[65, 130]];
    for (round, shape) in shapes.into_iter().enumerate() {
        for near in [false, true] {
            let Some(gpu) = device(round % 2) else { return };
            if near
                || shape[0] * 2 <= shape[1..].iter().product()
                || shape[1..].iter().product::<usize>() * 2 <= shape[0]
            {
                let w = weight(rng, shape, near);
                // The CPU's gradient takes its own factor, which differs by what f32 rounds.
                let tolerances = Tolerances { result: 3e-6, gradients: &[2e-5], outliers: 0 };
                compare(rng, &gpu, &format!("{shape:?}"), (&PolarFactor, &PolarFactor), [(&w, F32)], &tolerances);
            }
            gpu.end();
        }
    }
    // A weight of zeros stays one.
    let Some(gpu) = device(0) else { return };
    let zeros = Tensor::zeros((4, 6), F32, &candle_core::Device::Cpu).unwrap();
    let tolerances = Tolerances { result: 0.0, gradients: &[1e-6], outliers: 0 };
    compare(rng, &gpu, "zeros", (&PolarFactor, &PolarFactor), [(&zeros, F32)], &tolerances);
    gpu.end();
}

#[test]
fn almost_orthogonal_kernels() {
    let rng = &mut ChaCha8Rng::seed_from_u64(22);
    let sizes = [(4, 3, 3, 1), (2, 5, 3, 1), (3, 2, 3, 2), (3, 2, 2, 2), (2, 2, 5, 3), (3, 1, 1, 1), (33, 20, 3, 1)];
    for (round, (outputs, inputs, kernel, stride)) in sizes.into_iter().enumerate() {
        let Some(gpu) = device(round % 2) else { return };
        let w = random(rng, &[outputs, inputs, kernel, kernel]);
        let op = AlmostOrthogonal { stride };
        let tolerances = Tolerances { result: 1e-5, gradients: &[2e-5], outliers: 0 };
        compare(rng, &gpu, &format!("{:?}, stride {stride}", w.shape()), (&op, &op), [(&w, F32)], &tolerances);
        gpu.end();
    }
}

#[test]
fn spectral_normalisation() {
    let rng = &mut ChaCha8Rng::seed_from_u64(23);
    let shapes: [&[usize]; 5] = [&[3, 40], &[40, 3], &[5, 2, 3, 3], &[16, 16], &[30, 50]];
    for (round, shape) in shapes.into_iter().enumerate() {
        let Some(gpu) = device(round % 2) else { return };
        let w = random(rng, shape);
        let op = SpectralNormalization;
        // The bound of σ is too large by at most 7e-4; singular vectors are near where values are apart.
        let tolerances = Tolerances { result: 1e-3, gradients: &[1e-2], outliers: 0 };
        compare(rng, &gpu, &format!("{shape:?}"), (&op, &op), [(&w, F32)], &tolerances);
        gpu.end();
    }
    let Some(gpu) = device(0) else { return };
    let zeros = Tensor::zeros((4, 6), F32, &candle_core::Device::Cpu).unwrap();
    let tolerances = Tolerances { result: 0.0, gradients: &[1e-6], outliers: 0 };
    compare(rng, &gpu, "zeros", (&SpectralNormalization, &SpectralNormalization), [(&zeros, F32)], &tolerances);
    gpu.end();
}
