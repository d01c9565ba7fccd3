//! What the messages of a shard take, in memory and in its log.

use crate::queue::Entry;

/// What a message takes in memory beside its bytes: its place in a queue and its share of a buffer's bookkeeping.
const ENTRY_OVERHEAD: u64 = 128;

/// Sums over all entries of all queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Bytes of log records that hold these messages.
    pub(super) log: u64,
}

impl Usage {
    pub(super) fn add(&mut self, entry: &Entry) {
        self.memory += memory_of(entry);
        self.log += log_of(entry);
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        self.memory -= memory_of(entry);
        self.log -= log_of(entry);
    }
}

fn memory_of(entry: &Entry) -> u64 {
    entry.message.size() as u64 + ENTRY_OVERHEAD
}

fn log_of(entry: &Entry) -> u64 {
    entry.stored.map_or(0, |stored| stored.share.into())
}
