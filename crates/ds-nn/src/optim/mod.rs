//! Optimisers that update each parameter in place in one pass, L2 term included, and the multi-step schedule.

mod cpu;
mod gpu;
mod proximal;
mod rule;

pub use rule::Rule;

use crate::backend::KERNELS;
use candle_core::{DType, Device, Result, Tensor, TensorId, bail};
use cpu::Update;
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::gpu::{Address, Gpu};
use ds_core::graph::Gradients;
use ds_core::regularization::{ProximalTv2, sum_of_squares};
use ds_core::{L2, Parameter};
use proximal::{Proximal, Work};
use rule::OP;
use std::cell::RefCell;
use std::collections::HashSet;

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
    state: State,
    proximal: Option<Proximal>,
}

/// The rule's moving averages, one after the other.
enum State {
    OnCpu(RefCell<Vec<f32>>),
    OnDevice(Tensor),
}

/// One optimiser and the parameters that it updates: f32, all on the CPU or all on one GPU (feature `cuda`), where they are
/// updated in one launch.
pub struct Optimizer {
    rule: Rule,
    slots: Vec<Slot>,
    steps: u64,
    learning_rate: f64,
    /// What the rule takes from both, where parameters are on a device: read there, so that the launches of one step serve for
    /// another.
    schedule: Option<Tensor>,
}

impl Optimizer {
    /// An optimiser of these parameters.
    ///
    /// # Errors
    /// If a parameter is not f32, or there twice.
    pub fn new(rule: Rule, decay: Decay, parameters: impl IntoIterator<Item = Parameter>) -> Result<Self> {
        let mut slots = Vec::new();
        let mut known = HashSet::new();
        for parameter in parameters {
            if !known.insert(parameter.var.id()) {
                bail!(
                    "optimiser: parameter {} is there twice; clones of a layer share their parameters",
                    parameter.name
                );
            }
            if parameter.var.dtype() != DType::F32 {
                bail!("optimiser: parameter {} is {:?}, expected F32", parameter.name, parameter.var.dtype());
            }
            let length = rule.slots() * parameter.var.elem_count();
            let state = match parameter.var.device() {
                Device::Cpu => State::OnCpu(RefCell::new(vec![0.0; length])),
                device => State::OnDevice(Tensor::zeros(length, DType::F32, device)?),
            };
            slots.push(Slot { decay: decay.of(parameter.l2), parameter, state, proximal: None });
        }
        let device = slots.iter().find(|slot| matches!(slot.state, State::OnDevice(_)));
        let zeros = |slot: &Slot| Tensor::zeros(gpu::SCHEDULE, DType::F32, slot.parameter.var.device());
        let schedule = device.map(zeros).transpose()?;
        Ok(Self { rule, slots, steps: 0, learning_rate: 0.0, schedule })
    }

    /// Makes Adam proximal for parameters with a penalty λ·TV²: each step, taken along gradients without that of the penalty, ends in
    /// the proximal point of the penalty in the metric of Adam's second moment (ProxGen, Yun, Lozano and Yang 2021, algorithm 1).
    /// Slope changes become 0 (those of coefficients but for their rounding), and the objective reaches its optimum where it is convex.
    ///
    /// The distance of a layer's knots is that when the penalty was made ([`ProximalTv2::new`]).
    ///
    /// # Errors
    /// If the rule is not Adam, or a penalty is not about a parameter of this optimiser.
    pub fn set_proximal(&mut self, penalties: impl IntoIterator<Item = ProximalTv2>) -> Result<()> {
        for penalty in penalties {
            if self.rule != Rule::Adam {
                bail!("optimiser: a proximal step needs Adam, this is {:?}", self.rule);
            }
            let Some(slot) = self.slots.iter_mut().find(|slot| slot.parameter.var.id() == penalty.parameter()) else {
                bail!("optimiser: a proximal step for a parameter that is not of this optimiser");
            };
            let work = Work::on(slot.parameter.var.device(), &penalty)?;
            slot.proximal = Some(Proximal { penalty, work });
        }
        Ok(())
    }

