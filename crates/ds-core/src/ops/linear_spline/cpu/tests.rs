//! Every instruction path against a plain loop in f64.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::simd::available;
use crate::grid::MAX_SEGMENTS;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Case<T> {
    grid: Grid,
    planes: Planes,
    x: Vec<T>,
    c: Vec<T>,
    dy: Vec<T>,
}

impl<T: Real> Case<T> {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let grid = Grid::from_step(2 * rng.random_range(1..=100) + 1, rng.random_range(0.01..1.0)).unwrap();
        let planes = Planes {
            outer: rng.random_range(1..5),
            channels: rng.random_range(1..4),
            inner: [1, 5, 8, 31, 64, 100, 1000, 5000][rng.random_range(0..8)],
        };
        let reach = 1.5 * grid.knot(grid.size() - 1);
        let mut draw =
            |n: usize, reach: f64| -> Vec<T> { (0..n).map(|_| T::from_f64(rng.random_range(-reach..reach))).collect() };
        let n = planes.elements();
        Self { grid, planes, x: draw(n, reach), c: draw(planes.channels * grid.size(), 1.0), dy: draw(n, 1.0) }
    }

    /// y, ∂x and ∂c by the definition, in f64 but for the segment, which T decides where x is all but a knot.
    fn plain(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (size, step) = (self.grid.size(), T::from_f64(self.grid.step()));
        let (mut y, mut dx, mut dc) = (Vec::new(), Vec::new(), vec![0.0; self.c.len()]);
        for (j, (x, dy)) in self.x.iter().zip(&self.dy).enumerate() {
            let channel = j / self.planes.inner % self.planes.channels;
            let u = (*x / step).to_f64();
            let i = (u.floor() + (size / 2) as f64).clamp(0.0, (size - 2) as f64) as usize;
            let t = u - (i as f64 - (size / 2) as f64);
            let c = |k: usize| self.c[channel * size + k].to_f64();
            y.push(c(i) + t * (c(i + 1) - c(i)));
            dx.push(dy.to_f64() * (c(i + 1) - c(i)) / step.to_f64());
            dc[channel * size + i] += dy.to_f64() * (1.0 - t);
            dc[channel * size + i + 1] += dy.to_f64() * t;
        }
        (y, dx, dc)
    }
}

fn assert_close<T: Real>(what: &str, ours: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    for (a, b) in ours.iter().zip(expected) {
        assert!((a.to_f64() - b).abs() <= tolerance * scale, "{what}: {} for {b} (scale {scale})", a.to_f64());
    }
}

fn paths_agree<T: Real>(tolerance: f64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let paths = available();
    println!("paths: {paths:?}");
    for round in 0..300 {
        let case = Case::<T>::random(rng);
        let (y, dx, dc) = case.plain();
        for &path in &paths {
            let what = format!("round {round}, {path:?}, {:?}, K={}", case.planes, case.grid.size());
            let ours = forward_with(path, case.grid, case.planes, &case.x, &case.c).unwrap();
            assert_close(&format!("{what}: y"), &ours, &y, tolerance);
            let (ours_dx, ours_dc) = backward_with(path, case.grid, case.planes, &case.x, &case.c, &case.dy).unwrap();
            assert_close(&format!("{what}: ∂x"), &ours_dx, &dx, tolerance);
            assert_close(&format!("{what}: ∂c"), &ours_dc, &dc, tolerance);
        }
    }
}

/// Several pieces of rows and of channels.
#[test]
fn many_units_are_cut_into_pieces() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for (size, outer, channels, inner) in [(3, 3000, 70, 1), (51, 600, 300, 1), (5, 5, 9000, 3), (3, 70_000, 1, 1)] {
        let (grid, planes) = (Grid::from_step(size, 0.3).unwrap(), Planes { outer, channels, inner });
        let reach = 1.5 * grid.knot(size - 1);
        let mut draw = |n: usize, reach: f64| -> Vec<f64> { (0..n).map(|_| rng.random_range(-reach..reach)).collect() };
        let n = planes.elements();
        let case = Case { grid, planes, x: draw(n, reach), c: draw(channels * size, 1.0), dy: draw(n, 1.0) };
        let (y, dx, dc) = case.plain();
        for path in available() {
            assert_close("y", &forward_with(path, grid, planes, &case.x, &case.c).unwrap(), &y, 1e-12);
            let (ours_dx, ours_dc) = backward_with(path, grid, planes, &case.x, &case.c, &case.dy).unwrap();
            assert_close("∂x", &ours_dx, &dx, 1e-12);
            assert_close("∂c", &ours_dc, &dc, 1e-12);
        }
    }
}

