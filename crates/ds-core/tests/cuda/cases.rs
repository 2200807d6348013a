//! One run on a GPU shows every case that fails, not the first alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a check on all cases, and fails afterwards if one of them did.
pub fn each<C>(cases: impl IntoIterator<Item = C>, mut check: impl FnMut(C)) {
    let (mut all, mut failed) = (0, 0);
    for case in cases {
        all += 1;
        failed += usize::from(catch_unwind(AssertUnwindSafe(|| check(case))).is_err());
    }
    assert_eq!(failed, 0, "{failed} of {all} cases failed");
}
