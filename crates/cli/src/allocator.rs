//! How the C library's allocator deals with large blocks.
#![allow(unsafe_code, reason = "the allocator's settings are a C function")]

/// Blocks up to this size, bytes, are taken from the heap and not mapped each time: the largest value that glibc takes.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: i32 = 32 << 20;

/// Free bytes at the end of a heap that are kept for the next blocks.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 32 << 20;

/// Has memory of buffers reused. glibc maps blocks of more than 128 KiB from the system and gives them back when they are
/// freed, until it has learned better; a broker fills some thousands of such buffers each second, and every page of each
/// would be zeroed by the kernel first. Other C libraries are left alone.
pub(crate) fn keep_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and may be called at any time; it only changes when memory goes back.
    // WHY: no crate offers it, and replacing the allocator was measured to bring nothing more.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
