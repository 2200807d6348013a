//! Elimination of knots on thousands of random splines, and the search for a threshold.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Tensor, Var};
use common::{Set, flat, generator, uniform};
use ds_core::Grid;
use ds_core::activation::{Activation, Init, Kind, LinearTerm, LipschitzSpline, Spline};
use ds_core::graph::Gradients;
use ds_core::sparsify::{
    Cost, Histogram, Pruning, eliminate_knots, exact_active_knots, largest_threshold, papers_thresholds,
};
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
    let coefficients = Var::from_tensor(&rows.to_dtype(dtype).unwrap()).unwrap().into_inner();
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
    // Too small for a power of two with all digits.
    let mut tiny = vec![0.0; 51];
    tiny[25] = 1e-300;
    assert_eq!(eliminate_knots(&spline(tiny, 1, grid, DType::F64), 0.0).unwrap(), [3]);
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
    assert_eq!(largest_threshold(&[0.0, 1.0], 90.0, 0.25, |_| Ok::<_, ()>(f64::NAN)), Ok(None));
}

#[test]
fn thresholds_ascend_as_documented() {
    let all = papers_thresholds();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    for expected in [0.0, 0.0002, 0.004, 0.054, 1.0, 1.2, 3.0, 3.5, 10.0, 12.0, 100.0] {
        assert!(all.iter().any(|t| (t - expected).abs() < 1e-9), "{expected}");
    }
}

const CHANNELS: usize = 4;

/// Layers of rough functions, one for each parametrisation, 1-Lipschitz ones with odd and even K and with a scaling.
fn rough_layers(rng: &mut ChaCha8Rng) -> Vec<Activation> {
    let grid = Grid::from_range(21, 2.0).unwrap();
    let device = &candle_core::Device::Cpu;
    let random = |rng: &mut ChaCha8Rng, shape: &[usize]| {
        let values = uniform(rng, shape.iter().product(), -1.0, 1.0);
        let tensor = Tensor::from_vec(values, shape, device).unwrap().to_dtype(DType::F32).unwrap();
        Var::from_tensor(&tensor).unwrap().into_inner()
    };
    let line = |rng: &mut ChaCha8Rng| {
        let (weight, bias) = (random(rng, &[CHANNELS]), random(rng, &[CHANNELS]));
        LinearTerm { weight, bias, fixed_bias: false }
    };
    let kinds = [
        Kind::BSpline { coefficients: random(rng, &[CHANNELS, 21]) },
        Kind::ExplicitLinear { coefficients: random(rng, &[CHANNELS, 21]), linear: line(rng) },
        Kind::ReluSpline { slope_changes: random(rng, &[CHANNELS, 19]), linear: line(rng) },
    ];
    let splines = kinds.map(|kind| Activation::Spline(Spline::from_parameters(grid, kind).unwrap()));
    let lipschitz = [(20, true), (21, false)].map(|(size, scaling)| {
        let spline = LipschitzSpline::new(CHANNELS, size, 2.0, Init::Identity, scaling, DType::F32, device).unwrap();
        spline.coefficients().set(&random(rng, &[CHANNELS, size])).unwrap();
        if let Some(log_scaling) = spline.log_scaling() {
            log_scaling.set(&random(rng, &[CHANNELS])).unwrap();
        }
        Activation::Lipschitz(spline)
    });
    splines.into_iter().chain(lipschitz).collect()
}

/// The knots of each function with a slope change that is not 0, without rounding.
fn exact_knots(activation: &Activation) -> usize {
    match activation {
        Activation::Spline(spline) => exact_active_knots(spline, 0.0).unwrap().iter().sum(),
        Activation::Lipschitz(spline) => spline.active_knots(0.0).unwrap().iter().sum(),
        _ => panic!("no spline"),
    }
}

