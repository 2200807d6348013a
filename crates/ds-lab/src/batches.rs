//! The batches of an epoch, prepared on a thread of their own while the step before them runs.

use crate::samples::{Batch, Samples};
use anyhow::Result;
use ds_nn::rng::{Purpose, Seed};
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
    /// Of the run.
    pub seed: Seed,
}

impl Epoch<'_> {
    fn batches(&self) -> impl Iterator<Item = candle_core::Result<Batch>> {
        self.order.chunks(self.size).skip(self.taken).zip(self.step..).map(|(indices, step)| {
            if self.augment {
                self.samples.augmented_batch(indices, &mut self.seed.generator(Purpose::Augmentation, step))
            } else {
                self.samples.batch(indices)
            }
        })
    }

    /// Calls `step` with each batch, in order.
    ///
    /// # Errors
    /// Those of `step`, at once; on Candle's errors.
    pub fn for_each(&self, mut step: impl FnMut(Batch) -> Result<()>) -> Result<()> {
        if !matches!(self.samples, Samples::Images { .. }) {
            // A few numbers are copied sooner than a thread is woken.
            return self.batches().try_for_each(|batch| step(batch?));
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
            receive.into_iter().try_for_each(|batch| step(batch?))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::ImageSet;
    use crate::samples::{Normalization, Targets, shuffled};

    fn samples() -> Samples {
        let set = ImageSet {
            images: (0..23 * 16).map(|v| (v % 251) as u8).collect(),
            labels: (0..23).collect(),
            channels: 1,
            height: 4,
            width: 4,
            classes: 23,
        };
        Samples::images(set, &Normalization { mean: vec![0.0], deviation: vec![1.0] })
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
            };
            let mut seen = Vec::new();
            epoch
                .for_each(|batch| {
                    let Targets::Classes(labels) = &batch.targets else { panic!("no classes") };
                    seen.push((labels.to_vec(), batch.inputs.flatten_all()?.to_vec1::<f32>()?));
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
        let epoch =
            Epoch { samples: &samples, order: &order, size: 1, taken: 0, step: 0, augment: false, seed: Seed(0) };
        let mut count = 0;
        let result = epoch.for_each(|_| {
            count += 1;
            anyhow::ensure!(count < 3, "enough");
            Ok(())
        });
        assert_eq!((result.unwrap_err().to_string().as_str(), count), ("enough", 3));
    }
}
