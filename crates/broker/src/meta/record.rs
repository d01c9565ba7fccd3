//! What the meta shard writes to its log.
//!
//! A record is the enum below as MessagePack: a map of one entry, from the name of the variant to a map of its fields.
//! Fields that a reader does not know are skipped, and names of variants and of exchange types that it does not know are
//! errors that say which, so adding one of these keeps the version; all else is a new version. There is a
//! fixture of each variant in `fixtures/`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{Permissions, TopicPermissions, User};
use crate::error::{Error, Kind};
use crate::id::QueueId;
use crate::limits::{UserLimits, VhostLimits};
use crate::policy::{Policy, Tier};
use crate::topology::{Binding, Exchange, Metadata, Queue};

/// Kind of meta records in the log.
pub const KIND: u8 = 16;

/// Version of meta records.
pub const VERSION: u8 = 1;

/// One step from a state to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Queues get ids below this; a restart starts there.
    QueueIdsReserved {
        /// The first id that is not reserved.
        below: u64,
    },
    /// A virtual host came, with the predeclared exchanges.
    VhostAdded {
        /// Its name.
        name: Arc<str>,
    },
    /// A virtual host went, with all in it.
    VhostDeleted {
        /// Its name.
        name: Arc<str>,
    },
    /// An exchange came.
    ExchangeDeclared {
        /// Where.
        vhost: Arc<str>,
        /// The exchange.
        exchange: Arc<Exchange>,
    },
    /// An exchange went, with all bindings from and to it.
    ExchangeDeleted {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Whether it was durable.
        durable: bool,
    },
    /// A queue came.
    QueueDeclared {
        /// The queue.
        queue: Arc<Queue>,
    },
    /// A queue went, with all bindings to it.
    QueueDeleted {
        /// Which.
        id: QueueId,
        /// Whether it was durable.
        durable: bool,
    },
    /// A binding came.
    Bound {
        /// Where.
        vhost: Arc<str>,
        /// The binding.
        binding: Arc<Binding>,
        /// Whether both of its ends are durable.
        durable: bool,
    },
    /// A binding went.
    Unbound {
        /// Where.
        vhost: Arc<str>,
        /// The binding.
        binding: Arc<Binding>,
        /// Whether both of its ends are durable.
        durable: bool,
    },
    /// A user came or changed.
    UserPut {
        /// The user.
        user: Arc<User>,
    },
    /// A user went, with all permissions.
    UserDeleted {
        /// Login name.
        name: Arc<str>,
    },
    /// What a user may do in a virtual host changed.
    PermissionsSet {
        /// Login name.
        user: Arc<str>,
        /// Where.
        vhost: Arc<str>,
        /// What.
        permissions: Permissions,
    },
    /// With which keys a user may use a topic exchange changed.
    TopicPermissionsSet {
        /// Login name.
        user: Arc<str>,
        /// Where.
        vhost: Arc<str>,
        /// The exchange.
        exchange: Arc<str>,
        /// What.
        permissions: TopicPermissions,
    },
    /// A user may no longer enter a virtual host.
    PermissionsCleared {
        /// Login name.
        user: Arc<str>,
        /// Where.
        vhost: Arc<str>,
    },
    /// A policy came or changed.
    PolicyPut {
        /// Where.
        vhost: Arc<str>,
        /// Whose.
        tier: Tier,
        /// The policy.
        policy: Arc<Policy>,
    },
    /// A policy went.
    PolicyDeleted {
        /// Where.
        vhost: Arc<str>,
        /// Whose.
        tier: Tier,
        /// Its name.
        name: Arc<str>,
    },
    /// What is written about a virtual host changed.
    VhostMetadataSet {
        /// Its name.
        vhost: Arc<str>,
        /// As it is now.
        metadata: Arc<Metadata>,
    },
    /// What a virtual host may have changed.
    VhostLimitsSet {
        /// Its name.
        vhost: Arc<str>,
        /// As they are now.
        limits: VhostLimits,
    },
    /// What a user may have changed.
    UserLimitsSet {
        /// Login name.
        user: Arc<str>,
        /// As they are now.
        limits: UserLimits,
    },
}

impl Record {
    /// Whether what it is about outlives the broker. If not, it is not for the log.
    pub fn is_durable(&self) -> bool {
        match self {
            Record::ExchangeDeclared { exchange, .. } => exchange.durable,
            Record::QueueDeclared { queue } => queue.durable,
            Record::ExchangeDeleted { durable, .. }
            | Record::QueueDeleted { durable, .. }
            | Record::Bound { durable, .. }
            | Record::Unbound { durable, .. } => *durable,
            Record::QueueIdsReserved { .. }
            | Record::VhostAdded { .. }
            | Record::VhostDeleted { .. }
            | Record::UserPut { .. }
            | Record::UserDeleted { .. }
            | Record::PermissionsSet { .. }
            | Record::TopicPermissionsSet { .. }
            | Record::PermissionsCleared { .. }
            | Record::PolicyPut { .. }
            | Record::PolicyDeleted { .. }
            | Record::VhostMetadataSet { .. }
            | Record::VhostLimitsSet { .. }
            | Record::UserLimitsSet { .. } => true,
        }
    }

    /// The payload for the log, of [`KIND`] and [`VERSION`].
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a record holds nothing that MessagePack cannot")
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// Another kind, a newer version, or bytes that are no record. The log's checksum held, so whoever wrote it is not us.
    pub fn decode(kind: u8, version: u8, payload: &[u8]) -> Result<Record, Error> {
        if (kind, version) != (KIND, VERSION) {
            let text =
                format!("a meta record has kind {kind} version {version}, expected {KIND} and {VERSION}");
            return Err(Error::new(Kind::Internal, text));
        }
        rmp_serde::from_slice(payload)
            .map_err(|error| Error::new(Kind::Internal, format!("a meta record cannot be read: {error}")))
    }
}
