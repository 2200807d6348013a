//! Data-parallel training: replicas of a network take a share of every batch each and sum their gradients, so that all of them
//! make the same step. What sums is a [`Communicator`]; [`buckets`] says which sums, and when.

pub mod buckets;
#[cfg(feature = "nccl")]
pub mod nccl;

use candle_core::{Result, Tensor};
use std::ops::Range;

/// Sums tensors over the replicas. All of them must start the same sums in the same order; a sum waits for the last of them.
pub trait Communicator: Send {
    /// Which of the replicas this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Starts to put the sum over all replicas in place of a tensor of f32 or f64, contiguous and on this replica's device. It
    /// comes after what was done with the tensor before, and goes on beside what is done with others.
    ///
    /// # Errors
    /// If the tensor is of another kind, or the sum cannot be started.
    fn start_sum(&self, tensor: &Tensor) -> Result<()>;

    /// What is done from here on finds all sums that were started.
    ///
    /// # Errors
    /// If one of them failed.
    fn join(&self) -> Result<()>;

    /// A sum that nothing goes on beside.
    ///
    /// # Errors
    /// As for the two others.
    fn sum(&self, tensor: &Tensor) -> Result<()> {
        self.start_sum(tensor)?;
        self.join()
    }

    /// Ends the communication; all replicas must do so. One that fails never gets here, and whoever started the replicas has to
    /// end the others.
    ///
    /// # Errors
    /// If a sum failed.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The part of `0..count` that belongs to a rank: contiguous, and at most one longer than that of another.
pub fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_cover_everything() {
        for (count, size) in [(128, 1), (128, 4), (80, 3), (2, 3), (0, 2)] {
            let shares: Vec<_> = (0..size).map(|rank| share(count, rank, size)).collect();
            assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            let lengths = || shares.iter().map(|share| share.len());
            assert!(lengths().max() <= lengths().min().map(|least| least + 1), "{shares:?}");
        }
    }
}
