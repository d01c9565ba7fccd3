//! From a wish to records. Nothing in here changes the state.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::change::{DeclareExchange, DeclareQueue, check_name};
use super::equivalence::Subject;
use super::{Change, Decision, Meta, Record, Reply, arguments};
use crate::access::{Permissions, TopicPermissions, User};
use crate::arguments::Arguments;
use crate::error::{Error, Kind, precondition};
use crate::id::{ConnectionId, QueueId};
use crate::limits::admit_binding;
use crate::password::PasswordHash;
use crate::policy::{Policy, Tier};
use crate::topology::{
    ALTERNATE_EXCHANGE, Binding, Destination, Exchange, ExchangeKind, Metadata, Queue, QueueKind, Vhost,
    deduplication, delay_queue_name, delayed_kind, headers, history, pick,
};

/// Ids are reserved in blocks of this many, so that transient queues rarely wait for a disk.
const QUEUE_ID_BLOCK: u64 = 4096;

/// Policies of one tier in one virtual host: each is looked at for each new queue.
pub(super) const POLICIES_MAX: usize = 1000;

/// Names that begin so are the broker's.
const RESERVED_PREFIX: &str = "amq.";

impl Meta {
    /// What has to happen for `change`.
    ///
    /// # Errors
    /// What the client is to be told; then nothing has changed and nothing will.
    pub fn decide(&self, change: Change) -> Result<Decision, Error> {
        match change {
            Change::DeclareExchange(wish) => self.declare_exchange(wish),
            Change::DeleteExchange { vhost, name, if_unused } => {
                self.delete_exchange(&vhost, name, if_unused)
            }
            Change::DeclareQueue(wish) => self.declare_queue(wish),
            Change::DeleteQueue { id } => Ok(self.delete_queues(&BTreeSet::from([id]))),
            Change::DeleteConnectionQueues { connection } => Ok(self
                .owned
                .get(&connection)
                .map_or_else(Decision::unchanged, |ids| self.delete_queues(ids))),
            Change::Bind { vhost, binding, connection } => self.bind(vhost, binding, connection),
            Change::Unbind { vhost, binding, connection } => self.unbind(vhost, binding, connection),
            Change::AddVhost { name } => self.add_vhost(name),
            Change::DeleteVhost { name } => {
                self.existing_vhost(&name)?;
                Ok(Decision::new(vec![Record::VhostDeleted { name }]))
            }
            Change::PutUser { user } => {
                check_name("user", &user.name)?;
                let same = self.topology.access().user(&user.name).is_some_and(|current| **current == user);
                Ok(Decision::unless(same, Record::UserPut { user: Arc::new(user) }))
            }
            Change::ReplaceHash { user, old, new } => Ok(self.replace_hash(&user, &old, new)),
            Change::DeleteUser { name } => {
                self.existing_user(&name)?;
                Ok(Decision::new(vec![Record::UserDeleted { name }]))
            }
            Change::SetPermissions { user, vhost, permissions } => {
                self.set_permissions(user, vhost, permissions)
            }
            Change::SetTopicPermissions { user, vhost, exchange, permissions } => {
                self.set_topic_permissions(user, vhost, exchange, permissions)
            }
            Change::ClearPermissions { user, vhost } => self.clear_permissions(user, vhost),
            Change::PutPolicy { vhost, tier, policy } => self.put_policy(vhost, tier, policy),
            Change::DeletePolicy { vhost, tier, name } => self.delete_policy(vhost, tier, name),
            Change::SetVhostMetadata { vhost, metadata } => self.set_vhost_metadata(vhost, metadata),
            Change::SetVhostLimits { vhost, limits } => {
                let same = self.existing_vhost(&vhost)?.limits() == limits;
                Ok(Decision::unless(same, Record::VhostLimitsSet { vhost, limits }))
            }
            Change::SetUserLimits { user, limits } => {
                self.existing_user(&user)?;
                let same = self.topology.access().limits(&user) == limits;
                Ok(Decision::unless(same, Record::UserLimitsSet { user, limits }))
            }
        }
    }