#[test]
fn pruned_functions_have_the_knots_that_were_asked_for_and_come_back() {
    let rng = &mut generator(11);
    let layers = rough_layers(rng);
    let x = Tensor::randn(0f32, 1.0, (500, CHANNELS), &candle_core::Device::Cpu).unwrap();
    let forward = |layer: &Activation| flat(&candle_nn::Module::forward(layer, &x).unwrap());
    let histograms: Vec<Histogram> = layers
        .iter()
        .map(|layer| {
            let mut histogram = Histogram::of(layer).unwrap().unwrap();
            histogram.add(&x, None).unwrap();
            histogram
        })
        .collect();
    let before: Vec<Vec<f64>> = layers.iter().map(forward).collect();
    let pruning = Pruning::new(layers.iter().zip(&histograms), Cost::MeanSquare).unwrap();
    assert_eq!(pruning.knots(), CHANNELS * (19 + 19 + 19 + 18 + 19));
    let mut errors = Vec::new();
    for count in [pruning.knots(), 200, 60, 7, 0] {
        let kept = pruning.prune(count).unwrap();
        assert!(kept.count() <= count);
        let stored: usize = layers.iter().map(exact_knots).sum();
        assert_eq!(stored, kept.count(), "{count}");
        // Clipped functions have straight parts, so that some of all knots were none before.
        assert!(kept.count() + 60 >= count, "{count} knots were asked for, {} are there", kept.count());
        for layer in &layers {
            if let Activation::Lipschitz(spline) = layer {
                let slopes = spline.slopes().unwrap();
                assert!(slopes.iter().flatten().all(|slope| slope.abs() <= 1.0 + 1e-6));
            }
        }
        let squares = |(layer, before): (&Activation, &Vec<f64>)| -> f64 {
            forward(layer).iter().zip(before).map(|(a, b)| (a - b).powi(2)).sum()
        };
        errors.push(layers.iter().zip(&before).map(squares).sum::<f64>());
    }
    assert!(errors[0] < 1e-6, "{errors:?}");
    assert!(errors.is_sorted(), "{errors:?}");
    pruning.restore().unwrap();
    for (layer, before) in layers.iter().zip(&before) {
        assert_eq!(&forward(layer), before);
    }
}

#[test]
fn functions_of_few_knots_keep_them() {
    let grid = Grid::from_range(51, 4.0).unwrap();
    let device = &candle_core::Device::Cpu;
    let leaky =
        Activation::Spline(Spline::explicit_linear(3, grid, Init::LeakyRelu, false, DType::F32, device).unwrap());
    let mut histogram = Histogram::of(&leaky).unwrap().unwrap();
    let x = Tensor::randn(0f32, 1.0, (500, 3), device).unwrap();
    histogram.add(&x, None).unwrap();
    let before = flat(&candle_nn::Module::forward(&leaky, &x).unwrap());
    let kept = Pruning::new([(&leaky, &histogram)], Cost::MeanSquare).unwrap().prune(3).unwrap();
    assert_eq!(kept.counts(), [[1, 1, 1]]);
    let after = flat(&candle_nn::Module::forward(&leaky, &x).unwrap());
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 4e-6));
}

#[test]
fn pruning_makes_no_knots() {
    let grid = Grid::from_step(21, 0.2).unwrap();
    let spline = Spline::relu_spline(3, grid, Init::LeakyRelu, false, DType::F32, &candle_core::Device::Cpu).unwrap();
    let layer = Activation::Spline(spline);
    let rng = &mut generator(12);
    let mut histogram = Histogram::of(&layer).unwrap().unwrap();
    histogram
        .add(&Tensor::from_vec(uniform(rng, 300, -1.0, 1.0), (100, 3), &candle_core::Device::Cpu).unwrap(), None)
        .unwrap();
    let pruning = Pruning::new([(&layer, &histogram)], Cost::MeanSquare).unwrap();
    for asked in [57, 30, 3] {
        // Each function has one knot, at 0.
        let kept = pruning.prune(asked).unwrap().count();
        assert_eq!(kept, 3, "{asked} asked for: {:?}", flat(layer.spline().unwrap().knot_parameters()));
    }
}

