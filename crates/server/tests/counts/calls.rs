//! Functions of the C library in front of which a counter stands. What is linked into this test binary, the server and
//! the standard library among it, calls these; each passes on to another function of the C library that does the same.
#![allow(unsafe_code, reason = "only a function of the same name sees the calls of the standard library")]

use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};

use crate::meter::{READS, WAITS, WRITES, copied};

// SAFETY: these are the signatures of the C library on a 64-bit Linux.
unsafe extern "C" {
    fn recvfrom(
        socket: c_int,
        buffer: *mut c_void,
        size: usize,
        flags: c_int,
        address: *mut c_void,
        address_size: *mut c_void,
    ) -> isize;
    fn sendto(
        socket: c_int,
        buffer: *const c_void,
        size: usize,
        flags: c_int,
        address: *const c_void,
        address_size: u32,
    ) -> isize;
    fn pwritev2(file: c_int, parts: *const c_void, count: c_int, position: i64, flags: c_int) -> isize;
    fn epoll_pwait(
        epoll: c_int,
        events: *mut c_void,
        count: c_int,
        timeout_ms: c_int,
        signals: *const c_void,
    ) -> c_int;
    fn memmove(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void;
}

// SAFETY: `recvfrom` without an address is `recv`. The caller keeps the promises of `recv`.
// WHY: reads of sockets per message are what this test is about, and /proc/PID/io does not count them.
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(socket: c_int, buffer: *mut c_void, size: usize, flags: c_int) -> isize {
    READS.add(1);
    // SAFETY: as above.
    unsafe { recvfrom(socket, buffer, size, flags, null_mut(), null_mut()) }
}

// SAFETY: `sendto` without an address is `send`. The caller keeps the promises of `send`.
// WHY: as for reads.
#[unsafe(no_mangle)]
unsafe extern "C" fn send(socket: c_int, buffer: *const c_void, size: usize, flags: c_int) -> isize {
    WRITES.add(1);
    // SAFETY: as above.
    unsafe { sendto(socket, buffer, size, flags, null(), 0) }
}

// SAFETY: `pwritev2` at position -1 is `writev`. The caller keeps the promises of `writev`.
// WHY: as for reads; today nothing is written in parts, and when it is, it shall be counted.
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(file: c_int, parts: *const c_void, count: c_int) -> isize {
    WRITES.add(1);
    // SAFETY: as above.
    unsafe { pwritev2(file, parts, count, -1, 0) }
}

// SAFETY: `epoll_pwait` without signals is `epoll_wait`. The caller keeps the promises of `epoll_wait`.
// WHY: how often threads look for work belongs to the calls per message.
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(epoll: c_int, events: *mut c_void, count: c_int, timeout_ms: c_int) -> c_int {
    WAITS.add(1);
    // SAFETY: as above.
    unsafe { epoll_pwait(epoll, events, count, timeout_ms, null()) }
}

// SAFETY: `memmove` does what `memcpy` does, and more. The caller keeps the promises of `memcpy`.
// WHY: bytes copied per message are what this test is about. Rust copies slices of unknown length through it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void {
    copied(size);
    // SAFETY: as above.
    unsafe { memmove(to, from, size) }
}