    fn declare_exchange(&self, wish: DeclareExchange) -> Result<Decision, Error> {
        let vhost = self.topology.find_vhost(&wish.vhost)?;
        refuse_default_exchange(&wish.name)?;
        let subject = Subject { kind: "exchange", name: &wish.name, vhost: &wish.vhost };
        if let Some(current) = vhost.exchange(&wish.name) {
            same_exchange(subject, &wish, current)?;
            return Ok(Decision::unchanged());
        }
        refuse_reserved_name("exchange", &wish.name)?;
        check_name("exchange", &wish.name)?;
        if let Some(value) = wish.arguments.get(ALTERNATE_EXCHANGE)
            && value.as_str().is_none()
        {
            return Err(arguments::invalid_type(subject, ALTERNATE_EXCHANGE, value));
        }
        deduplication::validate(&wish.arguments)?;
        let routing_kind = match wish.kind {
            ExchangeKind::Delayed => delayed_kind(&wish.arguments)?,
            kind => kind,
        };
        if routing_kind == ExchangeKind::ConsistentHash {
            pick::validate(&wish.arguments)?;
        }
        let DeclareExchange { vhost, name, kind, durable, auto_delete, internal, arguments } = wish;
        let exchange = Arc::new(Exchange { name, kind, durable, auto_delete, internal, arguments });
        let mut records =
            vec![Record::ExchangeDeclared { vhost: Arc::clone(&vhost), exchange: Arc::clone(&exchange) }];
        if let Some((name, arguments)) = kept(&exchange)? {
            check_name("queue", &name)?;
            let keeps = DeclareQueue {
                vhost,
                name,
                server_named: true,
                durable,
                auto_delete: false,
                owner: None,
                arguments,
            };
            records.extend(self.make_queue(keeps).records);
        }
        Ok(Decision::new(records))
    }

    fn delete_exchange(
        &self,
        vhost_name: &Arc<str>,
        name: Arc<str>,
        if_unused: bool,
    ) -> Result<Decision, Error> {
        let vhost = self.topology.find_vhost(vhost_name)?;
        refuse_default_exchange(&name)?;
        if name.starts_with(RESERVED_PREFIX) {
            let text = format!("deletion of system exchange '{name}' in vhost '{vhost_name}' not allowed");
            return Err(Error::new(Kind::Refused, text));
        }
        let Some(exchange) = vhost.exchange(&name) else {
            return Ok(Decision::unchanged());
        };
        if if_unused && vhost.bindings_from(&name).next().is_some() {
            return Err(precondition(format!("exchange '{name}' in vhost '{vhost_name}' in use")));
        }
        let mut records = vec![exchange_deleted(vhost_name, exchange)];
        let mut gone = Gone::default();
        gone.ends.insert(Destination::Exchange(name));
        records.extend(gone.auto_deleted(vhost));
        Ok(Decision::new(records))
    }

    fn declare_queue(&self, wish: DeclareQueue) -> Result<Decision, Error> {
        let vhost = self.topology.find_vhost(&wish.vhost)?;
        if !wish.server_named {
            refuse_reserved_name("queue", &wish.name)?;
        }
        let wish = DeclareQueue { durable: wish.durable && wish.owner.is_none(), ..wish };
        let wish = with_default_type(vhost, wish);
        if let Some(current) = vhost.queue(&wish.name) {
            same_queue(&wish, current)?;
            return Ok(Decision::unchanged().reply(Reply::Queue(Arc::clone(current))));
        }
        vhost.limits().admit_queue(&wish.vhost, &wish.name, vhost.queue_count())?;
        check_name("queue", &wish.name)?;
        check_new_queue(&wish)?;
        Ok(self.make_queue(wish))
    }

    fn make_queue(&self, wish: DeclareQueue) -> Decision {
        let mut records = Vec::with_capacity(2);
        if self.next_queue == self.reserved {
            records.push(Record::QueueIdsReserved { below: self.reserved + QUEUE_ID_BLOCK });
        }
        let queue = Arc::new(Queue {
            id: QueueId(self.next_queue),
            vhost: wish.vhost,
            name: wish.name,
            durable: wish.durable,
            auto_delete: wish.auto_delete,
            exclusive: wish.owner,
            arguments: wish.arguments,
        });
        records.push(Record::QueueDeclared { queue: Arc::clone(&queue) });
        Decision::new(records).reply(Reply::Queue(queue))
    }

    fn delete_queues(&self, ids: &BTreeSet<QueueId>) -> Decision {
        let queues: Vec<_> = ids.iter().filter_map(|id| self.topology.queue_by_id(*id)).collect();
        let mut records: Vec<_> = queues
            .iter()
            .map(|queue| Record::QueueDeleted { id: queue.id, durable: queue.durable })
            .collect();
        // A connection is in one virtual host, so all its queues are.
        if let Some(vhost) = queues.first().and_then(|queue| self.topology.vhost(&queue.vhost)) {
            let mut gone = Gone::default();
            gone.ends.extend(queues.iter().map(|queue| Destination::Queue(Arc::clone(&queue.name))));
            records.extend(gone.auto_deleted(vhost));
        }
        Decision::new(records)
    }

