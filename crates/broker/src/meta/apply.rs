//! From one state to the next. Nothing else changes a [`Meta`], and nothing in here can fail.

use std::sync::Arc;

use super::{DEFAULT_VHOST, Meta, Record};
use crate::access::User;
use crate::limits::{UserLimits, VhostLimits};
use crate::policy::Tier;
use crate::topology::{Metadata, Queue, Vhost};

/// What the caller has to see to after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The queue's shard has to open it.
    QueueOpened(Arc<Queue>),
    /// The queue's shard has to use its new settings: [`Topology::settings`](crate::topology::Topology::settings).
    QueueChanged(Arc<Queue>),
    /// The queue's shard has to drop it with all its messages.
    QueueDropped(Arc<Queue>),
    /// Connections to this virtual host have to be closed.
    VhostDropped(Arc<str>),
    /// This user came, went, or may do other things than before: its sessions have to be looked at.
    AccessChanged(Arc<str>),
}

impl Meta {
    /// Applies a committed record. A record about something that is gone, or there already, changes nothing: after a
    /// restart, records come without those about transient things that stood between them.
    pub fn apply(&mut self, record: &Record) -> Vec<Effect> {
        match record {
            Record::QueueIdsReserved { below } => {
                self.reserved = self.reserved.max(*below);
                Vec::new()
            }
            Record::VhostAdded { name } => quiet(self.topology.add_vhost(name)),
            Record::VhostDeleted { name } => self.drop_vhost(name),
            Record::ExchangeDeclared { vhost, exchange } => {
                quiet(self.topology.add_exchange(vhost, exchange))
            }
            Record::ExchangeDeleted { vhost, name, .. } => quiet(self.topology.remove_exchange(vhost, name)),
            Record::QueueDeclared { queue } => self.open_queue(queue),
            Record::QueueDeleted { id, .. } => {
                let queue = self.topology.remove_queue(*id);
                queue.into_iter().map(|queue| self.dropped(queue)).collect()
            }
            Record::Bound { vhost, binding, .. } => quiet(self.topology.bind(vhost, binding)),
            Record::Unbound { vhost, binding, .. } => quiet(self.topology.unbind(vhost, binding)),
            Record::UserPut { user } => {
                self.topology.access_mut().put_user(user);
                vec![Effect::AccessChanged(Arc::clone(&user.name))]
            }
            Record::UserDeleted { name } => {
                self.topology.access_mut().remove_user(name);
                vec![Effect::AccessChanged(Arc::clone(name))]
            }
            Record::PermissionsSet { user, vhost, permissions } => {
                self.topology.access_mut().set_permissions(user, vhost, permissions);
                vec![Effect::AccessChanged(Arc::clone(user))]
            }
            Record::TopicPermissionsSet { user, vhost, exchange, permissions } => {
                self.topology.access_mut().set_topic_permissions(user, vhost, exchange, permissions);
                vec![Effect::AccessChanged(Arc::clone(user))]
            }
            Record::PermissionsCleared { user, vhost } => {
                self.topology.access_mut().clear_permissions(user, vhost);
                vec![Effect::AccessChanged(Arc::clone(user))]
            }
            Record::PolicyPut { vhost, tier, policy } => {
                changed(self.topology.put_policy(vhost, *tier, policy))
            }
            Record::PolicyDeleted { vhost, tier, name } => {
                changed(self.topology.remove_policy(vhost, *tier, name))
            }
            Record::VhostMetadataSet { vhost, metadata } => {
                quiet(self.topology.set_vhost_metadata(vhost, metadata))
            }
            Record::VhostLimitsSet { vhost, limits } => quiet(self.topology.set_vhost_limits(vhost, *limits)),
            Record::UserLimitsSet { user, limits } => {
                self.topology.access_mut().set_limits(user, *limits);
                Vec::new()
            }
        }
    }

    fn drop_vhost(&mut self, name: &Arc<str>) -> Vec<Effect> {
        let Some(queues) = self.topology.remove_vhost(name) else {
            return Vec::new();
        };
        let mut effects: Vec<_> = queues.into_iter().map(|queue| self.dropped(queue)).collect();
        effects.push(Effect::VhostDropped(Arc::clone(name)));
        effects
    }

    fn open_queue(&mut self, queue: &Arc<Queue>) -> Vec<Effect> {
        self.next_queue = self.next_queue.max(queue.id.0 + 1);
        if !self.topology.add_queue(queue) {
            return Vec::new();
        }
        if let Some(owner) = queue.exclusive {
            self.owned.entry(owner).or_default().insert(queue.id);
        }
        vec![Effect::QueueOpened(Arc::clone(queue))]
    }

