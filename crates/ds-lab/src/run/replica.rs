//! Steps of a replica, one of several that train together (see [`ds_nn::parallel`]).

use super::optimizers::Optimizers;
use super::step::{At, Model, Step};
use crate::data::Batch;
use candle_core::{Device, Result, Tensor, Var};
use ds_core::graph::Gradients;
use ds_core::variable;
use ds_nn::Network;
use ds_nn::ops::dropout::Key;
use ds_nn::parallel::buckets::{self, Buckets};
use ds_nn::parallel::{Communicator, share};
use ds_nn::rng::hash;
use ds_nn::tape::Tape;
use std::ops::Range;
use std::rc::Rc;

/// What a replica has beside what every run has.
pub struct Replica<'a> {
    pub(super) communicator: &'a dyn Communicator,
    gradients: Buckets,
    statistics: Buckets,
    device: Device,
}

impl<'a> Replica<'a> {
    pub(super) fn new(network: &Network, communicator: &'a dyn Communicator) -> Result<Self> {
        let parameters: Vec<Var> = network.parameters().into_iter().map(|parameter| parameter.var).collect();
        let buffers = network.buffers().into_iter().map(|(name, tensor)| variable(&name, &tensor));
        let buffers = buffers.collect::<ds_core::Result<Vec<Var>>>()?;
        Ok(Self {
            communicator,
            gradients: Buckets::new(&parameters, buckets::BYTES)?,
            statistics: Buckets::new(&buffers, buckets::BYTES)?,
            device: network.device(),
        })
    }

    /// This replica's part of so many samples.
    pub(super) fn share(&self, count: usize) -> Range<usize> {
        share(count, self.communicator.rank(), self.communicator.size())
    }

    /// (rank, size).
    pub(super) fn rank_and_size(&self) -> (usize, usize) {
        (self.communicator.rank(), self.communicator.size())
    }

    /// A training step on the gradient of the mean over a batch of `count` samples, of which this replica has a part. The sum of a
    /// bucket of gradients goes on beside the backward pass through the layers before.
    fn train(&self, model: &Model<'_>, batch: &Batch, count: usize, optimizers: &mut Optimizers, at: At) -> Result<()> {
        let weight = self.share(count).len() as f64 / count as f64;
        let uncounted = (weight == 0.0).then(|| model.totals.zeros_like()).transpose()?;
        optimizers.prepare(at.epoch)?;
        let dropout = Key::Number(self.dropout(at.dropout));
        let (tape, loss) =
            model.forward(Tape::recording(), batch, dropout, uncounted.as_ref().unwrap_or(model.totals))?;
        let mut sums = self.gradients.sums(weight as f32, self.communicator);
        let mut gradients = tape.backward_with(&loss, |parameter, gradient| sums.add(parameter, gradient))?;
        for (parameter, sum) in sums.finish()? {
            gradients.set_gradient(&parameter, sum);
        }
        model.update(gradients, optimizers)
    }

    /// Each replica drops other elements; the first one those of a run without replicas.
    fn dropout(&self, key: u64) -> u64 {
        match self.communicator.rank() {
            0 => key,
            rank => hash(key, rank as u64),
        }
    }

    /// Whether something is so in any replica.
    pub(super) fn any(&self, here: bool) -> Result<bool> {
        let count = Tensor::new(&[f64::from(u8::from(here))], &self.device)?;
        self.communicator.sum(&count)?;
        Ok(count.to_vec1::<f64>()?[0] > 0.0)
    }

    /// Puts the mean over all replicas in place of running statistics, which each has of its own parts of the batches.
    pub(super) fn average_statistics(&self) -> Result<()> {
        let mut sums = self.statistics.sums(1.0 / self.communicator.size() as f32, self.communicator);
        for statistic in self.statistics.parameters() {
            sums.add(statistic, statistic)?;
        }
        for (statistic, mean) in sums.finish()? {
            statistic.set(&mean)?;
        }
        Ok(())
    }
}

impl Step for Rc<Replica<'_>> {
    fn step(
        &mut self,
        model: &Model<'_>,
        batch: Batch,
        count: usize,
        optimizers: &mut Optimizers,
        at: At,
    ) -> Result<()> {
        self.train(model, &batch, count, optimizers, at)
    }
}
