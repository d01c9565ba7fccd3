//! The arguments that a new queue may have. Those that no type of queue knows are kept and mean nothing.
//!
//! Codes and texts are RabbitMQ 3.10's, Erlang terms included.

use amqp::table::Value;

use super::equivalence::Subject;
use crate::arguments::Arguments;
use crate::error::{Error, precondition};
use crate::stream::{FILTER_SIZE_MAX, FILTER_SIZE_MIN, age_ms};
use crate::topology::{QueueKind, deduplication};

/// Ten years: the longest time a queue may be told to wait, in milliseconds.
pub(crate) const DURATION_MS_MAX: i64 = 315_360_000_000;

/// Highest `x-max-priority`.
const PRIORITY_MAX: i64 = 255;

/// One known argument.
struct Rule {
    key: &'static str,
    /// Which types of queue know it.
    kinds: &'static [QueueKind],
    check: fn(Value<'_>) -> Result<(), String>,
}

const ALL: &[QueueKind] = &[QueueKind::Classic, QueueKind::Quorum, QueueKind::Stream];
const BOTH: &[QueueKind] = &[QueueKind::Classic, QueueKind::Quorum];
const CLASSIC: &[QueueKind] = &[QueueKind::Classic];
const QUORUM: &[QueueKind] = &[QueueKind::Quorum];
const STREAM: &[QueueKind] = &[QueueKind::Stream];

/// Longest `x-group-header`, in bytes: no header has a longer name.
const HEADER_NAME_MAX: usize = 255;

/// Highest `x-group-concurrency`.
const GROUP_CONCURRENCY_MAX: i64 = 65_535;

/// Highest `x-stream-max-segment-size-bytes`.
const SEGMENT_SIZE_MAX: i64 = 3_000_000_000;

/// In the order in which RabbitMQ looks at them, and then what it does not know. Streams know x-max-length, as in LavinMQ.
/// Leader locators are for quorum queues and streams, but clients send them with classic queues, too.
const RULES: [Rule; 33] = [
    Rule { key: "x-expires", kinds: BOTH, check: expires },
    Rule { key: "x-message-ttl", kinds: BOTH, check: duration },
    Rule { key: "x-dead-letter-exchange", kinds: BOTH, check: string },
    Rule { key: "x-dead-letter-routing-key", kinds: BOTH, check: string },
    Rule { key: "x-dead-letter-strategy", kinds: QUORUM, check: dead_letter_strategy },
    Rule { key: "x-max-length", kinds: ALL, check: natural },
    Rule { key: "x-max-length-bytes", kinds: ALL, check: natural },
    Rule { key: "x-max-in-memory-length", kinds: QUORUM, check: natural },
    Rule { key: "x-max-in-memory-bytes", kinds: QUORUM, check: natural },
    Rule { key: "x-max-priority", kinds: CLASSIC, check: priority },
    Rule { key: "x-overflow", kinds: BOTH, check: overflow },
    Rule { key: "x-queue-mode", kinds: CLASSIC, check: queue_mode },
    Rule { key: "x-queue-version", kinds: CLASSIC, check: queue_version },
    Rule { key: "x-single-active-consumer", kinds: BOTH, check: boolean },
    Rule { key: "x-queue-type", kinds: ALL, check: queue_type },
    Rule { key: "x-delivery-limit", kinds: QUORUM, check: delivery_limit },
    Rule { key: "x-consumer-timeout", kinds: BOTH, check: expires },
    Rule { key: "x-consumer-disconnected-timeout", kinds: QUORUM, check: duration },
    Rule { key: "x-member-placement-tag", kinds: QUORUM, check: string },
    Rule { key: "x-delayed-retry-type", kinds: QUORUM, check: delayed_retry_type },
    Rule { key: "x-delayed-retry-min", kinds: QUORUM, check: duration },
    Rule { key: "x-delayed-retry-max", kinds: QUORUM, check: duration },
    Rule { key: "x-delayed-retry-backoff", kinds: QUORUM, check: delayed_retry_backoff },
    Rule { key: "x-delayed-retry-jitter", kinds: QUORUM, check: percent },
    Rule { key: "x-quorum-initial-group-size", kinds: QUORUM, check: positive },
    Rule { key: "x-queue-leader-locator", kinds: ALL, check: leader_locator },
    Rule { key: "x-max-age", kinds: STREAM, check: age },
    Rule { key: "x-stream-max-segment-size-bytes", kinds: STREAM, check: segment_size },
    Rule { key: "x-stream-filter-size-bytes", kinds: STREAM, check: filter_size },
    Rule { key: "x-initial-cluster-size", kinds: STREAM, check: positive },
    Rule { key: "x-max-segment-size", kinds: STREAM, check: natural },
    Rule { key: GROUP_HEADER, kinds: BOTH, check: header_name },
    Rule { key: GROUP_CONCURRENCY, kinds: BOTH, check: group_concurrency },
];

/// What is checked and kept, and changes nothing: it is about clusters, or about how much of a queue is in memory.
const WITHOUT_EFFECT: [&str; 10] = [
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-queue-mode",
    "x-queue-version",
    "x-consumer-disconnected-timeout",
    "x-member-placement-tag",
    "x-quorum-initial-group-size",
    "x-queue-leader-locator",
    "x-initial-cluster-size",
    "x-max-segment-size",
];

/// The arguments of queues that the broker knows. They have to be the same when a queue is declared again.
pub fn queue_arguments() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.key).chain(deduplication::RULES.iter().map(|(key, _)| *key))
}

