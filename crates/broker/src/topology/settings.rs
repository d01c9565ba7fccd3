//! What the arguments of a queue and the policies for it come to.
//!
//! As in RabbitMQ an operator's policy limits a policy, and what comes of both is limited by the queue's arguments: of
//! numbers the smallest counts, of anything else the argument, then the operator's word, then the policy's. One thing is
//! different in quorum queues: there a policy's overflow counts more than the argument.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Deduplication, Queue, history};
use crate::arguments::Arguments;
use crate::stream::age_ms;

/// How often a quorum queue delivers a message again when nobody says otherwise.
const QUORUM_DELIVERY_LIMIT: u64 = 20;

/// What a queue does, by its arguments and the policies that match it. This is what counts: defaults are filled in, and
/// what cannot take effect is left out.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// `x-queue-type`.
    pub kind: QueueKind,
    /// `message-ttl`: how long a message may wait, in milliseconds; 0 is deliver now or never.
    pub message_ttl_ms: Option<u64>,
    /// `expires`: how long the queue may go unused, in milliseconds.
    pub expires_ms: Option<u64>,
    /// `dead-letter-exchange`: where dropped messages go. It need not exist.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// `dead-letter-routing-key`: replaces the routing key of dropped messages.
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// `dead-letter-strategy`: how hard the queue tries to get them there.
    pub dead_letter_strategy: DeadLetterStrategy,
    /// What its dead letters say of where they come from, if there is a dead-letter exchange.
    pub dead_letters_from: Option<Arc<Source>>,
    /// `max-length`: how many messages may be ready.
    pub max_length: Option<u64>,
    /// `max-length-bytes`: how many bytes of ready bodies.
    pub max_length_bytes: Option<u64>,
    /// `overflow`: what happens beyond that.
    pub overflow: Overflow,
    /// `x-max-priority`: the highest priority that counts. Not for policies.
    pub max_priority: Option<u8>,
    /// `x-group-header` and `x-group-concurrency`: messages take turns by group. Not for policies.
    pub groups: Option<MessageGroups>,
    /// `x-single-active-consumer`: whether one consumer at a time gets everything. Not for policies.
    pub single_active_consumer: bool,
    /// `delivery-limit`: how often a message may come back, 20 in a quorum queue of which nothing is said. `None` is no
    /// limit, as is -1 there.
    pub delivery_limit: Option<u64>,
    /// `consumer-timeout`: how long a consumer may keep a message, in milliseconds. `None` is the node's.
    pub consumer_timeout_ms: Option<u64>,
    /// `delayed-retry-type`, `-min` and `-max`: how long a message waits that came back.
    pub delayed_retry: Option<DelayedRetry>,
    /// `x-message-deduplication`: what it remembers, to take no message twice. Not for policies.
    pub deduplication: Option<Deduplication>,
    /// What it keeps, if it belongs to an exchange.
    pub keeps: Option<Keeps>,
    /// `max-age`: how long a stream keeps a message, in milliseconds.
    pub max_age_ms: Option<u64>,
    /// `stream-max-segment-size-bytes`: when a stream begins a new segment.
    pub segment_size: Option<u64>,
    /// `stream-filter-size-bytes`: bytes of each of its bloom filters.
    pub filter_size: Option<u64>,
}

/// A queue, by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its virtual host's.
    pub vhost: Arc<str>,
    /// Its own.
    pub queue: Arc<str>,
}

/// Where dead letters come from and go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// Their queue. It may be gone by now.
    pub from: Arc<Source>,
    /// See [`Settings::dead_letter_exchange`].
    pub exchange: Arc<str>,
    /// See [`Settings::dead_letter_routing_key`].
    pub routing_key: Option<Arc<str>>,
    /// See [`Settings::dead_letter_strategy`].
    pub strategy: DeadLetterStrategy,
}

/// How the messages of a queue are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageGroups {
    /// The header whose value names a message's group.
    pub header: Arc<str>,
    /// How many messages of a group may be unacked at once.
    pub concurrency: NonZeroU32,
}

/// The type of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// RabbitMQ's default.
    #[default]
    Classic,
    /// Durable, shared, replicated where there is a cluster.
    Quorum,
    /// A log that many read.
    Stream,
}

impl QueueKind {
    /// The type as clients write it.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueKind::Classic => "classic",
            QueueKind::Quorum => "quorum",
            QueueKind::Stream => "stream",
        }
    }
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

/// How a queue sends what it drops to its dead letter exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeadLetterStrategy {
    /// And forgets it.
    #[default]
    AtMostOnce,
    /// And keeps it until the queues there have it. For quorum queues that refuse what is too much.
    AtLeastOnce,
}

