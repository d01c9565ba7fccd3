//! Tables: what is valid, what is equivalent, how it reads.

use amqp::table::{Array, ArrayBuilder, DEPTH_MAX, Table, TableBuilder, Value};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::arbitrary::{build_table, fields};

fn check_refused(bytes: &[u8], expected: Expect) {
    expected.assert_eq(&Table::new(bytes).unwrap_err().to_string());
}

/// A table that nests `depth` levels deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut table = TableBuilder::new();
    for _ in 1..depth {
        table = TableBuilder::new().with("t", table.as_table());
    }
    table.into_bytes()
}

#[test]
fn every_type_reads_as_rabbitmq_names_it() {
    let inner = TableBuilder::new().with("a", 1).with("b", "two");
    let array = ArrayBuilder::new().with(1_i64).with("x");
    let table = TableBuilder::new()
        .with("bool", true)
        .with("byte", -1_i8)
        .with("unsignedbyte", 255_u8)
        .with("short", -300_i16)
        .with("unsignedshort", 65_535_u16)
        .with("signedint", -70_000)
        .with("unsignedint", 4_000_000_000_u32)
        .with("long", -5_000_000_000_i64)
        .with("float", 1.5_f32)
        .with("double", 2.5_f64)
        .with("decimal", Value::Decimal { scale: 2, value: 314 })
        .with("longstr", "text")
        .with("array", array.as_array())
        .with("timestamp", Value::Timestamp(1_700_000_000))
        .with("table", inner.as_table())
        .with("void", Value::Void)
        .with("binary", Value::Binary(b"raw"));
    let bytes = table.into_bytes();
    let mut shown = String::new();
    for (key, value) in Table::new(&bytes).unwrap() {
        assert_eq!(key, value.type_name());
        shown += &format!("the value '{value}' of type '{}'\n", value.type_name());
    }
    expect![[r#"
        the value 'true' of type 'bool'
        the value '-1' of type 'byte'
        the value '255' of type 'unsignedbyte'
        the value '-300' of type 'short'
        the value '65535' of type 'unsignedshort'
        the value '-70000' of type 'signedint'
        the value '4000000000' of type 'unsignedint'
        the value '-5000000000' of type 'long'
        the value '1.5' of type 'float'
        the value '2.5' of type 'double'
        the value '{2,314}' of type 'decimal'
        the value 'text' of type 'longstr'
        the value '[{long,1},{longstr,<<"x">>}]' of type 'array'
        the value '1700000000' of type 'timestamp'
        the value '[{<<"a">>,signedint,1},{<<"b">>,longstr,<<"two">>}]' of type 'table'
        the value 'undefined' of type 'void'
        the value 'raw' of type 'binary'
    "#]]
    .assert_eq(&shown);
}

#[test]
fn broken_tables_are_syntax_errors() {
    check_refused(b"\x05abc", expect!["502 SYNTAX_ERROR - a field ends after the bytes that hold it"]);
    check_refused(b"\x01\xffV", expect!["502 SYNTAX_ERROR - a short string is not UTF-8"]);
    check_refused(b"\x01aZ", expect!["502 SYNTAX_ERROR - a table holds a value of unknown type 90"]);
    check_refused(b"\x01a", expect!["502 SYNTAX_ERROR - a field ends after the bytes that hold it"]);
    check_refused(
        b"\x01aS\0\0\0\x02x",
        expect!["502 SYNTAX_ERROR - a field ends after the bytes that hold it"],
    );
    check_refused(
        b"\x01aF\0\0\0\x01x",
        expect!["502 SYNTAX_ERROR - a field ends after the bytes that hold it"],
    );
    check_refused(
        b"\x01aA\0\0\0\x02IV",
        expect!["502 SYNTAX_ERROR - a field ends after the bytes that hold it"],
    );
    check_refused(
        &nested(DEPTH_MAX + 1),
        expect!["502 SYNTAX_ERROR - a table nests more than 32 levels deep"],
    );
    assert!(Table::new(&nested(DEPTH_MAX)).is_ok());
}

#[test]
fn nesting_that_would_exhaust_the_stack_is_refused() {
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        let size = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes = [b"A", &size[..], &bytes].concat();
    }
    assert!(Array::new(&bytes).is_err());
}

#[test]
fn l_is_signed_in_both_cases() {
    let table =
        Table::new(b"\x01al\xff\xff\xff\xff\xff\xff\xff\xff\x01bL\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    assert_eq!(table.get("a"), Some(Value::I64(-1)));
    assert_eq!(table.get("b"), Some(Value::I64(-1)));
    assert_eq!(table.get("c"), None);
}

#[test]
fn integers_compare_by_number_and_tables_by_key() {
    assert!(Value::I8(10).equivalent(Value::I64(10)));
    assert!(Value::U32(10).equivalent(Value::I16(10)));
    assert!(!Value::I64(10).equivalent(Value::I64(11)));
    assert!(!Value::I64(10).equivalent(Value::Timestamp(10)));
    assert!(!Value::LongString(b"10").equivalent(Value::I64(10)));
    assert!(Value::from("a").equivalent(Value::from("a")));
    let one = TableBuilder::new().with("a", 1).with("b", "x");
    let another = TableBuilder::new().with("b", "x").with("a", 1_i64);
    assert!(one.as_table().equivalent(another.as_table()));
    assert!(!one.as_table().equivalent(another.with("c", 1).as_table()));
    let (one, another) = (ArrayBuilder::new().with(1), ArrayBuilder::new().with(1_i64));
    assert!(one.as_array().equivalent(another.as_array()));
    assert!(!one.as_array().equivalent(another.with(2).as_array()));
}

proptest! {
    #[test]
    fn tables_round_trip(fields in fields()) {
        let built = build_table(&fields);
        let bytes = built.as_table().as_bytes().to_vec();
        let table = Table::new(&bytes).unwrap();
        let mut again = TableBuilder::new();
        for (key, value) in table {
            again.insert(key, value);
        }
        prop_assert_eq!(again.as_table(), table);
        prop_assert_eq!(table.iter().count(), fields.len());
        for (key, _) in &fields {
            prop_assert!(table.get(key).is_some());
        }
    }

    #[test]
    fn cut_tables_never_panic(fields in fields(), cut in any::<prop::sample::Index>()) {
        let bytes = build_table(&fields).into_bytes();
        if let Ok(table) = Table::new(&bytes[..cut.index(bytes.len() + 1)]) {
            prop_assert!(table.iter().count() <= fields.len());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        amqp::fuzzing::table(&bytes);
        amqp::fuzzing::frame(&bytes);
        amqp::fuzzing::connection(&bytes);
    }
}
