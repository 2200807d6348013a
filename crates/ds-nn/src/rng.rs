//! The one seeded generator: every random number of a run is a function of (seed, purpose, index).
//!
//! Nothing has to be saved to resume a run, and no draw depends on the number of threads.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What random numbers are for; each purpose has a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights.
    Weights = 1,
    /// Order of the training samples; the index is the epoch.
    Order = 2,
    /// Crops and flips; the index is the step.
    Augmentation = 3,
    /// Dropout; the index is the step.
    Dropout = 4,
    /// Which samples are held out for validation.
    Split = 5,
    /// Points of generated data sets.
    Data = 6,
}

/// The seed of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator of a purpose and index.
    pub fn generator(self, purpose: Purpose, index: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(hash(self.0, purpose as u64));
        rng.set_stream(index);
        rng
    }

    /// One number of a purpose and index, to be hashed on with element positions.
    pub fn key(self, purpose: Purpose, index: u64) -> u64 {
        hash(hash(self.0, purpose as u64), index)
    }
}

/// A 64-bit hash of two numbers (the finaliser of SplitMix64, Steele et al. 2014).
#[inline(always)]
pub fn hash(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |seed, purpose, index| Seed(seed).generator(purpose, index).next_u64();
        assert_eq!(draw(0, Purpose::Order, 3), draw(0, Purpose::Order, 3));
        assert_ne!(draw(0, Purpose::Order, 3), draw(0, Purpose::Order, 4));
        assert_ne!(draw(0, Purpose::Order, 3), draw(1, Purpose::Order, 3));
        assert_ne!(draw(0, Purpose::Order, 3), draw(0, Purpose::Dropout, 3));
    }
}
