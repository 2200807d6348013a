//! Optimisers: all parameters of a group in one launch.

use super::rule::Rule;
use crate::backend::{put_word, table};
use candle_core::Result;
use ds_core::backend::gpu::{Address, Argument, Gpu, LaunchDims, int};

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

/// Parameters of a launch.
const SLOTS: usize = 112;
/// Numbers of a block.
const EACH: usize = 1024;

/// Puts what a rule takes from the learning rate and the number of steps (this one included) on the device.
///
/// # Safety
/// `schedule` must be two f32 that nobody else writes.
pub(super) unsafe fn schedule<G: Gpu>(
    gpu: &G,
    rule: Rule,
    learning_rate: f64,
    steps: u64,
    schedule: Address,
) -> Result<()> {
    let (rate, correction) = rule.schedule(learning_rate, steps);
    let word = u64::from(rate.to_bits()) | u64::from(correction.to_bits()) << 32;
    // SAFETY: as the caller promises.
    unsafe { put_word(gpu, word, schedule) }
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
                let constants = [Rule::BETA1 as f32, Rule::BETA2 as f32, Rule::EPSILON as f32];
                arguments.extend(constants.map(Argument::Float));
                "adam"
            }
        };
        let blocks = LaunchDims { grid: (blocks, 1), threads: LaunchDims::THREADS, shared: 0 };
        // SAFETY: the kernel's arguments; every block stays in its slot.
        unsafe { gpu.launch(kernel, blocks, &arguments)? };
    }
    Ok(())
}
