//! The bound of Aziznejad2020 is never below what pairs of points show.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use common::{flat, generator, tensor, uniform};
use ds_core::Grid;
use ds_core::activation::{Activation, Apl, Init, PRelu, Spline};
use ds_core::lipschitz::bv2::{Factor, bound_l1};

#[test]
fn quotients_stay_below_the_bound() {
    let rng = &mut generator(1);
    let (dtype, device) = (DType::F64, &Device::Cpu);
    for round in 0..200 {
        let grid = Grid::from_step(9, 0.3).unwrap();
        let activation = match round % 7 {
            0 => Activation::Relu,
            1 => Activation::LeakyRelu,
            2 => Activation::PRelu(PRelu::new(5, dtype, device).unwrap()),
            3 => Activation::Apl(Apl::new(5, 2, dtype, device).unwrap()),
            4 => Activation::Spline(Spline::bspline(5, grid, Init::Relu, dtype, device).unwrap()),
            5 => Activation::Spline(Spline::explicit_linear(5, grid, Init::EvenOdd, false, dtype, device).unwrap()),
            _ => Activation::Spline(Spline::relu_spline(5, grid, Init::Relu, false, dtype, device).unwrap()),
        };
        for parameter in activation.parameters("") {
            let n = parameter.var.elem_count();
            parameter.var.set(&tensor(uniform(rng, n, -1.0, 1.0), parameter.var.dims())).unwrap();
        }
        let first = tensor(uniform(rng, 15, -1.0, 1.0), &[5, 3]);
        let last = tensor(uniform(rng, 5, -1.0, 1.0), &[1, 5]);
        let network = |x: &Tensor| {
            let hidden = activation.forward(&x.matmul(&first.t().unwrap()).unwrap()).unwrap();
            hidden.matmul(&last.t().unwrap()).unwrap()
        };
        let factors =
            [Factor::Dense(&first), Factor::Activation { activation: &activation, units: 5 }, Factor::Dense(&last)];
        let bound = bound_l1(factors).unwrap();
        let x = tensor(uniform(rng, 300, -2.0, 2.0), &[100, 3]);
        let nearby = (&x + tensor(uniform(rng, 300, -1e-3, 1e-3), &[100, 3])).unwrap();
        for y in [tensor(uniform(rng, 300, -2.0, 2.0), &[100, 3]), nearby] {
            let distance = |a: &Tensor, b: &Tensor| flat(&(a - b).unwrap().abs().unwrap().sum(1).unwrap());
            let inputs = distance(&x, &y);
            let outputs = distance(&network(&x), &network(&y));
            for (input, output) in inputs.iter().zip(outputs) {
                assert!(output <= bound * input * (1.0 + 1e-9), "round {round}: {output} / {input} above {bound}");
            }
        }
    }
}
