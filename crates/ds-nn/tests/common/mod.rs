//! A seeded generator, comparisons and finite differences through the tape.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use ds_core::graph::{Gradients, Graph};
use ds_nn::ops::norm_activation::Statistics;
use ds_nn::tape::{Tape, Value};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn uniform(rng: &mut ChaCha8Rng, n: usize, low: f64, high: f64) -> Vec<f64> {
    (0..n).map(|_| rng.random_range(low..high)).collect()
}

pub fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Var {
    let data = uniform(rng, shape.iter().product(), -1.0, 1.0);
    Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap()
}

pub fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Statistics of the batch in training, else these running ones.
pub fn statistics(channels: usize, training: bool) -> Statistics {
    let var = |at: fn(f32) -> f32| {
        let values: Vec<f32> = (0..channels).map(|c| at(c as f32)).collect();
        Var::new(values, &Device::Cpu).unwrap().into_inner()
    };
    Statistics::new(var(|c| 0.1 * c - 0.2), var(|c| 0.5 + 0.25 * c), 0.1, training)
}

/// Labels of a batch.
pub fn labels(labels: &[u8]) -> Tensor {
    Tensor::new(labels, &Device::Cpu).unwrap()
}

/// max|difference| / max|expected|.
pub fn assert_close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    let error = ours.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / scale;
    assert!(error <= tolerance, "{what}: relative error {error:e} above {tolerance:e}");
}

/// Compares the tape's gradients of Σ w·f(arguments) with central differences.
pub fn check_gradients(what: &str, arguments: &[Var], f: impl Fn(&mut Tape, &[Value]) -> candle_core::Result<Value>) {
    let run = |tape: &mut Tape| {
        let values: Vec<Value> = arguments.iter().map(|a| tape.parameter(a)).collect();
        f(tape, &values).unwrap()
    };
    // Σ w·y as a dense layer with fixed weights, which is an op of the tape.
    let total = |tape: &mut Tape, y: &Value| {
        let n = tape.tensor(y).elem_count();
        let weights: Vec<f64> = (0..n).map(|k| ((k * 7919 + 13) % 101) as f64 / 50.0 - 1.0).collect();
        let weights = tape.constant(&Tensor::from_vec(weights, (1, n), &Device::Cpu).unwrap());
        let row = tape.reshape(y, &[1, n]).unwrap();
        tape.apply(ds_nn::ops::dense::Dense { input_gradient: true }, [&row, &weights]).unwrap()
    };
    let value = || {
        let mut tape = Tape::inference();
        let y = run(&mut tape);
        let sum = total(&mut tape, &y);
        flat(tape.tensor(&sum))[0]
    };
    let mut tape = Tape::recording();
    let y = run(&mut tape);
    let sum = total(&mut tape, &y);
    let gradients = tape.backward(&sum).unwrap();
    for (k, argument) in arguments.iter().enumerate() {
        let ours = gradients.gradient(argument).unwrap_or_else(|| panic!("{what}: no gradient of argument {k}"));
        assert_eq!(ours.shape(), argument.shape(), "{what}: shape of the gradient of argument {k}");
        let (original, h) = (flat(argument), 1e-6);
        let set =
            |data: Vec<f64>| argument.set(&Tensor::from_vec(data, argument.shape(), &Device::Cpu).unwrap()).unwrap();
        // All entries of small arguments, a spread of those of large ones.
        let every = original.len().div_ceil(150);
        let (mut numeric, mut analytic) = (Vec::new(), Vec::new());
        let ours = flat(ours);
        for i in (0..original.len()).step_by(every) {
            let at = |shift: f64| {
                let mut moved = original.clone();
                moved[i] += shift;
                set(moved);
                value()
            };
            numeric.push((at(h) - at(-h)) / (2.0 * h));
            analytic.push(ours[i]);
        }
        set(original);
        assert_close(&format!("{what}: gradient of argument {k}"), &analytic, &numeric, 2e-6);
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