    fn bind(&self, name: Arc<str>, binding: Binding, by: Option<ConnectionId>) -> Result<Decision, Error> {
        let vhost = self.topology.find_vhost(&name)?;
        refuse_default_ends(&binding)?;
        let source = vhost.find_exchange(&binding.source)?;
        match &binding.destination {
            Destination::Exchange(name) => drop(vhost.find_exchange(name)?),
            Destination::Queue(name) => {
                let queue = vhost.find_queue(name)?;
                queue.check_owner(by)?;
                queue.check_kept()?;
            }
        }
        if binding.routing_key.len() > super::NAME_SIZE_MAX {
            return Err(precondition("a routing key has more than 255 bytes"));
        }
        match source.routing_kind() {
            ExchangeKind::Headers => headers::validate(&binding.arguments)?,
            ExchangeKind::ConsistentHash => pick::validate_weight(&binding.routing_key)?,
            _ => {}
        }
        if vhost.is_bound(&binding) {
            return Ok(Decision::unchanged());
        }
        let (Destination::Queue(end) | Destination::Exchange(end)) = &binding.destination;
        admit_binding(end, &name, vhost.count_bindings_to(&binding.destination))?;
        let durable = vhost.is_durable_binding(&binding);
        Ok(Decision::new(vec![Record::Bound { vhost: name, binding: Arc::new(binding), durable }]))
    }

    fn unbind(&self, name: Arc<str>, binding: Binding, by: Option<ConnectionId>) -> Result<Decision, Error> {
        let vhost = self.topology.find_vhost(&name)?;
        refuse_default_ends(&binding)?;
        if !vhost.is_bound(&binding) {
            return Ok(Decision::unchanged());
        }
        if let Destination::Queue(name) = &binding.destination {
            vhost.find_queue(name)?.check_owner(by)?;
        }
        let durable = vhost.is_durable_binding(&binding);
        let binding = Arc::new(binding);
        let mut gone = Gone { binding: Some(&binding), ..Gone::default() };
        let cascade = gone.auto_deleted(vhost);
        let mut records = vec![Record::Unbound { vhost: name, binding: Arc::clone(&binding), durable }];
        records.extend(cascade);
        Ok(Decision::new(records))
    }

    fn add_vhost(&self, name: Arc<str>) -> Result<Decision, Error> {
        check_name("vhost", &name)?;
        let exists = self.topology.vhost(&name).is_some();
        Ok(Decision::unless(exists, Record::VhostAdded { name }))
    }

    fn set_permissions(
        &self,
        user: Arc<str>,
        vhost: Arc<str>,
        permissions: Permissions,
    ) -> Result<Decision, Error> {
        self.existing_user(&user)?;
        self.existing_vhost(&vhost)?;
        permissions.check()?;
        let same = self.topology.access().permissions_in(&user, &vhost) == Some(&permissions);
        Ok(Decision::unless(same, Record::PermissionsSet { user, vhost, permissions }))
    }

    fn set_topic_permissions(
        &self,
        user: Arc<str>,
        vhost: Arc<str>,
        exchange: Arc<str>,
        permissions: TopicPermissions,
    ) -> Result<Decision, Error> {
        self.existing_user(&user)?;
        self.existing_vhost(&vhost)?;
        permissions.check(&user, &vhost)?;
        let same = {
            let mut current = self.topology.access().topic_permissions(&user);
            current.any(|current| current == (&vhost, &exchange, &permissions))
        };
        Ok(Decision::unless(same, Record::TopicPermissionsSet { user, vhost, exchange, permissions }))
    }

    fn replace_hash(&self, user: &str, old: &PasswordHash, new: PasswordHash) -> Decision {
        match self.topology.access().user(user) {
            Some(user) if user.password == *old => {
                let user = Arc::new(User { password: new, ..User::clone(user) });
                Decision::new(vec![Record::UserPut { user }])
            }
            _ => Decision::unchanged(),
        }
    }

    fn clear_permissions(&self, user: Arc<str>, vhost: Arc<str>) -> Result<Decision, Error> {
        self.existing_user(&user)?;
        self.existing_vhost(&vhost)?;
        let none = self.topology.access().permissions_in(&user, &vhost).is_none();
        Ok(Decision::unless(none, Record::PermissionsCleared { user, vhost }))
    }

