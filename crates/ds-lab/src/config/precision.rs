//! In which type a network trains.

use super::names;
use candle_core::DType;
use serde::{Deserialize, Serialize};

names!(
    /// The type of what flows between layers in training; parameters and sums stay f32.
    #[derive(Default)]
    Precision {
        /// Single precision.
        #[default]
        F32 = "f32",
        /// Eight bits of precision and the range of f32, on a GPU.
        Bf16 = "bf16",
    }
);

impl Precision {
    /// As Candle has it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Whether it is what every run had before there was a choice: then a resolved config does not name it, so that theirs are
    /// still the same.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
