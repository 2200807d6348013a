//! Training after pruning, with the kept knots fixed, and pruning again: iterative pruning (Han et al. 2015).

use super::refit;
use crate::config::Config;
use crate::data::{Epoch, shuffled};
use crate::interrupt;
use crate::results::metrics::PruningRow;
use crate::run::diverged::{Diverged, check_finite};
use crate::run::evaluation::fetch;
use crate::run::optimizers::Optimizers;
use crate::run::setup::Setup;
use crate::run::step::Model;
use anyhow::Result;
use ds_core::sparsify::KeptKnots;
use ds_nn::ops::dropout::Key;
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;

/// The share of the knots that is left each time.
const LEFT: f64 = 0.85;

/// What was tried after the refit.
pub(super) struct Tried {
    /// The fewest knots within the tolerance; the first ones tried if none are.
    pub chosen: Option<PruningRow>,
    /// All, the most knots first, with the mean test losses.
    pub curve: Vec<(PruningRow, f64)>,
}

/// Trains the pruned network. Where the config wants it, removes more knots and trains by turns, while the judged accuracy stays within
/// the tolerance of the one before pruning. `save` saves the network that is chosen so far, of which it gets the row.
pub(super) fn pruned_and_trained(
    config: &Config,
    setup: &Setup,
    kept: KeptKnots,
    before: Option<f64>,
    save: impl Fn(&PruningRow) -> Result<()>,
) -> Result<Tried> {
    let (mut kept, mut tried) = (kept, Tried { chosen: None, curve: Vec::new() });
    loop {
        let epochs = config.sparsify.finetune_epochs * (tried.curve.len() + 1);
        let (row, test_loss) =
            finetuned_row(config, setup, &kept, epochs).map_err(|error| with_advice(error, config))?;
        let left = row.knots;
        tried.curve.push((row.clone(), test_loss));
        let accuracy = before.zip(refit::judged_of(config, &row));
        let holds = accuracy.is_none_or(|(before, now)| before - now <= config.sparsify.tolerance);
        if holds || tried.chosen.is_none() {
            save(&row)?;
            tried.chosen = Some(row);
        }
        if !holds || left == 0 || before.is_none() || !config.sparsify.iterate {
            return Ok(tried);
        }
        kept = refit::pruning_of(config, setup)?.0.prune((left as f64 * LEFT) as usize)?;
    }
}

/// Trains and evaluates the pruned network; `epochs` are those of all turns. Returns its mean test loss, too.
fn finetuned_row(config: &Config, setup: &Setup, kept: &KeptKnots, epochs: usize) -> Result<(PruningRow, f64)> {
    let (left, step) = finetune(config, setup, kept)?;
    let (row, test_loss) = refit::row(config, setup, left, epochs)?;
    // After the last step there is no other one whose loss would tell.
    check_finite(test_loss, step, config.train.epochs + config.sparsify.finetune_epochs - 1)?;
    Ok((row, test_loss))
}

/// What to do about a loss that diverges here: the learning rates are not those of the run.
fn with_advice(error: anyhow::Error, config: &Config) -> anyhow::Error {
    if !error.is::<Diverged>() {
        return error;
    }
    let factor = config.sparsify.finetune_lr();
    error.context(format!(
        "the training after pruning diverged, and no file of pruning was written; choose a sparsify.finetune_lr (--finetune-lr) below \
         {factor}"
    ))
}

/// Trains all parameters for the config's number of epochs at its learning rates times `sparsify.finetune_lr`, a tenth of these in
/// the last third. Weight decay stays, the penalty of the splines does not: its work is done. Returns the knots that are left, and the
/// number of the last step.
fn finetune(config: &Config, setup: &Setup, kept: &KeptKnots) -> Result<(usize, u64)> {
    let epochs = config.sparsify.finetune_epochs;
    let factor = config.sparsify.finetune_lr();
    let mut config = config.clone();
    for lr in [&mut config.optimizer.weights.lr, &mut config.optimizer.splines.lr] {
        *lr *= factor;
    }
    if let Some(scalings) = &mut config.optimizer.scalings {
        scalings.lr *= factor;
    }
    config.train.milestones = vec![epochs - epochs / 3];
    config.train.gamma = 0.1;
    let network = &setup.network;
    let mut optimizers = Optimizers::new(&config, network, None)?;
    let totals = Model::totals_on(&network.device())?;
    let model = Model { network, penalty: None, totals: &totals };
    let samples = setup.train.to(config.train.precision.dtype(), &network.device())?;
    let batches = samples.len().div_ceil(config.train.batch_size);
    let seed = Seed(config.seed);
    let mut step = (config.train.epochs * batches) as u64;
    // On a CPU it costs nothing to look at each step; a host that is ahead of its GPU would wait.
    let looks_at_every_step = network.device().is_cpu();
    for epoch in 0..epochs {
        // Draws that the training has not made.
        let drawn = config.train.epochs + epoch;
        let order = shuffled(samples.len(), &mut seed.generator(Purpose::Order, drawn as u64));
        let all = Epoch {
            samples: &samples,
            order: &order,
            size: config.train.batch_size,
            taken: 0,
            step,
            augment: config.data.augment,
            seed,
            replica: (0, 1),
        };
        all.for_each(|batch, _| {
            interrupt::check()?;
            optimizers.prepare(epoch)?;
            let dropout = Key::Number(seed.key(Purpose::Dropout, step));
            let (tape, loss) = model.forward(Tape::recording(), &batch, dropout, &totals)?;
            step += 1;
            if looks_at_every_step {
                check_finite(fetch(&totals, None)?.0, step, drawn)?;
            }
            let mut gradients = tape.backward(&loss)?;
            kept.restrict(&mut gradients)?;
            optimizers.apply(&gradients)?;
            kept.straighten()?;
            Ok(())
        })?;
        check_finite(fetch(&totals, None)?.0, step, drawn)?;
    }
    Ok((kept.write_exactly()?, step))
}
