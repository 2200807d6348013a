//! Certified norms against the singular values of the matrices themselves.
#![allow(clippy::unwrap_used)]

mod common;

use common::{generator, tensor, uniform};
use ds_core::lipschitz::certified::{convolution_norm, dense_norm};
use rand::Rng;

/// All singular values by one-sided Jacobi rotations, descending.
fn singular_values(rows: usize, columns: usize, a: &[f64]) -> Vec<f64> {
    let mut vectors: Vec<Vec<f64>> = if rows >= columns {
        (0..columns).map(|c| (0..rows).map(|r| a[r * columns + c]).collect()).collect()
    } else {
        a.chunks_exact(columns).map(<[f64]>::to_vec).collect()
    };
    let columns = vectors.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // What is this small beside the whole matrix is rounding.
    let noise = 1e-30 * vectors.iter().map(|v| dot(v, v)).sum::<f64>();
    loop {
        let mut largest = 0.0f64;
        for i in 0..columns {
            for j in i + 1..columns {
                let (alpha, beta) = (dot(&vectors[i], &vectors[i]), dot(&vectors[j], &vectors[j]));
                let gamma = dot(&vectors[i], &vectors[j]);
                if gamma.abs() <= 1e-15 * (alpha * beta).sqrt() || alpha.min(beta) <= noise {
                    continue;
                }
                largest = largest.max(gamma.abs() / (alpha * beta).sqrt());
                let zeta = (beta - alpha) / (2.0 * gamma);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let (cos, sin) = (1.0 / (1.0 + t * t).sqrt(), t / (1.0 + t * t).sqrt());
                let (first, second) = vectors.split_at_mut(j);
                for (x, y) in first[i].iter_mut().zip(&mut second[0]) {
                    (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
                }
            }
        }
        if largest < 1e-12 {
            break;
        }
    }
    let mut values: Vec<f64> = vectors.iter().map(|v| dot(v, v).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

#[test]
fn dense_norms_are_the_largest_singular_values() {
    let rng = &mut generator(1);
    for round in 0..300 {
        let (rows, columns) = (rng.random_range(1..40), rng.random_range(1..40));
        let mut a = uniform(rng, rows * columns, -1.0, 1.0);
        match round % 5 {
            // Far from 1, where squares leave the range of numbers.
            1 => a.iter_mut().for_each(|x| *x *= 1e-160),
            2 => a.iter_mut().for_each(|x| *x *= 1e200),
            // Rank one, and most of it 0.
            3 => (0..a.len()).for_each(|k| a[k] = (1 + k / columns) as f64 * (1 + k % columns) as f64),
            4 => a.iter_mut().for_each(|x| *x = if x.abs() < 0.9 { 0.0 } else { *x }),
            _ => {}
        }
        let scale = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let bound = dense_norm(&tensor(a.clone(), &[rows, columns])).unwrap();
        if scale == 0.0 {
            assert_eq!(bound, 0.0);
            continue;
        }
        let scaled: Vec<f64> = a.iter().map(|x| x / scale).collect();
        let truth = singular_values(rows, columns, &scaled)[0] * scale;
        assert!(bound >= truth * (1.0 - 1e-14), "round {round}, ({rows}, {columns}): {bound} below {truth}");
        assert!(bound <= truth * (1.0 + 1e-6), "round {round}, ({rows}, {columns}): {bound} far above {truth}");
    }
}

#[test]
fn equal_singular_values_are_no_worse() {
    // A rotation of blocks, 64 times 3.0: Frobenius's norm alone would need the most squarings.
    let n = 64;
    let mut a = vec![0.0; n * n];
    for k in 0..n / 2 {
        let (sin, cos) = (k as f64).sin_cos();
        let (i, j) = (2 * k, 2 * k + 1);
        (a[i * n + i], a[i * n + j], a[j * n + i], a[j * n + j]) = (3.0 * cos, -3.0 * sin, 3.0 * sin, 3.0 * cos);
    }
    let bound = dense_norm(&tensor(a, &[n, n])).unwrap();
    assert!((3.0 * (1.0 - 1e-15)..3.0 * (1.0 + 1e-6)).contains(&bound), "{bound}");
}

#[test]
fn what_is_not_finite_has_no_finite_bound() {
    for bad in [f64::NAN, f64::INFINITY] {
        assert_eq!(dense_norm(&tensor(vec![1.0, bad], &[1, 2])).unwrap(), f64::INFINITY);
        let kernel = tensor(vec![bad; 9], &[1, 1, 3, 3]);
        assert_eq!(convolution_norm(&kernel, 1, 1, (8, 8)).unwrap(), f64::INFINITY);
    }
    assert!(convolution_norm(&tensor(vec![1.0; 9], &[1, 1, 3, 3]), 1, 0, (2, 8)).is_err());
}

struct Case {
    outputs: usize,
    inputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    plane: (usize, usize),
}

impl Case {
    /// The matrix of the convolution, from its definition.
    fn matrix(&self, kernel: &[f64]) -> (usize, usize, Vec<f64>) {
        let (k, s, p) = (self.kernel as isize, self.stride as isize, self.padding as isize);
        let (h, w) = (self.plane.0 as isize, self.plane.1 as isize);
        let (oh, ow) = ((h + 2 * p - k) / s + 1, (w + 2 * p - k) / s + 1);
        let (rows, columns) = (self.outputs as isize * oh * ow, self.inputs as isize * h * w);
        let mut a = vec![0.0; (rows * columns) as usize];
        for row in 0..rows {
            for column in 0..columns {
                let (o, y, x) = (row / (oh * ow), row / ow % oh, row % ow);
                let (i, from_y, from_x) = (column / (h * w), column / w % h, column % w);
                let (dy, dx) = (from_y - (y * s - p), from_x - (x * s - p));
                if (0..k).contains(&dy) && (0..k).contains(&dx) {
                    a[(row * columns + column) as usize] =
                        kernel[(((o * self.inputs as isize + i) * k + dy) * k + dx) as usize];
                }
            }
        }
        (rows as usize, columns as usize, a)
    }

    fn bound(&self, kernel: &[f64]) -> f64 {
        let weight = tensor(kernel.to_vec(), &[self.outputs, self.inputs, self.kernel, self.kernel]);
        convolution_norm(&weight, self.stride, self.padding, self.plane).unwrap()
    }
}

#[test]
fn convolution_norms_are_those_of_the_unrolled_matrices() {
    let rng = &mut generator(2);
    for round in 0..120 {
        let kernel = rng.random_range(1..=5);
        let case = Case {
            outputs: rng.random_range(1..4),
            inputs: rng.random_range(1..4),
            kernel,
            stride: rng.random_range(1..4),
            padding: rng.random_range(0..3),
            plane: (rng.random_range(kernel..8), rng.random_range(kernel..8)),
        };
        let mut weights = uniform(rng, case.outputs * case.inputs * kernel * kernel, -1.0, 1.0);
        if round % 3 == 0 {
            weights.iter_mut().for_each(|w| *w = w.abs());
        }
        let (rows, columns, matrix) = case.matrix(&weights);
        let truth = singular_values(rows, columns, &matrix)[0];
        let bound = case.bound(&weights);
        assert!(bound >= truth * (1.0 - 1e-12), "round {round}: {bound} below {truth}");
        assert!(bound <= 1.05 * truth, "round {round}: {bound} far above {truth}");
    }
}

/// The largest singular value by power iteration: from below.
fn power_iteration(rows: usize, columns: usize, a: &[f64], rng: &mut rand_chacha::ChaCha8Rng) -> f64 {
    let mut v = uniform(rng, columns, -1.0, 1.0);
    let mut norm = 0.0;
    for _ in 0..300 {
        let size = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= size);
        let image: Vec<f64> = a.chunks_exact(columns).map(|row| row.iter().zip(&v).map(|(a, v)| a * v).sum()).collect();
        norm = image.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut next = vec![0.0; columns];
        for (row, image) in a.chunks_exact(columns).zip(&image) {
            next.iter_mut().zip(row).for_each(|(next, a)| *next += a * image);
        }
        v = next;
    }
    assert_eq!(a.len(), rows * columns);
    norm
}

#[test]
fn planes_too_large_for_a_matrix_have_a_near_bound_too() {
    let rng = &mut generator(3);
    for (outputs, inputs, kernel, stride, padding, side) in
        [(6, 6, 3, 1, 1, 14), (4, 4, 5, 1, 0, 26), (8, 3, 3, 2, 1, 28), (5, 5, 3, 1, 2, 15), (6, 6, 4, 3, 1, 42)]
    {
        let case = Case { outputs, inputs, kernel, stride, padding, plane: (side, side) };
        let weights = uniform(rng, outputs * inputs * kernel * kernel, -1.0, 1.0);
        let (rows, columns, matrix) = case.matrix(&weights);
        assert!(rows.min(columns) > 1024, "the case must be too large for its matrix");
        let lower = power_iteration(rows, columns, &matrix, rng);
        let bound = case.bound(&weights);
        assert!(bound >= lower * (1.0 - 1e-12), "{bound} below {lower}");
        assert!(bound <= 1.05 * lower, "({outputs}, {inputs}, {kernel}, {stride}): {bound} far above {lower}");
    }
}

#[test]
fn what_moves_pixels_only_has_norm_one() {
    // Every channel to another one and one pixel down: an isometry of the infinite plane.
    let channels = 48;
    let mut weights = vec![0.0; channels * channels * 9];
    for o in 0..channels {
        weights[(o * channels + (o + 7) % channels) * 9 + 1] = 1.0;
    }
    let case = Case { outputs: channels, inputs: channels, kernel: 3, stride: 1, padding: 1, plane: (32, 32) };
    let bound = case.bound(&weights);
    assert!((1.0..1.0 + 1e-9).contains(&bound), "{bound}");
}
