//! The keys that a policy may have.

use amqp::table::Value;

use super::Tier;
use crate::meta::DURATION_MS_MAX;
use crate::topology::QueueKind;

/// One known key.
struct Rule {
    key: &'static str,
    value: Expected,
    /// Which types of queue know it. What only other things know, such as exchanges, says `ANY`: it
    /// does not keep a policy from queues.
    kinds: &'static [QueueKind],
    /// Whether operators may limit it.
    operator: bool,
    /// Whether it changes anything here.
    has_effect: bool,
}

/// What a value has to be.
enum Expected {
    /// An integer from the first to the second.
    Integer(i64, i64),
    Text,
    OneOf(&'static [&'static str]),
    /// A number and a unit.
    Age,
    /// Whatever it is, nothing comes of it.
    Anything,
}

const ANY: &[QueueKind] = &[QueueKind::Classic, QueueKind::Quorum, QueueKind::Stream];
const NO_STREAM: &[QueueKind] = &[QueueKind::Classic, QueueKind::Quorum];
const QUORUM: &[QueueKind] = &[QueueKind::Quorum];
const STREAM: &[QueueKind] = &[QueueKind::Stream];

const NATURAL: Expected = Expected::Integer(0, i64::MAX);
const POSITIVE: Expected = Expected::Integer(1, i64::MAX);
const DURATION: Expected = Expected::Integer(0, DURATION_MS_MAX);
const LONG_DURATION: Expected = Expected::Integer(1, DURATION_MS_MAX);
const LOCATOR: Expected =
    Expected::OneOf(&["client-local", "balanced", "random", "least-leaders", "min-masters"]);

/// What the idle ones set is about clusters, or about memory.
const RULES: [Rule; 35] = [
    Rule { kinds: NO_STREAM, ..limit("message-ttl", DURATION) },
    Rule { kinds: NO_STREAM, ..limit("expires", LONG_DURATION) },
    limit("max-length", NATURAL),
    limit("max-length-bytes", NATURAL),
    Rule {
        kinds: NO_STREAM,
        ..limit("overflow", Expected::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"]))
    },
    Rule { kinds: QUORUM, ..limit("delivery-limit", Expected::Integer(-1, i64::MAX)) },
    any("alternate-exchange", Expected::Text),
    Rule { kinds: NO_STREAM, ..any("dead-letter-exchange", Expected::Text) },
    Rule { kinds: NO_STREAM, ..any("dead-letter-routing-key", Expected::Text) },
    Rule { kinds: NO_STREAM, ..any("consumer-timeout", LONG_DURATION) },
    quorum("dead-letter-strategy", Expected::OneOf(&["at-most-once", "at-least-once"])),
    quorum("delayed-retry-type", Expected::OneOf(&["disabled", "all", "failed", "returned"])),
    quorum("delayed-retry-min", DURATION),
    quorum("delayed-retry-max", DURATION),
    quorum("delayed-retry-backoff", Expected::OneOf(&["linear", "exponential"])),
    quorum("delayed-retry-jitter", Expected::Integer(0, 100)),
    stream("max-age", Expected::Age),
    stream("stream-max-segment-size-bytes", POSITIVE),
    stream("stream-filter-size-bytes", Expected::Integer(16, 255)),
    Rule { kinds: STREAM, ..idle("max-segment-size", NATURAL) },
    idle("queue-leader-locator", LOCATOR),
    idle("queue-master-locator", LOCATOR),
    idle("initial-cluster-size", NATURAL),
    idle("target-group-size", POSITIVE),
    idle("consumer-disconnected-timeout", DURATION),
    idle("queue-mode", Expected::OneOf(&["default", "lazy"])),
    idle("queue-version", Expected::Integer(1, 2)),
    idle("max-in-memory-length", NATURAL),
    idle("max-in-memory-bytes", NATURAL),
    idle("ha-mode", Expected::OneOf(&["all", "exactly", "nodes"])),
    idle("ha-params", Expected::Anything),
    idle("ha-sync-mode", Expected::OneOf(&["manual", "automatic"])),
    idle("ha-sync-batch-size", Expected::Anything),
    idle("ha-promote-on-shutdown", Expected::OneOf(&["always", "when-synced"])),
    idle("ha-promote-on-failure", Expected::OneOf(&["always", "when-synced"])),
];

const fn any(key: &'static str, value: Expected) -> Rule {
    Rule { key, value, kinds: ANY, operator: false, has_effect: true }
}

const fn limit(key: &'static str, value: Expected) -> Rule {
    Rule { operator: true, ..any(key, value) }
}

const fn quorum(key: &'static str, value: Expected) -> Rule {
    Rule { kinds: QUORUM, ..any(key, value) }
}

const fn stream(key: &'static str, value: Expected) -> Rule {
    Rule { kinds: STREAM, ..any(key, value) }
}

const fn idle(key: &'static str, value: Expected) -> Rule {
    Rule { has_effect: false, ..any(key, value) }
}

/// The keys that policies of this tier may have.
pub fn keys(tier: Tier) -> impl Iterator<Item = &'static str> {
    allowed(tier).map(|rule| rule.key)
}

/// Whether a key of a policy changes what a queue or an exchange does.
pub fn has_effect(key: &str) -> bool {
    RULES.iter().any(|rule| rule.key == key && rule.has_effect)
}

fn allowed(tier: Tier) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.operator || tier == Tier::User)
}

/// Whether queues of this type know the key.
pub(super) fn is_for(key: &str, kind: QueueKind) -> bool {
    RULES.iter().any(|rule| rule.key == key && rule.kinds.contains(&kind))
}

/// Checks one key of a policy.
pub(super) fn check(tier: Tier, key: &str, value: Value<'_>) -> Result<(), String> {
    let Some(rule) = allowed(tier).find(|rule| rule.key == key) else {
        let known: Vec<_> = keys(tier).collect();
        return Err(format!("key '{key}' is not known, expected one of {}", known.join(", ")));
    };
    if rule.value.holds(value) {
        return Ok(());
    }
    Err(format!("{key} is {}, expected {}", shown(value), rule.value.text()))
}

/// A value in words of JSON, where definitions are written.
fn shown(value: Value<'_>) -> String {
    match value {
        Value::LongString(_) => format!("the string '{value}'"),
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "an object".to_owned(),
        _ => value.to_string(),
    }
}

impl Expected {
    fn holds(&self, value: Value<'_>) -> bool {
        let text = value.as_str();
        match self {
            Expected::Integer(min, max) => {
                value.as_int().is_some_and(|number| (*min..=*max).contains(&number))
            }
            Expected::Text => text.is_some(),
            Expected::OneOf(names) => text.is_some_and(|text| names.contains(&text)),
            Expected::Age => text.is_some_and(is_age),
            Expected::Anything => true,
        }
    }

    fn text(&self) -> String {
        match self {
            Expected::Integer(min, i64::MAX) => format!("an integer, at least {min}"),
            Expected::Integer(min, max) => format!("an integer from {min} to {max}"),
            Expected::Text => "a string".to_owned(),
            Expected::OneOf(names) => format!("one of {}", names.join(", ")),
            Expected::Age => "a number with one of the units Y, M, D, h, m, s, as in 7D".to_owned(),
            Expected::Anything => "anything".to_owned(),
        }
    }
}

fn is_age(text: &str) -> bool {
    let number = text.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']);
    number.is_some_and(|number| {
        !number.is_empty() && number.len() <= 10 && number.bytes().all(|it| it.is_ascii_digit())
    })
}