/// Whether an argument of a queue changes what the queue does.
pub fn queue_argument_has_effect(key: &str) -> bool {
    queue_arguments().any(|known| known == key) && !WITHOUT_EFFECT.contains(&key)
}

/// Checks the arguments of a new queue; returns its type.
pub(super) fn check(queue: Subject<'_>, arguments: &Arguments) -> Result<QueueKind, Error> {
    if arguments.is_empty() {
        return Ok(QueueKind::Classic);
    }
    let kind = read_kind(queue, arguments)?;
    for rule in &RULES {
        if let Some(value) = arguments.get(rule.key) {
            check_one(queue, kind, rule, value)?;
        }
    }
    for (key, check) in deduplication::RULES {
        if let Some(value) = arguments.get(key) {
            check_one(queue, kind, &Rule { key, kinds: BOTH, check }, value)?;
        }
    }
    let key = "x-dead-letter-routing-key";
    if arguments.get(key).is_some() && arguments.get("x-dead-letter-exchange").is_none() {
        return Err(invalid(queue, key, "routing_key_but_no_dlx_defined"));
    }
    check_groups(queue, arguments)?;
    Ok(kind)
}

/// Groups cannot be had with everything.
fn check_groups(queue: Subject<'_>, arguments: &Arguments) -> Result<(), Error> {
    let has = |key| arguments.get(key).is_some();
    if has(GROUP_CONCURRENCY) && !has(GROUP_HEADER) {
        return Err(invalid(queue, GROUP_CONCURRENCY, &format!("\"needs {GROUP_HEADER}\"")));
    }
    if has(GROUP_HEADER) && has("x-max-priority") {
        let why = "\"cannot be combined with x-max-priority: the messages of a group stay in order\"";
        return Err(invalid(queue, GROUP_HEADER, why));
    }
    Ok(())
}

/// Arguments about message groups.
const GROUP_HEADER: &str = "x-group-header";
const GROUP_CONCURRENCY: &str = "x-group-concurrency";

/// Argument that names the type of a queue.
pub(super) const QUEUE_TYPE: &str = "x-queue-type";

fn read_kind(queue: Subject<'_>, arguments: &Arguments) -> Result<QueueKind, Error> {
    let key = QUEUE_TYPE;
    match arguments.get(key).map(|value| (value, value.as_str())) {
        None | Some((_, Some("classic"))) => Ok(QueueKind::Classic),
        Some((_, Some("quorum"))) => Ok(QueueKind::Quorum),
        Some((_, Some("stream"))) => Ok(QueueKind::Stream),
        Some((value, _)) => Err(invalid(queue, key, &queue_type(value).err().unwrap_or_default())),
    }
}

/// Whether queues of this type, as `x-queue-type` names it, can be declared.
pub(super) fn is_known_type(name: &str) -> bool {
    queue_type(Value::from(name)).is_ok()
}

fn check_one(queue: Subject<'_>, kind: QueueKind, rule: &Rule, value: Value<'_>) -> Result<(), Error> {
    let key = rule.key;
    if !rule.kinds.contains(&kind) {
        return Err(precondition(format!("invalid arg '{key}' for {queue} of queue type {}", module(kind))));
    }
    if key == "x-dead-letter-exchange" && string(value).is_err() {
        return Err(invalid_type(queue, key, value));
    }
    (rule.check)(value).map_err(|why| invalid(queue, key, &why))
}

fn invalid(queue: Subject<'_>, key: &str, why: &str) -> Error {
    precondition(format!("invalid arg '{key}' for {queue}: {why}"))
}

/// RabbitMQ's answer to a name of an exchange that is not a string.
pub(super) fn invalid_type(subject: Subject<'_>, key: &str, value: Value<'_>) -> Error {
    precondition(format!("invalid type '{}' for arg '{key}' in {subject}", value.type_name()))
}

/// The type of a queue as it appears in RabbitMQ's texts.
pub(super) fn module(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Classic => "rabbit_classic_queue",
        QueueKind::Quorum => "rabbit_quorum_queue",
        QueueKind::Stream => "rabbit_stream_queue",
    }
}

