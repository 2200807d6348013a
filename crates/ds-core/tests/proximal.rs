//! The proximal operator of TV² against the conditions of optimality, which certify a solution of a convex problem.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use common::{flat, generator, tensor, uniform, variable};
use ds_core::Grid;
use ds_core::activation::{Kind, LinearTerm, Spline};
use ds_core::regularization::{Norm, ProximalTv2, Workspace, proximal_step, significant_knots, slope_changes};
use ds_core::sparsify::eliminate_knots;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Rows of coefficients: rough, smooth, straight, or with few kinks.
fn row(rng: &mut ChaCha8Rng, size: usize) -> Vec<f64> {
    let (kind, mut slope, mut value) = (rng.random_range(0..4), rng.random_range(-1.0..1.0), 0.0);
    let mut row = Vec::new();
    for _ in 0..size {
        if kind == 1 || (kind == 3 && rng.random_range(0..5) == 0) {
            slope += rng.random_range(-0.3..0.3);
        }
        value += 0.1 * slope;
        row.push(if kind == 0 { rng.random_range(-1.0..1.0) } else { value });
    }
    row
}

fn bspline(rows: Vec<f64>, grid: Grid, dtype: DType) -> Spline {
    let shape = [rows.len() / grid.size(), grid.size()];
    let coefficients = Var::from_tensor(&tensor(rows, &shape).to_dtype(dtype).unwrap()).unwrap().into_inner();
    Spline::from_parameters(grid, Kind::BSpline { coefficients }).unwrap()
}

/// How far c is from the optimum of ½ Σ (c − u)²/w + μ·‖D·c‖₁, by the dual z with Dᵀz = (u − c)/w: the largest of what is left of
/// that equation, of |z| − μ, and of |z·sign(D·c) − μ|, over μ, where |D·c| is not rounding.
fn broken_conditions(u: &[f64], w: &[f64], c: &[f64], mu: f64) -> f64 {
    let size = u.len();
    let right: Vec<f64> = (0..size).map(|k| (u[k] - c[k]) / w[k]).collect();
    // From the left: rows 0 to K−3 give z, the last two must hold.
    let mut z = vec![0.0; size];
    for k in 0..size {
        z[k] = right[k] + 2.0 * if k > 0 { z[k - 1] } else { 0.0 } - if k > 1 { z[k - 2] } else { 0.0 };
    }
    let mut broken = z[size - 2].abs().max(z[size - 1].abs());
    for k in 0..size - 2 {
        let change = c[k] - 2.0 * c[k + 1] + c[k + 2];
        broken = broken.max(z[k].abs() - mu);
        if change.abs() > 1e-9 {
            broken = broken.max((z[k] * change.signum() - mu).abs());
        }
    }
    broken / mu
}

/// That the coefficients of each function are the proximal point of its row.
fn assert_optimal(what: &str, spline: &Spline, rows: &[Vec<f64>], w: &[f64], lambda: f64) {
    let (c, size) = (flat(spline.knot_parameters()), spline.grid().size());
    for (k, u) in rows.iter().enumerate() {
        let of = k * size..(k + 1) * size;
        let broken = broken_conditions(u, &w[of.clone()], &c[of], lambda / spline.grid().step());
        assert!(broken < 1e-5, "{what}, function {k}: {broken:e}");
    }
}

#[test]
fn trend_filtering_is_optimal() {
    let rng = &mut generator(1);
    for size in [3, 5, 21, 51] {
        let grid = Grid::from_step(size, 0.1).unwrap();
        for channels in [1, 4, 5, 8, 21] {
            for lambda in [1e-6, 1e-3, 1e-1, 10.0] {
                let rows: Vec<Vec<f64>> = (0..channels).map(|_| row(rng, size)).collect();
                // Step sizes of Adam differ by orders of magnitude.
                let w: Vec<f64> = uniform(rng, channels * size, -3.0, 0.0).into_iter().map(|e| 10f64.powf(e)).collect();
                let spline = bspline(rows.concat(), grid, DType::F64);
                proximal_step(&spline, lambda, &tensor(w.clone(), &[channels, size])).unwrap();
                assert_optimal(&format!("K={size}, {channels} channels, λ={lambda}"), &spline, &rows, &w, lambda);
            }
        }
    }
}

#[test]
fn parameters_without_data_follow_their_neighbours() {
    // The outer third of the knots has no gradient: Adam's step size there is lr/ε.
    let (size, grid) = (51, Grid::from_step(51, 0.16).unwrap());
    let rng = &mut generator(2);
    let w: Vec<f64> = (0..size).map(|k| if (17..34).contains(&k) { 1e-2 } else { 1e5 }).collect();
    let u = uniform(rng, size, -1.0, 1.0);
    let spline = bspline(u.clone(), grid, DType::F64);
    let in_f32 = bspline(u, grid, DType::F32);
    let w = tensor(w, &[1, size]);
    proximal_step(&spline, 0.5, &w).unwrap();
    proximal_step(&in_f32, 0.5, &w.to_dtype(DType::F32).unwrap()).unwrap();
    let a = flat(&slope_changes(&spline).unwrap());
    for (k, a) in a.iter().enumerate().filter(|(k, _)| !(16..33).contains(k)) {
        assert!(a.abs() < 1e-9, "slope change {a:e} at knot {}", k + 1);
    }
    let kinks = a.iter().filter(|a| a.abs() > 1e-6).count();
    assert!((1..17).contains(&kinks));
    assert_eq!(significant_knots(&in_f32).unwrap(), [kinks]);
}

