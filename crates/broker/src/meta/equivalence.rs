//! What RabbitMQ answers when something is declared again, but differently.

use std::fmt;

use amqp::table::Value;

use crate::arguments::Arguments;
use crate::error::{Error, precondition};

/// What an answer is about, as RabbitMQ writes it: `queue 'q' in vhost '/'`.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    pub(super) vhost: &'a str,
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

impl Subject<'_> {
    /// Checks that a property is as it was.
    pub(super) fn same<T: PartialEq + fmt::Display>(
        &self,
        key: &str,
        received: T,
        current: T,
    ) -> Result<(), Error> {
        if received == current {
            return Ok(());
        }
        Err(self.inequivalent(key, &quoted(received), &quoted(current)))
    }

    /// Checks that the arguments `keys` are as they were. Others may differ.
    pub(super) fn same_arguments<'k>(
        &self,
        keys: impl Iterator<Item = &'k str>,
        received: &Arguments,
        current: &Arguments,
    ) -> Result<(), Error> {
        for key in keys {
            self.same_argument(key, received.get(key), current.get(key))?;
        }
        Ok(())
    }

    fn same_argument(
        &self,
        key: &str,
        received: Option<Value<'_>>,
        current: Option<Value<'_>>,
    ) -> Result<(), Error> {
        match (received, current) {
            (None, None) => Ok(()),
            (Some(received), Some(current)) if received.equivalent(current) => Ok(()),
            (Some(received), Some(current)) => {
                Err(self.inequivalent(key, &quoted(received), &quoted(current)))
            }
            (Some(value), None) | (None, Some(value)) if is_default(key, value) => Ok(()),
            (received, current) => Err(self.inequivalent(key, &typed(received), &typed(current))),
        }
    }

    fn inequivalent(&self, key: &str, received: &str, current: &str) -> Error {
        precondition(format!(
            "inequivalent arg '{key}' for {self}: received {received} but current is {current}"
        ))
    }
}

/// A queue that says nothing about its type is a classic queue.
fn is_default(key: &str, value: Value<'_>) -> bool {
    key == "x-queue-type" && value.as_str() == Some("classic")
}

fn quoted(value: impl fmt::Display) -> String {
    format!("'{value}'")
}

fn typed(value: Option<Value<'_>>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| format!("the value '{value}' of type '{}'", value.type_name()),
    )
}
