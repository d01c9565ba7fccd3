//! Queues as the topology knows them: by name, owner and arguments. Their messages live in a shard.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::error::{Error, Kind};
use crate::id::{ConnectionId, QueueId};

/// A queue as it was declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Never used twice.
    pub id: QueueId,
    /// The virtual host it is in.
    pub vhost: Arc<str>,
    /// Unique in its virtual host.
    pub name: Arc<str>,
    /// Whether it outlives the broker. Exclusive queues never do.
    pub durable: bool,
    /// Whether it goes when its last consumer goes.
    pub auto_delete: bool,
    /// The connection that alone may use it, and with which it goes.
    pub exclusive: Option<ConnectionId>,
    /// As the client sent them, those that no one understands included.
    pub arguments: Arguments,
}

/// What the arguments of a queue mean.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// `x-queue-type`.
    pub kind: QueueKind,
    /// `x-message-ttl`: how long a message may wait, in milliseconds; 0 is deliver now or never.
    pub message_ttl_ms: Option<u64>,
    /// `x-expires`: how long the queue may go unused, in milliseconds.
    pub expires_ms: Option<u64>,
    /// `x-dead-letter-exchange`: where dropped messages go. It need not exist.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// `x-dead-letter-routing-key`: replaces the routing key of dropped messages.
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// `x-max-length`: how many messages may be ready.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`: how many bytes of ready bodies.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`: what happens beyond that.
    pub overflow: Overflow,
    /// `x-max-priority`: the highest priority that counts.
    pub max_priority: Option<u8>,
    /// `x-single-active-consumer`: whether one consumer at a time gets everything.
    pub single_active_consumer: bool,
    /// `x-delivery-limit`: how often a message may come back. `None` is no limit of its own.
    pub delivery_limit: Option<u64>,
}

/// The type of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// RabbitMQ's default.
    #[default]
    Classic,
    /// Durable, shared, replicated where there is a cluster.
    Quorum,
    /// Messages stay, for many readers.
    Stream,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Drops from the head.
    #[default]
    DropHead,
    /// Refuses what is published.
    RejectPublish,
    /// Refuses what is published, and dead-letters it.
    RejectPublishDlx,
}

impl Queue {
    /// Whether `connection` may use the queue at all: 405 if another one has it to itself.
    pub fn check_owner(&self, connection: Option<ConnectionId>) -> Result<(), Error> {
        match self.exclusive {
            Some(owner) if Some(owner) != connection => Err(self.locked()),
            _ => Ok(()),
        }
    }

    /// How errors name it.
    pub fn label(&self) -> String {
        format!("queue '{}' in vhost '{}'", self.name, self.vhost)
    }

    /// Whether this is a stream.
    pub fn is_stream(&self) -> bool {
        self.arguments.string("x-queue-type") == Some("stream")
    }

    /// RabbitMQ's answer to those that another connection keeps from the queue.
    pub(crate) fn locked(&self) -> Error {
        let Queue { name, vhost, .. } = self;
        let text = format!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally \
             declared on another connection or the exclusive property value does not match that of the original \
             declaration."
        );
        Error::new(Kind::Locked, text)
    }

    /// Reads the arguments. They were checked when the queue was declared, so what does not fit does not count.
    pub fn settings(&self) -> Settings {
        let arguments = &self.arguments;
        let number = |key| arguments.int(key).and_then(|value| u64::try_from(value).ok());
        let string = |key| arguments.string(key).map(Arc::from);
        Settings {
            kind: match arguments.string("x-queue-type") {
                Some("quorum") => QueueKind::Quorum,
                Some("stream") => QueueKind::Stream,
                _ => QueueKind::Classic,
            },
            message_ttl_ms: number("x-message-ttl"),
            expires_ms: number("x-expires"),
            dead_letter_exchange: string("x-dead-letter-exchange"),
            dead_letter_routing_key: string("x-dead-letter-routing-key"),
            max_length: number("x-max-length"),
            max_length_bytes: number("x-max-length-bytes"),
            overflow: match arguments.string("x-overflow") {
                Some("reject-publish") => Overflow::RejectPublish,
                Some("reject-publish-dlx") => Overflow::RejectPublishDlx,
                _ => Overflow::DropHead,
            },
            max_priority: number("x-max-priority").and_then(|value| u8::try_from(value).ok()),
            single_active_consumer: arguments.bool("x-single-active-consumer").unwrap_or(false),
            delivery_limit: number("x-delivery-limit"),
        }
    }
}
