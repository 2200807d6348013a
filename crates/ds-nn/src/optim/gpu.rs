//! Optimisers: all parameters of a group in one launch.

use super::rule::Rule;
use crate::backend::put_word;
use candle_core::Result;
use ds_core::backend::gpu::{Address, Argument, Gpu, LaunchDims, int, table};

/// A parameter and what belongs to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// θ.
    pub(super) theta: Address,
    /// ∂θ; none counts as 0.
    pub(super) gradient: Address,
    /// The rule's moving averages, one after the other.
    pub(super) state: Address,
    /// The numbers of θ.
    pub(super) length: usize,
    /// λ of its L2 term.
    pub(super) decay: f32,
}

/// A parameter whose [`Slot`] has a penalty of its slope changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProximalSlot {
    pub(super) slot: Slot,
    /// Of the solver, for each of its numbers so many f64 as `TrendFilter::ARRAYS`; none where they are slope changes.
    pub(super) work: Address,
    /// [`ProximalTv2::weight`](ds_core::regularization::ProximalTv2::weight).
    pub(super) weight: f64,
    /// Functions and knots.
    pub(super) shape: (usize, usize),
}

/// Parameters of a launch.
const SLOTS: usize = 112;
const PROXIMAL_SLOTS: usize = 56;
/// Threads for a function: two knots each, up to 51.
const THREADS_PER_FUNCTION: usize = 32;
/// Numbers of a block.
const EACH: usize = 1024;

/// f32 numbers of a schedule.
pub(super) const SCHEDULE: usize = 4;

/// Puts what a rule takes from the learning rate and the number of steps (this one included) on the device, and the learning rate
/// itself where a proximal step reads it.
///
/// # Safety
/// `schedule` must be [`SCHEDULE`] f32 that nobody else writes.
pub(super) unsafe fn schedule<G: Gpu>(
    gpu: &G,
    rule: Rule,
    learning_rate: f64,
    steps: u64,
    is_proximal: bool,
    schedule: Address,
) -> Result<()> {
    let (rate, correction) = rule.schedule(learning_rate, steps);
    let word = u64::from(rate.to_bits()) | u64::from(correction.to_bits()) << 32;
    // SAFETY: as the caller promises.
    unsafe { put_word(gpu, word, schedule)? };
    if is_proximal {
        // SAFETY: as above.
        unsafe { put_word(gpu, u64::from((learning_rate as f32).to_bits()), Address(schedule.0 + 8))? };
    }
    Ok(())
}

/// θ ← θ − update(∂θ + λ·θ) for all slots, in place, with what [`schedule`] left.
///
/// # Safety
/// The arrays must be of these lengths and nobody else's.
pub(super) unsafe fn step<G: Gpu>(gpu: &G, rule: Rule, slots: &[Slot], schedule: Address) -> Result<()> {
    for some in slots.chunks(SLOTS) {
        some.iter().try_for_each(|slot| int(slot.length).map(drop))?;
        let row = |slot: &Slot| {
            let length_and_decay = slot.length as u64 | u64::from(slot.decay.to_bits()) << 32;
            (slot.length, [slot.theta.0, slot.gradient.0, slot.state.0, length_and_decay])
        };
        let (words, blocks) = table(SLOTS, EACH, some.iter().map(row));
        if blocks == 0 {
            continue;
        }
        let mut arguments = vec![Argument::Struct(&words), int(some.len())?, schedule.into()];
        let kernel = match rule {
            Rule::Sgd { momentum } => {
                arguments.push(Argument::Float(momentum as f32));
                "sgd"
            }
            Rule::Adam => {
                arguments.extend(adam_constants());
                "adam"
            }
        };
        let blocks = LaunchDims { grid: (blocks, 1), threads: LaunchDims::THREADS, shared: 0 };
        // SAFETY: the kernel's arguments; every block stays in its slot.
        unsafe { gpu.launch(kernel, blocks, &arguments)? };
    }
    Ok(())
}

fn adam_constants() -> [Argument<'static>; 3] {
    [Rule::BETA1, Rule::BETA2, Rule::EPSILON].map(|constant| Argument::Float(constant as f32))
}

/// [`step`] of Adam for parameters with a penalty of their slope changes, and the proximal step of the penalty.
///
/// # Safety
/// The arrays must be of these lengths and nobody else's.
pub(super) unsafe fn proximal_step<G: Gpu>(gpu: &G, slots: &[ProximalSlot], schedule: Address) -> Result<()> {
    for some in slots.chunks(PROXIMAL_SLOTS) {
        some.iter().try_for_each(|all| int(all.slot.length).map(drop))?;
        let row = |all: &ProximalSlot| {
            let (Slot { theta, gradient, state, length, decay }, (channels, size)) = (all.slot, all.shape);
            let width_and_decay = (length / channels) as u64 | u64::from(decay.to_bits()) << 32;
            let shape = channels as u64 | (size as u64) << 32;
            (channels, [theta.0, gradient.0, state.0, all.work.0, all.weight.to_bits(), shape, width_and_decay])
        };
        let (words, blocks) = table(PROXIMAL_SLOTS, 1, some.iter().map(row));
        let mut arguments = vec![Argument::Struct(&words), int(some.len())?, schedule.into()];
        arguments.extend(adam_constants());
        let blocks = LaunchDims { grid: (blocks, 1), threads: THREADS_PER_FUNCTION, shared: 4 * THREADS_PER_FUNCTION };
        // SAFETY: the kernel's arguments; every block stays in its function.
        unsafe { gpu.launch("proximal_adam", blocks, &arguments)? };
    }
    Ok(())
}
