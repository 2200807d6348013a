//! Elimination of knots on thousands of random splines, and the search for a threshold.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Tensor, Var};
use common::{flat, generator, uniform};
use ds_core::Grid;
use ds_core::activation::{Init, Kind, Spline};
use ds_core::sparsify::{eliminate_knots, exact_active_knots, largest_threshold, papers_thresholds};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Rows of different character: rough, smooth, of few pieces, nearly straight, straight.
fn coefficients(rng: &mut ChaCha8Rng, size: usize) -> Vec<f64> {
    let scale = 10f64.powf(rng.random_range(-3.0..3.0));
    let kind = rng.random_range(0..5);
    let (offset, tilt) = (rng.random_range(-1.0..1.0), rng.random_range(-0.1..0.1));
    let (mut slope, mut value) = (tilt, offset);
    (0..size)
        .map(|k| {
            value += slope;
            match kind {
                0 => value = rng.random_range(-1.0..1.0),
                1 => slope += rng.random_range(-0.01..0.01),
                2 if rng.random_range(0..10) == 0 => slope = rng.random_range(-0.2..0.2),
                3 => return scale * (value + 1e-6 * rng.random_range(-1.0..1.0)),
                4 => return scale * (offset + tilt * k as f64),
                _ => {}
            }
            scale * value
        })
        .collect()
}

fn spline(rows: Vec<f64>, channels: usize, grid: Grid, dtype: DType) -> Spline {
    let rows = Tensor::from_vec(rows, (channels, grid.size()), &candle_core::Device::Cpu).unwrap();
    let coefficients = Var::from_tensor(&rows.to_dtype(dtype).unwrap()).unwrap();
    Spline::from_parameters(grid, Kind::BSpline { coefficients }).unwrap()
}

/// The slope changes in f64 from the stored coefficients.
fn slopes(row: &[f64], step: f64) -> Vec<f64> {
    row.windows(3).map(|c| ((c[2] - c[1]) - (c[1] - c[0])) / step).collect()
}

#[test]
fn eliminated_slopes_are_gone_and_kept_ones_stay() {
    let rng = &mut generator(1);
    for round in 0..4000 {
        let size = 2 * rng.random_range(1..=100) + 1;
        let step = 10f64.powf(rng.random_range(-2.0..0.0));
        let grid = Grid::from_step(size, step).unwrap();
        let (dtype, epsilon) =
            if round % 4 == 3 { (DType::F64, f64::EPSILON) } else { (DType::F32, f64::from(f32::EPSILON)) };
        let spline = spline(coefficients(rng, size), 1, grid, dtype);
        let before = flat(spline.knot_parameters());
        let mut sorted: Vec<f64> = slopes(&before, step).iter().map(|a| a.abs()).collect();
        sorted.sort_by(f64::total_cmp);
        let threshold = match rng.random_range(0..5) {
            0 => 0.0,
            1 => 1e-9,
            2 => sorted[sorted.len() / 2] * 1.001,
            3 => sorted[sorted.len() - 1] * 2.0,
            _ => sorted[rng.random_range(0..sorted.len())],
        };
        let kept = eliminate_knots(&spline, threshold).unwrap()[0];
        let after = flat(spline.knot_parameters());
        let largest = before.iter().chain(&after).fold(0.0f64, |m, c| m.max(c.abs()));
        let bound = 4.0 * epsilon * largest / step;
        let what = format!("round {round}: K={size} T={step} threshold {threshold} {dtype:?}");
        let mut alive = 0;
        for (k, (a, b)) in slopes(&before, step).into_iter().zip(slopes(&after, step)).enumerate() {
            if b == 0.0 {
                assert!(a.abs() <= threshold + bound, "{what}: knot {k} with slope change {a} was eliminated");
            } else {
                alive += 1;
                assert!((a - b).abs() <= bound, "{what}: knot {k} went from {a} to {b}, bound {bound}");
                assert!(b.abs() > threshold, "{what}: kept knot {k} has {b}");
            }
        }
        assert_eq!(alive, kept, "{what}");
        assert_eq!(exact_active_knots(&spline, threshold).unwrap(), [kept], "{what}");
        assert_eq!(exact_active_knots(&spline, 0.0).unwrap(), [kept], "{what}");
    }
}

#[test]
fn everything_or_nothing() {
    let grid = Grid::from_step(51, 0.16).unwrap();
    let rng = &mut generator(2);
    let straight = spline(uniform(rng, 51, -1.0, 1.0), 1, grid, DType::F32);
    assert_eq!(eliminate_knots(&straight, f64::INFINITY).unwrap(), [0]);
    assert!(slopes(&flat(straight.knot_parameters()), 0.16).iter().all(|a| *a == 0.0));
    let zeros = spline(vec![0.0; 51], 1, grid, DType::F32);
    assert_eq!(eliminate_knots(&zeros, 0.0).unwrap(), [0]);
    for threshold in [-1.0, f64::NAN] {
        assert!(eliminate_knots(&zeros, threshold).unwrap_err().to_string().contains("threshold"));
    }
}

#[test]
fn elimination_takes_relus_away() {
    let grid = Grid::from_step(7, 0.5).unwrap();
    let spline = Spline::relu_spline(1, grid, Init::Relu, false, DType::F32, &candle_core::Device::Cpu).unwrap();
    let slopes = Tensor::new(&[[0.5f32, -0.1, 0.0, 0.2, -0.7]], &candle_core::Device::Cpu).unwrap();
    spline.knot_parameters().set(&slopes).unwrap();
    assert_eq!(eliminate_knots(&spline, 0.3).unwrap(), [2]);
    assert_eq!(spline.knot_parameters().to_vec2::<f32>().unwrap(), [[0.5, 0.0, 0.0, 0.0, -0.7]]);
}

#[test]
fn the_search_stops_at_the_first_fall() {
    let accuracy = |threshold: f64| Ok::<_, ()>(if threshold < 1.0 { 90.0 } else { 80.0 });
    let found = largest_threshold(&papers_thresholds(), 90.1, 0.25, accuracy).unwrap();
    assert!(found.is_some_and(|(threshold, accuracy)| (threshold - 0.954).abs() < 1e-9 && accuracy == 90.0));
    assert_eq!(largest_threshold(&papers_thresholds(), 99.0, 0.25, accuracy).unwrap(), None);
    assert_eq!(largest_threshold(&[0.0, 1.0], 90.0, 0.25, |_| Err("broken")), Err("broken"));
}

#[test]
fn thresholds_ascend_as_documented() {
    let all = papers_thresholds();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    for expected in [0.0, 0.0002, 0.004, 0.054, 1.0, 1.2, 3.0, 3.5, 10.0, 12.0, 100.0] {
        assert!(all.iter().any(|t| (t - expected).abs() < 1e-9), "{expected}");
    }
}
