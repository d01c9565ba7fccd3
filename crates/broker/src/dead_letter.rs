//! What is written on a message that leaves its queue for a dead-letter exchange, as RabbitMQ writes it: where it has
//! died before, why and how often.

use amqp::content::put_exchange_and_key;
use amqp::properties::{Properties, PropertiesBuilder};
use amqp::table::{Array, ArrayBuilder, Table, TableBuilder, Value};

use crate::message::Message;
use crate::shard::Reason;

/// The longest name or key, as it travels.
const SHORT_MAX: usize = 255;

/// Where a message died.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// In which queue.
    pub queue: &'a str,
    /// Why.
    pub reason: Reason,
    /// When, in seconds since 1970.
    pub time_s: u64,
    /// The queue's dead-letter exchange.
    pub exchange: &'a str,
    /// The queue's dead-letter routing key.
    pub routing_key: Option<&'a str>,
}

/// A message with a new address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Exchange and routing key, as [`crate::message::Parts::route`] has them.
    pub route: Vec<u8>,
    /// All keys to route by.
    pub routing_keys: Vec<String>,
    /// Encoded properties.
    pub properties: Vec<u8>,
}

impl Reason {
    /// As it stands in the headers.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLen => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
            Reason::Due => "due",
        }
    }
}

/// Addresses a message that has died to the dead-letter exchange of its queue.
pub fn readdress(message: Message<'_>, death: &Death<'_>) -> Letter {
    let none = PropertiesBuilder::default().to_bytes();
    let properties = Properties::new(message.properties()).ok();
    let headers = properties.and_then(Properties::headers);
    let copies = strings(headers, "CC");
    let (routing_key, routing_keys) = match death.routing_key {
        Some(key) => (key, vec![key.to_owned()]),
        None => {
            let keys = std::iter::once(message.routing_key()).chain(copies.iter().copied());
            (message.routing_key(), keys.map(str::to_owned).collect())
        }
    };
    let mut route = Vec::new();
    put_exchange_and_key(&mut route, short(death.exchange), short(routing_key));
    let headers = new_headers(headers, message, death, &copies, properties);
    let (mut with_headers, mut out) = (Vec::new(), Vec::new());
    let properties = properties.or_else(|| Properties::new(&none).ok()).expect("no properties are valid");
    properties.with_headers(headers.as_table(), &mut with_headers);
    let properties = Properties::new(&with_headers).expect("just encoded");
    properties.without_expiration(&mut out);
    Letter { route, routing_keys, properties: out }
}

/// Whether a message has come back to a queue without anybody having rejected it on the way: it would go round for ever.
pub fn is_cycle(properties: &[u8], queue: &str, reason: Reason) -> bool {
    if reason == Reason::Rejected {
        return false;
    }
    let deaths = deaths(Properties::new(properties).ok().and_then(Properties::headers));
    let Some(before) = deaths.iter().position(|death| text(*death, "queue") == Some(queue)) else {
        return false;
    };
    deaths[..=before].iter().all(|death| text(*death, "reason") != Some(Reason::Rejected.name()))
}

fn new_headers(
    headers: Option<Table<'_>>,
    message: Message<'_>,
    death: &Death<'_>,
    copies: &[&str],
    properties: Option<Properties<'_>>,
) -> TableBuilder {
    let all = deaths(headers);
    let reason = death.reason.name();
    let same = |known: &Table<'_>| {
        text(*known, "queue") == Some(death.queue) && text(*known, "reason") == Some(reason)
    };
    let latest = match all.iter().find(|known| same(known)) {
        Some(known) => once_more(*known),
        None => first_time(message, death, copies, properties.and_then(Properties::expiration)),
    };
    let mut list = ArrayBuilder::new().with(Value::Table(latest.as_table()));
    all.iter().filter(|known| !same(known)).for_each(|known| list.push(Value::Table(*known)));
    let mut out = TableBuilder::new();
    let replaced = |key: &str| {
        let copies = key == "BCC" || (key == "CC" && death.routing_key.is_some());
        copies || key == "x-death" || key.starts_with("x-last-death-")
    };
    for (key, value) in headers.iter().flat_map(|headers| headers.iter()) {
        if !replaced(key) {
            out.insert(key, value);
        }
    }
    out.insert("x-death", list.as_array());
    let exchange = message.exchange();
    for (key, value) in [("queue", death.queue), ("reason", reason), ("exchange", exchange)] {
        let first = format!("x-first-death-{key}");
        if headers.is_none_or(|headers| headers.get(&first).is_none()) {
            out.insert(&first, value);
        }
        out.insert(&format!("x-last-death-{key}"), value);
    }
    out
}

