//! Properties and headers of a message, as they are written on the command line.

use amqp::properties::PropertiesBuilder;
use amqp::receiver::PROPERTIES_SIZE_MAX;
use amqp::table::TableBuilder;
use anyhow::{Result, bail};
use clap::Args;

use crate::url::short_string;

/// What `--property` knows, for its error.
const KEYS: &str = "app-id, content-encoding, content-type, correlation-id, expiration, message-id, priority, reply-to, \
                    timestamp, type, user-id";

/// Delivery modes on the wire.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct Written {
    /// A property, such as content-type=text/plain, priority=5 or expiration=60000 (repeatable)
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    properties: Vec<Property>,

    /// A header; its value is a string (repeatable)
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Do not ask the broker to keep the messages over a restart
    #[arg(long)]
    transient: bool,
}

impl Written {
    /// The encoded properties.
    ///
    /// # Errors
    /// When together they are larger than a broker takes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut headers = TableBuilder::new();
        for (key, value) in &self.headers {
            headers.insert(key, value.as_str());
        }
        let mut builder = PropertiesBuilder {
            headers: (!self.headers.is_empty()).then(|| headers.as_table()),
            delivery_mode: Some(if self.transient { TRANSIENT } else { PERSISTENT }),
            ..PropertiesBuilder::default()
        };
        for property in &self.properties {
            property.set(&mut builder);
        }
        let bytes = builder.to_bytes();
        if bytes.len() > PROPERTIES_SIZE_MAX {
            bail!(
                "properties and headers take {} bytes, expected at most {PROPERTIES_SIZE_MAX}",
                bytes.len()
            );
        }
        Ok(bytes)
    }
}

/// One property; strings are at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Property {
    AppId(String),
    ContentEncoding(String),
    ContentType(String),
    CorrelationId(String),
    Expiration(String),
    Kind(String),
    MessageId(String),
    Priority(u8),
    ReplyTo(String),
    Timestamp(u64),
    UserId(String),
}

impl Property {
    fn set<'a>(&'a self, builder: &mut PropertiesBuilder<'a>) {
        match self {
            Property::AppId(text) => builder.app_id = Some(text),
            Property::ContentEncoding(text) => builder.content_encoding = Some(text),
            Property::ContentType(text) => builder.content_type = Some(text),
            Property::CorrelationId(text) => builder.correlation_id = Some(text),
            Property::Expiration(text) => builder.expiration = Some(text),
            Property::Kind(text) => builder.kind = Some(text),
            Property::MessageId(text) => builder.message_id = Some(text),
            Property::Priority(priority) => builder.priority = Some(*priority),
            Property::ReplyTo(text) => builder.reply_to = Some(text),
            Property::Timestamp(seconds) => builder.timestamp = Some(*seconds),
            Property::UserId(text) => builder.user_id = Some(text),
        }
    }
}

/// Reads `key=value`; `content_type` is as good as `content-type`.
fn property(text: &str) -> Result<Property, String> {
    let (key, value) = split(text)?;
    let string = || short_string(value);
    Ok(match key.replace('_', "-").as_str() {
        "app-id" => Property::AppId(string()?),
        "content-encoding" => Property::ContentEncoding(string()?),
        "content-type" => Property::ContentType(string()?),
        "correlation-id" => Property::CorrelationId(string()?),
        "delivery-mode" => return Err("delivery-mode is 2 (persistent), and 1 with --transient".to_owned()),
        "expiration" => Property::Expiration(number::<u64>(value)?.to_string()),
        "message-id" => Property::MessageId(string()?),
        "priority" => Property::Priority(number(value)?),
        "reply-to" => Property::ReplyTo(string()?),
        "timestamp" => Property::Timestamp(number(value)?),
        "type" => Property::Kind(string()?),
        "user-id" => Property::UserId(string()?),
        _ => return Err(format!("unknown property '{key}', expected one of: {KEYS}")),
    })
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = split(text)?;
    Ok((short_string(key)?, value.to_owned()))
}

fn split(text: &str) -> Result<(&str, &str), String> {
    text.split_once('=').ok_or_else(|| "expected KEY=VALUE".to_owned())
}

fn number<N: std::str::FromStr<Err = std::num::ParseIntError>>(text: &str) -> Result<N, String> {
    text.parse().map_err(|error| format!("'{text}' is not a number in its range: {error}"))
}

#[cfg(test)]
mod tests {
    use amqp::properties::Properties;

    use super::*;

    fn written(properties: &[&str], headers: &[&str]) -> Written {
        let properties = properties.iter().map(|text| property(text).unwrap()).collect();
        let headers = headers.iter().map(|text| header(text).unwrap()).collect();
        Written { properties, headers, transient: false }
    }

    #[test]
    fn every_property_arrives() {
        for key in KEYS.split(", ") {
            let bytes = written(&[&format!("{key}=7")], &["a=b=c"]).encode().unwrap();
            let properties = Properties::new(&bytes).unwrap();
            assert!(properties.is_persistent());
            let json = crate::json::properties(properties);
            let found =
                json.get(&key.replace('-', "_")).unwrap_or_else(|| panic!("{key} is not in {json:?}"));
            assert_eq!(found.as_str().map_or_else(|| found.to_string(), str::to_owned), "7", "{key}");
            assert_eq!(properties.headers().unwrap().get("a").unwrap().as_str(), Some("b=c"));
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(property("x").unwrap_err(), "expected KEY=VALUE");
        assert!(
            property("colour=red")
                .unwrap_err()
                .starts_with("unknown property 'colour', expected one of: app-id")
        );
        assert!(property("priority=256").unwrap_err().contains("'256' is not a number in its range"));
        assert!(property("delivery_mode=1").unwrap_err().contains("--transient"));
        assert!(property(&format!("type={}", "x".repeat(256))).is_err());
        let large = format!("a={}", "x".repeat(PROPERTIES_SIZE_MAX));
        assert!(written(&[], &[&large]).encode().unwrap_err().to_string().contains("expected at most 65536"));
    }
}
