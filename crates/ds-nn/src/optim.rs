//! Optimisers that update each parameter in place in one pass, L2 term included, and the multi-step schedule.

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, bail};
use ds_core::graph::Gradients;
use ds_core::{L2, Parameter};
use std::cell::RefCell;

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// v ← μ·v + g; θ ← θ − lr·(g + μ·v): stochastic gradient descent with Nesterov momentum, as PyTorch has it.
    Sgd {
        /// μ; 0 for plain descent.
        momentum: f64,
    },
    /// Adam (Kingma and Ba 2015), bias-corrected, with β = (0.9, 0.999) and ε = 1e-8.
    Adam,
}

impl Rule {
    const BETA1: f64 = 0.9;
    const BETA2: f64 = 0.999;
    const EPSILON: f64 = 1e-8;

    fn slots(self) -> usize {
        match self {
            Self::Sgd { .. } => 1,
            Self::Adam => 2,
        }
    }
}

/// Weights of the explicit L2 terms (λ/2)·‖θ‖².
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Decay {
    /// λ of [`L2::WeightDecay`].
    pub weights: f64,
    /// λ of [`L2::Hinges`].
    pub hinges: f64,
}

impl Decay {
    fn of(self, l2: L2) -> f64 {
        match l2 {
            L2::WeightDecay => self.weights,
            L2::Hinges => self.hinges,
            L2::Exempt => 0.0,
        }
    }
}

struct Slot {
    parameter: Parameter,
    /// λ of its L2 term.
    decay: f64,
    /// The rule's moving averages, one after the other.
    state: RefCell<Vec<f32>>,
}

/// One optimiser and the parameters that it updates (f32 on the CPU).
pub struct Optimizer {
    rule: Rule,
    slots: Vec<Slot>,
    steps: u64,
}

impl Optimizer {
    /// An optimiser of these parameters.
    ///
    /// # Errors
    /// If a parameter is not f32.
    pub fn new(rule: Rule, decay: Decay, parameters: impl IntoIterator<Item = Parameter>) -> Result<Self> {
        let mut slots = Vec::new();
        for parameter in parameters {
            if parameter.var.dtype() != DType::F32 {
                bail!("optimiser: parameter {} is {:?}, expected F32", parameter.name, parameter.var.dtype());
            }
            let state = RefCell::new(vec![0.0; rule.slots() * parameter.var.elem_count()]);
            slots.push(Slot { decay: decay.of(parameter.l2), parameter, state });
        }
        Ok(Self { rule, slots, steps: 0 })
    }

    /// Multiplies λ of each parameter's L2 term with a factor of its own.
    pub fn scale_decay(&mut self, factor: impl Fn(&Parameter) -> f64) {
        for slot in &mut self.slots {
            slot.decay *= factor(&slot.parameter);
        }
    }

    /// Updates all parameters; one that took no gradient counts as having gradient 0.
    ///
    /// # Errors
    /// If a gradient does not have its parameter's shape.
    pub fn step(&mut self, gradients: &impl Gradients, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        for Slot { parameter, decay, state } in &self.slots {
            let update = Update { rule: self.rule, decay: *decay as f32, learning_rate, steps: self.steps, state };
            match gradients.gradient(&parameter.var) {
                Some(gradient) => parameter.var.inplace_op2(&gradient.contiguous()?, &update)?,
                None => parameter.var.inplace_op2(&parameter.var.zeros_like()?, &update)?,
            }
        }
        Ok(())
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moving averages, named after their parameters, for a checkpoint.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.slots
            .iter()
            .map(|slot| {
                let state = slot.state.borrow().clone();
                let shape = (self.rule.slots(), slot.parameter.var.elem_count());
                Ok((slot.parameter.name.clone(), Tensor::from_vec(state, shape, &Device::Cpu)?))
            })
            .collect()
    }

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// If a parameter's state is missing or has another size.
    pub fn restore(&mut self, steps: u64, mut state: impl FnMut(&str) -> Option<Tensor>) -> Result<()> {
        for slot in &self.slots {
            let name = &slot.parameter.name;
            let Some(saved) = state(name) else { bail!("optimiser: no saved state for parameter {name}") };
            let saved = saved.flatten_all()?.to_vec1::<f32>()?;
            let mut state = slot.state.borrow_mut();
            if saved.len() != state.len() {
                bail!("optimiser: saved state of {name} has {} numbers, expected {}", saved.len(), state.len());
            }
            *state = saved;
        }
        self.steps = steps;
        Ok(())
    }
}

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
            *theta -= rate * *m / (v.root() * correction + epsilon);
        }
    }
}

/// θ ← θ − update(g + λ·θ), in place.
struct Update<'a> {
    rule: Rule,
    decay: f32,
    learning_rate: f64,
    steps: u64,
    state: &'a RefCell<Vec<f32>>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "optimiser-step"
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
            Rule::Sgd { momentum } => {
                sgd(&[self.decay, momentum as f32, self.learning_rate as f32], theta, g, &mut state);
            }
            Rule::Adam => {
                let steps = self.steps.min(1 << 30) as i32;
                let rate = (self.learning_rate / (1.0 - Rule::BETA1.powi(steps))) as f32;
                let correction = (1.0 / (1.0 - Rule::BETA2.powi(steps)).sqrt()) as f32;
                let (first, second) = state.split_at_mut(theta.len());
                adam(&[self.decay, rate, correction], theta, g, first, second);
            }
        }
        Ok(())
    }
}

/// The factor of the learning rates in an epoch (counted from 0): `gamma` for each milestone that was reached.
pub fn multi_step(epoch: usize, milestones: &[usize], gamma: f64) -> f64 {
    gamma.powi(milestones.iter().filter(|&&m| epoch >= m).count() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_multiply() {
        let factor = |epoch| multi_step(epoch, &[150, 225, 262], 0.1);
        assert_eq!(factor(149), 1.0);
        assert_eq!(factor(150), 0.1);
        assert!((factor(262) - 1e-3).abs() < 1e-12);
    }
}
