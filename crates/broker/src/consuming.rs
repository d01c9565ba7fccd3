//! The arguments of basic.consume.

use amqp::table::Table;

use crate::error::{Error, precondition};
use crate::topology::Queue;

pub(crate) const PRIORITY: &str = "x-priority";
const TIMEOUT: &str = "x-consumer-timeout";
pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";
pub(crate) const STREAM_FILTER: &str = "x-stream-filter";
pub(crate) const STREAM_MATCH_UNFILTERED: &str = "x-stream-match-unfiltered";
pub(crate) const STREAM_TRACKING: &str = "x-stream-automatic-offset-tracking";

/// Those that mean something. All others are ignored.
pub const ARGUMENTS: [&str; 6] =
    [PRIORITY, TIMEOUT, STREAM_OFFSET, STREAM_FILTER, STREAM_MATCH_UNFILTERED, STREAM_TRACKING];

/// How early a consumer is served: 0 unless it says so.
///
/// # Errors
/// When it is no integer.
pub fn priority(arguments: Table<'_>, queue: &Queue) -> Result<i32, Error> {
    let Some(value) = arguments.get(PRIORITY) else {
        return Ok(0);
    };
    let Some(priority) = value.as_int() else {
        let (queue, found) = (queue.label(), value.type_name());
        let text = format!("invalid arg '{PRIORITY}' for {queue}: \"expected integer, got {found}\"");
        return Err(precondition(text));
    };
    let extreme = if priority < 0 { i32::MIN } else { i32::MAX };
    Ok(i32::try_from(priority).unwrap_or(extreme))
}

/// How long a consumer may hold a message, in milliseconds, if it says so.
///
/// # Errors
/// When it is no integer, or below 0.
pub fn timeout_ms(arguments: Table<'_>) -> Result<Option<u64>, Error> {
    let Some(value) = arguments.get(TIMEOUT) else {
        return Ok(None);
    };
    let timeout = value.as_int().and_then(|timeout| u64::try_from(timeout).ok());
    let wrong = || precondition(format!("invalid arg '{TIMEOUT}': milliseconds were expected"));
    timeout.map(Some).ok_or_else(wrong)
}
