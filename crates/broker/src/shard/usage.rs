//! What the messages of a shard take, in memory and in its log.

use crate::queue::Run;
use crate::sequence::Stretch;

/// Bytes of the log are counted in such parts, since a record is shared by queues.
const PARTS: u64 = 1 << 16;

/// Sums over all messages of all queues. A run weighs as much as its pieces do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Parts of bytes of log records that hold these messages.
    log: u64,
}

impl Usage {
    pub(super) fn add(&mut self, run: &Run) {
        self.memory += run.weight();
        self.log += log_of(run);
    }

    pub(super) fn remove(&mut self, run: &Run) {
        self.memory -= run.weight();
        self.log -= log_of(run);
    }

    /// Runs have become one.
    pub(super) fn joined(&mut self, runs: Option<(Vec<(u64, Run)>, Run)>) {
        if let Some((before, after)) = runs {
            before.iter().for_each(|(_, run)| self.remove(run));
            self.add(&after);
        }
    }

    /// Bytes of log records that hold these messages.
    pub(super) fn log(&self) -> u64 {
        self.log / PARTS
    }
}

fn log_of(run: &Run) -> u64 {
    run.logged().map_or(0, |stored| {
        let overhead = u64::from(run.count()) * u64::from(stored.overhead);
        (run.messages.size() as u64 + overhead) * (PARTS / u64::from(stored.targets))
    })
}
