//! Queues as the topology knows them: by name, owner and arguments. Their messages live in a shard.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::error::{Error, Kind};
use crate::id::{ConnectionId, QueueId};

/// How often a message of a quorum queue may come back.
const QUORUM_DELIVERY_LIMIT: u64 = 20;

/// The first delay of messages that come back, if it is not said.
const DELAYED_RETRY_MIN_MS: u64 = 1000;

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
    /// `x-delivery-limit`: how often a message may come back. Quorum queues have one unless they are told otherwise.
    pub delivery_limit: Option<u64>,
    /// `x-dead-letter-strategy`: whether dead letters wait until somebody takes them.
    pub dead_letter_strategy: DeadLetterStrategy,
    /// `x-consumer-timeout`: how long a consumer may hold a message, in milliseconds.
    pub consumer_timeout_ms: Option<u64>,
    /// `x-delayed-retry-*`: how long messages that come back wait.
    pub delayed_retry: Option<DelayedRetry>,
}

/// What becomes of dead letters that nobody takes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeadLetterStrategy {
    /// They are dropped.
    #[default]
    AtMostOnce,
    /// They stay until they have a place.
    AtLeastOnce,
}

/// How long a message that comes back waits before it is delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedRetry {
    /// After the first return, milliseconds.
    pub min_ms: u64,
    /// At most, milliseconds.
    pub max_ms: u64,
    /// Twice as long each time, instead of once more the first delay.
    pub exponential: bool,
    /// Up to so many percent are taken off, by chance.
    pub jitter_percent: u8,
}

impl DelayedRetry {
    /// The delay after so many returns; `chance` decides on the jitter.
    pub fn delay_ms(&self, returns: u16, chance: u64) -> u64 {
        let times = if self.exponential {
            1u64.checked_shl(u32::from(returns.saturating_sub(1))).unwrap_or(u64::MAX)
        } else {
            returns.into()
        };
        let delay = self.min_ms.saturating_mul(times).min(self.max_ms);
        delay - delay / 100 * (chance % (u64::from(self.jitter_percent) + 1))
    }
}

impl Settings {
    /// Whether messages that are published may be refused.
    pub fn may_refuse(&self) -> bool {
        let limited = self.max_length.is_some() || self.max_length_bytes.is_some();
        limited && self.overflow != Overflow::DropHead
    }

    /// Whether it matters how often a message was given back.
    pub fn counts_returns(&self) -> bool {
        self.kind == QueueKind::Quorum || self.delivery_limit.is_some() || self.delayed_retry.is_some()
    }
}

/// The type of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// RabbitMQ's default.
    #[default]
    Classic,
    /// Durable, shared, replicated where there is a cluster.
    Quorum,
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
        let kind = match arguments.string("x-queue-type") {
            Some("quorum") => QueueKind::Quorum,
            _ => QueueKind::Classic,
        };
        Settings {
            kind,
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
            delivery_limit: match arguments.int("x-delivery-limit") {
                None if kind == QueueKind::Quorum => Some(QUORUM_DELIVERY_LIMIT),
                limit => limit.and_then(|limit| u64::try_from(limit).ok()),
            },
            dead_letter_strategy: match arguments.string("x-dead-letter-strategy") {
                Some("at-least-once") => DeadLetterStrategy::AtLeastOnce,
                _ => DeadLetterStrategy::AtMostOnce,
            },
            consumer_timeout_ms: number("x-consumer-timeout"),
            delayed_retry: self.delayed_retry(),
        }
    }

    fn delayed_retry(&self) -> Option<DelayedRetry> {
        let number = |key| self.arguments.int(key).and_then(|value| u64::try_from(value).ok());
        if matches!(self.arguments.string("x-delayed-retry-type"), None | Some("disabled")) {
            return None;
        }
        let min_ms = number("x-delayed-retry-min").unwrap_or(DELAYED_RETRY_MIN_MS);
        let jitter = number("x-delayed-retry-jitter").unwrap_or(0);
        Some(DelayedRetry {
            min_ms,
            max_ms: number("x-delayed-retry-max").unwrap_or(min_ms).max(min_ms),
            exponential: self.arguments.string("x-delayed-retry-backoff") == Some("exponential"),
            jitter_percent: u8::try_from(jitter.min(100)).unwrap_or(100),
        })
    }
}