#[test]
fn a_second_step_from_the_solution_of_a_large_penalty_changes_nothing() {
    let rng = &mut generator(3);
    let grid = Grid::from_step(21, 0.1).unwrap();
    let spline = bspline((0..9).flat_map(|_| row(rng, 21)).collect(), grid, DType::F32);
    let w = Tensor::full(0.1f32, (9, 21), &Device::Cpu).unwrap();
    proximal_step(&spline, 1e3, &w).unwrap();
    // Lines, the least-squares ones.
    assert_eq!(significant_knots(&spline).unwrap(), [0; 9]);
    let before = flat(spline.knot_parameters());
    proximal_step(&spline, 1e3, &w).unwrap();
    common::assert_close("line", &flat(spline.knot_parameters()), &before, 1e-6);
}

#[test]
fn one_function_gives_the_same_bits_as_among_others() {
    let rng = &mut generator(4);
    let grid = Grid::from_step(21, 0.1).unwrap();
    let rows: Vec<Vec<f64>> = (0..13).map(|_| row(rng, 21)).collect();
    let w = uniform(rng, 13 * 21, 0.01, 1.0);
    let together = bspline(rows.concat(), grid, DType::F32);
    let scale = |w: &[f64], c: usize| tensor(w.to_vec(), &[c, 21]).to_dtype(DType::F32).unwrap();
    proximal_step(&together, 1e-2, &scale(&w, 13)).unwrap();
    let together = flat(together.knot_parameters());
    for (k, row) in rows.into_iter().enumerate() {
        let alone = bspline(row, grid, DType::F32);
        proximal_step(&alone, 1e-2, &scale(&w[k * 21..][..21], 1)).unwrap();
        assert_eq!(flat(alone.knot_parameters()), together[k * 21..][..21], "function {k}");
    }
}

#[test]
fn parameters_with_a_step_size_of_0_stay_and_the_others_take_the_limit_of_small_ones() {
    let rng = &mut generator(6);
    for (round, size) in [3, 5, 11, 21].into_iter().flat_map(|size| (0..8).map(move |round| (round, size))) {
        let (grid, channels) = (Grid::from_step(size, 0.1).unwrap(), 9);
        let n = channels * size;
        let u: Vec<f64> = (0..channels).flat_map(|_| row(rng, size)).collect();
        // All, all but one, or some of them.
        let one = rng.random_range(0..size);
        let mut stays = |k: usize| match round {
            0 => true,
            1 | 2 => k % size != one,
            _ => rng.random_range(0..round) > 1,
        };
        let fixed: Vec<bool> = (0..n).map(&mut stays).collect();
        let sizes = uniform(rng, n, 0.01, 1.0);
        let solution = |of_fixed: f64| {
            let w = fixed.iter().zip(&sizes).map(|(&fixed, &w)| if fixed { of_fixed } else { w }).collect();
            let spline = bspline(u.clone(), grid, DType::F64);
            proximal_step(&spline, 3e-2, &tensor(w, &[channels, size])).unwrap();
            flat(spline.knot_parameters())
        };
        let (c, limit) = (solution(0.0), solution(1e-8));
        let what = format!("K={size}, round {round}");
        assert!(c.iter().all(|c| c.is_finite()), "{what}");
        for k in (0..n).filter(|&k| fixed[k]) {
            assert_eq!(c[k], u[k], "{what}: parameter {k}");
        }
        common::assert_close(&what, &c, &limit, 1e-6);
    }
}

#[test]
fn trend_filtering_is_optimal_where_pivoting_would_take_too_long() {
    let rng = &mut generator(11);
    let (channels, size, lambda) = (400, 51, 3e-2);
    let grid = Grid::from_step(size, 0.1).unwrap();
    let rows: Vec<Vec<f64>> = (0..channels).map(|_| row(rng, size)).collect();
    let w: Vec<f64> = (0..channels * size).map(|_| if rng.random() { 1e-5 } else { 1.0 }).collect();
    let spline = bspline(rows.concat(), grid, DType::F64);
    proximal_step(&spline, lambda, &tensor(w.clone(), &[channels, size])).unwrap();
    assert_optimal("sizes of 1e-5 and 1", &spline, &rows, &w, lambda);
}