fn first_time(
    message: Message<'_>,
    death: &Death<'_>,
    copies: &[&str],
    expiration: Option<&str>,
) -> TableBuilder {
    let keys = ArrayBuilder::new().with(message.routing_key());
    let keys = copies.iter().fold(keys, |keys, key| keys.with(*key));
    let mut table = TableBuilder::new()
        .with("count", 1i64)
        .with("reason", death.reason.name())
        .with("queue", death.queue)
        .with("time", Value::Timestamp(death.time_s))
        .with("exchange", message.exchange())
        .with("routing-keys", keys.as_array());
    if let Some(expiration) = expiration {
        table.insert("original-expiration", expiration);
    }
    table
}

fn once_more(death: Table<'_>) -> TableBuilder {
    let mut table = TableBuilder::new();
    for (key, value) in death.iter() {
        if key == "count" {
            table.insert(key, Value::I64(value.as_int().unwrap_or(0).saturating_add(1)));
        } else {
            table.insert(key, value);
        }
    }
    table
}

/// The header x-death; what is not as we write it does not count.
fn deaths(headers: Option<Table<'_>>) -> Vec<Table<'_>> {
    let list = headers.and_then(|headers| headers.get("x-death")?.as_array());
    list.into_iter().flat_map(Array::iter).filter_map(Value::as_table).collect()
}

fn strings<'a>(headers: Option<Table<'a>>, key: &str) -> Vec<&'a str> {
    let list = headers.and_then(|headers| headers.get(key)?.as_array());
    list.into_iter().flat_map(Array::iter).filter_map(Value::as_str).collect()
}

fn text<'a>(table: Table<'a>, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str()
}

fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHORT_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Arguments;
    use crate::message::{Messages, Parts};
    use expect_test::expect;

    fn message(key: &str, properties: &PropertiesBuilder<'_>) -> Messages {
        let mut route = Vec::new();
        put_exchange_and_key(&mut route, "orders", key);
        Parts { route: &route, properties: &properties.to_bytes(), body: b"hi" }.to_messages()
    }

    fn dies(
        messages: &Messages,
        queue: &str,
        reason: Reason,
        routing_key: Option<&str>,
    ) -> (Messages, Letter) {
        let death = Death { queue, reason, time_s: 1000, exchange: "dead", routing_key };
        let letter = readdress(messages.first(), &death);
        let Letter { route, properties, .. } = &letter;
        (Parts { route, properties, body: b"hi" }.to_messages(), letter)
    }

    fn shown(messages: &Messages) -> String {
        let properties = Properties::new(messages.first().properties()).unwrap();
        format!("{:#?}", Arguments::from(properties.headers().unwrap()))
    }

    #[test]
    fn the_first_death() {
        let cc = ArrayBuilder::new().with("copy");
        let headers = TableBuilder::new().with("mine", 7i32).with("CC", cc.as_array());
        let properties = PropertiesBuilder {
            headers: Some(headers.as_table()),
            expiration: Some("50"),
            message_id: Some("m"),
            ..PropertiesBuilder::default()
        };
        let (dead, letter) = dies(&message("k", &properties), "q", Reason::Expired, None);
        assert_eq!((dead.first().exchange(), dead.first().routing_key()), ("dead", "k"));
        assert_eq!(letter.routing_keys, ["k", "copy"]);
        let properties = Properties::new(dead.first().properties()).unwrap();
        assert_eq!((properties.expiration(), properties.message_id()), (None, Some("m")));
        expect![[r#"
            {
                "CC": array [{longstr,<<"copy">>}],
                "mine": signedint 7,
                "x-death": array [{table,[{<<"count">>,long,1},{<<"reason">>,longstr,<<"expired">>},{<<"queue">>,longstr,<<"q">>},{<<"time">>,timestamp,1000},{<<"exchange">>,longstr,<<"orders">>},{<<"routing-keys">>,array,[{longstr,<<"k">>},{longstr,<<"copy">>}]},{<<"original-expiration">>,longstr,<<"50">>}]}],
                "x-first-death-exchange": longstr orders,
                "x-first-death-queue": longstr q,
                "x-first-death-reason": longstr expired,
                "x-last-death-exchange": longstr orders,
                "x-last-death-queue": longstr q,
                "x-last-death-reason": longstr expired,
            }"#]]
        .assert_eq(&shown(&dead));
    }

    #[test]
    fn the_same_death_is_counted_and_comes_first() {
        let none = PropertiesBuilder::default();
        let (dead, _) = dies(&message("k", &none), "a", Reason::Rejected, Some("b"));
        let (dead, _) = dies(&dead, "b", Reason::Expired, Some("a"));
        let (dead, letter) = dies(&dead, "a", Reason::Rejected, Some("b"));
        assert_eq!(letter.routing_keys, ["b"]);
        expect![[r#"
            {
                "x-death": array [{table,[{<<"count">>,long,2},{<<"reason">>,longstr,<<"rejected">>},{<<"queue">>,longstr,<<"a">>},{<<"time">>,timestamp,1000},{<<"exchange">>,longstr,<<"orders">>},{<<"routing-keys">>,array,[{longstr,<<"k">>}]}]},{table,[{<<"count">>,long,1},{<<"reason">>,longstr,<<"expired">>},{<<"queue">>,longstr,<<"b">>},{<<"time">>,timestamp,1000},{<<"exchange">>,longstr,<<"dead">>},{<<"routing-keys">>,array,[{longstr,<<"b">>}]}]}],
                "x-first-death-exchange": longstr orders,
                "x-first-death-queue": longstr a,
                "x-first-death-reason": longstr rejected,
                "x-last-death-exchange": longstr dead,
                "x-last-death-queue": longstr a,
                "x-last-death-reason": longstr rejected,
            }"#]]
        .assert_eq(&shown(&dead));
    }

    #[test]
    fn only_a_rejection_breaks_a_cycle() {
        let none = PropertiesBuilder::default();
        let (first, _) = dies(&message("k", &none), "a", Reason::Expired, None);
        let (second, _) = dies(&first, "b", Reason::Expired, None);
        let cycle = |dead: &Messages, queue, reason| is_cycle(dead.first().properties(), queue, reason);
        assert!(cycle(&second, "a", Reason::Expired) && cycle(&second, "b", Reason::MaxLen));
        assert!(!cycle(&second, "c", Reason::Expired), "it was never there");
        assert!(!cycle(&second, "a", Reason::Rejected), "somebody rejects it now");
        let (rejected, _) = dies(&first, "b", Reason::Rejected, None);
        assert!(!cycle(&rejected, "a", Reason::Expired), "somebody has rejected it on the way");
    }

    #[test]
    fn headers_that_make_no_sense_are_not_in_the_way() {
        let headers = TableBuilder::new().with("x-death", "nonsense").with("CC", 5i32);
        let properties =
            PropertiesBuilder { headers: Some(headers.as_table()), ..PropertiesBuilder::default() };
        let (dead, letter) = dies(&message("k", &properties), "q", Reason::MaxLen, None);
        assert_eq!(letter.routing_keys, ["k"]);
        assert!(shown(&dead).contains("\"x-death\": array"), "{}", shown(&dead));
    }
}
