//! A small seeded generator and comparisons that the tests share.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn uniform(rng: &mut ChaCha8Rng, n: usize, low: f64, high: f64) -> Vec<f64> {
    (0..n).map(|_| rng.random_range(low..high)).collect()
}

pub fn tensor(data: Vec<f64>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

pub fn variable(data: Vec<f64>, shape: &[usize]) -> Var {
    Var::from_tensor(&tensor(data, shape)).unwrap()
}

pub fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// max|difference| / max|expected|.
pub fn relative_error(ours: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len(), "number of values");
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    ours.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

pub fn assert_close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    let error = relative_error(ours, expected);
    assert!(error <= tolerance, "{what}: relative error {error:e} above {tolerance:e}");
}

/// Compares the gradients that Candle finds for Σ w·f(arguments) with central differences, for all arguments (f64).
pub fn check_gradients(what: &str, rng: &mut ChaCha8Rng, arguments: &[Var], f: impl Fn(&[Tensor]) -> Tensor) {
    let inputs = |arguments: &[Var]| arguments.iter().map(|a| a.as_tensor().clone()).collect::<Vec<_>>();
    let y = f(&inputs(arguments));
    let weights = tensor(uniform(rng, y.elem_count(), -1.0, 1.0), y.dims());
    let loss = |y: &Tensor| (y * &weights).unwrap().sum_all().unwrap();
    let gradients = loss(&y).backward().unwrap();
    for (k, argument) in arguments.iter().enumerate() {
        let ours = gradients.get(argument).unwrap_or_else(|| panic!("{what}: no gradient of argument {k}"));
        assert_eq!(ours.shape(), argument.shape(), "{what}: shape of the gradient of argument {k}");
        let (original, h) = (flat(argument), 1e-6);
        let numeric: Vec<f64> = (0..original.len())
            .map(|i| {
                let at = |shift: f64| {
                    let mut moved = original.clone();
                    moved[i] += shift;
                    argument.set(&tensor(moved, argument.dims())).unwrap();
                    loss(&f(&inputs(arguments))).to_scalar::<f64>().unwrap()
                };
                (at(h) - at(-h)) / (2.0 * h)
            })
            .collect();
        argument.set(&tensor(original, argument.dims())).unwrap();
        assert_close(&format!("{what}: gradient of argument {k}"), &flat(ours), &numeric, 1e-6);
    }
}

/// Sets the values of a layer's tensor.
pub trait Set {
    fn set(&self, values: &Tensor) -> ds_core::Result<()>;
}

impl Set for Tensor {
    fn set(&self, values: &Tensor) -> ds_core::Result<()> {
        Ok(ds_core::variable("", self)?.set(values)?)
    }
}
