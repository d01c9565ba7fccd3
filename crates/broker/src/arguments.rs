//! Arguments of exchanges, queues and bindings: encoded AMQP tables that were checked once and are kept.

use std::fmt;

use amqp::table::{Table, TableBuilder, Value};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// An owned AMQP table.
///
/// Invariant: the bytes are a valid table, without the length in front of it, whose fields are sorted by key. So two
/// tables that a client wrote in a different order name the same binding, as in RabbitMQ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Arguments(Bytes);

impl Arguments {
    /// The table.
    pub fn table(&self) -> Table<'_> {
        Table::new(&self.0).expect("arguments are checked when they are made")
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The argument `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        if self.is_empty() { None } else { self.table().get(key) }
    }

    /// These and one more, which is not among them.
    pub(crate) fn with<'v>(&'v self, key: &str, value: impl Into<Value<'v>>) -> Arguments {
        let mut builder = TableBuilder::new();
        for (key, value) in self.table() {
            builder.insert(key, value);
        }
        builder.insert(key, value);
        builder.as_table().into()
    }

    /// The argument `key` if it is a string.
    pub fn string(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The argument `key` if it is an integer of any width.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_int()
    }

    /// The argument `key` if it is a bool.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }
}

impl From<Table<'_>> for Arguments {
    fn from(table: Table<'_>) -> Arguments {
        if table.iter().is_sorted_by_key(|(key, _)| key) {
            return Arguments(Bytes::copy_from_slice(table.as_bytes()));
        }
        let mut fields: Vec<_> = table.iter().collect();
        fields.sort_by_key(|(key, _)| *key);
        let mut builder = TableBuilder::new();
        for (key, value) in fields {
            builder.insert(key, value);
        }
        Arguments(builder.into_bytes().into())
    }
}

impl TryFrom<Bytes> for Arguments {
    type Error = Error;

    fn try_from(bytes: Bytes) -> Result<Arguments, Error> {
        let table = Table::new(&bytes).map_err(|error| Error::new(Kind::Invalid, error.text))?;
        Ok(table.into())
    }
}

impl From<Arguments> for Bytes {
    fn from(arguments: Arguments) -> Bytes {
        arguments.0
    }
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.table().iter().map(|(key, value)| (key, Shown(value)))).finish()
    }
}

struct Shown<'a>(Value<'a>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.type_name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_fields_were_written_does_not_matter() {
        let one = TableBuilder::new().with("b", 1i32).with("a", "x");
        let other = TableBuilder::new().with("a", "x").with("b", 1i32);
        let (one, other) = (Arguments::from(one.as_table()), Arguments::from(other.as_table()));
        assert_eq!(one, other);
        assert_eq!(format!("{one:?}"), r#"{"a": longstr x, "b": signedint 1}"#);
    }

    #[test]
    fn bytes_that_are_no_table_are_refused() {
        let error = Arguments::try_from(Bytes::from_static(b"\x05x")).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
    }
}
