//! Proximal Adam on problems that are convex, where the optimum is known: fits of one function by one spline.
#![allow(clippy::unwrap_used)]

use ds_core::Grid;
use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::penalty::SplinePenalty;
use ds_lab::run::{self, Existing, RunOptions, Setup, count_active_knots, evaluate};
use std::f64::consts::PI;

const POINTS: usize = 1000;

fn target(name: &str, x: f64) -> f64 {
    match name {
        "absolute" => x.abs(),
        "square" => x * x,
        "sine" => (PI * x).sin(),
        other => panic!("{other}"),
    }
}

/// The least mean squared error + λ·‖a‖₁ over b0 + b1·x + Σ a_k·max(0, x − x_k), and how many a_k are not 0: by coordinate descent
/// in f64, which ends when the duality gap is below 1e-4 of the objective.
fn optimum(name: &str, grid: Grid, lambda: f64) -> (f64, usize) {
    let x: Vec<f64> = (0..POINTS).map(|k| f64::from((2.0 * k as f64 / (POINTS - 1) as f64 - 1.0) as f32)).collect();
    let mut columns: Vec<Vec<f64>> = vec![vec![1.0; POINTS], x.clone()];
    columns.extend(grid.knots().skip(1).take(grid.size() - 2).map(|at| x.iter().map(|x| (x - at).max(0.0)).collect()));
    columns.push(x.iter().map(|&x| target(name, x)).collect());
    // The line is not penalised: what is left of all others beside it.
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for k in 0..2 {
        let line = columns[k].clone();
        for column in &mut columns[k + 1..] {
            let share = dot(column, &line) / dot(&line, &line);
            column.iter_mut().zip(&line).for_each(|(v, l)| *v -= share * l);
        }
    }
    let (hinges, y) = (&columns[2..columns.len() - 1], &columns[columns.len() - 1]);
    let products: Vec<Vec<f64>> = hinges.iter().map(|a| hinges.iter().map(|b| dot(a, b)).collect()).collect();
    let with_y: Vec<f64> = hinges.iter().map(|hinge| dot(hinge, y)).collect();
    // Of each hinge with what the fit leaves of y.
    let (n, mut a, mut with_rest) = (POINTS as f64, vec![0.0; hinges.len()], with_y.clone());
    loop {
        for k in (0..hinges.len()).cycle().take(1000 * hinges.len()) {
            let free: f64 = a[k] * products[k][k] + with_rest[k];
            let new = (free.abs() - n * lambda / 2.0).max(0.0).copysign(free) / products[k][k];
            with_rest.iter_mut().zip(&products[k]).for_each(|(r, product)| *r -= (new - a[k]) * product);
            a[k] = new;
        }
        let (fit_and_y, fit_and_rest) = (dot(&a, &with_y), dot(&a, &with_rest));
        let rest_and_y = dot(y, y) - fit_and_y;
        let rest_squared = rest_and_y - fit_and_rest;
        let objective = rest_squared / n + lambda * a.iter().map(|a| a.abs()).sum::<f64>();
        let steepest = with_rest.iter().map(|product| (2.0 / n * product).abs()).fold(0.0, f64::max);
        let scale = (lambda / steepest).min(1.0);
        let dual = (2.0 * scale * rest_and_y - scale * scale * rest_squared) / n;
        if objective - dual < 1e-4 * objective {
            return (objective, a.iter().filter(|&&a| a != 0.0).count());
        }
    }
}

/// The objective after training and the knots whose slope change is not 0.
fn trained(text: &str) -> (f64, usize, Grid) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::from_toml(text).unwrap();
    let source = Source::Auto { dir: None };
    let path = directory.path().to_owned();
    let options = RunOptions { directory: path.clone(), existing: Existing::Refuse, quiet: true };
    run::run(&config, &source, &options, &Context::cpu()).unwrap();
    let setup = Setup::new(&config, &source, &Context::cpu()).unwrap();
    let penalty = SplinePenalty::new(&config, &setup.network).unwrap().unwrap();
    Checkpoint::read(&path.join("checkpoint.safetensors")).unwrap().restore_network(&setup.network).unwrap();
    let network = &setup.network;
    let objective = evaluate(network, &setup.train).unwrap().loss + penalty.value(network).unwrap();
    (objective, count_active_knots(network).unwrap().unwrap(), network.splines()[0].grid())
}

#[test]
fn fits_reach_the_optimum_with_slope_changes_that_are_0() {
    println!("| target | λ | parametrisation | objective / optimum | with adam | knots | of the optimum | with adam |");
    for name in ["absolute", "square", "sine"] {
        for lambda in [1e-4, 1e-3, 1e-2] {
            for kind in ["bspline", "explicit_linear", "relu_spline"] {
                let text = |optimizer: &str| {
                    // The hinges of a sum of ReLUs overlap: the problem is the same one, but badly conditioned.
                    let training = match kind {
                        "relu_spline" => {
                            "optimizer.splines.lr = 0.1\ntrain.epochs = 3000\ntrain.milestones = [1800, 2400, 2700]"
                        }
                        _ => "",
                    };
                    format!(
                        "experiment = \"fit1d\"\ndata.dataset = \"{name}\"\nactivation.kind = \"{kind}\"\n\
                         activation.fixed_bias = false\nregularization.lambda = {lambda}\nsparsify.enabled = false\n\
                         optimizer.splines.kind = \"{optimizer}\"\ntrain.eval_every = 10000\n{training}"
                    )
                };
                let text = |optimizer: &str| match kind {
                    "bspline" => text(optimizer).replace("activation.fixed_bias = false\n", ""),
                    _ => text(optimizer),
                };
                let (objective, knots, grid) = trained(&text("prox_adam"));
                let (of_adam, knots_of_adam, _) = trained(&text("adam"));
                let (least, needed) = optimum(name, grid, lambda);
                println!(
                    "| {name} | {lambda:.0e} | {kind} | {:.4} | {:.4} | {knots} | {needed} | {knots_of_adam} |",
                    objective / least,
                    of_adam / least
                );
                assert!(objective < 1.01 * least, "{name}, λ={lambda}, {kind}: {objective:e}, optimum {least:e}");
                assert!(objective > 0.999 * least, "{name}, λ={lambda}, {kind}: {objective:e}, optimum {least:e}");
                let more = if kind == "relu_spline" { 6 } else { 0 };
                assert!(knots <= needed + more, "{name}, λ={lambda}, {kind}: {knots} knots, {needed} of the optimum");
            }
        }
    }
}
