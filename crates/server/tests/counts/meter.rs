//! What is counted, and whose it is: everything that threads of the test itself do is left out.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// Whether what this thread does is the test's own business.
    static IS_TEST: Cell<bool> = const { Cell::new(false) };
}

/// A number that only grows.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds what the server did. Called from within an allocator: allocates nothing.
    pub(crate) fn add(&self, more: u64) {
        if !IS_TEST.try_with(Cell::get).unwrap_or(false) {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Times that memory was asked for; one that grows is one more.
pub(crate) static ALLOCATIONS: Counter = Counter::new();
/// Calls of recv(2).
pub(crate) static READS: Counter = Counter::new();
/// Calls of send(2), writev(2) and sendmsg(2).
pub(crate) static WRITES: Counter = Counter::new();
/// Calls of epoll_wait(2).
pub(crate) static WAITS: Counter = Counter::new();
/// Bytes that were copied from memory to memory, by [`copied`].
static COPIED: Counter = Counter::new();

/// Copies below this many bytes are not counted: most of them move values from one variable to another, and how many
/// the compiler leaves depends on how hard it was asked to try. What holds bodies of a kilobyte is above it.
const COPY_MIN: usize = 512;

/// Counts a copy.
pub(crate) fn copied(size: usize) {
    if size >= COPY_MIN {
        COPIED.add(size as u64);
    }
}

/// From now on nothing that this thread does is counted.
pub(crate) fn exempt_this_thread() {
    IS_TEST.set(true);
}

/// What the server has done, in all or in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) allocations: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) waits: u64,
    pub(crate) copied: u64,
}

impl Counts {
    pub(crate) fn now() -> Counts {
        Counts {
            allocations: ALLOCATIONS.get(),
            reads: READS.get(),
            writes: WRITES.get(),
            waits: WAITS.get(),
            copied: COPIED.get(),
        }
    }

    pub(crate) fn since(self, before: Counts) -> Counts {
        Counts {
            allocations: self.allocations - before.allocations,
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
            waits: self.waits - before.waits,
            copied: self.copied - before.copied,
        }
    }
}
