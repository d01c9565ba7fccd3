//! What the messages of a shard take, in memory and in its log.

use crate::queue::{Queue, Run, SEEN_WEIGHT};
use crate::record::SEEN_SIZE;
use crate::sequence::Stretch;

/// Bytes of the log are counted in such parts, since a record is shared by queues.
const PARTS: u64 = 1 << 16;

/// Sums over all messages of all queues. A run weighs as much as its pieces do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of memory that messages take.
    pub(super) messages: u64,
    /// Bytes of memory that ids of messages take that came before: they cannot go to a disk.
    seen: u64,
    /// Parts of bytes of log records that hold these messages.
    log: u64,
}

impl Usage {
    pub(super) fn add(&mut self, run: &Run) {
        self.messages += run.weight();
        self.log += log_of(run);
    }

    pub(super) fn remove(&mut self, run: &Run) {
        self.messages -= run.weight();
        self.log -= log_of(run);
    }

    /// Runs have become one.
    pub(super) fn joined(&mut self, runs: Option<(Vec<(u64, Run)>, Run)>) {
        if let Some((before, after)) = runs {
            before.iter().for_each(|(_, run)| self.remove(run));
            self.add(&after);
        }
    }

    /// Counts what a queue remembers of messages.
    pub(super) fn add_seen(&mut self, queue: &Queue) {
        let (memory, log) = weight_of_seen(queue);
        self.seen += memory;
        self.log += log;
    }

    /// It is about to change, or to go.
    pub(super) fn remove_seen(&mut self, queue: &Queue) {
        let (memory, log) = weight_of_seen(queue);
        self.seen -= memory;
        self.log -= log;
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> u64 {
        self.messages + self.seen
    }

    /// Bytes of log records that hold these messages.
    pub(super) fn log(&self) -> u64 {
        self.log / PARTS
    }
}

fn weight_of_seen(queue: &Queue) -> (u64, u64) {
    let count = queue.seen_len() as u64;
    let logged = if queue.options.durable { count } else { 0 };
    (count * SEEN_WEIGHT, logged * SEEN_SIZE as u64 * PARTS)
}

fn log_of(run: &Run) -> u64 {
    run.logged().map_or(0, |stored| {
        let overhead = u64::from(run.count()) * u64::from(stored.overhead);
        (run.messages.size() as u64 + overhead) * (PARTS / u64::from(stored.targets))
    })
}
