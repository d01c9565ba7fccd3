//! Login responses.

use amqp::sasl::{self, Credentials};
use amqp::table::TableBuilder;

fn guest(password: &str) -> Credentials {
    Credentials { user: "guest".to_owned(), password: password.to_owned() }
}

#[test]
fn plain_has_three_parts_and_ignores_the_first() {
    assert_eq!(sasl::parse_plain(b"\0guest\0secret"), Ok(guest("secret")));
    assert_eq!(sasl::parse_plain(b"someone\0guest\0secret"), Ok(guest("secret")));
    assert_eq!(sasl::parse_plain(b"\0guest\0"), Ok(guest("")));
    assert_eq!(sasl::parse_plain(&sasl::plain("guest", "secret")), Ok(guest("secret")));
    for malformed in [&b""[..], b"guest", b"\0guest", b"\0guest\0secret\0", b"\0\xff\0x"] {
        let error = sasl::parse_plain(malformed).unwrap_err();
        assert_eq!(error.to_string(), "502 SYNTAX_ERROR - malformed PLAIN response");
    }
}

#[test]
fn amqplain_is_a_table() {
    let response = TableBuilder::new().with("LOGIN", "guest").with("PASSWORD", "secret").into_bytes();
    assert_eq!(sasl::parse_amqplain(&response), Ok(guest("secret")));
    let response = TableBuilder::new().with("LOGIN", "guest").with("PASSWORD", 1).into_bytes();
    let error = sasl::parse_amqplain(&response).unwrap_err();
    assert_eq!(error.to_string(), "502 SYNTAX_ERROR - malformed AMQPLAIN response");
    assert!(sasl::parse_amqplain(b"\x05LO").is_err());
}

#[test]
fn a_password_is_not_shown() {
    assert_eq!(format!("{:?}", guest("secret")), "Credentials { user: \"guest\", .. }");
}
