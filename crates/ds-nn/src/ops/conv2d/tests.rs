//! The direct convolution with every set of instructions against the unfolded one in f64.
#![allow(clippy::unwrap_used)]

use super::*;
use ds_core::ops::simd::available;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn assert_close<T: Real>(what: &str, ours: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a.to_f64() - b).abs() <= tolerance * scale, "{what}: entry {i} is {}, expected {b}", a.to_f64());
    }
}

/// y, ∂x and ∂W by unfolding, in f64.
fn unfolded(s: &Sizes, x: &[f64], w: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (image, output) = (s.input(), s.outputs * s.pixels());
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
    let mut columns = vec![0.0; s.taps * s.pixels()];
    for n in 0..s.planes.images {
        let dy = &dy[n * output..(n + 1) * output];
        s.unfold(&x[n * image..(n + 1) * image], &mut columns);
        for o in 0..s.outputs {
            for tap in 0..s.taps {
                for q in 0..s.pixels() {
                    let (value, gradient) = (columns[tap * s.pixels() + q], dy[o * s.pixels() + q]);
                    y[n * output + o * s.pixels() + q] += w[o * s.taps + tap] * value;
                    dw[o * s.taps + tap] += value * gradient;
                }
            }
        }
        for (tap, row) in columns.chunks_exact_mut(s.pixels()).enumerate() {
            for (q, value) in row.iter_mut().enumerate() {
                *value = (0..s.outputs).map(|o| w[o * s.taps + tap] * dy[o * s.pixels() + q]).sum();
            }
        }
        s.fold(&columns, &mut dx[n * image..(n + 1) * image]);
    }
    (y, dx, dw)
}

fn paths_agree<T: Real>(tolerance: f64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let paths = available();
    println!("paths: {paths:?}");
    for round in 0..60 {
        let kernel = [3, 5][round % 2];
        let window = Window { kernel, stride: 1, padding: kernel / 2 };
        let images = [1, 2, 7, 20][rng.random_range(0..4)];
        let (channels, outputs) = (rng.random_range(1..11), rng.random_range(1..20));
        let (height, width) = (rng.random_range(1..18), rng.random_range(1..18));
        let planes = Planes { images, channels, height, width, out_height: height, out_width: width };
        let s = Sizes { planes, outputs, taps: channels * kernel * kernel, window };
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(rng.random_range(-1f32..1.0))).collect() };
        let (x, w) = (draw(images * s.input()), draw(outputs * s.taps));
        let dy = draw(images * outputs * s.pixels());
        let (y, dx, dw) = unfolded(&s, &x, &w, &dy);
        let narrow = |v: &[f64]| v.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let (x, w, dy) = (narrow(&x), narrow(&w), narrow(&dy));
        let direct = s.direct().unwrap();
        for &path in &paths {
            let what = format!("round {round}, {path:?}, {planes:?} -> {outputs}, kernel {kernel}");
            let ours = forward_direct(path, direct, &s, &x, &w, None).unwrap();
            assert_close(&format!("{what}: y"), &ours, &y, tolerance);
            let (ours_dx, ours_dw) = backward_direct(path, direct, &s, &x, &w, &dy, true).unwrap();
            assert_close(&format!("{what}: ∂x"), &ours_dx.unwrap(), &dx, tolerance);
            assert_close(&format!("{what}: ∂W"), &ours_dw, &dw, tolerance);
        }
    }
}

#[test]
fn f32_paths_agree() {
    paths_agree::<f32>(1e-5);
}

#[test]
fn f64_paths_agree() {
    paths_agree::<f64>(1e-13);
}
