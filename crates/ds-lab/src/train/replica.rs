//! Steps of a replica, one of several that train together (see [`ds_nn::parallel`]).

use super::on_device::forward;
use super::{Optimizers, update};
use crate::device;
use crate::penalty::SplinePenalty;
use crate::samples_on_device::BatchOnDevice;
use candle_core::{Result, Tensor, Var};
use ds_core::graph::Gradients;
use ds_nn::networks::Network;
use ds_nn::ops::dropout::Key;
use ds_nn::parallel::buckets::{self, Buckets};
use ds_nn::parallel::{Communicator, share};
use ds_nn::rng::hash;
use std::ops::Range;

/// What a replica has beside what every run has.
pub(super) struct Replica<'a> {
    pub(super) communicator: &'a dyn Communicator,
    gradients: Buckets,
    statistics: Buckets,
}

impl<'a> Replica<'a> {
    pub(super) fn new(network: &Network, communicator: &'a dyn Communicator) -> Result<Self> {
        let parameters: Vec<Var> = network.parameters().into_iter().map(|parameter| parameter.var).collect();
        let buffers: Vec<Var> = network.buffers().into_iter().map(|(_, var)| var).collect();
        Ok(Self {
            communicator,
            gradients: Buckets::new(&parameters, buckets::BYTES)?,
            statistics: Buckets::new(&buffers, buckets::BYTES)?,
        })
    }

    /// This replica's part of so many samples.
    pub(super) fn share(&self, count: usize) -> Range<usize> {
        share(count, self.communicator.rank(), self.communicator.size())
    }

    /// This replica's part of a batch, and what the gradient of its mean weighs in that of the batch's. Without samples it takes
    /// one that weighs nothing: a forward pass in training may change parameters and statistics, as it does with all others.
    pub(super) fn part_of_batch(&self, count: usize) -> (Range<usize>, f64) {
        match self.share(count) {
            share if share.is_empty() => (0..1, 0.0),
            share => (share.clone(), share.len() as f64 / count as f64),
        }
    }

    /// A training step on the gradient of the mean over the whole batch, of which this replica has a part that weighs so much. The
    /// sum of a bucket of gradients goes on beside the backward pass through the layers before. Losses and right answers of the
    /// part are added to `totals` (2, f64).
    pub(super) fn step(
        &self,
        network: &Network,
        (batch, weight): (&BatchOnDevice, f64),
        penalty: Option<&SplinePenalty>,
        optimizers: &mut Optimizers,
        (epoch, dropout): (usize, u64),
        totals: &Tensor,
    ) -> Result<()> {
        let uncounted = (weight == 0.0).then(|| totals.zeros_like()).transpose()?;
        optimizers.prepare(epoch)?;
        let dropout = Key::Number(self.dropout(dropout));
        let (tape, loss) = forward(network, batch, dropout, uncounted.as_ref().unwrap_or(totals))?;
        let mut sums = self.gradients.sums(weight as f32, self.communicator);
        let mut gradients = tape.backward_with(&loss, |parameter, gradient| sums.add(parameter, gradient))?;
        for (parameter, sum) in sums.finish()? {
            gradients.set_gradient(&parameter, sum);
        }
        update(network, gradients, penalty, optimizers)
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
        let count = Tensor::new(&[f64::from(u8::from(here))], &device::current())?;
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
