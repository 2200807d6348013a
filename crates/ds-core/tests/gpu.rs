//! The GPU's kernels against the CPU's, on a GPU: `just gpu-test`. Without one it says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use ds_core::Grid;
use ds_core::activation::{Init, Spline};
use ds_core::ops::linear_spline::LinearSpline;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn device() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("no CUDA device, nothing was tested: {error}");
            None
        }
    }
}

fn random(rng: &mut ChaCha8Rng, shape: &[usize], reach: f64, dtype: DType) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-reach..reach) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// max|difference| / max|expected|, in f64.
fn error(ours: &Tensor, expected: &Tensor) -> f64 {
    let flat = |t: &Tensor| {
        let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        t.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let (ours, expected) = (flat(ours), flat(expected));
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    ours.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn forward_and_backward_agree_with_the_cpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for round in 0..200 {
        let shape = match round % 4 {
            0 => vec![rng.random_range(1..300), rng.random_range(1..80)],
            1 => vec![rng.random_range(1..9), rng.random_range(1..9), rng.random_range(1..40), rng.random_range(1..40)],
            2 => vec![rng.random_range(1..65), rng.random_range(1..65), 32, 32],
            _ => vec![rng.random_range(1..129), rng.random_range(1..65), 8, 8],
        };
        let grid = Grid::from_step([3, 21, 51, 101, 201][rng.random_range(0..5)], rng.random_range(0.05..0.5)).unwrap();
        let (dtype, tolerance) = [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::BF16, 8e-3)][round % 3];
        let reach = 1.4 * grid.knot(grid.size() - 1);
        let (x, dy) = (random(rng, &shape, reach, dtype), random(rng, &shape, 1.0, dtype));
        let c = random(rng, &[shape[1], grid.size()], 1.0, DType::F32);
        let op = LinearSpline::new(grid);
        let on = |t: &Tensor| t.to_device(&gpu).unwrap();
        let y = op.forward(&on(&x), &on(&c)).unwrap();
        let (dx, dc) = op.backward(&on(&x), &on(&c), &on(&dy)).unwrap();
        // In f32, which decides the segment of an input next to a knot in the same way.
        let (x32, dy32) = (x.to_dtype(DType::F32).unwrap(), dy.to_dtype(DType::F32).unwrap());
        let expected_y = op.forward(&x32, &c).unwrap();
        let (expected_dx, expected_dc) = op.backward(&x32, &c, &dy32).unwrap();
        let what = format!("round {round}, {shape:?}, K={}, {dtype:?}", grid.size());
        for (name, ours, expected, tolerance) in
            [("y", &y, &expected_y, tolerance), ("∂x", &dx, &expected_dx, tolerance), ("∂c", &dc, &expected_dc, 1e-5)]
        {
            let error = error(ours, expected);
            assert!(error <= tolerance, "{what}: {name} is off by {error:e}");
        }
        // Bit for bit.
        let (_, again) = op.backward(&on(&x), &on(&c), &on(&dy)).unwrap();
        assert_eq!(error(&again, &dc), 0.0, "{what}: another ∂c");
    }
}

#[test]
fn a_layer_learns_on_the_gpu() {
    let Some(gpu) = device() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let grid = Grid::from_range(51, 4.0).unwrap();
    let x = random(rng, &[32, 8, 9, 9], 4.0, DType::F32);
    let loss = |device: &Device| {
        let spline = Spline::bspline(8, grid, Init::LeakyRelu, DType::F32, device).unwrap();
        let y = spline.forward_in(&mut ds_core::graph::CandleGraph, &x.to_device(device).unwrap()).unwrap();
        let gradients = y.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        gradients.get(spline.knot_parameters()).unwrap().clone()
    };
    assert!(error(&loss(&gpu), &loss(&Device::Cpu)) < 1e-5);
}
