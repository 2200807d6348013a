//! Where float32 shows in training steps of spline networks: subgradients that cancel, and kinks.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use ds_core::activation::{Kind, Spline};
use ds_core::graph::Gradients;
use ds_core::regularization::slope_changes;
use ds_nn::Network;
use std::collections::HashMap;

/// The values, row by row.
pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What a coefficient's TV² subgradient λ/T·(1 − 2 + 1) may be in float32, where the slope changes at and beside its knot
/// are positive: 0 if each product is rounded, else the rest that fused multiply-adds leave, by the order of the terms.
///
/// That rest is below 1e-9, but where no sample reaches the coefficient it is the whole gradient, and Adam divides it by
/// |g| + 1e-8. The coefficient drifts by up to 1e-3 in ten steps; slope changes beside it get another sign at other steps,
/// and the weights that see the coefficient later differ by more than 1e-4, too.
pub fn residues(lambda: f32, step: f32) -> [f32; 4] {
    let outer = 1.0 / step;
    let inner = -2.0 * outer;
    let fused = |taps: [f32; 3]| taps.into_iter().fold(0.0, |sum, tap| lambda.mul_add(tap, sum));
    [fused([outer, inner, outer]), fused([inner, outer, outer]), fused([outer, outer, inner]), 0.0]
}

/// Adds the residue to the gradient of each coefficient whose TV² subgradient cancels: the slope changes at its knot and at
/// both neighbours have one sign.
pub fn add_residue(spline: &Spline, residue: f32, gradients: &mut impl Gradients) {
    if matches!(spline.kind(), Kind::ReluSpline { .. }) {
        return;
    }
    let (coefficients, size) = (spline.knot_parameters(), spline.grid().size());
    let mut gradient = flat(gradients.gradient(coefficients).unwrap());
    for (g, a) in gradient.chunks_exact_mut(size).zip(flat(&slope_changes(spline).unwrap()).chunks_exact(size - 2)) {
        for (g, a) in g[2..].iter_mut().zip(a.windows(3)) {
            if a.iter().all(|&a| a > 0.0) {
                *g += residue;
            } else if a.iter().all(|&a| a < 0.0) {
                *g -= residue;
            }
        }
    }
    gradients.set_gradient(coefficients, Tensor::from_vec(gradient, coefficients.shape(), &Device::Cpu).unwrap());
}

/// Rounding of a sum of a few float32 products, relative to the sum of their magnitudes.
const ROUNDING: f64 = 8.0 * f32::EPSILON as f64;

/// Why rounding decides the gradient at points (N, 2), if it does: TV² and the splines have kinks, and the derivatives on
/// both sides of a kink differ by more than any tolerance.
pub fn undetermined(network: &Network, points: &Tensor) -> Option<&'static str> {
    let parameters: HashMap<String, Tensor> =
        network.parameters().into_iter().map(|p| (p.name, p.var.as_detached_tensor())).collect();
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let mut x = points.clone();
    for (depth, spline) in network.splines().into_iter().enumerate() {
        let of_relus = matches!(spline.kind(), Kind::ReluSpline { .. });
        let (knots, size, step) = (flat(spline.knot_parameters()), spline.grid().size(), spline.grid().step());
        let slope_changes = flat(&slope_changes(spline).unwrap());
        for (c, a) in knots.chunks_exact(size).zip(slope_changes.chunks_exact(size - 2)).filter(|_| !of_relus) {
            for (c, &a) in c.windows(3).zip(a) {
                let terms = f64::from(c[0].abs() + 2.0 * c[1].abs() + c[2].abs()) / step;
                if terms > 0.0 && f64::from(a.abs()) <= ROUNDING * terms {
                    return Some("a slope change is zero to rounding");
                }
            }
        }
        let weight = &parameters[&format!("hidden{depth}.linear.weight")];
        let bias = parameters.get(&format!("hidden{depth}.linear.bias"));
        let dense = |x: &Tensor, of: &dyn Fn(&Tensor) -> Tensor| {
            let product = of(x).matmul(&of(weight).t().unwrap()).unwrap();
            bias.map_or(product.clone(), |bias| product.broadcast_add(&of(bias)).unwrap())
        };
        let input = dense(&x, &wide);
        let terms = dense(&x, &|tensor| wide(tensor).abs().unwrap());
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (x, terms) in numbers(&input).into_iter().zip(numbers(&terms)) {
            let knot = (x / step).round();
            if knot.abs() < (size / 2) as f64 && (x - knot * step).abs() <= ROUNDING * terms {
                return Some("a spline's input is at a knot to rounding");
            }
        }
        x = spline.forward(&input.to_dtype(DType::F32).unwrap()).unwrap();
    }
    None
}