    /// Changes the moving averages of a parameter in place, each in the parameter's shape as one row after the other.
    ///
    /// # Errors
    /// If the parameter is not of this optimiser, or the device fails.
    pub fn map_state(&mut self, parameter: TensorId, mut f: impl FnMut(&mut [f32])) -> Result<()> {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.parameter.var.id() == parameter) else {
            bail!("optimiser: the state of a parameter that is not of this optimiser");
        };
        let length = slot.parameter.var.elem_count();
        match &mut slot.state {
            State::OnCpu(state) => state.get_mut().chunks_exact_mut(length).for_each(f),
            State::OnDevice(state) => {
                let mut all = state.to_vec1::<f32>()?;
                all.chunks_exact_mut(length).for_each(&mut f);
                state.slice_set(&Tensor::from_vec(all, self.rule.slots() * length, state.device())?, 0, 0)?;
            }
        }
        Ok(())
    }

    fn is_proximal(&self) -> bool {
        self.slots.iter().any(|slot| slot.proximal.is_some())
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
        self.prepare(learning_rate)?;
        self.apply(gradients)
    }

    /// The part of a [`step`](Self::step) that differs from the last one: counts it, and sets its learning rate.
    pub fn prepare(&mut self, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        self.learning_rate = learning_rate;
        if let Some(schedule) = &self.schedule
            && let Some(gpu) = CudaGpu::of(schedule, &KERNELS)?
        {
            self.prepare_on(&gpu, schedule)?;
        }
        Ok(())
    }

    /// The rest of a [`step`](Self::step): updates all parameters as it was [prepared](Self::prepare). On a GPU its launches are
    /// those of every other step with gradients at the same places.
    ///
    /// # Errors
    /// If no step was prepared, or a gradient does not have its parameter's shape.
    pub fn apply(&self, gradients: &impl Gradients) -> Result<()> {
        if self.steps == 0 {
            bail!("optimiser: apply without prepare, which counts the step and sets its learning rate");
        }
        if let Some(schedule) = &self.schedule {
            let gpu = CudaGpu::new(schedule.device().as_cuda_device()?, &KERNELS)?;
            return self.apply_on(&gpu, gradients, schedule);
        }
        if self.slots.is_empty() {
            return Ok(());
        }
        let schedule = self.rule.schedule(self.learning_rate, self.steps);
        for Slot { parameter, decay, state, proximal } in &self.slots {
            let State::OnCpu(state) = state else { continue };
            let (learning_rate, proximal) = (self.learning_rate as f32, proximal.as_ref());
            let update = Update { rule: self.rule, decay: *decay as f32, schedule, learning_rate, state, proximal };
            match gradients.gradient(&parameter.var) {
                Some(gradient) => parameter.var.inplace_op2(&gradient.contiguous()?, &update)?,
                None => parameter.var.inplace_op2(&parameter.var.zeros_like()?, &update)?,
            }
        }
        Ok(())
    }

    fn prepare_on<G: Gpu>(&self, gpu: &G, schedule: &Tensor) -> Result<()> {
        let there = gpu.address_of(schedule, DType::F32, OP)?;
        // SAFETY: the array is this optimiser's.
        unsafe { gpu::schedule(gpu, self.rule, self.learning_rate, self.steps, self.is_proximal(), there) }
    }

    fn apply_on<G: Gpu>(&self, gpu: &G, gradients: &impl Gradients, schedule: &Tensor) -> Result<()> {
        let of = |tensor: &Tensor| gpu.address_of(tensor, DType::F32, OP);
        // Copies that must live until the launch.
        let mut copies = Vec::new();
        let (mut slots, mut proximal_slots) = (Vec::with_capacity(self.slots.len()), Vec::new());
        for Slot { parameter, decay, state, proximal } in &self.slots {
            let State::OnDevice(state) = state else {
                bail!("{OP}: parameter {} is on the CPU, others are not", parameter.name)
            };
            let gradient = match gradients.gradient(&parameter.var) {
                None => Address::NONE,
                Some(gradient) if gradient.shape() != parameter.var.shape() => {
                    bail!("{OP}: gradient {:?} for {} {:?}", gradient.shape(), parameter.name, parameter.var.shape())
                }
                Some(gradient) if gradient.is_contiguous() => of(gradient)?,
                Some(gradient) => {
                    let copy = gradient.contiguous()?;
                    let address = of(&copy)?;
                    copies.push(copy);
                    address
                }
            };
            let (theta, state) = (of(&parameter.var)?, of(state)?);
            let (length, decay) = (parameter.var.elem_count(), *decay as f32);
            let slot = gpu::Slot { theta, gradient, state, length, decay };
            let Some(Proximal { penalty, work }) = proximal else {
                slots.push(slot);
                continue;
            };
            let work = match work {
                Work::OnDevice(work) if !penalty.of_slope_changes() => gpu.address_of(work, DType::F64, OP)?,
                _ => Address::NONE,
            };
            proximal_slots.push(gpu::ProximalSlot { slot, work, weight: penalty.weight(), shape: penalty.shape() });
        }
        let schedule = of(schedule)?;
        // SAFETY: parameters and states have these lengths and are this optimiser's to write; work on a device is in order.
        unsafe {
            gpu::step(gpu, self.rule, &slots, schedule)?;
            gpu::proximal_step(gpu, &proximal_slots, schedule)
        }
    }

    /// A step on a device that emulates a GPU, with the state and the schedule of tensors on the CPU: for tests.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    #[doc(hidden)]
    pub fn step_on<G: Gpu>(&mut self, gpu: &G, gradients: &impl Gradients, learning_rate: f64) -> Result<()> {
        (self.steps, self.learning_rate) = (self.steps + 1, learning_rate);
        for slot in &mut self.slots {
            if let State::OnCpu(state) = &slot.state {
                let state = Tensor::new(state.borrow().as_slice(), &Device::Cpu)?;
                slot.state = State::OnDevice(state);
            }
            if let Some(Proximal { penalty, work }) = &mut slot.proximal
                && matches!(work, Work::OnCpu(_))
            {
                *work = Work::in_memory_of(&Device::Cpu, penalty)?;
            }
        }
        let zeros = || Tensor::zeros(gpu::SCHEDULE, DType::F32, &Device::Cpu);
        let schedule = self.schedule.take().map_or_else(zeros, Ok)?;
        self.prepare_on(gpu, &schedule)?;
        let result = self.apply_on(gpu, gradients, &schedule);
        self.schedule = Some(schedule);
        result
    }

    /// Σ (λ/2)·‖θ‖² of the L2 terms.
    ///
    /// # Errors
    /// If the device fails.
    pub fn l2_terms(&self) -> Result<f64> {
        let term = |slot: &Slot| {
            let squares = sum_of_squares(std::slice::from_ref(&slot.parameter), slot.parameter.l2)?;
            Ok(0.5 * slot.decay * squares)
        };
        self.slots.iter().filter(|slot| slot.decay != 0.0).map(term).sum()
    }

    /// Where the learning rate is on a device, which tells this optimiser from others there; `None` on the CPU, or without
    /// parameters.
    pub fn schedule(&self) -> Option<TensorId> {
        self.schedule.as_ref().map(Tensor::id)
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moving averages, named after their parameters, for a checkpoint.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.slots
            .iter()
            .map(|slot| {
                let shape = (self.rule.slots(), slot.parameter.var.elem_count());
                let state = match &slot.state {
                    State::OnCpu(state) => Tensor::from_vec(state.borrow().clone(), shape, &Device::Cpu)?,
                    State::OnDevice(state) => state.to_device(&Device::Cpu)?.reshape(shape)?,
                };
                Ok((slot.parameter.name.clone(), state))
            })
            .collect()
    }

    /// Puts back what [`state`](Self::state) gave, in place.
    ///
    /// # Errors
    /// If a parameter's state is missing or has another size.
    pub fn restore(&mut self, steps: u64, mut state: impl FnMut(&str) -> Option<Tensor>) -> Result<()> {
        for slot in &mut self.slots {
            let name = &slot.parameter.name;
            let Some(saved) = state(name) else { bail!("optimiser: no saved state for parameter {name}") };
            let saved = saved.flatten_all()?.to_vec1::<f32>()?;
            let expected = self.rule.slots() * slot.parameter.var.elem_count();
            if saved.len() != expected {
                bail!("optimiser: saved state of {name} has {} numbers, expected {expected}", saved.len());
            }
            match &mut slot.state {
                State::OnCpu(state) => *state.get_mut() = saved,
                State::OnDevice(state) => state.slice_set(&Tensor::from_vec(saved, expected, state.device())?, 0, 0)?,
            }
        }
        self.steps = steps;
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
