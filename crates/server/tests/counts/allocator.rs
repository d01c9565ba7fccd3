//! The system's allocator, counted.
#![allow(
    unsafe_code,
    reason = "a global allocator that counts is unsafe to implement and delegates everything"
)]

use std::alloc::{GlobalAlloc, Layout, System};

use crate::meter::{ALLOCATIONS, copied};

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting has no influence on it.
// WHY: the number of allocations is what this test is about.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.add(1);
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.add(1);
        // SAFETY: the caller keeps the promises of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.add(1);
        // What a growing buffer holds moves with it, at worst.
        copied(layout.size().min(new_size));
        // SAFETY: the caller keeps the promises of `realloc`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
