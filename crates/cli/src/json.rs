//! Messages as JSON.

use amqp::properties::Properties;
use amqp::table::{Table, Value as Field};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// A message that was delivered.
pub(crate) struct Delivery<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) redelivered: bool,
    pub(crate) properties: Properties<'a>,
    pub(crate) body: &'a [u8],
}

impl Delivery<'_> {
    /// One object: the body is text where it is UTF-8, else base64; `body_encoding` says which.
    pub(crate) fn to_json(&self) -> Value {
        let (body, body_encoding) = match str::from_utf8(self.body) {
            Ok(text) => (text.to_owned(), "text"),
            Err(_) => (STANDARD.encode(self.body), "base64"),
        };
        json!({
            "exchange": self.exchange,
            "routing_key": self.routing_key,
            "redelivered": self.redelivered,
            "properties": properties(self.properties),
            "headers": table(self.properties.headers().unwrap_or_default()),
            "body": body,
            "body_encoding": body_encoding,
        })
    }
}

/// The properties that are set, without the headers.
pub(crate) fn properties(properties: Properties<'_>) -> Map<String, Value> {
    let fields: [(&str, Option<Value>); 13] = [
        ("content_type", properties.content_type().map(Value::from)),
        ("content_encoding", properties.content_encoding().map(Value::from)),
        ("delivery_mode", properties.delivery_mode().map(Value::from)),
        ("priority", properties.priority().map(Value::from)),
        ("correlation_id", properties.correlation_id().map(Value::from)),
        ("reply_to", properties.reply_to().map(Value::from)),
        ("expiration", properties.expiration().map(Value::from)),
        ("message_id", properties.message_id().map(Value::from)),
        ("timestamp", properties.timestamp().map(Value::from)),
        ("type", properties.kind().map(Value::from)),
        ("user_id", properties.user_id().map(Value::from)),
        ("app_id", properties.app_id().map(Value::from)),
        ("cluster_id", properties.cluster_id().map(Value::from)),
    ];
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    set.collect()
}

fn table(fields: Table<'_>) -> Value {
    fields.iter().map(|(key, value)| (key.to_owned(), field(value))).collect()
}

/// What JSON has no type for is what comes nearest: a timestamp its seconds, a decimal its digits, bytes an object.
fn field(value: Field<'_>) -> Value {
    match value {
        Field::Bool(truth) => truth.into(),
        Field::I8(number) => number.into(),
        Field::U8(number) => number.into(),
        Field::I16(number) => number.into(),
        Field::U16(number) => number.into(),
        Field::I32(number) => number.into(),
        Field::U32(number) => number.into(),
        Field::I64(number) => number.into(),
        Field::F32(number) => number.into(),
        Field::F64(number) => number.into(),
        Field::Timestamp(seconds) => seconds.into(),
        Field::Decimal { scale, value } => (f64::from(value) / 10f64.powi(scale.into())).into(),
        Field::LongString(bytes) | Field::Binary(bytes) => match str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
        },
        Field::Array(array) => array.iter().map(field).collect(),
        Field::Table(fields) => table(fields),
        Field::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use amqp::properties::PropertiesBuilder;
    use amqp::table::{ArrayBuilder, TableBuilder};

    use super::*;

    #[test]
    fn a_message_is_one_object() {
        let nested = TableBuilder::new().with("deep", true);
        let array = ArrayBuilder::new().with(1u8).with("two");
        let headers = TableBuilder::new()
            .with("table", nested.as_table())
            .with("array", array.as_array())
            .with("bytes", &b"\xff"[..])
            .with("void", Field::Void)
            .with("price", Field::Decimal { scale: 2, value: 1250 });
        let builder = PropertiesBuilder {
            headers: Some(headers.as_table()),
            delivery_mode: Some(2),
            kind: Some("order"),
            ..PropertiesBuilder::default()
        };
        let bytes = builder.to_bytes();
        let properties = Properties::new(&bytes).unwrap();
        let mut delivery =
            Delivery { exchange: "x", routing_key: "k", redelivered: false, properties, body: b"\"a\"\n" };
        assert_eq!(
            delivery.to_json(),
            json!({
                "exchange": "x", "routing_key": "k", "redelivered": false,
                "properties": { "delivery_mode": 2, "type": "order" },
                "headers": {
                    "table": { "deep": true }, "array": [1, "two"], "bytes": { "base64": "/w==" }, "void": null,
                    "price": 12.5,
                },
                "body": "\"a\"\n", "body_encoding": "text",
            })
        );
        delivery.body = b"\xff\xfe";
        assert_eq!(delivery.to_json()["body"], "//4=");
        assert_eq!(delivery.to_json()["body_encoding"], "base64");
    }
}
