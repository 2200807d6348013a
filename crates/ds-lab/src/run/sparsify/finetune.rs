//! Training after pruning, with the kept knots fixed.

use crate::config::Config;
use crate::data::{Epoch, shuffled};
use crate::interrupt;
use crate::run::optimizers::Optimizers;
use crate::run::setup::Setup;
use crate::run::step::Model;
use anyhow::Result;
use ds_core::sparsify::KeptKnots;
use ds_nn::ops::dropout::Key;
use ds_nn::rng::{Purpose, Seed};

/// What learning rates are multiplied with where the config does not say.
const LEARNING_RATE: f64 = 0.1;

/// Trains all parameters for the config's number of epochs at its learning rates times `sparsify.finetune_lr`, a tenth of these in
/// the last third. Weight decay stays, the penalty of the splines does not: its work is done. Returns the knots that are left.
pub(super) fn finetune(config: &Config, setup: &Setup, kept: &KeptKnots) -> Result<usize> {
    let epochs = config.sparsify.finetune_epochs;
    let factor = config.sparsify.finetune_lr.unwrap_or(LEARNING_RATE);
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
    let mut optimizers = Optimizers::new(&config, network)?;
    let totals = Model::totals_on(&network.device())?;
    let model = Model { network, penalty: None, totals: &totals };
    let samples = setup.train.to(config.train.precision.dtype(), &network.device())?;
    let batches = samples.len().div_ceil(config.train.batch_size);
    let seed = Seed(config.seed);
    for epoch in 0..epochs {
        // Draws that the training has not made.
        let drawn = config.train.epochs + epoch;
        let order = shuffled(samples.len(), &mut seed.generator(Purpose::Order, drawn as u64));
        let mut step = (drawn * batches) as u64;
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
            let (tape, loss) = model.forward(&batch, dropout, &totals)?;
            let mut gradients = tape.backward(&loss)?;
            kept.restrict(&mut gradients)?;
            optimizers.apply(&gradients)?;
            kept.straighten()?;
            step += 1;
            Ok(())
        })?;
    }
    Ok(kept.write_exactly()?)
}
