//! Exchanges that pick one of their bindings for each message.
//!
//! `x-consistent-hash` picks by weighted rendezvous: each binding draws a number from the hash of the message's key and
//! its destination's name, and the best drawing wins. So a destination that comes takes its share from all others and
//! one that goes leaves its share to all others, while all else stays where it is. RabbitMQ's jump hash does the same on
//! average; which key goes where differs. The cost is linear in the number of bindings.
//!
//! The hashes must never change: where messages go depends on them, and their order hangs on that.

use std::sync::Arc;

use amqp::properties::Properties;
use amqp::table::Value;

use super::{Binding, Destination, Envelope, Exchange};
use crate::arguments::Arguments;
use crate::error::{Error, precondition};

/// Largest weight of a binding.
const WEIGHT_MAX: u32 = 1000;

pub(super) const HASH_HEADER: &str = "hash-header";
pub(super) const HASH_PROPERTY: &str = "hash-property";

/// The properties that can be hashed, as RabbitMQ names them.
const PROPERTIES: [&str; 3] = ["correlation_id", "message_id", "timestamp"];

/// Checks the arguments of a new consistent hash exchange.
pub(crate) fn validate(arguments: &Arguments) -> Result<(), Error> {
    let text = |key: &str| match arguments.get(key) {
        None => Ok(None),
        Some(value) => {
            let wrong = || precondition(format!("{key} is a {}, expected a string", value.type_name()));
            value.as_str().map(Some).ok_or_else(wrong)
        }
    };
    match (text(HASH_HEADER)?, text(HASH_PROPERTY)?) {
        (Some(_), Some(_)) => {
            Err(precondition("hash-header and hash-property are mutually exclusive".to_owned()))
        }
        (None, Some(name)) if !PROPERTIES.contains(&name) => Err(precondition(format!(
            "Unsupported property: {name}; expected correlation_id, message_id or timestamp"
        ))),
        _ => Ok(()),
    }
}

/// Checks the binding key of a consistent hash exchange: it is the weight.
pub(crate) fn validate_weight(key: &str) -> Result<(), Error> {
    let Ok(weight) = key.parse::<i64>() else {
        return Err(precondition(format!("The binding key must be an integer: {key}")));
    };
    if weight < 1 {
        return Err(precondition("The binding key must be greater than 0"));
    }
    if weight > WEIGHT_MAX.into() {
        let text = format!("The binding key, the weight, is {weight}; at most {WEIGHT_MAX} is allowed");
        return Err(precondition(text));
    }
    Ok(())
}

/// Whether a consistent hash exchange looks at more than the routing key.
pub(super) fn looks_at_properties(exchange: &Exchange) -> bool {
    [HASH_HEADER, HASH_PROPERTY].iter().any(|key| exchange.arguments.get(key).is_some())
}

/// The hash of what a consistent hash exchange looks at.
pub(super) fn hash_of(exchange: &Exchange, message: &Envelope<'_>) -> u64 {
    let properties = message.properties;
    if let Some(header) = exchange.arguments.string(HASH_HEADER) {
        return hash_value(properties.headers().and_then(|headers| headers.get(header)));
    }
    match exchange.arguments.string(HASH_PROPERTY) {
        Some(name) => hash_property(name, properties),
        None => hash_keys(message.routing_keys),
    }
}

/// All routing keys of a message together: whatever its CC says, it goes to one place.
pub(super) fn hash_keys(keys: &[&str]) -> u64 {
    let [key] = keys else {
        return keys.iter().fold(0, |sum, key| mix(sum ^ hash(key.as_bytes())));
    };
    hash(key.as_bytes())
}

/// Messages without the header or the property all go to one place.
fn hash_value(value: Option<Value<'_>>) -> u64 {
    match value {
        None => 0,
        Some(value) => match (value.as_bytes(), value.as_int()) {
            (Some(bytes), _) => hash(bytes),
            (None, Some(number)) => hash(&number.to_be_bytes()),
            (None, None) => hash(value.to_string().as_bytes()),
        },
    }
}

fn hash_property(name: &str, properties: Properties<'_>) -> u64 {
    let text = match name {
        "correlation_id" => properties.correlation_id(),
        "message_id" => properties.message_id(),
        _ => return properties.timestamp().map_or(0, |time| hash(&time.to_be_bytes())),
    };
    text.map_or(0, |text| hash(text.as_bytes()))
}

