//! Exchanges of type `x-recent-history`: who is bound to one gets the last messages that came through it.
//!
//! They are kept in a queue that comes and goes with the exchange and drops from its head, so they survive what queues
//! survive. Who binds has them read there and put into the new destination.

use amqp::properties::Properties;

use crate::arguments::Arguments;
use crate::error::{Error, precondition};

/// Argument of the exchange: how many messages it keeps.
pub(super) const LENGTH: &str = "x-recent-history-length";

/// Header of messages that are not kept.
const NO_STORE: &str = "x-recent-history-no-store";

/// Messages that are kept when nobody says how many.
const LENGTH_DEFAULT: u64 = 20;

/// The most that may be asked for.
pub(super) const LENGTH_MAX: u64 = 10_000;

/// Bytes of messages that are kept: so much is put into a queue at once when it is bound.
pub(super) const BYTES_MAX: u64 = 16 << 20;

/// Before the name of the exchange, the name of its queue.
const PREFIX: &str = "amq.history.";

/// The queue that keeps what an exchange remembers.
pub(crate) fn queue_name(exchange: &str) -> String {
    format!("{PREFIX}{exchange}")
}

/// The exchange for which a queue keeps messages.
pub(super) fn exchange_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(PREFIX)
}

/// Checks the arguments of a new exchange; how many messages it keeps.
pub(crate) fn length(arguments: &Arguments) -> Result<u64, Error> {
    let Some(value) = arguments.get(LENGTH) else { return Ok(LENGTH_DEFAULT) };
    let length = value.as_int().and_then(|length| u64::try_from(length).ok());
    length.filter(|length| (1..=LENGTH_MAX).contains(length)).ok_or_else(|| {
        precondition(format!(
            "Invalid argument {value}, '{LENGTH}' must be an integer from 1 to {LENGTH_MAX}"
        ))
    })
}

/// Whether a message may be kept.
pub(super) fn may_keep(properties: Properties<'_>) -> bool {
    let refused = properties.headers().and_then(|headers| headers.get(NO_STORE)?.as_bool());
    refused != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp::table::{TableBuilder, Value};

    #[test]
    fn so_many_are_kept_and_no_more() {
        let of = |value: Value<'_>| length(&TableBuilder::new().with(LENGTH, value).as_table().into()).ok();
        let max = i64::try_from(LENGTH_MAX).unwrap();
        let asked = [Value::I64(0), Value::I64(1), Value::I64(max), Value::I64(max + 1), "7".into()];
        assert_eq!(asked.map(of), [None, Some(1), Some(LENGTH_MAX), None, None]);
        assert_eq!(length(&Arguments::default()).ok(), Some(LENGTH_DEFAULT));
    }
}
