//! Whether the headers of a message match the arguments of a binding.

use amqp::table::{Table, Value};

use crate::arguments::Arguments;
use crate::error::{Error, precondition};

/// How many of a binding's arguments must match, and whether those that start with `x-` count.
#[derive(Clone, Copy)]
struct Mode {
    all: bool,
    with_x: bool,
}

impl Mode {
    fn parse(name: &str) -> Option<Mode> {
        match name {
            "all" => Some(Mode { all: true, with_x: false }),
            "any" => Some(Mode { all: false, with_x: false }),
            "all-with-x" => Some(Mode { all: true, with_x: true }),
            "any-with-x" => Some(Mode { all: false, with_x: true }),
            _ => None,
        }
    }
}

/// Checks the arguments of a new binding of a headers exchange.
pub(crate) fn validate(arguments: &Arguments) -> Result<(), Error> {
    let Some(value) = arguments.get("x-match") else {
        return Ok(());
    };
    let Value::LongString(name) = value else {
        let text =
            format!("Invalid x-match field type {} (value {value}); expected longstr", value.type_name());
        return Err(precondition(text));
    };
    if std::str::from_utf8(name).ok().and_then(Mode::parse).is_some() {
        return Ok(());
    }
    let text =
        format!("Invalid x-match field value <<\"{value}\">>; expected all, any, all-with-x, or any-with-x");
    Err(precondition(text))
}

/// Whether `headers` match. Without `x-match` all arguments must; one without a value asks only for presence.
pub(super) fn matches(arguments: Table<'_>, headers: Table<'_>) -> bool {
    let mode = arguments.get("x-match").and_then(Value::as_str).and_then(Mode::parse);
    let mode = mode.unwrap_or(Mode { all: true, with_x: false });
    let mut fields = arguments.iter().filter(|(key, _)| counts(key, mode));
    let present = |(key, expected): (&str, Value<'_>)| {
        headers.get(key).is_some_and(|found| expected == Value::Void || expected.equivalent(found))
    };
    if mode.all { fields.all(present) } else { fields.any(present) }
}

fn counts(key: &str, mode: Mode) -> bool {
    key != "x-match" && (mode.with_x || !key.starts_with("x-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp::table::TableBuilder;
    use expect_test::expect;

    fn binding(mode: &str, fields: &[(&str, Value<'_>)]) -> TableBuilder {
        let start =
            if mode.is_empty() { TableBuilder::new() } else { TableBuilder::new().with("x-match", mode) };
        fields.iter().fold(start, |table, (key, value)| table.with(key, *value))
    }

    #[test]
    fn the_table_of_modes() {
        let fields = [("a", Value::I32(1)), ("b", Value::from("two")), ("x-c", Value::Bool(true))];
        let messages = [
            ("nothing", TableBuilder::new()),
            ("a", TableBuilder::new().with("a", 1i64)),
            ("a b", TableBuilder::new().with("a", 1i8).with("b", "two")),
            ("a b x-c", TableBuilder::new().with("a", 1i32).with("b", "two").with("x-c", true)),
            ("x-c", TableBuilder::new().with("x-c", true)),
            ("wrong b", TableBuilder::new().with("a", 1i32).with("b", "three")),
            ("b as bytes of another type", TableBuilder::new().with("b", 2i32)),
        ];
        let mut story = String::new();
        for (name, headers) in &messages {
            story += &format!("{name}:");
            for mode in ["", "all", "any", "all-with-x", "any-with-x"] {
                if matches(binding(mode, &fields).as_table(), headers.as_table()) {
                    story += &format!(" {}", if mode.is_empty() { "none" } else { mode });
                }
            }
            story.push('\n');
        }
        expect![[r#"
            nothing:
            a: any any-with-x
            a b: none all any any-with-x
            a b x-c: none all any all-with-x any-with-x
            x-c: any-with-x
            wrong b: any any-with-x
            b as bytes of another type:
        "#]]
        .assert_eq(&story);
    }

    #[test]
    fn a_field_without_a_value_asks_for_presence() {
        let wanted = binding("all", &[("a", Value::Void)]);
        assert!(matches(wanted.as_table(), TableBuilder::new().with("a", "anything").as_table()));
        assert!(!matches(wanted.as_table(), TableBuilder::new().with("b", "anything").as_table()));
    }

    #[test]
    fn a_binding_without_fields_matches_everything_or_nothing() {
        assert!(matches(binding("all", &[]).as_table(), Table::EMPTY));
        assert!(!matches(binding("any", &[]).as_table(), Table::EMPTY));
    }
}