fn integer(value: Value<'_>) -> Result<i64, String> {
    value.as_int().ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

fn text(value: Value<'_>) -> Result<&str, String> {
    value.as_str().ok_or_else(|| unacceptable(value))
}

fn unacceptable(value: Value<'_>) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn natural(value: Value<'_>) -> Result<(), String> {
    match integer(value)? {
        number if number < 0 => Err(format!("{{value_negative,{number}}}")),
        _ => Ok(()),
    }
}

fn positive(value: Value<'_>) -> Result<(), String> {
    natural(value)?;
    if integer(value)? == 0 { Err("{value_zero,0}".to_owned()) } else { Ok(()) }
}

fn duration(value: Value<'_>) -> Result<(), String> {
    natural(value)?;
    match integer(value)? {
        number if number > DURATION_MS_MAX => Err(format!("{{value_too_large,{number}}}")),
        _ => Ok(()),
    }
}

fn expires(value: Value<'_>) -> Result<(), String> {
    positive(value)?;
    duration(value)
}

fn priority(value: Value<'_>) -> Result<(), String> {
    natural(value)?;
    match integer(value)? {
        number if number > PRIORITY_MAX => Err(format!("{{max_value_exceeded,{number}}}")),
        _ => Ok(()),
    }
}

/// -1 is no limit.
fn delivery_limit(value: Value<'_>) -> Result<(), String> {
    if integer(value)? == -1 { Ok(()) } else { natural(value) }
}

fn boolean(value: Value<'_>) -> Result<(), String> {
    value.as_bool().map(drop).ok_or_else(|| unacceptable(value))
}

fn string(value: Value<'_>) -> Result<(), String> {
    text(value).map(drop)
}

fn one_of(value: Value<'_>, names: &[&str], otherwise: impl FnOnce(&str) -> String) -> Result<(), String> {
    let name = text(value)?;
    if names.contains(&name) { Ok(()) } else { Err(otherwise(name)) }
}

fn overflow(value: Value<'_>) -> Result<(), String> {
    let names = ["drop-head", "reject-publish", "reject-publish-dlx"];
    one_of(value, &names, |_| "invalid_overflow".to_owned())
}

fn dead_letter_strategy(value: Value<'_>) -> Result<(), String> {
    one_of(value, &["at-most-once", "at-least-once"], |_| "invalid_dlx_strategy".to_owned())
}

fn delayed_retry_type(value: Value<'_>) -> Result<(), String> {
    one_of(value, &["disabled", "all", "failed", "returned"], |_| "invalid_delayed_retry_type".to_owned())
}

fn delayed_retry_backoff(value: Value<'_>) -> Result<(), String> {
    one_of(value, &["linear", "exponential"], |_| "invalid_delayed_retry_backoff".to_owned())
}

fn percent(value: Value<'_>) -> Result<(), String> {
    natural(value)?;
    match integer(value)? {
        number if number > 100 => Err(format!("{{max_value_exceeded,{number}}}")),
        _ => Ok(()),
    }
}

fn queue_mode(value: Value<'_>) -> Result<(), String> {
    one_of(value, &["default", "lazy"], |name| format!("\"unsupported queue mode '{name}'\""))
}

fn queue_type(value: Value<'_>) -> Result<(), String> {
    one_of(value, &["classic", "quorum", "stream"], |name| format!("\"unsupported queue type '{name}'\""))
}

fn leader_locator(value: Value<'_>) -> Result<(), String> {
    let names = ["client-local", "balanced", "random", "least-leaders", "min-masters"];
    one_of(value, &names, |_| "invalid_queue_locator_arg".to_owned())
}

fn queue_version(value: Value<'_>) -> Result<(), String> {
    match integer(value)? {
        1 | 2 => Ok(()),
        number => Err(format!("\"unsupported queue version '{number}'\"")),
    }
}

fn age(value: Value<'_>) -> Result<(), String> {
    age_ms(text(value)?).map(drop).ok_or_else(|| "invalid_max_age".to_owned())
}

fn segment_size(value: Value<'_>) -> Result<(), String> {
    natural(value)?;
    match integer(value)? {
        number if number > SEGMENT_SIZE_MAX => Err(format!("{{value_too_large,{number}}}")),
        _ => Ok(()),
    }
}

fn filter_size(value: Value<'_>) -> Result<(), String> {
    let number = integer(value)?;
    let fits = usize::try_from(number).is_ok_and(|size| (FILTER_SIZE_MIN..=FILTER_SIZE_MAX).contains(&size));
    if fits {
        Ok(())
    } else {
        Err(format!("\"expected {FILTER_SIZE_MIN} to {FILTER_SIZE_MAX}, got {number}\""))
    }
}

fn header_name(value: Value<'_>) -> Result<(), String> {
    match text(value)?.len() {
        1..=HEADER_NAME_MAX => Ok(()),
        len => Err(format!("\"expected 1 to {HEADER_NAME_MAX} bytes, got {len}\"")),
    }
}

fn group_concurrency(value: Value<'_>) -> Result<(), String> {
    positive(value)?;
    match integer(value)? {
        number if number > GROUP_CONCURRENCY_MAX => Err(format!("{{max_value_exceeded,{number}}}")),
        _ => Ok(()),
    }
}