/// The most segments that there may be: the first and the last are found without rounding, wherever an input lies.
#[test]
fn inputs_of_the_largest_grid_stay_in_its_tables() {
    let grid = Grid::from_step(MAX_SEGMENTS + 1, 1e-6).unwrap();
    let planes = Planes { outer: 1, channels: 1, inner: 80 };
    let end = grid.knot(grid.size() - 1) as f32;
    let c: Vec<f32> = (0..grid.size()).map(|k| (k % 7) as f32).collect();
    let around = |end: f32| (-32i32..32).map(move |ulps| f32::from_bits(end.to_bits().wrapping_add_signed(ulps)));
    let near: Vec<f32> =
        around(end).step_by(2).chain(around(-end).step_by(2)).chain([0.0, -1e-6, 1e-6, 1e-30]).collect();
    let fill = |x: &[f32]| -> Vec<f32> { x.iter().copied().cycle().take(planes.elements()).collect() };
    let not_finite = fill(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::MIN, f32::MAX]);
    let mut case = Case { grid, planes, x: Vec::new(), c, dy: fill(&[1.0]) };
    for x in [fill(&near), fill(&[-1e30, 1e30])] {
        case.x = x;
        let (y, _, _) = case.plain();
        for path in available() {
            let ours = forward_with(path, grid, planes, &case.x, &case.c).unwrap();
            assert_close(&format!("{path:?}"), &ours, &y, 1e-6);
            let ours = forward_with(path, grid, planes, &not_finite, &case.c).unwrap();
            assert!(ours.iter().all(|y| !y.is_finite()), "{path:?}: {ours:?}");
        }
    }
}

#[test]
fn f32_paths_agree() {
    paths_agree::<f32>(1e-5);
}

#[test]
fn f64_paths_agree() {
    paths_agree::<f64>(1e-12);
}

