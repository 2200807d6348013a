//! A training step: forward, loss, backward, penalty, optimisers. How it is executed (eagerly, as a CUDA graph, or by replicas) is an
//! implementation of [`Step`].

use super::optimizers::Optimizers;
use super::penalty::SplinePenalty;
use crate::data::Batch;
use candle_core::{DType, Device, Result, Tensor};
use ds_core::graph::Graph;
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::ops::dropout::Key;
use ds_nn::tape::{Tape, TapeGradients, Value};

/// What differs from step to step beside the batch.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The epoch, counted from 0: it decides the learning rates.
    pub epoch: usize,
    /// The key that dropout is drawn from.
    pub dropout: u64,
}

/// What steps train, and where they add up.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// The network.
    pub network: &'a Network,
    /// The penalty of its splines.
    pub penalty: Option<&'a SplinePenalty>,
    /// (Σ loss, correct predictions) in f64 on the network's device, to which every step adds: [`Model::totals_on`].
    pub totals: &'a Tensor,
}

impl Model<'_> {
    /// Totals of 0.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn totals_on(device: &Device) -> Result<Tensor> {
        Tensor::zeros(2, DType::F64, device)
    }

    /// The loss of a batch, on the tape; adds to `totals`.
    pub(super) fn forward(
        &self,
        mut tape: Tape,
        batch: &Batch,
        dropout: Key<'_>,
        totals: &Tensor,
    ) -> Result<(Tape, Value)> {
        let x = tape.constant(&batch.inputs);
        let output = self.network.forward_in(&mut tape, &x, Mode::Training { dropout })?;
        let loss = batch.loss_in(&mut tape, &output, totals)?;
        Ok((tape, loss))
    }

    /// Adds the penalty to the gradients of the data loss and makes the step that the optimisers have begun.
    pub(super) fn update(&self, mut gradients: TapeGradients, optimizers: &Optimizers) -> Result<()> {
        if let Some(penalty) = &self.penalty {
            penalty.add_gradient(self.network, &mut gradients)?;
        }
        optimizers.apply(&gradients)
    }

    /// All launches of a step that the optimisers have begun.
    pub(super) fn launch(&self, tape: Tape, batch: &Batch, dropout: Key<'_>, optimizers: &Optimizers) -> Result<()> {
        let (tape, loss) = self.forward(tape, batch, dropout, self.totals)?;
        self.update(tape.backward(&loss)?, optimizers)
    }
}

/// An execution of training steps.
pub trait Step {
    /// A step on a batch; `count`: the samples of the whole batch, of which replicas have parts.
    ///
    /// # Errors
    /// If the batch does not fit the network, or the device fails.
    fn step(
        &mut self,
        model: &Model<'_>,
        batch: Batch,
        count: usize,
        optimizers: &mut Optimizers,
        at: At,
    ) -> Result<()>;

    /// Whether steps are replayed from a captured graph.
    fn is_captured(&self) -> bool {
        false
    }
}

/// Every op is run as the step comes to it.
pub struct Eager;

impl Step for Eager {
    fn step(&mut self, model: &Model<'_>, batch: Batch, _: usize, optimizers: &mut Optimizers, at: At) -> Result<()> {
        optimizers.prepare(at.epoch)?;
        model.launch(Tape::recording(), &batch, Key::Number(at.dropout), optimizers)
    }
}
