//! Writing tables and arrays. What nests is built first and put in as a value.

use super::{Array, Table, Value, value};
use crate::wire::put_short_string;

/// Writes an encoded table, field by field.
#[derive(Clone, Default, Debug)]
pub struct TableBuilder {
    bytes: Vec<u8>,
}

impl TableBuilder {
    /// A table without fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table with one more field; keys are not checked for repetition.
    ///
    /// # Panics
    /// If `key` is longer than 255 bytes.
    #[must_use]
    pub fn with<'v>(mut self, key: &str, value: impl Into<Value<'v>>) -> Self {
        self.insert(key, value);
        self
    }

    /// Appends a field; keys are not checked for repetition.
    ///
    /// # Panics
    /// If `key` is longer than 255 bytes.
    pub fn insert<'v>(&mut self, key: &str, value: impl Into<Value<'v>>) {
        put_short_string(&mut self.bytes, key);
        value::put(&mut self.bytes, value.into());
    }

    /// The table as it stands.
    #[must_use]
    pub fn as_table(&self) -> Table<'_> {
        Table(&self.bytes)
    }

    /// The encoded table, without its length.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Writes an encoded array, value by value.
#[derive(Clone, Default, Debug)]
pub struct ArrayBuilder {
    bytes: Vec<u8>,
}

impl ArrayBuilder {
    /// An array without values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The array with one more value.
    #[must_use]
    pub fn with<'v>(mut self, value: impl Into<Value<'v>>) -> Self {
        self.push(value);
        self
    }

    /// Appends a value.
    pub fn push<'v>(&mut self, value: impl Into<Value<'v>>) {
        value::put(&mut self.bytes, value.into());
    }

    /// The array as it stands.
    #[must_use]
    pub fn as_array(&self) -> Array<'_> {
        Array(&self.bytes)
    }

    /// The encoded array, without its length.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