/// Splines of scale·x + shift (+ r), their gradients and the sums that a normalisation needs.
fn normalised_paths_agree<T: Real>(tolerance: f64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for round in 0..120 {
        let mut case = Case::<T>::random(rng);
        let (grid, planes) = (case.grid, case.planes);
        // Now and then enough elements for sums by pair.
        if round % 10 == 0 {
            case.planes.outer = 40;
            let n = case.planes.elements();
            (case.x, case.dy) = (vec![T::ZERO; n], (0..n).map(|_| T::from_f64(rng.random_range(-1.0..1.0))).collect());
        }
        let planes = Planes { outer: case.planes.outer, ..planes };
        let reach = 1.5 * grid.knot(grid.size() - 1);
        let (scale, shift, mean) =
            (rng.random_range(0.5..2.0), rng.random_range(-0.3..0.3) * reach, rng.random_range(-0.5..0.5) * reach);
        let (scale, shift, mean) = (T::from_f64(scale), T::from_f64(shift), T::from_f64(mean));
        let mut r = Vec::new();
        for x in &mut case.x {
            // Far enough from knots that all roundings agree on the segment.
            let z = |x: T, r: T| scale.to_f64() * x.to_f64() + shift.to_f64() + r.to_f64();
            let near = |z: f64| ((z / grid.step()).fract().abs() - 0.5).abs() > 0.499;
            loop {
                *x = T::from_f64(rng.random_range(-reach..reach));
                let of_r = T::from_f64(rng.random_range(-0.3..0.3) * reach);
                if !near(z(*x, T::ZERO)) && !near(z(*x, of_r)) {
                    r.push(of_r);
                    break;
                }
            }
        }
        for residual in [None, Some(&r[..])] {
            let at = |k: usize| {
                scale.to_f64() * case.x[k].to_f64() + shift.to_f64() + residual.map_or(0.0, |r| r[k].to_f64())
            };
            let as_f64 = |v: &[T]| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
            let z = (0..case.x.len()).map(at).collect();
            let plain = Case { grid, planes, x: z, c: as_f64(&case.c), dy: as_f64(&case.dy) };
            let (y, dz, dc) = plain.plain();
            for path in available() {
                let channels = Channels::with(path, grid, &case.c);
                let normalised = Normalised { scale, shift, mean, residual };
                let (mut ours_y, mut ours_dz) = (vec![T::ZERO; y.len()], vec![T::ZERO; y.len()]);
                let mut ours_dc = vec![T::ZERO; dc.len()];
                let (shared_y, shared_dz) = (SharedSlice::new(&mut ours_y), SharedSlice::new(&mut ours_dz));
                let (mut products, mut expected, mut scales) = (Vec::new(), Vec::new(), Vec::new());
                for channel in 0..planes.channels {
                    let mut sums = channels.sums(planes.outer * planes.inner);
                    // SAFETY: one after the other.
                    unsafe {
                        let rows = 0..planes.outer;
                        channels.normalised_forward(channel, planes, rows.clone(), &normalised, &case.x, &shared_y);
                        products.push(channels.normalised_backward(
                            channel,
                            planes,
                            rows,
                            &normalised,
                            &case.x,
                            &case.dy,
                            &shared_dz,
                            &mut sums,
                        ));
                    }
                    sums.merge_into(&mut ours_dc[channel * grid.size()..(channel + 1) * grid.size()]);
                    let elements = || (0..y.len()).filter(|k| k / planes.inner % planes.channels == channel);
                    let with_x = |k: usize| dz[k] * (case.x[k].to_f64() - mean.to_f64());
                    expected.push([elements().map(with_x).sum::<f64>(), elements().map(|k| dz[k]).sum()]);
                    scales.push([
                        elements().map(|k| with_x(k).abs()).sum::<f64>(),
                        elements().map(|k| dz[k].abs()).sum(),
                    ]);
                }
                let what = format!("round {round}, {path:?}, {planes:?}, K={}", grid.size());
                assert_close(&format!("{what}: y"), &ours_y, &y, tolerance);
                assert_close(&format!("{what}: ∂z"), &ours_dz, &dz, tolerance);
                assert_close(&format!("{what}: ∂c"), &ours_dc, &dc, tolerance);
                for ((ours, expected), scale) in products.iter().zip(&expected).zip(&scales) {
                    for k in 0..2 {
                        let error = (ours[k] - expected[k]).abs();
                        assert!(error <= tolerance * scale[k], "{what}: {ours:?} for {expected:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn normalised_f32_paths_agree() {
    normalised_paths_agree::<f32>(2e-5);
}

#[test]
fn normalised_f64_paths_agree() {
    normalised_paths_agree::<f64>(1e-12);
}

#[test]
fn knots_take_the_slope_to_their_right_and_nan_stays_nan() {
    let grid = Grid::from_step(51, 0.16).unwrap();
    let c: Vec<f32> = (0..51).map(|k| (k * k) as f32).collect();
    let step = grid.step() as f32;
    for inner in [3, 64] {
        let mut x: Vec<f32> = (0..inner).map(|k| (k as f32 - 1.0) * step).collect();
        let planes = Planes { outer: 1, channels: 1, inner };
        for path in available() {
            let (dx, _) = backward_with(path, grid, planes, &x, &c, &vec![1.0; inner]).unwrap();
            for (k, dx) in dx.iter().enumerate().take(10) {
                let i = (((x[k] / step).round() as i32 + 25) as usize).min(49);
                assert!((dx - (c[i + 1] - c[i]) / step).abs() < 1e-2, "{path:?}, knot {i}: {dx}");
            }
        }
        x[0] = f32::NAN;
        x[1] = f32::INFINITY;
        x[2] = -1e30;
        for path in available() {
            let y = forward_with(path, grid, planes, &x, &c).unwrap();
            assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[2] < -1e28, "{path:?}: {:?}", &y[..3]);
        }
    }
}

#[test]
fn just_left_of_a_knot_is_left_of_it() {
    let grid = Grid::from_step(51, 0.16).unwrap();
    let c: Vec<f32> = (0..51).map(|k| (k * k) as f32).collect();
    let step = grid.step() as f32;
    let k = |j: usize| j as f32 - 10.0;
    for inner in [3, 21] {
        let x: Vec<f32> = (0..inner).map(|j| (k(j) * step).next_down()).collect();
        let planes = Planes { outer: 1, channels: 1, inner };
        for path in available() {
            let (dx, _) = backward_with(path, grid, planes, &x, &c, &vec![1.0; inner]).unwrap();
            for (j, dx) in dx.iter().enumerate() {
                // The quotient may round to the knot, as it does in the definition.
                let i = ((x[j] / step).floor() + 25.0) as usize;
                assert!(j != 10 || i == 24, "an input below 0 is in the segment left of it");
                assert!((dx - (c[i + 1] - c[i]) / step).abs() < 1e-2, "{path:?}, left of {}: {dx}", k(j));
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let grid = Grid::from_step(51, 0.1).unwrap();
    let planes = Planes { outer: 40, channels: 3, inner: 1024 };
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|k| (k as f32 * f).sin() * 3.0).collect() };
    let (x, c, dy) = (wave(planes.elements(), 0.7), wave(3 * 51, 0.3), wave(planes.elements(), 1.3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (forward(grid, planes, &x, &c).unwrap(), backward(grid, planes, &x, &c, &dy).unwrap()))
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}