/// The binding that wins the message with this hash.
pub(super) fn best<'a, T>(
    bindings: impl Iterator<Item = (&'a Arc<Binding>, T)>,
    message: u64,
) -> Option<(&'a Arc<Binding>, T)> {
    let scored = bindings.map(|(binding, with)| (score(binding, message), binding, with));
    let best = scored.reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map(|(_, binding, with)| (binding, with))
}

/// An exponential variate whose rate is the weight, negated: the chance to be highest is the share of the weight.
fn score(binding: &Binding, message: u64) -> f64 {
    let seed = match &binding.destination {
        Destination::Queue(name) => hash(name.as_bytes()),
        Destination::Exchange(name) => mix(hash(name.as_bytes())),
    };
    let weight: u32 = binding.routing_key.parse().unwrap_or(1);
    // The upper 53 bits, and never 0, of which there is no logarithm.
    let drawn = ((mix(message ^ seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    drawn.ln() / f64::from(weight)
}

/// FNV-1a, well mixed.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finisher of SplitMix64: each bit of the result depends on each bit of `x`.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const KEYS: usize = 100_000;

    fn bindings(weights: &[(&str, u32)]) -> Vec<Arc<Binding>> {
        let binding = |(name, weight): &(&str, u32)| Binding {
            source: "x".into(),
            routing_key: weight.to_string().into(),
            destination: Destination::Queue((*name).into()),
            arguments: Arguments::default(),
        };
        weights.iter().map(|it| Arc::new(binding(it))).collect()
    }

    /// Where each of many keys goes.
    fn places(weights: &[(&str, u32)]) -> Vec<String> {
        let bindings = bindings(weights);
        let place = |number: usize| {
            let key = format!("order.{number}");
            let (_, at) = best(bindings.iter().zip(0..), hash_keys(&[&key])).unwrap();
            weights[at].0.to_owned()
        };
        (0..KEYS).map(place).collect()
    }

    fn share(places: &[String], name: &str) -> f64 {
        places.iter().filter(|place| *place == name).count() as f64 / places.len() as f64
    }

    #[test]
    fn keys_spread_evenly() {
        let names: Vec<String> = (0..10).map(|number| format!("queue-{number}")).collect();
        let weights: Vec<_> = names.iter().map(|name| (&**name, 1)).collect();
        let places = places(&weights);
        for name in &names {
            assert!((share(&places, name) - 0.1).abs() < 0.003, "{name}: {}", share(&places, name));
        }
    }

    #[test]
    fn keys_spread_by_weight() {
        let places = places(&[("a", 1), ("b", 2), ("c", 7)]);
        for (name, expected) in [("a", 0.1), ("b", 0.2), ("c", 0.7)] {
            assert!((share(&places, name) - expected).abs() < 0.005, "{name}: {}", share(&places, name));
        }
    }

    #[test]
    fn a_queue_that_comes_takes_its_share_and_moves_nothing_else() {
        let before = places(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let after = places(&[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]);
        let mut moved = BTreeMap::<_, usize>::new();
        for (from, to) in before.iter().zip(&after).filter(|(from, to)| from != to) {
            assert_eq!(to, "e");
            *moved.entry(from).or_default() += 1;
        }
        let count: usize = moved.values().sum();
        assert!((count as f64 / KEYS as f64 - 0.2).abs() < 0.005, "{count} of {KEYS} have moved");
        assert_eq!(moved.len(), 4, "it takes from all");
    }

    #[test]
    fn what_was_hashed_stays_where_it_is() {
        let hashes = ["", "a", "order.1"].map(|key| hash_keys(&[key]));
        assert_eq!(hashes, [0xf52a_15e9_a9b5_e89b, 0x02c0_bdbf_4814_20f8, 0x33dc_4960_63f8_1947]);
    }

    #[test]
    fn a_value_counts_not_its_width() {
        assert_eq!(hash_value(Some(Value::I8(5))), hash_value(Some(Value::I64(5))));
        assert_ne!(hash_value(Some(Value::I8(5))), hash_value(Some(Value::from("5"))));
        assert_ne!(hash_value(Some(Value::Bool(true))), hash_value(Some(Value::Bool(false))));
    }

    #[test]
    fn the_best_of_none_is_none() {
        assert!(best(std::iter::empty::<(&Arc<Binding>, ())>(), 1).is_none());
    }
}
