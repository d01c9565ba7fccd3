//! Numbers that name things for as long as a broker's data lives.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A queue. Never used twice, not even after a restart, so a late message about a deleted queue cannot reach another.
///
/// ```text
///  63 62                                 0
/// +--+------------------------------------+
/// |v | counter                            |   v = 1: a volatile reply queue, which no topology holds
/// +--+------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueId(pub u64);

const VOLATILE: u64 = 1 << 63;

impl QueueId {
    /// The reply queue with this counter. Such a queue lives with one connection and is in no topology.
    pub fn volatile(counter: u64) -> QueueId {
        QueueId(counter | VOLATILE)
    }

    /// Whether this is a volatile reply queue.
    pub fn is_volatile(self) -> bool {
        self.0 & VOLATILE != 0
    }

    /// Which of `count` shards owns the queue. `count` is not zero.
    pub fn shard(self, count: usize) -> usize {
        let shard = (self.0 & !VOLATILE) % count as u64;
        usize::try_from(shard).expect("a remainder is smaller than a usize divisor")
    }
}

/// A client's connection, counted by the node that accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// Who takes messages from their queue to another place: no client.
    pub const FORWARDER: ConnectionId = ConnectionId(0);
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_spread_over_shards_and_reply_queues_too() {
        let shards: Vec<_> = (0..6).map(|counter| QueueId(counter).shard(4)).collect();
        assert_eq!(shards, [0, 1, 2, 3, 0, 1]);
        assert_eq!(QueueId::volatile(5).shard(4), 1);
        assert!(QueueId::volatile(5).is_volatile());
        assert!(!QueueId(5).is_volatile());
    }
}
