//! Field tables: the arguments of declarations, the headers of messages, the properties of peers.
//!
//! A table stays the bytes it arrived as. [`Table::new`] checks all of them once, to the last nested value,
//! so that everything after it cannot fail. Types follow RabbitMQ's errata to AMQP 0-9-1, not the
//! specification.

mod builder;
mod value;

pub(crate) use value::put as put_value;

use std::fmt;

use crate::error::{Error, Result};
use crate::wire::Reader;
pub use builder::{ArrayBuilder, TableBuilder};
pub use value::Value;

/// How deep tables and arrays may nest; the outermost table is level 1.
pub const DEPTH_MAX: usize = 32;

/// A validated, encoded field table, without the length in front of it.
///
/// Invariant: the bytes are a sequence of fields, each a UTF-8 short string and a value of a known type, all
/// whole, nested at most [`DEPTH_MAX`] deep. Two tables are equal when their bytes are; see
/// [`Table::equivalent`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Table<'a>(&'a [u8]);

/// A validated, encoded field array, without the length in front of it. The invariant is that of [`Table`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Table<'a> {
    /// A table without fields.
    pub const EMPTY: Table<'static> = Table(&[]);

    /// Checks `bytes`, an encoded table without its length.
    ///
    /// # Errors
    /// `502 SYNTAX_ERROR` for an unknown type, a length that overruns, a key that is not UTF-8, or too deep
    /// nesting.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        check_table(bytes, 1)?;
        Ok(Self(bytes))
    }

    /// The encoded fields, without the length.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The fields in the order they were written.
    #[must_use]
    pub fn iter(self) -> Fields<'a> {
        Fields(Reader::new(self.0))
    }

    /// The first value with this key.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Whether both hold the same keys with [equivalent](Value::equivalent) values, in whatever order.
    #[must_use]
    pub fn equivalent(self, other: Table<'_>) -> bool {
        let within = |left: Table<'_>, right: Table<'_>| {
            left.iter().all(|(key, value)| right.get(key).is_some_and(|found| value.equivalent(found)))
        };
        self.0 == other.0 || (within(self, other) && within(other, self))
    }
}

impl<'a> Array<'a> {
    /// An array without values.
    pub const EMPTY: Array<'static> = Array(&[]);

    /// Checks `bytes`, an encoded array without its length.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        check_array(bytes, 1)?;
        Ok(Self(bytes))
    }

    /// The encoded values, without the length.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The values in the order they were written.
    #[must_use]
    pub fn iter(self) -> Values<'a> {
        Values(Reader::new(self.0))
    }

    /// Whether both hold [equivalent](Value::equivalent) values in the same order.
    #[must_use]
    pub fn equivalent(self, other: Array<'_>) -> bool {
        let (mut left, mut right) = (self.iter(), other.iter());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(one), Some(another)) if one.equivalent(another) => {}
                _ => return false,
            }
        }
    }
}

/// The fields of a [`Table`].
#[derive(Clone, Debug)]
pub struct Fields<'a>(Reader<'a>);

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.0.short_string().and_then(|key| Ok((key, value::read(&mut self.0)?)));
        debug_assert!(field.is_ok(), "the table was validated");
        field.ok()
    }
}

/// The values of an [`Array`].
#[derive(Clone, Debug)]
pub struct Values<'a>(Reader<'a>);

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let value = value::read(&mut self.0);
        debug_assert!(value.is_ok(), "the array was validated");
        value.ok()
    }
}

impl<'a> IntoIterator for Table<'a> {
    type Item = (&'a str, Value<'a>);
    type IntoIter = Fields<'a>;

    fn into_iter(self) -> Fields<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

fn check_table(bytes: &[u8], depth: usize) -> Result<()> {
    check_depth(depth)?;
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        reader.short_string()?;
        check_nested(value::read(&mut reader)?, depth)?;
    }
    Ok(())
}

fn check_array(bytes: &[u8], depth: usize) -> Result<()> {
    check_depth(depth)?;
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        check_nested(value::read(&mut reader)?, depth)?;
    }
    Ok(())
}

fn check_nested(value: Value<'_>, depth: usize) -> Result<()> {
    match value {
        Value::Table(table) => check_table(table.0, depth + 1),
        Value::Array(array) => check_array(array.0, depth + 1),
        _ => Ok(()),
    }
}

fn check_depth(depth: usize) -> Result<()> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err(Error::syntax_error(format!("a table nests more than {DEPTH_MAX} levels deep")))
}
