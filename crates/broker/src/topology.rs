//! What exists and how messages find their way: virtual hosts, exchanges, queues, bindings, and who may use them.
//!
//! A [`Topology`] is an immutable snapshot. Cloning one costs a few reference counts, so the meta shard publishes a clone
//! after each change and sessions route from theirs without a lock. Only [`crate::meta`] changes one.

mod binding;
pub(crate) mod deduplication;
mod delay;
mod exchange;
pub(crate) mod headers;
pub(crate) mod history;
mod metadata;
pub(crate) mod pick;
mod policies;
mod queue;
mod route;
mod settings;
mod trie;
mod vhost;

use std::sync::Arc;

use imbl::OrdMap;

use crate::access::Access;
use crate::error::{Error, Kind};
use crate::id::QueueId;
use crate::limits::VhostLimits;
use crate::policy::{Policy, Tier};

pub use binding::{Binding, Destination};
pub(crate) use deduplication::IDS_MAX;
pub use deduplication::{Deduplication, Duplicates, Identity};
pub(crate) use delay::queue_name as delay_queue_name;
pub use delay::{DELIVER_AT, called_off, due_ms};
pub(crate) use exchange::delayed_kind;
pub use exchange::{ALTERNATE_EXCHANGE, EXCHANGE_ARGUMENTS, Exchange, ExchangeKind};
pub use metadata::Metadata;
pub use queue::Queue;
pub use route::Envelope;
pub use settings::{
    DeadLetterStrategy, DeadLetters, DelayedRetry, DelayedRetryOf, Keeps, MessageGroups, Overflow, QueueKind,
    Return, Settings, Source,
};
pub use vhost::Vhost;

/// Everything a session needs to know to serve its client, as of one version.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    version: u64,
    vhosts: OrdMap<Arc<str>, Vhost>,
    queues: OrdMap<QueueId, Arc<Queue>>,
    access: Access,
}

impl Topology {
    /// Grows with each change, and only then. What was derived from a topology holds while this stays.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Users and what they may do.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The virtual host called `name`.
    pub fn vhost(&self, name: &str) -> Option<&Vhost> {
        self.vhosts.get(name)
    }

    /// The virtual host called `name`, or the 530 that RabbitMQ answers.
    pub fn find_vhost(&self, name: &str) -> Result<&Vhost, Error> {
        self.vhost(name).ok_or_else(|| Error::new(Kind::NotAllowed, format!("vhost {name} not found")))
    }

    /// All virtual hosts by name.
    pub fn vhosts(&self) -> impl Iterator<Item = &Vhost> {
        self.vhosts.values()
    }

    /// The exchange called `name` in `vhost`.
    pub fn exchange(&self, vhost: &str, name: &str) -> Option<&Arc<Exchange>> {
        self.vhost(vhost)?.exchange(name)
    }

    /// The queue called `name` in `vhost`.
    pub fn queue(&self, vhost: &str, name: &str) -> Option<&Arc<Queue>> {
        self.vhost(vhost)?.queue(name)
    }

    /// The queue with this id.
    pub fn queue_by_id(&self, id: QueueId) -> Option<&Arc<Queue>> {
        self.queues.get(&id)
    }

    /// What the arguments of a queue and the policies for it come to. This is looked up, not worked out; after a change it
    /// is announced by [`Effect::QueueChanged`](crate::meta::Effect::QueueChanged).
    pub fn settings(&self, queue: &Queue) -> Settings {
        self.vhost(&queue.vhost).map_or_else(Settings::default, |vhost| vhost.settings(queue))
    }

    /// All queues of all virtual hosts, in the order of their ids.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }
}

impl Topology {
    /// Panics if an invariant is broken.
    pub(crate) fn check(&self) {
        let by_name: OrdMap<_, _> =
            self.vhosts().flat_map(Vhost::queues).map(|queue| (queue.id, Arc::clone(queue))).collect();
        assert_eq!(by_name, self.queues, "queues are known by name and by id");
        let named: usize = self.vhosts().map(|vhost| vhost.queues().count()).sum();
        assert_eq!(named, self.queues.len(), "ids are unique");
        for (name, vhost) in &self.vhosts {
            assert_eq!(name, vhost.name(), "a virtual host stands at its name");
            vhost.check();
        }
        self.access.check(|vhost| self.vhosts.contains_key(vhost));
    }
}

