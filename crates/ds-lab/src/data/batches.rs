//! The batches of an epoch, prepared on a thread of their own while the step before them runs.

use super::samples::{Batch, Samples};
use anyhow::Result;
use ds_nn::parallel::share;
use ds_nn::rng::{Purpose, Seed};
use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// Batches that may wait for their step.
const AHEAD: usize = 2;

/// The rest of an epoch.
pub struct Epoch<'a> {
    /// What the batches are cut from.
    pub samples: &'a Samples,
    /// The order of the whole epoch.
    pub order: &'a [usize],
    /// Samples of a batch.
    pub size: usize,
    /// Batches of the epoch that were taken before.
    pub taken: usize,
    /// Steps of the run before the first of these batches; augmentation is drawn by step.
    pub step: u64,
    /// Crops and flips.
    pub augment: bool,
    /// The seed of the run.
    pub seed: Seed,
    /// (rank, size) of the replica whose parts of the batches are wanted; (0, 1): the whole batches.
    pub replica: (usize, usize),
}

impl Epoch<'_> {
    /// The batches with the numbers of their samples, those of other replicas included.
    fn batches(&self) -> impl Iterator<Item = candle_core::Result<(Batch, usize)>> {
        self.order.chunks(self.size).skip(self.taken).zip(self.step..).map(|(indices, step)| {
            let mut rng = self.augment.then(|| self.seed.generator(Purpose::Augmentation, step));
            let batch = self.samples.part_of_batch(indices, self.part(indices.len()), rng.as_mut())?;
            Ok((batch, indices.len()))
        })
    }

    /// The replica's part of a batch. Without samples it takes one that weighs nothing: a forward pass in training may change
    /// parameters and statistics, as it does in all other replicas.
    fn part(&self, count: usize) -> Range<usize> {
        let (rank, size) = self.replica;
        match share(count, rank, size) {
            share if share.is_empty() => 0..1,
            share => share,
        }
    }

    /// Calls `step` with each batch, in order, and the number of its samples, those of other replicas included.
    ///
    /// # Errors
    /// Those of `step`, at once; if a batch cannot be made.
    pub fn for_each(&self, mut step: impl FnMut(Batch, usize) -> Result<()>) -> Result<()> {
        let mut step = |batch: candle_core::Result<(Batch, usize)>| {
            let (batch, count) = batch?;
            step(batch, count)
        };
        if !self.samples.are_images() || !self.samples.device().is_cpu() {
            // A few numbers are copied sooner than a thread is woken, and a GPU prepares its batches beside the host.
            return self.batches().try_for_each(step);
        }
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(AHEAD);
            scope.spawn(move || {
                for batch in self.batches() {
                    if send.send(batch).is_err() {
                        // The step failed, and nobody waits for more.
                        return;
                    }
                }
            });
            receive.into_iter().try_for_each(&mut step)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::{ImageSet, Normalization, shuffled};

    fn samples() -> Samples {
        let pixels = (0..23 * 16).map(|v| (v % 251) as u8).collect();
        let set = ImageSet::new(pixels, (0..23).collect(), (1, 4, 4), 23).unwrap();
        Samples::images(&set, &Normalization { mean: vec![0.0], deviation: vec![1.0] }).unwrap()
    }

    #[test]
    fn all_batches_come_in_order_wherever_the_epoch_goes_on() {
        let (samples, seed) = (samples(), Seed(5));
        let order = shuffled(23, &mut seed.generator(Purpose::Order, 0));
        let collect = |taken: usize| {
            let epoch = Epoch {
                samples: &samples,
                order: &order,
                size: 5,
                taken,
                step: 40 + taken as u64,
                augment: true,
                seed,
                replica: (0, 1),
            };
            let mut seen = Vec::new();
            epoch
                .for_each(|batch, count| {
                    assert_eq!(count, batch.len());
                    seen.push((batch.labels()?.unwrap(), batch.inputs.flatten_all()?.to_vec1::<f32>()?));
                    Ok(())
                })
                .unwrap();
            seen
        };
        let all = collect(0);
        let labels: Vec<usize> = all.iter().flat_map(|(labels, _)| labels).map(|&label| usize::from(label)).collect();
        assert_eq!(labels, order);
        assert_eq!(collect(3), all[3..]);
    }

    #[test]
    fn a_failed_step_ends_the_epoch() {
        let (samples, order) = (samples(), (0..23).collect::<Vec<_>>());
        let epoch = Epoch {
            samples: &samples,
            order: &order,
            size: 1,
            taken: 0,
            step: 0,
            augment: false,
            seed: Seed(0),
            replica: (0, 1),
        };
        let mut count = 0;
        let result = epoch.for_each(|_, _| {
            count += 1;
            anyhow::ensure!(count < 3, "enough");
            Ok(())
        });
        assert_eq!((result.unwrap_err().to_string().as_str(), count), ("enough", 3));
    }
}