#[test]
fn a_workspace_needs_no_start() {
    let rng = &mut generator(7);
    let (grid, w) = (Grid::from_step(21, 0.1).unwrap(), uniform(rng, 9 * 21, 0.01, 1.0));
    let u: Vec<f64> = (0..9).flat_map(|_| row(rng, 21)).collect();
    let spline = bspline(u.clone(), grid, DType::F64);
    let penalty = ProximalTv2::new(&spline, 1e-2);
    let mut c = u.clone();
    penalty.solve(&mut Workspace::default(), &mut c, &w);
    assert!(c != u);
    proximal_step(&spline, 1e-2, &tensor(w.clone(), &[9, 21])).unwrap();
    common::assert_close("without a start", &c, &flat(spline.knot_parameters()), 1e-9);
    // One of another layer.
    let (other, mut workspace) = (bspline(u[..42].to_vec(), grid, DType::F64), Workspace::default());
    ProximalTv2::new(&other, 1e-2).start(&mut workspace, &u[..42]);
    let mut again = u;
    penalty.solve(&mut workspace, &mut again, &w);
    common::assert_close("with that of another layer", &again, &c, 1e-9);
}

#[test]
fn gradients_without_tv2_are_those_of_the_other_terms() {
    let rng = &mut generator(5);
    let grid = Grid::from_step(21, 0.1).unwrap();
    let layer = bspline((0..6).flat_map(|_| row(rng, 21)).collect(), grid, DType::F64);
    let knots = layer.knot_parameters();
    let gradient = |add: &dyn Fn(&mut GradStore)| {
        let mut gradients = knots.sum_all().unwrap().backward().unwrap();
        add(&mut gradients);
        flat(gradients.get(knots).unwrap())
    };
    let of = |norm: Norm| gradient(&|gradients| norm.add_gradients(&[(&layer, 0.3)], gradients).unwrap());
    let without =
        |norm: Norm| gradient(&|gradients| norm.add_gradients_without_tv2(&[(&layer, 0.3)], gradients).unwrap());
    // Σ c has gradient 1.
    let expected: Vec<f64> = of(Norm::Bv2).iter().zip(of(Norm::Tv2)).map(|(bv2, tv2)| 1.0 + bv2 - tv2).collect();
    common::assert_close("BV²", &without(Norm::Bv2), &expected, 1e-12);
    assert_eq!(without(Norm::Tv2), vec![1.0; 6 * 21]);
}

#[test]
fn slope_changes_are_thresholded() {
    let var = |values: &[f64], shape: &[usize]| variable(values.to_vec(), shape).into_inner();
    let linear = LinearTerm { weight: var(&[0.5], &[1]), bias: var(&[0.1], &[1]), fixed_bias: false };
    let slope_changes = var(&[0.3, -0.3, 0.05, -0.05, 0.0], &[1, 5]);
    let grid = Grid::from_step(7, 0.5).unwrap();
    let spline = Spline::from_parameters(grid, Kind::ReluSpline { slope_changes, linear }).unwrap();
    proximal_step(&spline, 0.1, &tensor(vec![1.0, 2.0, 1.0, 1.0, 1.0], &[1, 5])).unwrap();
    common::assert_close("a", &flat(spline.knot_parameters()), &[0.2, -0.1, 0.0, 0.0, 0.0], 1e-12);
    let scale = |values: Vec<f64>| tensor(values, &[1, 5]);
    for (lambda, scale, expected) in [
        (0.1, tensor(vec![1.0; 4], &[1, 4]), "scale"),
        (0.1, scale(vec![1.0, 1.0, -0.1, 1.0, 1.0]), "-0.1"),
        (0.1, scale(vec![1.0; 5]).to_dtype(DType::F32).unwrap(), "F32"),
        (-1.0, scale(vec![1.0; 5]), "λ is -1"),
        (f64::INFINITY, scale(vec![1.0; 5]), "λ is inf"),
    ] {
        let error = proximal_step(&spline, lambda, &scale).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // One size for all, without a copy of it for each.
    let one = tensor(vec![0.5], &[1, 1]).broadcast_as((1, 5)).unwrap();
    proximal_step(&spline, 0.1, &one).unwrap();
    common::assert_close("a", &flat(spline.knot_parameters()), &[0.15, -0.05, 0.0, 0.0, 0.0], 1e-12);
}

#[test]
fn what_has_diverged_stays_so() {
    let var = |values: &[f64], shape: &[usize]| variable(values.to_vec(), shape).into_inner();
    let linear = LinearTerm { weight: var(&[0.5], &[1]), bias: var(&[0.1], &[1]), fixed_bias: false };
    let slope_changes = var(&[f64::NAN, 0.3, 0.05], &[1, 3]);
    let grid = Grid::from_step(5, 0.5).unwrap();
    let spline = Spline::from_parameters(grid, Kind::ReluSpline { slope_changes, linear }).unwrap();
    let expect = |a: [f64; 2]| {
        let found = flat(spline.knot_parameters());
        assert!(found[0].is_nan());
        common::assert_close("others", &found[1..], &a, 1e-12);
    };
    proximal_step(&spline, 0.1, &tensor(vec![1.0; 3], &[1, 3])).unwrap();
    expect([0.2, 0.0]);
    eliminate_knots(&spline, 0.3).unwrap();
    expect([0.0, 0.0]);
}
