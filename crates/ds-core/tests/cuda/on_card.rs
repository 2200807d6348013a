//! What tests on a GPU share: the card, and one run that shows every case that fails, not the first alone.

use candle_core::Device;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The first card; without one it says that nothing was tested.
pub fn device() -> Option<Device> {
    match ds_core::backend::gpu::cuda::open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("no CUDA device, nothing was tested: {}", error.to_string().lines().next().unwrap());
            None
        }
    }
}

/// Runs a check on all cases, and fails afterwards if one of them did.
pub fn each<C>(cases: impl IntoIterator<Item = C>, mut check: impl FnMut(C)) {
    let (mut all, mut failed) = (0, 0);
    for case in cases {
        all += 1;
        failed += usize::from(catch_unwind(AssertUnwindSafe(|| check(case))).is_err());
    }
    assert_eq!(failed, 0, "{failed} of {all} cases failed");
}