#[test]
fn weights_of_inputs_have_their_shape() {
    let layer = Activation::Spline(spline(vec![0.0; 63], 3, Grid::from_step(21, 0.2).unwrap(), DType::F64));
    let mut histogram = Histogram::of(&layer).unwrap().unwrap();
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F64, &candle_core::Device::Cpu).unwrap();
    for shape in [&[2, 3][..], &[3, 5], &[9, 3], &[]] {
        let error = histogram.add(&ones(&[5, 3]), Some(&ones(shape))).unwrap_err().to_string();
        assert!(error.contains("weights"), "{error}");
    }
    histogram.add(&ones(&[5, 3]), Some(&ones(&[5, 3]))).unwrap();
}

#[test]
fn functions_that_make_no_difference_lose_their_knots_first() {
    let layer = rough_layers(&mut generator(13)).remove(0);
    let x = Tensor::randn(0f32, 1.0, (500, CHANNELS), &candle_core::Device::Cpu).unwrap();
    // Tiny gradients, and none for the second function.
    let weights = Tensor::new(&[1e-12f32, 0.0, 1e-12, 1e-12], x.device()).unwrap().broadcast_as(x.shape()).unwrap();
    let mut histogram = Histogram::of(&layer).unwrap().unwrap();
    histogram.add(&x, Some(&weights.contiguous().unwrap())).unwrap();
    let pruning = Pruning::new([(&layer, &histogram)], Cost::SquaredGradient).unwrap();
    assert_eq!(pruning.prune(3 * 19).unwrap().counts(), [[19, 0, 19, 19]]);
}

#[test]
fn training_leaves_kept_knots_where_they_are() {
    struct One(Option<Tensor>);
    impl Gradients for One {
        fn gradient(&self, _: &Tensor) -> Option<&Tensor> {
            self.0.as_ref()
        }
        fn set_gradient(&mut self, _: &Tensor, gradient: Tensor) {
            self.0 = Some(gradient);
        }
    }
    let rng = &mut generator(12);
    for layer in rough_layers(rng) {
        let mut histogram = Histogram::of(&layer).unwrap().unwrap();
        let x = Tensor::randn(0f32, 1.0, (500, CHANNELS), &candle_core::Device::Cpu).unwrap();
        histogram.add(&x, None).unwrap();
        let kept = Pruning::new([(&layer, &histogram)], Cost::MeanSquare).unwrap().prune(9).unwrap();
        let parameter = match &layer {
            Activation::Spline(spline) => spline.knot_parameters().clone(),
            Activation::Lipschitz(spline) => spline.coefficients().clone(),
            _ => panic!("no spline"),
        };
        // ⟨restrict(g), c⟩ = ⟨g, straighten(c)⟩ for all g and c, since one is the transpose of the other.
        let draw = |rng: &mut ChaCha8Rng| {
            let values = uniform(rng, parameter.elem_count(), -1.0, 1.0);
            Tensor::from_vec(values, parameter.shape(), parameter.device()).unwrap().to_dtype(DType::F32).unwrap()
        };
        let (g, c) = (draw(rng), draw(rng));
        let product = |a: &Tensor, b: &Tensor| flat(a).iter().zip(flat(b)).map(|(a, b)| a * b).sum::<f64>();
        let mut gradients = One(Some(g.clone()));
        kept.restrict(&mut gradients).unwrap();
        let restricted = gradients.0.unwrap();
        parameter.set(&c).unwrap();
        kept.straighten().unwrap();
        let difference = product(&restricted, &c) - product(&g, &parameter);
        assert!(difference.abs() < 1e-4, "{difference}");
        // A step along the restricted gradient, rounded to exact functions, has no new knots.
        parameter.set(&(c - (restricted * 0.1).unwrap()).unwrap()).unwrap();
        kept.straighten().unwrap();
        let count = kept.write_exactly().unwrap();
        assert!(count <= kept.count());
        assert_eq!(exact_knots(&layer), count);
    }
}
