//! Properties: reading, writing, rewriting one.

use amqp::properties::{Properties, PropertiesBuilder};
use amqp::table::TableBuilder;
use expect_test::expect;
use proptest::option::of;
use proptest::prelude::*;

use crate::arbitrary::{build_table, fields};

#[test]
fn all_properties_are_read_on_demand() {
    let headers = TableBuilder::new().with("a", 1);
    let bytes = PropertiesBuilder {
        content_type: Some("text/plain"),
        content_encoding: Some("gzip"),
        headers: Some(headers.as_table()),
        delivery_mode: Some(2),
        priority: Some(9),
        correlation_id: Some("c"),
        reply_to: Some("r"),
        expiration: Some("1000"),
        message_id: Some("m"),
        timestamp: Some(1_700_000_000),
        kind: Some("k"),
        user_id: Some("u"),
        app_id: Some("a"),
        cluster_id: Some("cl"),
    }
    .to_bytes();
    let properties = Properties::new(&bytes).unwrap();
    assert!(properties.is_persistent());
    expect![[r#"Some("text/plain") Some("gzip") Some({"a": I32(1)}) Some(2) Some(9) Some("c") Some("r") Some("1000") Some("m") Some(1700000000) Some("k") Some("u") Some("a") Some("cl")"#]].assert_eq(&format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        properties.content_type(),
        properties.content_encoding(),
        properties.headers(),
        properties.delivery_mode(),
        properties.priority(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.timestamp(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ));
}

#[test]
fn no_properties_are_two_octets() {
    assert_eq!(PropertiesBuilder::default().to_bytes(), Properties::EMPTY.as_bytes());
    assert_eq!(Properties::new(&[0, 0]).unwrap(), Properties::EMPTY);
    assert_eq!(Properties::EMPTY.delivery_mode(), None);
    assert!(!Properties::EMPTY.is_persistent());
    assert!(!Properties::new(&[0x10, 0, 1]).unwrap().is_persistent());
}

#[test]
fn strings_that_only_pass_through_may_be_any_bytes() {
    let opaque = Properties::new(b"\x04\x00\x01\xff").unwrap();
    assert_eq!(opaque.correlation_id(), None);
    let mut out = Vec::new();
    opaque.with_reply_to("r", &mut out);
    assert_eq!(out, b"\x06\x00\x01\xff\x01r");
    assert!(Properties::new(b"\x02\x00\x01\xff").is_err(), "a broker acts on reply-to");
}

#[test]
fn broken_properties_are_syntax_errors() {
    let errors = [
        &b""[..],
        b"\x00",
        b"\x00\x01\x00\x00",
        b"\x00\x02",
        b"\x00\x00!",
        b"\x10\x00",
        b"\x20\x00\0\0\0\x01a",
    ];
    let shown: Vec<_> = errors.map(|bytes| Properties::new(bytes).unwrap_err().to_string()).into();
    expect![[r#"
        502 SYNTAX_ERROR - a field ends after the bytes that hold it
        502 SYNTAX_ERROR - a field ends after the bytes that hold it
        502 SYNTAX_ERROR - property flags 0x0001 have unknown bits
        502 SYNTAX_ERROR - property flags 0x0002 have unknown bits
        502 SYNTAX_ERROR - 1 bytes are left after the last field
        502 SYNTAX_ERROR - a field ends after the bytes that hold it
        502 SYNTAX_ERROR - a field ends after the bytes that hold it"#]]
    .assert_eq(&shown.join("\n"));
}

proptest! {
    #[test]
    fn properties_round_trip(
        strings in proptest::array::uniform10(of("\\PC{0,10}")),
        headers in of(fields()),
        delivery_mode in of(any::<u8>()),
        priority in of(any::<u8>()),
        timestamp in of(any::<u64>()),
    ) {
        let headers = headers.map(|fields| build_table(&fields));
        let string = |index: usize| strings[index].as_deref();
        let builder = PropertiesBuilder {
            content_type: string(0),
            content_encoding: string(1),
            headers: headers.as_ref().map(TableBuilder::as_table),
            delivery_mode,
            priority,
            correlation_id: string(2),
            reply_to: string(3),
            expiration: string(4),
            message_id: string(5),
            timestamp,
            kind: string(6),
            user_id: string(7),
            app_id: string(8),
            cluster_id: string(9),
        };
        let bytes = builder.to_bytes();
        let read = Properties::new(&bytes).unwrap();
        prop_assert_eq!(rebuilt(read), builder);

        let mut out = Vec::new();
        read.with_reply_to("new", &mut out);
        let expected = PropertiesBuilder { reply_to: Some("new"), ..builder };
        prop_assert_eq!(&out, &expected.to_bytes());

        out.clear();
        read.without_expiration(&mut out);
        let expected = PropertiesBuilder { expiration: None, ..builder };
        prop_assert_eq!(&out, &expected.to_bytes());

        let new_headers = TableBuilder::new().with("x", 1);
        out.clear();
        read.with_headers(new_headers.as_table(), &mut out);
        let expected = PropertiesBuilder { headers: Some(new_headers.as_table()), ..builder };
        prop_assert_eq!(&out, &expected.to_bytes());
    }
}

fn rebuilt(read: Properties<'_>) -> PropertiesBuilder<'_> {
    PropertiesBuilder {
        content_type: read.content_type(),
        content_encoding: read.content_encoding(),
        headers: read.headers(),
        delivery_mode: read.delivery_mode(),
        priority: read.priority(),
        correlation_id: read.correlation_id(),
        reply_to: read.reply_to(),
        expiration: read.expiration(),
        message_id: read.message_id(),
        timestamp: read.timestamp(),
        kind: read.kind(),
        user_id: read.user_id(),
        app_id: read.app_id(),
        cluster_id: read.cluster_id(),
    }
}

#[test]
fn headers_that_may_send_copies_need_a_look_and_others_do_not() {
    let with = |headers: TableBuilder| {
        let content_type = Some("text/plain");
        let headers = Some(headers.as_table());
        PropertiesBuilder { content_type, headers, ..PropertiesBuilder::default() }.to_bytes()
    };
    let needs = |headers| Properties::new(&with(headers)).unwrap().needs_a_look();
    assert!(needs(TableBuilder::new().with("a", 1i32).with("CC", "x")));
    assert!(needs(TableBuilder::new().with("BCC", "x").with("a", 1i32)));
    assert!(!needs(TableBuilder::new()));
    assert!(!needs(TableBuilder::new().with("x-death", 1i32).with("c", "C").with("cc", "bcc")));
    assert!(!Properties::EMPTY.needs_a_look());
}

#[test]
fn a_header_of_64_bits_is_added_to_what_is_there() {
    let headers = TableBuilder::new().with("a", "x");
    let with = PropertiesBuilder {
        headers: Some(headers.as_table()),
        priority: Some(9),
        ..PropertiesBuilder::default()
    };
    let without = PropertiesBuilder { delivery_mode: Some(2), ..PropertiesBuilder::default() };
    let added = |properties: &PropertiesBuilder<'_>| {
        let (before, mut bytes) = (properties.to_bytes(), Vec::new());
        Properties::new(&before).unwrap().with_long_header("b", -1, &mut bytes);
        let after = Properties::new(&bytes).unwrap();
        format!("{:?} {:?} {:?}", after.headers().unwrap(), after.delivery_mode(), after.priority())
    };
    assert_eq!(added(&with), r#"{"a": LongString([120]), "b": I64(-1)} None Some(9)"#);
    assert_eq!(added(&without), r#"{"b": I64(-1)} Some(2) None"#);
}
