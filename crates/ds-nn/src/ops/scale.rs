//! Multiplication with a constant.

use candle_core::{Result, Shape};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, gradient};
use ds_core::backend::real::Real;
use std::ops::Range;

/// x → factor·x.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The factor.
    pub factor: f64,
}

impl Scale {
    fn scaled<T: Real>(&self, x: &[T]) -> Vec<T> {
        let factor = T::from_f64(self.factor);
        x.iter().map(|&x| factor * x).collect()
    }
}

impl Op for Scale {
    const NAME: &'static str = "scale";
    const INPUTS: Range<usize> = 1..2;

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        Ok(self.scaled(inputs[0].elements::<T>()?))
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        Ok(gradient(self.scaled(pass.dy.elements::<T>()?)))
    }
}
