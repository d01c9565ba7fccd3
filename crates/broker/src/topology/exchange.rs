//! Exchanges: where messages enter.

use std::fmt;
use std::sync::Arc;

use amqp::properties::Properties;
use serde::{Deserialize, Serialize};

use super::pick::{HASH_HEADER, HASH_PROPERTY};
use super::{Deduplication, Identity, deduplication, history};
use crate::arguments::Arguments;
use crate::error::{Error, precondition};

/// How an exchange picks the destinations of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// Those whose binding key equals the routing key.
    Direct,
    /// All.
    Fanout,
    /// Those whose binding key matches the routing key word by word; `*` is one word, `#` any number.
    Topic,
    /// Those whose binding arguments match the message's headers.
    Headers,
    /// One by the hash of the routing key, a header or a property; a binding key is a weight.
    #[serde(rename = "x-consistent-hash")]
    ConsistentHash,
    /// One by the hash of the routing key, modulo the number of bindings.
    #[serde(rename = "x-modulus-hash")]
    ModulusHash,
    /// One by chance.
    #[serde(rename = "x-random")]
    Random,
    /// As the type that its arguments name, and later if a message asks for it.
    #[serde(rename = "x-delayed-message")]
    Delayed,
    /// All, and each message once.
    #[serde(rename = "x-message-deduplication")]
    Deduplication,
    /// All, and those that come later get the last messages.
    #[serde(rename = "x-recent-history")]
    RecentHistory,
}

impl ExchangeKind {
    /// All of them.
    pub const ALL: [ExchangeKind; 10] = [
        ExchangeKind::Direct,
        ExchangeKind::Fanout,
        ExchangeKind::Topic,
        ExchangeKind::Headers,
        ExchangeKind::ConsistentHash,
        ExchangeKind::ModulusHash,
        ExchangeKind::Random,
        ExchangeKind::Delayed,
        ExchangeKind::Deduplication,
        ExchangeKind::RecentHistory,
    ];

    /// Reads the type of an exchange as clients write it.
    pub fn parse(name: &str) -> Result<ExchangeKind, Error> {
        let found = ExchangeKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| precondition(format!("unknown exchange type '{name}'")))
    }

    /// The type as clients write it.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
            ExchangeKind::ConsistentHash => "x-consistent-hash",
            ExchangeKind::ModulusHash => "x-modulus-hash",
            ExchangeKind::Random => "x-random",
            ExchangeKind::Delayed => "x-delayed-message",
            ExchangeKind::Deduplication => "x-message-deduplication",
            ExchangeKind::RecentHistory => "x-recent-history",
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// An exchange as it was declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Unique in its virtual host; "" is the default exchange.
    pub name: Arc<str>,
    /// How it picks destinations.
    pub kind: ExchangeKind,
    /// Whether it outlives the broker.
    pub durable: bool,
    /// Whether it goes when its last binding as a source goes.
    pub auto_delete: bool,
    /// Whether only other exchanges may publish to it.
    pub internal: bool,
    /// As the client sent them.
    pub arguments: Arguments,
}

/// Argument that names where messages go which an exchange has no binding for.
pub const ALTERNATE_EXCHANGE: &str = "alternate-exchange";

/// Argument that names how a delayed exchange picks destinations.
const DELAYED_TYPE: &str = "x-delayed-type";

/// The arguments of exchanges that mean something. All others are kept.
pub const EXCHANGE_ARGUMENTS: [&str; 9] = [
    ALTERNATE_EXCHANGE,
    DELAYED_TYPE,
    HASH_HEADER,
    HASH_PROPERTY,
    history::LENGTH,
    deduplication::DEDUPLICATION,
    deduplication::SIZE,
    deduplication::TTL,
    deduplication::HEADER,
];

impl Exchange {
    /// How it picks destinations, now or later.
    pub fn routing_kind(&self) -> ExchangeKind {
        match self.kind {
            ExchangeKind::Delayed => delayed_kind(&self.arguments).unwrap_or(ExchangeKind::Direct),
            ExchangeKind::Deduplication | ExchangeKind::RecentHistory => ExchangeKind::Fanout,
            kind => kind,
        }
    }

    /// Whether messages that are published here are looked at for [`Exchange::identify`].
    pub fn deduplicates(&self) -> bool {
        self.deduplication().is_some()
    }

    fn deduplication(&self) -> Option<Deduplication> {
        match self.kind {
            ExchangeKind::Deduplication => Some(Deduplication::with(&self.arguments)),
            _ => Deduplication::of(&self.arguments),
        }
    }

    /// What a message is remembered by that is published here, so that no queue takes it twice.
    pub fn identify(&self, properties: Properties<'_>) -> Option<Identity> {
        self.deduplication()?.through(&self.name, properties)
    }

    /// Where messages go that this exchange has no binding for, if its arguments say so: see
    /// [`Vhost::alternate`](super::Vhost::alternate) for policies.
    pub(super) fn alternate(&self) -> Option<&str> {
        self.arguments.string(ALTERNATE_EXCHANGE)
    }

    /// Whether the broker made it and keeps it: the default exchange and `amq.*`.
    pub fn is_predeclared(&self) -> bool {
        PREDECLARED.iter().any(|(name, _, _)| *name == &*self.name)
    }

    /// The exchanges that each virtual host has from the start.
    pub(crate) fn predeclared() -> impl Iterator<Item = Exchange> {
        PREDECLARED.iter().map(|&(name, kind, internal)| Exchange {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            internal,
            arguments: Arguments::default(),
        })
    }
}

/// Name, type, and whether it is internal.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
    ("amq.topic", ExchangeKind::Topic, false),
];

/// How a delayed exchange with these arguments picks destinations.
pub(crate) fn delayed_kind(arguments: &Arguments) -> Result<ExchangeKind, Error> {
    let kind = arguments.string(DELAYED_TYPE).and_then(|name| ExchangeKind::parse(name).ok());
    let kind = kind.filter(|kind| {
        use ExchangeKind::{Deduplication, Delayed, RecentHistory};
        !matches!(kind, Delayed | Deduplication | RecentHistory)
    });
    kind.ok_or_else(|| {
        precondition(format!("Invalid argument, '{DELAYED_TYPE}' must be an existing exchange type"))
    })
}