/// How long a message that comes back waits before it is delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedRetry {
    /// Which messages wait.
    pub of: DelayedRetryOf,
    /// After the first return, milliseconds.
    pub min_ms: u64,
    /// At most, milliseconds; not below `min_ms`.
    pub max_ms: u64,
    /// Twice as long each time, instead of once more the first delay.
    pub exponential: bool,
    /// Up to so many percent are taken off, by chance.
    pub jitter_percent: u8,
}

/// Which messages that come back wait before they are delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedRetryOf {
    /// Each.
    All,
    /// Those that somebody failed to handle.
    Failed,
    /// The others.
    Returned,
}

/// How a message comes back, as RabbitMQ 4.3 tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// Somebody failed to handle it: basic.reject, or the end of a channel.
    Failed,
    /// Somebody gave it back: basic.nack, basic.recover.
    Returned,
}

impl DelayedRetryOf {
    fn includes(self, how: Return) -> bool {
        match self {
            DelayedRetryOf::All => true,
            DelayedRetryOf::Failed => how == Return::Failed,
            DelayedRetryOf::Returned => how == Return::Returned,
        }
    }
}

impl DelayedRetry {
    /// The delay of a message that comes back for this many times now, if it is one that waits.
    pub(crate) fn delay_of(&self, how: Return, returns: u16, chance: u64) -> Option<u64> {
        self.of.includes(how).then(|| self.delay_ms(returns, chance))
    }

    /// The delay after so many returns; `chance` decides on the jitter.
    pub fn delay_ms(&self, returns: u16, chance: u64) -> u64 {
        let times = if self.exponential {
            1u64.checked_shl(u32::from(returns.saturating_sub(1))).unwrap_or(u64::MAX)
        } else {
            returns.into()
        };
        let delay = self.min_ms.saturating_mul(times).min(self.max_ms);
        delay - delay * (chance % (u64::from(self.jitter_percent) + 1)) / 100
    }
}

/// What a queue keeps that belongs to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Messages that wait for their time.
    Delayed,
    /// The last messages; its limit of bytes counts whole messages, not only bodies.
    History,
}

/// What is said about a queue: its own arguments, and the definitions of the policies for it.
#[derive(Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) queue: &'a Queue,
    pub(crate) policy: Option<&'a Arguments>,
    pub(crate) operator: Option<&'a Arguments>,
}

impl Settings {
    /// Whether messages that are published may be refused.
    pub fn may_refuse(&self) -> bool {
        let limited = self.max_length.is_some() || self.max_length_bytes.is_some();
        limited && self.overflow != Overflow::DropHead
    }

    /// What becomes of dead letters, if they do not just go.
    pub fn dead_letters(&self) -> Option<DeadLetters> {
        Some(DeadLetters {
            from: self.dead_letters_from.clone()?,
            exchange: self.dead_letter_exchange.clone()?,
            routing_key: self.dead_letter_routing_key.clone(),
            strategy: self.dead_letter_strategy,
        })
    }

    /// Whether it matters how often a message was given back.
    pub fn counts_returns(&self) -> bool {
        self.kind == QueueKind::Quorum || self.delivery_limit.is_some() || self.delayed_retry.is_some()
    }

    /// What is said has been checked when it was, so what does not fit does not count.
    pub(crate) fn new(said: Said<'_>) -> Settings {
        if said.queue.delays_for().is_some() {
            // It is the exchange's, and no policy is meant for it.
            return Settings { keeps: Some(Keeps::Delayed), ..Settings::default() };
        }
        let arguments = &said.queue.arguments;
        if said.queue.remembers_for().is_some() {
            let max_length = arguments.int("x-max-length").and_then(|length| u64::try_from(length).ok());
            return Settings {
                max_length: max_length.map(|length| length.min(history::LENGTH_MAX)),
                max_length_bytes: Some(history::BYTES_MAX),
                keeps: Some(Keeps::History),
                ..Settings::default()
            };
        }
        let kind = said.queue.kind();
        let overflow = said.overflow(kind);
        let dead_letter_exchange = said.text("x-dead-letter-exchange").map(Arc::from);
        let Queue { vhost, name, .. } = said.queue;
        let source = || Arc::new(Source { vhost: Arc::clone(vhost), queue: Arc::clone(name) });
        Settings {
            kind,
            dead_letters_from: dead_letter_exchange.is_some().then(source),
            message_ttl_ms: said.least("x-message-ttl"),
            expires_ms: said.least("x-expires"),
            dead_letter_strategy: match said.text("x-dead-letter-strategy") {
                // Otherwise there is no room to keep them in.
                Some("at-least-once")
                    if overflow == Overflow::RejectPublish && dead_letter_exchange.is_some() =>
                {
                    DeadLetterStrategy::AtLeastOnce
                }
                _ => DeadLetterStrategy::AtMostOnce,
            },
            dead_letter_exchange,
            dead_letter_routing_key: said.text("x-dead-letter-routing-key").map(Arc::from),
            max_length: said.least("x-max-length"),
            max_length_bytes: said.least("x-max-length-bytes"),
            overflow,
            max_priority: arguments.int("x-max-priority").and_then(|value| u8::try_from(value).ok()),
            groups: groups(arguments),
            single_active_consumer: arguments.bool("x-single-active-consumer").unwrap_or(false),
            delivery_limit: said.delivery_limit(kind),
            consumer_timeout_ms: said.least("x-consumer-timeout"),
            delayed_retry: said.delayed_retry(),
            deduplication: Deduplication::of(arguments),
            keeps: None,
            max_age_ms: said.max_age_ms(),
            segment_size: said.least("x-stream-max-segment-size-bytes"),
            filter_size: said.own_number("x-stream-filter-size-bytes"),
        }
    }
}