    fn dropped(&mut self, queue: Arc<Queue>) -> Effect {
        if let Some(owner) = queue.exclusive
            && let Some(owned) = self.owned.get_mut(&owner)
        {
            owned.remove(&queue.id);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
        Effect::QueueDropped(queue)
    }

    /// Records that rebuild the durable part of the state from [`Meta::new`], for a log that is being shortened.
    pub fn snapshot_records(&self) -> impl Iterator<Item = Record> {
        let topology = &self.topology;
        let reserved = (self.reserved > 0).then_some(Record::QueueIdsReserved { below: self.reserved });
        let default_vhost: Arc<str> = DEFAULT_VHOST.into();
        let no_default = topology.vhost(DEFAULT_VHOST).is_none();
        let no_default = no_default.then_some(Record::VhostDeleted { name: default_vhost });
        let users = topology.access().users().flat_map(|user| self.user_records(user));
        let vhosts = topology.vhosts().flat_map(vhost_records);
        let permissions = topology.access().users().flat_map(|user| self.permission_records(&user.name));
        reserved.into_iter().chain(no_default).chain(users).chain(vhosts).chain(permissions)
    }

    fn user_records(&self, user: &Arc<User>) -> impl Iterator<Item = Record> + use<> {
        let limits = self.topology.access().limits(&user.name);
        let limited = Record::UserLimitsSet { user: Arc::clone(&user.name), limits };
        let limited = (limits != UserLimits::default()).then_some(limited);
        std::iter::once(Record::UserPut { user: Arc::clone(user) }).chain(limited)
    }

    fn permission_records<'a>(&'a self, user: &'a Arc<str>) -> impl Iterator<Item = Record> + 'a {
        let access = self.topology.access();
        let permissions = access.permissions(user).map(|(vhost, permissions)| Record::PermissionsSet {
            user: Arc::clone(user),
            vhost: Arc::clone(vhost),
            permissions: permissions.clone(),
        });
        let topics = access.topic_permissions(user);
        let topics = topics.map(|(vhost, exchange, permissions)| Record::TopicPermissionsSet {
            user: Arc::clone(user),
            vhost: Arc::clone(vhost),
            exchange: Arc::clone(exchange),
            permissions: permissions.clone(),
        });
        permissions.chain(topics)
    }
}

/// Whether or not something has changed, nobody has to do anything about it.
fn quiet(_changed: bool) -> Vec<Effect> {
    Vec::new()
}

fn changed(queues: Vec<Arc<Queue>>) -> Vec<Effect> {
    queues.into_iter().map(Effect::QueueChanged).collect()
}

fn vhost_records(vhost: &Vhost) -> impl Iterator<Item = Record> {
    let name = vhost.name();
    let exchanges = vhost.exchanges().filter(|exchange| exchange.durable && !exchange.is_predeclared());
    let exchanges = exchanges
        .map(|exchange| Record::ExchangeDeclared { vhost: Arc::clone(name), exchange: Arc::clone(exchange) });
    let queues = vhost.queues().filter(|queue| queue.durable);
    let queues = queues.map(|queue| Record::QueueDeclared { queue: Arc::clone(queue) });
    let bindings = vhost.bindings().filter(|binding| vhost.is_durable_binding(binding));
    let bindings = bindings.map(|binding| Record::Bound {
        vhost: Arc::clone(name),
        binding: Arc::clone(binding),
        durable: true,
    });
    let added = Record::VhostAdded { name: Arc::clone(name) };
    let policies = [Tier::User, Tier::Operator].into_iter().flat_map(move |tier| {
        vhost.policies(tier).map(move |policy| Record::PolicyPut {
            vhost: Arc::clone(name),
            tier,
            policy: Arc::clone(policy),
        })
    });
    let (limits, metadata) = (vhost.limits(), Arc::clone(vhost.metadata()));
    let limited = Record::VhostLimitsSet { vhost: Arc::clone(name), limits };
    let limited = (limits != VhostLimits::default()).then_some(limited);
    let written = *metadata != Metadata::default();
    let written = written.then(|| Record::VhostMetadataSet { vhost: Arc::clone(name), metadata });
    std::iter::once(added)
        .chain(written)
        .chain(limited)
        .chain(policies)
        .chain(exchanges)
        .chain(queues)
        .chain(bindings)
}