/// Changes, for the meta shard's `apply`. Each says whether something changed.
impl Topology {
    pub(crate) fn access_mut(&mut self) -> &mut Access {
        self.version += 1;
        &mut self.access
    }

    pub(crate) fn add_vhost(&mut self, name: &Arc<str>) -> bool {
        if self.vhosts.contains_key(name) {
            return false;
        }
        self.version += 1;
        self.vhosts.insert(Arc::clone(name), Vhost::new(Arc::clone(name)));
        true
    }

    pub(crate) fn set_vhost_metadata(&mut self, vhost: &str, metadata: &Arc<Metadata>) -> bool {
        self.change(vhost, |vhost| vhost.set_metadata(metadata))
    }

    pub(crate) fn set_vhost_limits(&mut self, vhost: &str, limits: VhostLimits) -> bool {
        self.change(vhost, |vhost| vhost.set_limits(limits))
    }

    /// Removes a virtual host and returns the queues it had.
    pub(crate) fn remove_vhost(&mut self, name: &str) -> Option<Vec<Arc<Queue>>> {
        let vhost = self.vhosts.remove(name)?;
        self.version += 1;
        self.access.forget_vhost(name);
        let queues: Vec<_> = vhost.queues().cloned().collect();
        for queue in &queues {
            self.queues.remove(&queue.id);
        }
        Some(queues)
    }

    pub(crate) fn add_exchange(&mut self, vhost: &str, exchange: &Arc<Exchange>) -> bool {
        self.change(vhost, |vhost| vhost.add_exchange(Arc::clone(exchange)))
    }

    pub(crate) fn remove_exchange(&mut self, vhost: &str, name: &str) -> bool {
        self.change(vhost, |vhost| vhost.remove_exchange(name))
    }

    pub(crate) fn add_queue(&mut self, queue: &Arc<Queue>) -> bool {
        let added = self.change(&queue.vhost, |vhost| vhost.add_queue(Arc::clone(queue)));
        if added {
            self.queues.insert(queue.id, Arc::clone(queue));
        }
        added
    }

    pub(crate) fn remove_queue(&mut self, id: QueueId) -> Option<Arc<Queue>> {
        let queue = self.queues.remove(&id)?;
        let removed = self.change(&queue.vhost, |vhost| vhost.remove_queue(&queue.name));
        assert!(removed, "a queue known by its id is known by its name");
        Some(queue)
    }

    pub(crate) fn bind(&mut self, vhost: &str, binding: &Arc<Binding>) -> bool {
        self.change(vhost, |vhost| vhost.bind(Arc::clone(binding)))
    }

    pub(crate) fn unbind(&mut self, vhost: &str, binding: &Binding) -> bool {
        self.change(vhost, |vhost| vhost.unbind(binding))
    }

    /// Returns the queues whose settings are others now.
    pub(crate) fn put_policy(&mut self, vhost: &str, tier: Tier, policy: &Arc<Policy>) -> Vec<Arc<Queue>> {
        let Some(vhost) = self.vhosts.get_mut(vhost) else {
            return Vec::new();
        };
        self.version += 1;
        vhost.put_policy(tier, policy)
    }

    /// Returns the queues whose settings are others now.
    pub(crate) fn remove_policy(&mut self, vhost: &str, tier: Tier, name: &str) -> Vec<Arc<Queue>> {
        let changed = self.vhosts.get_mut(vhost).and_then(|vhost| vhost.remove_policy(tier, name));
        self.version += u64::from(changed.is_some());
        changed.unwrap_or_default()
    }

    fn change(&mut self, vhost: &str, change: impl FnOnce(&mut Vhost) -> bool) -> bool {
        let changed = self.vhosts.get_mut(vhost).is_some_and(change);
        self.version += u64::from(changed);
        changed
    }
}