    fn set_vhost_metadata(&self, vhost: Arc<str>, metadata: Metadata) -> Result<Decision, Error> {
        let same = **self.existing_vhost(&vhost)?.metadata() == metadata;
        if let Some(name) = metadata.default_queue_type.as_deref()
            && !arguments::is_known_type(name)
        {
            let text = format!(
                "vhost '{vhost}': default_queue_type is '{name}', expected classic, quorum or stream"
            );
            return Err(precondition(text));
        }
        Ok(Decision::unless(same, Record::VhostMetadataSet { vhost, metadata: Arc::new(metadata) }))
    }

    fn put_policy(&self, vhost: Arc<str>, tier: Tier, policy: Policy) -> Result<Decision, Error> {
        let current = self.existing_vhost(&vhost)?;
        check_name(tier.as_str(), &policy.name)?;
        policy.check(tier, &vhost)?;
        let same = match current.policy(tier, &policy.name) {
            Some(current) => **current == policy,
            None if current.policies(tier).count() >= POLICIES_MAX => {
                let (what, name) = (tier.as_str(), &policy.name);
                let text = format!("there are {POLICIES_MAX} already, which is the limit");
                return Err(precondition(format!("{what} '{name}' in vhost '{vhost}': {text}")));
            }
            None => false,
        };
        Ok(Decision::unless(same, Record::PolicyPut { vhost, tier, policy: Arc::new(policy) }))
    }

    fn delete_policy(&self, vhost: Arc<str>, tier: Tier, name: Arc<str>) -> Result<Decision, Error> {
        if self.existing_vhost(&vhost)?.policy(tier, &name).is_none() {
            let text = format!("{} '{name}' does not exist in vhost '{vhost}'", tier.as_str());
            return Err(Error::new(Kind::NotFound, text));
        }
        Ok(Decision::new(vec![Record::PolicyDeleted { vhost, tier, name }]))
    }

    fn existing_user(&self, name: &str) -> Result<(), Error> {
        let missing = || Error::new(Kind::NotFound, format!("user '{name}' does not exist"));
        self.topology.access().user(name).map(drop).ok_or_else(missing)
    }

    fn existing_vhost(&self, name: &str) -> Result<&Vhost, Error> {
        let missing = || Error::new(Kind::NotFound, format!("vhost '{name}' does not exist"));
        self.topology.vhost(name).ok_or_else(missing)
    }
}

/// The default exchange is nobody's to declare, passively either, nor to delete or bind: RabbitMQ answers 403.
pub fn refuse_default_exchange(name: &str) -> Result<(), Error> {
    if !name.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "operation not permitted on the default exchange"))
}

fn refuse_default_ends(binding: &Binding) -> Result<(), Error> {
    refuse_default_exchange(&binding.source)?;
    match &binding.destination {
        Destination::Exchange(name) => refuse_default_exchange(name),
        Destination::Queue(_) => Ok(()),
    }
}

fn refuse_reserved_name(kind: &str, name: &str) -> Result<(), Error> {
    if !name.starts_with(RESERVED_PREFIX) {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("{kind} name '{name}' contains reserved prefix 'amq.*'")))
}

fn same_exchange(subject: Subject<'_>, wish: &DeclareExchange, current: &Exchange) -> Result<(), Error> {
    subject.same("type", wish.kind, current.kind)?;
    subject.same("durable", wish.durable, current.durable)?;
    subject.same("auto_delete", wish.auto_delete, current.auto_delete)?;
    subject.same("internal", wish.internal, current.internal)?;
    subject.same_arguments([ALTERNATE_EXCHANGE].into_iter(), &wish.arguments, &current.arguments)
}

fn same_queue(wish: &DeclareQueue, current: &Queue) -> Result<(), Error> {
    if wish.owner != current.exclusive {
        return Err(current.locked());
    }
    let subject = Subject { kind: "queue", name: &wish.name, vhost: &wish.vhost };
    subject.same("durable", wish.durable, current.durable)?;
    subject.same("auto_delete", wish.auto_delete, current.auto_delete)?;
    subject.same_arguments(arguments::queue_arguments(), &wish.arguments, &current.arguments)
}

