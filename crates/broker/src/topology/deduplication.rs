//! Messages that are taken once: what names them, and for how long their names are remembered.
//!
//! A publisher that is not sure whether a message arrived sends it again, with the same id in a header. Arguments and
//! headers are those of LavinMQ and of RabbitMQ's plugin. See decision 0013.

use std::sync::Arc;

use amqp::properties::Properties;
use amqp::table::Value;
use sha2::{Digest, Sha256};

use crate::arguments::Arguments;
use crate::error::{Error, precondition};

/// Argument of exchanges and queues that asks for it.
pub(super) const DEDUPLICATION: &str = "x-message-deduplication";

/// Argument: how many ids are remembered.
pub(super) const SIZE: &str = "x-cache-size";

/// Argument and header: how long an id is remembered, milliseconds.
pub(super) const TTL: &str = "x-cache-ttl";

/// Argument that names the header with the id, and that header's usual name.
pub(super) const HEADER: &str = "x-deduplication-header";

/// Ids that are remembered when nobody says how many.
const SIZE_DEFAULT: u32 = 128;

/// Ids that a queue remembers at most, all together.
pub(crate) const IDS_MAX: u32 = 1 << 20;

/// What is remembered of messages, by arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// How many ids: at least one.
    pub size: u32,
    /// For how long, in milliseconds; `None`: until others take the place.
    pub ttl_ms: Option<u64>,
    /// The header with the id.
    pub header: Arc<str>,
}

/// What a message is remembered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Among which it is looked for: those of one exchange, or those of the queue.
    pub window: u64,
    /// Half of a SHA-256 of the id: whatever its length, it takes no more.
    pub id: [u8; 16],
    /// How many ids that window holds.
    pub size: u32,
    /// For how long this one is remembered, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// The window of what came to a queue by whichever way.
const OF_QUEUE: u64 = 0;

/// What is to be done about messages that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Duplicates {
    /// Queues drop them if they are told to.
    #[default]
    AsQueuesSay,
    /// So it is, and each queue takes what has this identity once.
    Drop(Identity),
    /// The broker moves messages that it took before: none is a duplicate.
    Keep,
}

impl Deduplication {
    /// What the arguments of an exchange or a queue ask for.
    pub(super) fn of(arguments: &Arguments) -> Option<Deduplication> {
        arguments.bool(DEDUPLICATION).filter(|wanted| *wanted)?;
        Some(Deduplication::with(arguments))
    }

    /// The same, where it goes without saying.
    pub(super) fn with(arguments: &Arguments) -> Deduplication {
        let size = arguments.int(SIZE).and_then(|size| u32::try_from(size).ok());
        Deduplication {
            size: size.unwrap_or(SIZE_DEFAULT).clamp(1, IDS_MAX),
            ttl_ms: arguments.int(TTL).and_then(|ttl| u64::try_from(ttl).ok()),
            header: arguments.string(HEADER).unwrap_or(HEADER).into(),
        }
    }

    /// What a message is remembered by in a queue, if it has an id.
    pub(crate) fn in_queue(&self, properties: Properties<'_>) -> Option<Identity> {
        self.identify(OF_QUEUE, properties)
    }

    /// What a message is remembered by when it comes through an exchange, if it has an id.
    pub(super) fn through(&self, exchange: &str, properties: Properties<'_>) -> Option<Identity> {
        let [a, b, c, d, e, f, g, h, ..] = digest(&[exchange.as_bytes()]);
        self.identify(u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(OF_QUEUE + 1), properties)
    }

    fn identify(&self, window: u64, properties: Properties<'_>) -> Option<Identity> {
        let headers = properties.headers()?;
        let id = id_of(headers.get(&self.header)?);
        let own_ttl = headers.get(TTL).and_then(Value::as_int).and_then(|ttl| u64::try_from(ttl).ok());
        Some(Identity { window, id, size: self.size, ttl_ms: own_ttl.or(self.ttl_ms) })
    }
}