/// Keys are those of arguments; a policy's have no `x-`.
impl<'a> Said<'a> {
    fn numbers(self, key: &str) -> impl Iterator<Item = i64> {
        let name = policy_key(key);
        let by_policies = [self.policy, self.operator].into_iter().flatten();
        let by_policies = by_policies.filter_map(move |definition| definition.int(name));
        self.queue.arguments.int(key).into_iter().chain(by_policies)
    }

    /// The smallest of the numbers that are limits.
    fn least(self, key: &str) -> Option<u64> {
        self.numbers(key).filter_map(|number| u64::try_from(number).ok()).min()
    }

    fn by_policies(self, key: &str) -> Option<&'a str> {
        let mut definitions = [self.operator, self.policy].into_iter().flatten();
        definitions.find_map(|definition| definition.string(policy_key(key)))
    }

    fn text(self, key: &str) -> Option<&'a str> {
        self.queue.arguments.string(key).or_else(|| self.by_policies(key))
    }

    fn max_age_ms(self) -> Option<u64> {
        let by_policies = [self.policy, self.operator].into_iter().flatten();
        let by_policies = by_policies.filter_map(|definition| definition.string("max-age"));
        self.queue.arguments.string("x-max-age").into_iter().chain(by_policies).filter_map(age_ms).min()
    }

    /// The queue's own number, or else the policy's.
    fn own_number(self, key: &str) -> Option<u64> {
        self.numbers(key).next().and_then(|number| u64::try_from(number).ok())
    }

    fn overflow(self, kind: QueueKind) -> Overflow {
        let key = "x-overflow";
        let text = match kind {
            QueueKind::Quorum => self.by_policies(key).or_else(|| self.text(key)),
            QueueKind::Classic | QueueKind::Stream => self.text(key),
        };
        match (text, kind) {
            (Some("reject-publish"), _) => Overflow::RejectPublish,
            (Some("reject-publish-dlx"), QueueKind::Classic) => Overflow::RejectPublishDlx,
            _ => Overflow::DropHead,
        }
    }

    fn delivery_limit(self, kind: QueueKind) -> Option<u64> {
        let key = "x-delivery-limit";
        let default = (kind == QueueKind::Quorum && self.numbers(key).next().is_none())
            .then_some(QUORUM_DELIVERY_LIMIT);
        self.least(key).or(default)
    }

    fn delayed_retry(self) -> Option<DelayedRetry> {
        let of = match self.text("x-delayed-retry-type")? {
            "all" => DelayedRetryOf::All,
            "failed" => DelayedRetryOf::Failed,
            "returned" => DelayedRetryOf::Returned,
            _ => return None,
        };
        let min_ms = self.own_number("x-delayed-retry-min").filter(|min| *min > 0)?;
        let max_ms = self.own_number("x-delayed-retry-max").unwrap_or(min_ms).max(min_ms);
        let jitter = self.own_number("x-delayed-retry-jitter").unwrap_or(0).min(100);
        Some(DelayedRetry {
            of,
            min_ms,
            max_ms,
            exponential: self.text("x-delayed-retry-backoff") == Some("exponential"),
            jitter_percent: u8::try_from(jitter).unwrap_or(100),
        })
    }
}

fn groups(arguments: &Arguments) -> Option<MessageGroups> {
    let header = arguments.string("x-group-header")?.into();
    let concurrency = arguments.int("x-group-concurrency").and_then(|number| u32::try_from(number).ok());
    Some(MessageGroups {
        header,
        concurrency: concurrency.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
    })
}

fn policy_key(key: &str) -> &str {
    key.strip_prefix("x-").expect("arguments of queues begin with x-")
}
