//! Messages that an exchange of type `x-delayed-message` keeps until it is their time.
//!
//! They wait in a queue that comes and goes with the exchange, so they survive what queues survive. When its time has
//! come a message leaves that queue as a dead letter leaves its own, and is routed.

use amqp::properties::Properties;
use amqp::table::Value;

/// Header with the delay, milliseconds.
const DELAY: &str = "x-delay";

/// Header with the time, milliseconds since 1970 or a timestamp.
pub const DELIVER_AT: &str = "x-deliver-at";

/// Header of a message that calls others off: their id.
const CANCEL: &str = "x-cancel";

/// Before the name of the exchange, the name of its queue.
const PREFIX: &str = "amq.delayed.";

/// The queue that keeps what an exchange delays.
pub(crate) fn queue_name(exchange: &str) -> String {
    format!("{PREFIX}{exchange}")
}

/// The exchange for which a queue keeps messages.
pub(super) fn exchange_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(PREFIX)
}

/// Whether a message asks to be delivered later.
pub(super) fn asks_for_delay(properties: Properties<'_>) -> bool {
    due_ms(properties, 0).is_some_and(|due| due > 0)
}

/// The id of the messages that this one calls off, if that is what it is for.
pub fn called_off(properties: Properties<'_>) -> Option<&str> {
    properties.headers()?.get(CANCEL)?.as_str()
}

/// When a message that arrived at a time asks to be delivered, both in milliseconds since 1970.
pub fn due_ms(properties: Properties<'_>, arrived_ms: u64) -> Option<u64> {
    let headers = properties.headers()?;
    if let Some(at) = headers.get(DELIVER_AT) {
        return match at {
            Value::Timestamp(seconds) => Some(seconds.saturating_mul(1000)),
            at => at.as_int().and_then(|ms| u64::try_from(ms).ok()),
        };
    }
    let delay = headers.get(DELAY)?.as_int().and_then(|ms| u64::try_from(ms).ok())?;
    Some(arrived_ms.saturating_add(delay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp::properties::PropertiesBuilder;
    use amqp::table::TableBuilder;

    fn due(headers: &TableBuilder) -> Option<u64> {
        let headers = Some(headers.as_table());
        let bytes = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
        due_ms(Properties::new(&bytes).unwrap(), 1000)
    }

    #[test]
    fn by_a_delay_or_at_a_time() {
        assert_eq!(due(&TableBuilder::new().with(DELAY, 5i32)), Some(1005));
        assert_eq!(due(&TableBuilder::new().with(DELIVER_AT, 7000i64)), Some(7000));
        assert_eq!(due(&TableBuilder::new().with(DELIVER_AT, Value::Timestamp(7))), Some(7000));
        for wrong in [
            TableBuilder::new(),
            TableBuilder::new().with(DELAY, -5i32),
            TableBuilder::new().with(DELAY, "5"),
        ] {
            assert_eq!(due(&wrong), None);
        }
    }
}
