//! Programmatic dependent launch: a kernel is launched while the one before it ends, and waits for its results where it begins, with
//! `begin()` of common.cuh.

use candle_core::cuda_backend::cudarc::driver::sys::{CUlaunchAttribute, CUlaunchAttributeID};
use std::cell::Cell;

/// The compute capability from which on there is such a launch.
const SINCE: (i32, i32) = (9, 0);

thread_local! {
    static ALLOWED: Cell<bool> = const { Cell::new(true) };
}

/// Runs `launches` one after the other.
pub(super) fn without_overlap<T>(launches: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALLOWED.set(self.0);
        }
    }
    let _restore = Restore(ALLOWED.replace(false));
    launches()
}

/// The attribute of a launch, and how many of it there are: 1 or 0.
pub(super) fn attribute(compute_capability: (i32, i32)) -> (CUlaunchAttribute, u32) {
    // SAFETY: an attribute is numbers, and is read as what its `id` says.
    let mut attribute: CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    (attribute, u32::from(compute_capability >= SINCE && ALLOWED.get()))
}