/// A queue that says nothing about its type gets its virtual host's, if that fits. RabbitMQ then refuses to declare queues
/// again that are there with another type; here they stay what they are.
fn with_default_type(vhost: &Vhost, wish: DeclareQueue) -> DeclareQueue {
    let key = arguments::QUEUE_TYPE;
    let default = vhost.metadata().default_queue_type.as_deref().filter(|name| *name != "classic");
    let Some(default) = default else { return wish };
    let is_shared = wish.durable && !wish.auto_delete && wish.owner.is_none() && !wish.server_named;
    let current = vhost.queue(&wish.name);
    let is_other = current.is_some_and(|queue| queue.arguments.string(key) != Some(default));
    if !is_shared || is_other || wish.arguments.get(key).is_some() {
        return wish;
    }
    DeclareQueue { arguments: wish.arguments.with(key, default), ..wish }
}

fn check_new_queue(wish: &DeclareQueue) -> Result<(), Error> {
    let subject = Subject { kind: "queue", name: &wish.name, vhost: &wish.vhost };
    let kind = arguments::check(subject, &wish.arguments)?;
    if kind == QueueKind::Classic {
        return Ok(());
    }
    if wish.server_named {
        let module = arguments::module(kind);
        return Err(precondition(format!("Cannot declare a server-named queue for type {module}")));
    }
    let obstacles = [
        (wish.auto_delete, "auto-delete"),
        (wish.owner.is_some(), "exclusive-owner"),
        (!wish.durable, "non-durable"),
    ];
    match obstacles.into_iter().find(|(present, _)| *present) {
        Some((_, property)) => Err(precondition(format!("invalid property '{property}' for {subject}"))),
        None => Ok(()),
    }
}

/// The queue that an exchange keeps messages in: its name and arguments.
fn kept(exchange: &Exchange) -> Result<Option<(Arc<str>, Arguments)>, Error> {
    match exchange.kind {
        ExchangeKind::Delayed => Ok(Some((delay_queue_name(&exchange.name).into(), Arguments::default()))),
        ExchangeKind::RecentHistory => {
            let length = i64::try_from(history::length(&exchange.arguments)?).unwrap_or(i64::MAX);
            let arguments = Arguments::default().with("x-max-length", length);
            Ok(Some((history::queue_name(&exchange.name).into(), arguments)))
        }
        _ => Ok(None),
    }
}

fn exchange_deleted(vhost: &Arc<str>, exchange: &Exchange) -> Record {
    Record::ExchangeDeleted {
        vhost: Arc::clone(vhost),
        name: Arc::clone(&exchange.name),
        durable: exchange.durable,
    }
}

/// What a decision takes away from a virtual host.
#[derive(Default)]
struct Gone<'a> {
    ends: BTreeSet<Destination>,
    binding: Option<&'a Arc<Binding>>,
}

impl Gone<'_> {
    /// The exchanges that go because their last binding as a source does. One that goes can take others with it.
    ///
    /// This is decided here and recorded, not left to `apply`: after a restart the transient bindings that kept an exchange
    /// alive are missing.
    fn auto_deleted(&mut self, vhost: &Vhost) -> Vec<Record> {
        let mut records = Vec::new();
        let mut waiting: Vec<_> =
            self.binding.map(|binding| Arc::clone(&binding.source)).into_iter().collect();
        for end in &self.ends {
            waiting.extend(vhost.bindings_to(end).map(|binding| Arc::clone(&binding.source)));
        }
        while let Some(name) = waiting.pop() {
            let Some(exchange) = vhost.exchange(&name).filter(|it| it.auto_delete) else {
                continue;
            };
            let end = Destination::Exchange(name);
            if self.ends.contains(&end) || vhost.bindings_from(&exchange.name).any(|it| !self.takes(it)) {
                continue;
            }
            records.push(exchange_deleted(vhost.name(), exchange));
            waiting.extend(vhost.bindings_to(&end).map(|binding| Arc::clone(&binding.source)));
            self.ends.insert(end);
        }
        // What an exchange keeps goes with it.
        let exchanges = self.ends.iter().filter_map(|end| match end {
            Destination::Exchange(name) => Some(name),
            Destination::Queue(_) => None,
        });
        let names = exchanges.flat_map(|name| [delay_queue_name(name), history::queue_name(name)]);
        let keeping = names.filter_map(|name| vhost.queue(&name));
        records.extend(keeping.map(|queue| Record::QueueDeleted { id: queue.id, durable: queue.durable }));
        records
    }

    fn takes(&self, binding: &Arc<Binding>) -> bool {
        self.binding == Some(binding)
            || self.ends.contains(&binding.destination)
            || self.ends.contains(&Destination::Exchange(Arc::clone(&binding.source)))
    }
}
