//! Bisection of a list of candidates.

use anyhow::Result;

/// The last of `count` candidates that holds: all before one that holds are taken to hold, too.
pub(super) fn last_that_holds(count: usize, mut holds: impl FnMut(usize) -> Result<bool>) -> Result<Option<usize>> {
    let (mut first, mut end) = (0, count);
    while first < end {
        let middle = (first + end) / 2;
        if holds(middle)? {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    Ok(first.checked_sub(1))
}
