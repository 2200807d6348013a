//! An allocator for training: what a step frees, the next step gets back, pages and all.
//!
//! A training step allocates the same large tensors every time. Allocators give large blocks back to the system, which
//! clears every page before it hands it out again; that costs as much as the arithmetic of a batch norm.

use ds_core::backend::sync::lock;
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;
use std::sync::Mutex;

/// Blocks from this size on are kept, in bytes.
const LARGE: usize = 1 << 17;
/// Sizes of blocks between one power of two and the next.
const STEPS: usize = 8;
/// Powers of two from `LARGE` on.
const POWERS: usize = 24;
/// Where large blocks begin: at a line of the cache, so that no vector straddles two.
const ALIGNMENT: usize = 64;
/// Blocks from this size on begin at a multiple of it and ask for pages of this size, on Linux: a tensor then needs a few
/// entries of the processor's table of pages instead of thousands.
const HUGE_PAGE: usize = 1 << 21;

/// Keeps large blocks for the next one who asks for that size (rounded up by at most an eighth) and leaves everything else
/// to `A`. Kept blocks are not given back to the system.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: ds_nn::memory::Recycling<std::alloc::System> = ds_nn::memory::Recycling::new(std::alloc::System);
/// # fn main() { assert_eq!(vec![1u8; 1 << 20].len(), 1 << 20) }
/// ```
pub struct Recycling<A> {
    inner: A,
    free: [Mutex<Stack>; POWERS * STEPS],
}

/// Free blocks of one size; each holds the address of the next.
struct Stack(*mut u8);

// SAFETY: the blocks belong to the stack alone, wherever it is.
unsafe impl Send for Stack {}

impl<A> Recycling<A> {
    /// On top of another allocator.
    pub const fn new(inner: A) -> Self {
        Self { inner, free: [const { Mutex::new(Stack(null_mut())) }; POWERS * STEPS] }
    }

    fn pop(&self, class: usize) -> *mut u8 {
        let mut stack = lock(&self.free[class]);
        let top = stack.0;
        if !top.is_null() {
            // SAFETY: free blocks hold the next one's address in their first bytes.
            stack.0 = unsafe { top.cast::<*mut u8>().read() };
        }
        top
    }
}

/// Asks for huge pages.
fn advise(block: *mut u8, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= HUGE_PAGE && !block.is_null() {
        // SAFETY: advice about pages that lie within our own block; it changes no contents, and its failure changes nothing.
        unsafe { libc::madvise(block.cast(), size / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE) };
    }
}

/// The class of a large block and the bytes of all its blocks; `None` for what is not kept.
fn class(layout: Layout) -> Option<(usize, Layout)> {
    let size = layout.size();
    if size < LARGE || layout.align() > ALIGNMENT {
        return None;
    }
    let power = (usize::BITS - 1 - size.leading_zeros()) as usize;
    let step = (1usize << power) / STEPS;
    let steps = (size - (1 << power)).div_ceil(step);
    let class = (power - LARGE.trailing_zeros() as usize) * STEPS + steps;
    let bytes = (1usize << power).checked_add(steps * step)?;
    let block = Layout::from_size_align(bytes, if bytes < HUGE_PAGE { ALIGNMENT } else { HUGE_PAGE }).ok()?;
    (class < POWERS * STEPS).then_some((class, block))
}

// SAFETY: blocks come from `inner` with a layout at least as large and as strictly aligned as asked for, and are on one free
// stack at most.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Recycling<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout is the caller's, or one of a class, which is not empty.
        unsafe {
            let Some((class, block)) = class(layout) else { return self.inner.alloc(layout) };
            let kept = self.pop(class);
            if !kept.is_null() {
                return kept;
            }
            let fresh = self.inner.alloc(block);
            advise(fresh, block.size());
            fresh
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above; a kept block has at least the bytes of the layout.
        unsafe {
            let Some((class, block)) = class(layout) else { return self.inner.alloc_zeroed(layout) };
            let kept = self.pop(class);
            if kept.is_null() {
                let fresh = self.inner.alloc_zeroed(block);
                advise(fresh, block.size());
                return fresh;
            }
            kept.write_bytes(0, layout.size());
            kept
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some((class, _)) = class(layout) else {
            // SAFETY: the block came from `inner` with this layout.
            return unsafe { self.inner.dealloc(pointer, layout) };
        };
        let mut stack = lock(&self.free[class]);
        // SAFETY: the block is ours again, aligned and larger than an address.
        unsafe { pointer.cast::<*mut u8>().write(stack.0) };
        stack.0 = pointer;
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises a valid size; blocks of `inner` stay its own if both sizes are, and all others move
        // unless they stay in their class.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            match (class(layout), class(new)) {
                (None, None) => self.inner.realloc(pointer, layout, size),
                (Some((old_class, _)), Some((new_class, _))) if old_class == new_class => pointer,
                _ => {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(pointer, layout.size().min(size));
                        self.dealloc(pointer, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::alloc::System;

    #[test]
    fn blocks_come_back_and_fit() {
        let memory = Recycling::new(System);
        for size in [1, 1000, LARGE - 1, LARGE, LARGE + 1, 3 << 20, (3 << 20) + 4097, 100 << 20] {
            let layout = Layout::from_size_align(size, 4).unwrap();
            // SAFETY: layouts are not empty, and each block is written within its size and freed once.
            unsafe {
                let first = memory.alloc(layout);
                assert!(!first.is_null());
                first.write_bytes(7, size);
                memory.dealloc(first, layout);
                let second = memory.alloc_zeroed(layout);
                assert!((0..size).all(|k| second.add(k).read() == 0));
                if size >= LARGE {
                    assert_eq!(first, second);
                    assert_eq!(second as usize % ALIGNMENT, 0);
                    let (_, block) = class(layout).unwrap();
                    assert!(block.size() >= size && block.size() <= size + size / STEPS + 1, "{size}");
                }
                second.write_bytes(9, size);
                let larger = memory.realloc(second, layout, 2 * size + 1);
                assert!((0..size).all(|k| larger.add(k).read() == 9));
                memory.dealloc(larger, Layout::from_size_align(2 * size + 1, 4).unwrap());
            }
        }
    }

    #[test]
    fn vectors_grow_and_threads_share() {
        static MEMORY: Recycling<System> = Recycling::new(System);
        let threads: Vec<_> = (0..4u8)
            .map(|t| {
                std::thread::spawn(move || {
                    for round in 0..200usize {
                        let layout = Layout::from_size_align(LARGE + 1000 * (round % 7), 8).unwrap();
                        // SAFETY: as above.
                        unsafe {
                            let block = MEMORY.alloc(layout);
                            block.write_bytes(t, layout.size());
                            assert!((0..layout.size()).step_by(4096).all(|k| block.add(k).read() == t));
                            MEMORY.dealloc(block, layout);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
