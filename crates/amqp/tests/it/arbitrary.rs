//! Values for property tests.

use amqp::table::{ArrayBuilder, TableBuilder, Value};
use proptest::collection::vec;
use proptest::prelude::*;

/// A value that owns what it holds.
#[derive(Clone, Debug)]
pub(crate) enum Owned {
    Plain(Value<'static>),
    LongString(Vec<u8>),
    Binary(Vec<u8>),
    Array(Vec<Owned>),
    Table(Vec<(String, Owned)>),
}

pub(crate) fn build_table(fields: &[(String, Owned)]) -> TableBuilder {
    let mut builder = TableBuilder::new();
    for (key, value) in fields {
        with_value(value, |value| builder.insert(key, value));
    }
    builder
}

fn build_array(values: &[Owned]) -> ArrayBuilder {
    let mut builder = ArrayBuilder::new();
    for value in values {
        with_value(value, |value| builder.push(value));
    }
    builder
}

fn with_value(value: &Owned, put: impl FnOnce(Value<'_>)) {
    match value {
        Owned::Plain(value) => put(*value),
        Owned::LongString(bytes) => put(Value::LongString(bytes)),
        Owned::Binary(bytes) => put(Value::Binary(bytes)),
        Owned::Array(values) => put(Value::Array(build_array(values).as_array())),
        Owned::Table(fields) => put(Value::Table(build_table(fields).as_table())),
    }
}

fn leaf() -> impl Strategy<Value = Owned> {
    let plain = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<u64>().prop_map(Value::Timestamp),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        Just(Value::Void),
    ];
    prop_oneof![
        plain.prop_map(Owned::Plain),
        vec(any::<u8>(), 0..20).prop_map(Owned::LongString),
        vec(any::<u8>(), 0..20).prop_map(Owned::Binary),
    ]
}

fn value() -> impl Strategy<Value = Owned> {
    leaf().prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Owned::Array),
            vec((key(), inner), 0..5).prop_map(Owned::Table),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

pub(crate) fn fields() -> impl Strategy<Value = Vec<(String, Owned)>> {
    vec((key(), value()), 0..6)
}
