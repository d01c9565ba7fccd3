//! What can be asked of the meta shard, and how it answers.

use std::sync::Arc;

use super::Record;
use crate::access::{Permissions, TopicPermissions, User};
use crate::arguments::Arguments;
use crate::error::{Error, Kind};
use crate::id::{ConnectionId, QueueId};
use crate::limits::{UserLimits, VhostLimits};
use crate::password::PasswordHash;
use crate::policy::{Policy, Tier};
use crate::topology::{Binding, ExchangeKind, Metadata, Queue};

/// A wish. Whether the user may have it is checked before, by the front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make an exchange, or see that it is as declared.
    DeclareExchange(DeclareExchange),
    /// Remove an exchange with its bindings. None of that name is fine.
    DeleteExchange {
        /// Where it is.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Refuse if a binding starts there.
        if_unused: bool,
    },
    /// Make a queue, or see that it is as declared.
    DeclareQueue(DeclareQueue),
    /// Remove a queue with its bindings, after its shard agreed. A queue that is gone is fine.
    ///
    /// Whether it is locked to another connection is for the session to ask first: [`Queue::check_owner`].
    DeleteQueue {
        /// Which.
        id: QueueId,
    },
    /// A connection ended: remove the queues that were exclusively its own.
    DeleteConnectionQueues {
        /// Which.
        connection: ConnectionId,
    },
    /// Make a binding. Again is fine.
    Bind {
        /// Where both ends are.
        vhost: Arc<str>,
        /// From where to where.
        binding: Binding,
        /// Who asks: queues may be locked to a connection.
        connection: Option<ConnectionId>,
    },
    /// Remove a binding. None is fine.
    Unbind {
        /// Where both ends are.
        vhost: Arc<str>,
        /// From where to where.
        binding: Binding,
        /// Who asks, as for [`Change::Bind`].
        connection: Option<ConnectionId>,
    },
    /// Make a virtual host. Again is fine.
    AddVhost {
        /// Its name.
        name: Arc<str>,
    },
    /// Remove a virtual host and everything in it.
    DeleteVhost {
        /// Its name.
        name: Arc<str>,
    },
    /// Make a user, or replace the password and the tags of one. Permissions stay.
    PutUser {
        /// As it shall be.
        user: User,
    },
    /// Store a better hash of the password that a user has. None if the password has changed since is fine.
    ReplaceHash {
        /// Login name.
        user: Arc<str>,
        /// The hash that the password was checked against.
        old: PasswordHash,
        /// Of the same password.
        new: PasswordHash,
    },
    /// Remove a user and all permissions it has.
    DeleteUser {
        /// Login name.
        name: Arc<str>,
    },
    /// Replace what a user may do in a virtual host.
    SetPermissions {
        /// Login name.
        user: Arc<str>,
        /// Where.
        vhost: Arc<str>,
        /// What.
        permissions: Permissions,
    },
    /// Replace with which keys a user may use a topic exchange, which need not exist.
    SetTopicPermissions {
        /// Login name.
        user: Arc<str>,
        /// Where.
        vhost: Arc<str>,
        /// The exchange.
        exchange: Arc<str>,
        /// What.
        permissions: TopicPermissions,
    },
    /// Keep a user out of a virtual host.
    ClearPermissions {
        /// Login name.
        user: Arc<str>,
        /// Where.
        vhost: Arc<str>,
    },
    /// Make a policy, or replace the one of that name.
    PutPolicy {
        /// Where.
        vhost: Arc<str>,
        /// Whose.
        tier: Tier,
        /// As it shall be.
        policy: Policy,
    },
    /// Remove a policy.
    DeletePolicy {
        /// Where.
        vhost: Arc<str>,
        /// Whose.
        tier: Tier,
        /// Its name.
        name: Arc<str>,
    },
    /// Replace what is written about a virtual host. Queues that are there keep their type.
    SetVhostMetadata {
        /// Its name.
        vhost: Arc<str>,
        /// As it shall be.
        metadata: Metadata,
    },
    /// Replace what a virtual host may have. What it has already stays.
    SetVhostLimits {
        /// Its name.
        vhost: Arc<str>,
        /// As they shall be.
        limits: VhostLimits,
    },
    /// Replace what a user may have. What it has already stays.
    SetUserLimits {
        /// Login name.
        user: Arc<str>,
        /// As they shall be.
        limits: UserLimits,
    },
}

/// An exchange as a client wants it. A passive declare is no change: ask the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclareExchange {
    /// Where.
    pub vhost: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// See [`ExchangeKind::parse`].
    pub kind: ExchangeKind,
    /// Whether it shall outlive the broker.
    pub durable: bool,
    /// Whether it shall go when its last binding as a source goes.
    pub auto_delete: bool,
    /// Whether only exchanges may publish to it.
    pub internal: bool,
    /// Arguments.
    pub arguments: Arguments,
}

/// A queue as a client wants it. A passive declare is no change: ask the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclareQueue {
    /// Where.
    pub vhost: Arc<str>,
    /// Its name; drawn by the caller if the client left it to the server.
    pub name: Arc<str>,
    /// Whether the name was left to the server, and so may start with `amq.`.
    pub server_named: bool,
    /// Whether it shall outlive the broker. Exclusive queues do not, whatever this says.
    pub durable: bool,
    /// Whether it shall go when its last consumer goes.
    pub auto_delete: bool,
    /// The connection it shall belong to, if it shall be exclusive.
    pub owner: Option<ConnectionId>,
    /// Arguments.
    pub arguments: Arguments,
}

/// What shall happen for a [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To apply, in this order, all before the next decision. Empty if nothing changes.
    pub records: Vec<Record>,
    /// Whether some record is durable: then the log must commit them before the reply.
    pub durable: bool,
    /// To give to the client once the records are applied.
    pub reply: Reply,
}

/// What the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is as you asked.
    Done,
    /// This is the queue you declared; its shard knows how many messages and consumers it has.
    Queue(Arc<Queue>),
}

impl Decision {
    pub(super) fn new(records: Vec<Record>) -> Decision {
        let durable = records.iter().any(Record::is_durable);
        Decision { records, durable, reply: Reply::Done }
    }

    pub(super) fn unchanged() -> Decision {
        Decision::new(Vec::new())
    }

    /// The record, unless things are as it would make them.
    pub(super) fn unless(same: bool, record: Record) -> Decision {
        if same { Decision::unchanged() } else { Decision::new(vec![record]) }
    }

    pub(super) fn reply(self, reply: Reply) -> Decision {
        Decision { reply, ..self }
    }
}

/// Checks the name of something new. It fits a short string, is not empty, and may hold anything but
/// control characters.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::new(Kind::Precondition, format!("invalid {what} name: {why}")));
    if name.len() > super::NAME_SIZE_MAX {
        return refuse(format!("{} bytes, at most {} are allowed", name.len(), super::NAME_SIZE_MAX));
    }
    if name.is_empty() {
        return refuse("it is empty".to_owned());
    }
    if name.contains(char::is_control) {
        return refuse(format!("'{}' holds control characters", name.escape_debug()));
    }
    Ok(())
}
