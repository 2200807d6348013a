//! Optimisers: the loops of their rules, and a parameter's step.

use super::proximal::{Proximal, Work};
use super::rule::{OP, Rule};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, bail};
use std::cell::RefCell;

ds_core::vectorized! {
    /// With [λ, μ, learning rate].
    fn sgd<T>(constants: &[T; 3], theta: &mut [T], g: &[T], v: &mut [T]) {
        let [decay, momentum, rate] = *constants;
        for ((theta, &g), v) in theta.iter_mut().zip(g).zip(v) {
            let g = g + decay * *theta;
            *v = momentum * *v + g;
            *theta -= rate * (g + momentum * *v);
        }
    }
}

ds_core::vectorized! {
    /// With [λ, learning rate over the first bias correction, 1/√ of the second one].
    fn adam<T>(constants: &[T; 3], theta: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
        let [decay, rate, correction] = *constants;
        let [beta1, beta2, epsilon] = [Rule::BETA1, Rule::BETA2, Rule::EPSILON].map(T::from_f64);
        for (((theta, &g), m), v) in theta.iter_mut().zip(g).zip(m).zip(v) {
            let g = g + decay * *theta;
            *m = beta1 * *m + (T::ONE - beta1) * g;
            *v = beta2 * *v + (T::ONE - beta2) * g * g;
            *theta -= rate * *m / (v.sqrt() * correction + epsilon);
        }
    }
}

ds_core::vectorized! {
    /// Adam's step size of each number, from its second moment, with [learning rate, 1/√ of the second bias correction].
    fn step_sizes<T>(constants: &[T; 2], v: &[T], sizes: &mut [T]) {
        let ([rate, correction], epsilon) = (*constants, T::from_f64(Rule::EPSILON));
        for (size, &v) in sizes.iter_mut().zip(v) {
            *size = rate / (v.sqrt() * correction + epsilon);
        }
    }
}

/// θ ← θ − update(g + λ·θ), in place, then the proximal point of a penalty.
pub(super) struct Update<'a> {
    pub(super) rule: Rule,
    pub(super) decay: f32,
    /// What the rule takes from the learning rate and the number of steps.
    pub(super) schedule: (f32, f32),
    pub(super) learning_rate: f32,
    pub(super) state: &'a RefCell<Vec<f32>>,
    pub(super) proximal: Option<&'a Proximal>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, theta: &mut CpuStorage, tl: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (CpuStorage::F32(theta), CpuStorage::F32(g)) = (theta, g) else {
            bail!("{}: parameters and gradients must be f32", self.name())
        };
        let (Some((start, end)), Some((g_start, g_end))) = (tl.contiguous_offsets(), gl.contiguous_offsets()) else {
            bail!("{}: parameters and gradients must be contiguous", self.name())
        };
        if tl.shape() != gl.shape() {
            bail!("{}: gradient {:?} for a parameter {:?}", self.name(), gl.shape(), tl.shape());
        }
        let (theta, g) = (&mut theta[start..end], &g[g_start..g_end]);
        let mut state = self.state.borrow_mut();
        match self.rule {
            Rule::Sgd { momentum } => sgd(&[self.decay, momentum as f32, self.schedule.0], theta, g, &mut state),
            Rule::Adam => {
                let (rate, correction) = self.schedule;
                let (first, second) = state.split_at_mut(theta.len());
                let mut step = |theta: &mut [f32]| adam(&[self.decay, rate, correction], theta, g, first, second);
                let Some(Proximal { penalty, work: Work::OnCpu(work) }) = self.proximal else {
                    step(theta);
                    return Ok(());
                };
                let (workspace, sizes) = &mut *work.borrow_mut();
                penalty.start(workspace, theta);
                step(theta);
                sizes.resize(theta.len(), 0.0);
                step_sizes(&[self.learning_rate, correction], second, sizes);
                penalty.solve(workspace, theta, sizes);
            }
        }
        Ok(())
    }
}
