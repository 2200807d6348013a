//! Every set of instructions against plain loops in f64, for any window.
#![allow(clippy::unwrap_used)]

use super::*;
use ds_core::backend::simd::available;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn assert_close<T: Real>(what: &str, ours: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a.to_f64() - b).abs() <= tolerance * scale, "{what}: entry {i} is {}, expected {b}", a.to_f64());
    }
}

/// y, ∂x and ∂W of plain images, one product after the other.
fn plain_loops(s: &Sizes, images: usize, x: &[f64], w: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let Window { kernel, stride, padding } = s.window;
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
    for n in 0..images {
        for o in 0..s.outputs {
            for oy in 0..s.out_height {
                for ox in 0..s.out_width {
                    let at_y = ((n * s.outputs + o) * s.out_height + oy) * s.out_width + ox;
                    for i in 0..s.inputs {
                        for ky in 0..kernel {
                            for kx in 0..kernel {
                                let (iy, ix) = (oy * stride + ky, ox * stride + kx);
                                let (Some(iy), Some(ix)) = (iy.checked_sub(padding), ix.checked_sub(padding)) else {
                                    continue;
                                };
                                if iy >= s.height || ix >= s.width {
                                    continue;
                                }
                                let at_x = ((n * s.inputs + i) * s.height + iy) * s.width + ix;
                                let at_w = ((o * s.inputs + i) * kernel + ky) * kernel + kx;
                                y[at_y] += w[at_w] * x[at_x];
                                dx[at_x] += w[at_w] * dy[at_y];
                                dw[at_w] += x[at_x] * dy[at_y];
                            }
                        }
                    }
                }
            }
        }
    }
    (y, dx, dw)
}

fn paths_agree<T: Real>(tolerance: f64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let paths = available();
    println!("paths: {paths:?}");
    for round in 0..120 {
        let kernel = 1 + round % 5;
        let window =
            Window { kernel, stride: rng.random_range(1..=3), padding: rng.random_range(0..=2.min(kernel - 1)) };
        let images = [1, 2, 16, 35][rng.random_range(0..4)];
        let (inputs, outputs) = (rng.random_range(1..11), rng.random_range(1..11));
        let (height, width) = (rng.random_range(kernel..15), rng.random_range(kernel..15));
        let op = Conv2d::new(window);
        let shape = |dims: &[usize]| Shape::from(dims);
        let (s, y_shape) = op
            .sizes(&shape(&[images, inputs, height, width]), &shape(&[outputs, inputs, kernel, kernel]), None)
            .unwrap();
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(rng.random_range(-1f32..1.0))).collect() };
        let (x, w) = (draw(images * inputs * height * width), draw(outputs * inputs * kernel * kernel));
        let dy = draw(y_shape.elem_count());
        let (y, dx, dw) = plain_loops(&s, images, &x, &w, &dy);
        let narrow = |v: &[f64]| v.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let features = |v: &[f64]| v.len() / images;
        let blocked = |v: &[f64]| to_blocks(&narrow(v), images, features(v)).unwrap();
        let (x_blocks, dy_blocks, w) = (blocked(&x), blocked(&dy), narrow(&w));
        for &path in &paths {
            let what = format!("round {round}, {path:?}, {images} images, {s:?}");
            let ours = from_blocks(&forward(path, &s, &x_blocks, &w, None).unwrap(), images, features(&y)).unwrap();
            assert_close(&format!("{what}: y"), &ours, &y, tolerance);
            let ours = input_gradient(path, &s, &w, &dy_blocks).unwrap();
            assert_close(&format!("{what}: ∂x"), &from_blocks(&ours, images, features(&x)).unwrap(), &dx, tolerance);
            let ours = weight_gradient(path, &s, &x_blocks, &dy_blocks);
            assert_close(&format!("{what}: ∂W"), &ours, &dw, tolerance);
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
