//! One value of a field table.

use std::fmt;

use super::{Array, Table};
use crate::error::{Error, Result};
use crate::wire::{Reader, put_long_string};

/// A value with its type. The letter is the type's tag on the wire.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L`, which RabbitMQ also reads as signed
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: any bytes, by habit UTF-8
    LongString(&'a [u8]),
    /// `A`
    Array(Array<'a>),
    /// `T`: seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(Table<'a>),
    /// `V`
    Void,
    /// `x`
    Binary(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number, if this is an integer of any width.
    #[must_use]
    pub fn as_int(self) -> Option<i64> {
        match self {
            Self::I8(number) => Some(number.into()),
            Self::U8(number) => Some(number.into()),
            Self::I16(number) => Some(number.into()),
            Self::U16(number) => Some(number.into()),
            Self::I32(number) => Some(number.into()),
            Self::U32(number) => Some(number.into()),
            Self::I64(number) => Some(number),
            _ => None,
        }
    }

    /// The text, if this is a long string that is UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        str::from_utf8(self.as_bytes()?).ok()
    }

    /// The bytes, if this is a long string.
    #[must_use]
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if let Self::LongString(bytes) = self { Some(bytes) } else { None }
    }

    /// The truth, if this is a bool.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        if let Self::Bool(truth) = self { Some(truth) } else { None }
    }

    /// The table, if this is one.
    #[must_use]
    pub fn as_table(self) -> Option<Table<'a>> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// The array, if this is one.
    #[must_use]
    pub fn as_array(self) -> Option<Array<'a>> {
        if let Self::Array(array) = self { Some(array) } else { None }
    }

    /// Whether both mean the same: integers by number whatever their width, tables whatever their order.
    #[must_use]
    pub fn equivalent(self, other: Value<'_>) -> bool {
        match (self, other) {
            (Self::Table(one), Value::Table(another)) => one.equivalent(another),
            (Self::Array(one), Value::Array(another)) => one.equivalent(another),
            _ => match (self.as_int(), other.as_int()) {
                (Some(one), Some(another)) => one == another,
                _ => self == other,
            },
        }
    }

    /// The type as RabbitMQ's error texts name it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongString(_) => "longstr",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
            Self::Binary(_) => "binary",
        }
    }
}

/// Reads a tag and its value. Nested tables and arrays are cut out but not looked into.
pub(super) fn read<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>> {
    Ok(match reader.u8()? {
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::I8(reader.i8()?),
        b'B' => Value::U8(reader.u8()?),
        b's' => Value::I16(reader.i16()?),
        b'u' => Value::U16(reader.u16()?),
        b'I' => Value::I32(reader.i32()?),
        b'i' => Value::U32(reader.u32()?),
        b'l' | b'L' => Value::I64(reader.i64()?),
        b'f' => Value::F32(reader.f32()?),
        b'd' => Value::F64(reader.f64()?),
        b'D' => Value::Decimal { scale: reader.u8()?, value: reader.u32()? },
        b'S' => Value::LongString(reader.long_string()?),
        b'A' => Value::Array(Array(reader.long_string()?)),
        b'T' => Value::Timestamp(reader.u64()?),
        b'F' => Value::Table(Table(reader.long_string()?)),
        b'V' => Value::Void,
        b'x' => Value::Binary(reader.long_string()?),
        tag => {
            return Err(Error::syntax_error(format!("a table holds a value of unknown type {tag}")));
        }
    })
}

/// Appends the tag and the value.
pub(crate) fn put(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Bool(truth) => put_tagged(out, b't', [u8::from(truth)]),
        Value::I8(number) => put_tagged(out, b'b', number.to_be_bytes()),
        Value::U8(number) => put_tagged(out, b'B', [number]),
        Value::I16(number) => put_tagged(out, b's', number.to_be_bytes()),
        Value::U16(number) => put_tagged(out, b'u', number.to_be_bytes()),
        Value::I32(number) => put_tagged(out, b'I', number.to_be_bytes()),
        Value::U32(number) => put_tagged(out, b'i', number.to_be_bytes()),
        Value::I64(number) => put_tagged(out, b'l', number.to_be_bytes()),
        Value::F32(number) => put_tagged(out, b'f', number.to_be_bytes()),
        Value::F64(number) => put_tagged(out, b'd', number.to_be_bytes()),
        Value::Decimal { scale, value } => {
            put_tagged(out, b'D', [scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::LongString(bytes) => put_sized(out, b'S', bytes),
        Value::Array(array) => put_sized(out, b'A', array.0),
        Value::Timestamp(seconds) => put_tagged(out, b'T', seconds.to_be_bytes()),
        Value::Table(table) => put_sized(out, b'F', table.0),
        Value::Void => out.push(b'V'),
        Value::Binary(bytes) => put_sized(out, b'x', bytes),
    }
}

fn put_tagged<const N: usize>(out: &mut Vec<u8>, tag: u8, value: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&value);
}

fn put_sized(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_long_string(out, bytes);
}

/// The value as RabbitMQ's error texts show it: strings bare, the rest as an Erlang term.
impl fmt::Display for Value<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bool(truth) => write!(formatter, "{truth}"),
            Self::F32(number) => write!(formatter, "{number:?}"),
            Self::F64(number) => write!(formatter, "{number:?}"),
            Self::Decimal { scale, value } => write!(formatter, "{{{scale},{value}}}"),
            Self::LongString(bytes) | Self::Binary(bytes) => {
                formatter.write_str(&String::from_utf8_lossy(bytes))
            }
            Self::Array(array) => list(formatter, array.iter().map(|value| format!("{{{}}}", term(value)))),
            Self::Table(table) => {
                list(formatter, table.iter().map(|(key, value)| format!("{{<<\"{key}\">>,{}}}", term(value))))
            }
            Self::Timestamp(seconds) => write!(formatter, "{seconds}"),
            Self::Void => formatter.write_str("undefined"),
            Self::I8(_)
            | Self::U8(_)
            | Self::I16(_)
            | Self::U16(_)
            | Self::I32(_)
            | Self::U32(_)
            | Self::I64(_) => {
                write!(formatter, "{}", self.as_int().unwrap_or_default())
            }
        }
    }
}

fn term(value: Value<'_>) -> String {
    match value {
        Value::LongString(_) | Value::Binary(_) => format!("{},<<\"{value}\">>", value.type_name()),
        _ => format!("{},{value}", value.type_name()),
    }
}

fn list(formatter: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    write!(formatter, "[{}]", items.collect::<Vec<_>>().join(","))
}

macro_rules! from {
    ($($type:ty => $variant:ident)*) => {
        $(impl<'a> From<$type> for Value<'a> {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

from! {
    bool => Bool  i8 => I8  u8 => U8  i16 => I16  u16 => U16  i32 => I32  u32 => U32  i64 => I64
    f32 => F32  f64 => F64  &'a [u8] => LongString  Array<'a> => Array  Table<'a> => Table
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::LongString(text.as_bytes())
    }
}
