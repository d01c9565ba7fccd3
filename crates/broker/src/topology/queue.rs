//! Queues as the topology knows them: by name, owner and arguments. Their messages live in a shard.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::QueueKind;
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

    /// The exchange for which it keeps messages until it is their time.
    pub fn delays_for(&self) -> Option<&str> {
        super::delay::exchange_of(&self.name)
    }

    /// The exchange whose last messages it keeps.
    pub fn remembers_for(&self) -> Option<&str> {
        super::history::exchange_of(&self.name)
    }

    /// The exchange that it belongs to and goes with.
    pub fn keeps_for(&self) -> Option<&str> {
        self.delays_for().or_else(|| self.remembers_for())
    }

    /// What an exchange keeps is the exchange's: 403.
    ///
    /// # Errors
    /// It belongs to an exchange.
    pub fn check_kept(&self) -> Result<(), Error> {
        let Some(exchange) = self.keeps_for() else { return Ok(()) };
        Err(Error::new(Kind::Refused, format!("{} is kept by its exchange '{exchange}'", self.label())))
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

    /// Its type, which it keeps.
    pub fn kind(&self) -> QueueKind {
        match self.arguments.string("x-queue-type") {
            Some("quorum") => QueueKind::Quorum,
            Some("stream") => QueueKind::Stream,
            _ => QueueKind::Classic,
        }
    }
}