impl Identity {
    /// A number that is the same for all messages with this id: by chance, but never by another one.
    pub fn chance(&self) -> u64 {
        self.id.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// The number 7 and the text "7" are two ids.
fn id_of(value: Value<'_>) -> [u8; 16] {
    match (value.as_bytes(), value.as_int()) {
        (Some(bytes), _) => digest(&[b"text", bytes]),
        (None, Some(number)) => digest(&[b"number", &number.to_be_bytes()]),
        (None, None) => digest(&[value.type_name().as_bytes(), value.to_string().as_bytes()]),
    }
}

/// Stands for bytes of any length: half of their SHA-256.
pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut sha = Sha256::new();
    parts.iter().for_each(|part| sha.update(part));
    sha.finalize().first_chunk().copied().expect("a SHA-256 has 32 bytes")
}

/// Checks the arguments of a new exchange.
pub(crate) fn validate(arguments: &Arguments) -> Result<(), Error> {
    for (key, check) in RULES {
        if let Some(value) = arguments.get(key) {
            check(value).map_err(|why| precondition(format!("invalid arg '{key}': {why}")))?;
        }
    }
    Ok(())
}

type Check = fn(Value<'_>) -> Result<(), String>;

/// The arguments, for exchanges and queues.
pub(crate) const RULES: [(&str, Check); 4] =
    [(DEDUPLICATION, truth), (SIZE, size), (TTL, milliseconds), (HEADER, name)];

fn expected(what: &str, value: Value<'_>) -> String {
    format!("expected {what}, got {} {value}", value.type_name())
}

fn truth(value: Value<'_>) -> Result<(), String> {
    value.as_bool().map(drop).ok_or_else(|| expected("a boolean", value))
}

fn size(value: Value<'_>) -> Result<(), String> {
    let fits = value.as_int().is_some_and(|size| (1..=i64::from(IDS_MAX)).contains(&size));
    if fits { Ok(()) } else { Err(expected(&format!("1 to {IDS_MAX}"), value)) }
}

fn milliseconds(value: Value<'_>) -> Result<(), String> {
    let fits = value.as_int().is_some_and(|ms| ms >= 0);
    if fits { Ok(()) } else { Err(expected("milliseconds", value)) }
}

fn name(value: Value<'_>) -> Result<(), String> {
    value.as_str().map(drop).ok_or_else(|| expected("the name of a header", value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp::properties::PropertiesBuilder;
    use amqp::table::TableBuilder;

    fn identity(arguments: &TableBuilder, headers: &TableBuilder) -> Option<Identity> {
        let arguments = Arguments::from(arguments.as_table());
        let headers = Some(headers.as_table());
        let bytes = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
        Deduplication::of(&arguments)?.in_queue(Properties::new(&bytes).unwrap())
    }

    #[test]
    fn the_id_is_what_the_header_says() {
        let on = TableBuilder::new().with(DEDUPLICATION, true);
        let by = |value: Value<'_>| identity(&on, &TableBuilder::new().with(HEADER, value)).unwrap();
        assert_eq!(by(Value::I32(7)), by(Value::I64(7)), "a number is a number");
        assert_ne!(by(Value::I32(7)).id, by("7".into()).id);
        let text = by("a".into());
        assert_eq!((text.size, text.ttl_ms), (128, None));
        assert_eq!(identity(&on, &TableBuilder::new()), None);
        assert_eq!(identity(&TableBuilder::new(), &TableBuilder::new().with(HEADER, "a")), None);
        let other = TableBuilder::new().with(DEDUPLICATION, true).with(HEADER, "id").with(TTL, 5i32);
        assert_eq!(identity(&other, &TableBuilder::new().with(HEADER, "a")), None);
        let ttl = |headers: &TableBuilder| identity(&other, headers).unwrap().ttl_ms;
        assert_eq!(ttl(&TableBuilder::new().with("id", "a")), Some(5));
        assert_eq!(ttl(&TableBuilder::new().with("id", "a").with(TTL, 9i32)), Some(9));
    }

    /// Ids are remembered over restarts: their digests must never change.
    #[test]
    fn digests_are_fixed() {
        let hex = |id: [u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(id_of("a".into())), "bb52665296ce60d04a3b444fc80c5942");
        assert_eq!(hex(id_of(Value::I8(7))), "ca5294365c9cff693a5b402f8d39a89c");
    }

    #[test]
    fn arguments_have_limits() {
        let wrong: [(&str, Value<'_>); 6] = [
            (SIZE, Value::I32(0)),
            (SIZE, Value::I64(i64::from(IDS_MAX) + 1)),
            (SIZE, "5".into()),
            (TTL, Value::I32(-1)),
            (HEADER, Value::I32(1)),
            (DEDUPLICATION, "yes".into()),
        ];
        for (key, value) in wrong {
            assert!(
                validate(&TableBuilder::new().with(key, value).as_table().into()).is_err(),
                "{key} {value}"
            );
        }
        let right = TableBuilder::new().with(SIZE, i64::from(IDS_MAX)).with(TTL, 0i32);
        assert!(validate(&right.as_table().into()).is_ok());
    }
}
