//! The state machine of the meta shard: what exists, and who may use it.
//!
//! A front end asks with a [`Change`]. [`Meta::decide`] checks it against the state and answers with [`Record`]s; the shard
//! has them committed by its log if they are durable, and then gives each to [`Meta::apply`], the only place where the
//! state changes. `apply` returns [`Effect`]s for the caller to perform. So a restart, which applies the records again,
//! runs the same lines:
//!
//! ```text
//! Change ──decide──▶ Record ──log──▶ committed ──apply──▶ Effect, and a new Topology to publish
//! ```
//!
//! After the records of a log were applied, [`Meta::recovered`] makes the state ready for new changes.

mod apply;
mod arguments;
mod change;
mod decide;
mod equivalence;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{ConnectionId, QueueId};
use crate::topology::Topology;

pub use apply::Effect;
pub(crate) use arguments::DURATION_MS_MAX;
pub use arguments::{queue_argument_has_effect, queue_arguments};
pub use change::{Change, Decision, DeclareExchange, DeclareQueue, Reply};
pub use decide::refuse_default_exchange;
pub use record::{KIND, Record, VERSION};

/// Longest name of anything, in bytes: names travel as short strings.
pub const NAME_SIZE_MAX: usize = 255;

/// The virtual host that a fresh broker has.
pub const DEFAULT_VHOST: &str = "/";

/// Everything that the meta shard knows.
#[derive(Clone, Debug)]
pub struct Meta {
    topology: Topology,
    /// Which queues go with which connection. No set is empty.
    owned: BTreeMap<ConnectionId, BTreeSet<QueueId>>,
    /// The id of the next queue. Invariant: above the id of every queue there ever was, and at most `reserved`.
    next_queue: u64,
    /// Ids below this may have been given out before a restart, to queues that left no record.
    reserved: u64,
}

impl Meta {
    /// A fresh broker: the virtual host `/`, no users.
    pub fn new() -> Meta {
        let mut topology = Topology::default();
        topology.add_vhost(&Arc::from(DEFAULT_VHOST));
        Meta { topology, owned: BTreeMap::new(), next_queue: 0, reserved: 0 }
    }

    /// Ends recovery. Transient queues left no record of their ids, so all reserved ids count as used.
    #[must_use]
    pub fn recovered(mut self) -> Meta {
        self.next_queue = self.reserved;
        self
    }

    /// The state, to publish: a clone is O(1).
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Checks all invariants.
    ///
    /// # Panics
    /// If one is broken, which is our bug.
    pub fn check(&self) {
        self.topology.check();
        assert!(self.next_queue <= self.reserved, "only reserved ids are given out");
        assert!(self.topology.queues().all(|queue| queue.id.0 < self.next_queue), "ids are not used twice");
        let mut owned = BTreeMap::<_, BTreeSet<_>>::new();
        for queue in self.topology.queues() {
            if let Some(owner) = queue.exclusive {
                owned.entry(owner).or_default().insert(queue.id);
            }
        }
        assert_eq!(self.owned, owned, "each connection knows its queues");
    }
}

impl Default for Meta {
    fn default() -> Meta {
        Meta::new()
    }
}
